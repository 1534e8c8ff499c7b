//! What answers say in their headers about limits and waits: parsers, and [`Observed`].
//!
//! Nonsense counts as absent: an answer is never refused for a header that cannot be read.
//! Instants are taken relative to the server's own `Date` where it sent one, so that a clock that
//! is wrong, theirs or ours, shifts no wait.

use std::time::Duration;

use http::HeaderMap;

use crate::time::Timestamp;

/// One limit of a provider, as an answer's headers tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The most that one window allows.
    pub limit: Option<u64>,
    /// What is left of it.
    pub remaining: Option<u64>,
    /// Time from the answer until it is whole again.
    pub reset: Option<Duration>,
}

/// What the headers of one answer tell about the provider's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Requests.
    pub requests: Option<Window>,
    /// Tokens; only language models have them.
    pub tokens: Option<Window>,
    /// The resource that `requests` is about; only GitHub has several (`core`, `search`, `graphql`).
    pub resource: Option<String>,
}

impl Observed {
    /// From the headers of an OpenAI-compatible server or of Anthropic.
    pub fn of_llm(headers: &HeaderMap, now: Timestamp) -> Self {
        let now = server_now(headers, now);
        let openai = |what: &str| {
            window(headers, |part| format!("x-ratelimit-{part}-{what}"), |text| reset_from_now(text, now))
        };
        let anthropic = |what: &str| {
            window(
                headers,
                |part| format!("anthropic-ratelimit-{what}-{part}"),
                |text| reset_from_now(text, now),
            )
        };
        // Of several windows for tokens the one that is used up matters most, else the general one.
        let tokens =
            [openai("tokens"), anthropic("tokens"), anthropic("input-tokens"), anthropic("output-tokens")];
        let used_up = tokens.iter().flatten().find(|window| window.remaining == Some(0));
        Observed {
            requests: openai("requests").or_else(|| anthropic("requests")),
            tokens: used_up.or_else(|| tokens.iter().flatten().next()).copied(),
            resource: None,
        }
    }

    /// From the headers of GitHub's REST interface; the reset is in Unix seconds there.
    pub fn of_github(headers: &HeaderMap, now: Timestamp) -> Self {
        let now = server_now(headers, now);
        Observed {
            requests: window(
                headers,
                |part| format!("x-ratelimit-{part}"),
                |text| unix_seconds(text).map(|at| at.since(now)),
            ),
            tokens: None,
            resource: first(headers, "x-ratelimit-resource", |text| {
                let plain = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
                (plain && !text.is_empty()).then(|| text.to_owned())
            }),
        }
    }

    /// The time until everything that is used up is whole again, where that is told.
    pub fn wait_for_used_up(&self) -> Option<Duration> {
        [self.requests, self.tokens]
            .into_iter()
            .flatten()
            .filter(|window| window.remaining == Some(0))
            .filter_map(|window| window.reset)
            .max()
    }
}

/// A wait that a server named, brought under our own longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerWait {
    /// How long to wait.
    pub wait: Duration,
    /// What the server named, where that was longer: worth a line in the log.
    pub capped_from: Option<Duration>,
}

impl ServerWait {
    /// `named`, at most `max`.
    pub fn capped(named: Duration, max: Duration) -> Self {
        if named > max {
            ServerWait { wait: max, capped_from: Some(named) }
        } else {
            ServerWait { wait: named, capped_from: None }
        }
    }
}

/// The wait that `retry-after-ms` names, else `retry-after`: seconds, fractions of them, or an HTTP
/// date. A date that is past gives zero.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    first(headers, "retry-after-ms", milliseconds).or_else(|| wait_header(headers, "retry-after", now))
}

/// The wait that one header names, in any form that `retry-after` may have.
pub fn wait_header(headers: &HeaderMap, name: &str, now: Timestamp) -> Option<Duration> {
    let now = server_now(headers, now);
    first(headers, name, |text| seconds(text).or_else(|| http_date(text).map(|at| at.since(now))))
}

/// What `x-should-retry` says; it wins over the status.
pub fn should_retry(headers: &HeaderMap) -> Option<bool> {
    first(headers, "x-should-retry", |text| match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    })
}

/// The provider's id of the exchange: `x-request-id`, or as GitHub, Anthropic, Cloudflare call it.
pub fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-request-id", "request-id", "x-github-request-id", "cf-ray"].into_iter().find_map(|name| {
        first(headers, name, |text| {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
            plain.then(|| text.chars().take(128).collect())
        })
    })
}

/// The server's own time, by its `Date` header.
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    first(headers, "date", http_date)
}

/// A duration as Go writes it: `20ms`, `1s`, `59.9s`, `6m0s`, `1h2m3s`.
pub fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: Option<Duration> = None;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_secs = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(decimal(number)? * unit_secs).ok()?;
        total = Some(total.unwrap_or_default().checked_add(part)?);
        rest = next;
    }
    total
}

/// A number of seconds, whole or with a fraction; never negative.
pub fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(decimal(text)?).ok()
}

/// A number of milliseconds, whole or with a fraction; never negative.
pub fn milliseconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(decimal(text)? / 1000.0).ok()
}

/// An instant in Unix seconds, as GitHub gives resets; never zero or negative.
pub fn unix_seconds(text: &str) -> Option<Timestamp> {
    let secs: i64 = text.trim().parse().ok()?;
    (secs > 0).then(|| Timestamp::from_secs(secs))
}

/// An instant in one of the three forms of HTTP dates.
pub fn http_date(text: &str) -> Option<Timestamp> {
    let at = httpdate::parse_http_date(text.trim()).ok()?;
    let since_epoch = at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).ok()?))
}

/// A reset in any form that is seen in the wild: Go's duration, seconds, RFC 3339, Unix seconds or
/// milliseconds. Numbers above a billion are instants.
fn reset_from_now(text: &str, now: Timestamp) -> Option<Duration> {
    if let Some(number) = decimal(text) {
        let instant = match number {
            n if n >= 1e12 => Timestamp::from_millis(n as i64),
            n if n >= 1e9 => Timestamp::from_secs(n as i64),
            n => return Duration::try_from_secs_f64(n).ok(),
        };
        return Some(instant.since(now));
    }
    go_duration(text).or_else(|| text.parse::<Timestamp>().ok().map(|at| at.since(now)))
}

fn window(
    headers: &HeaderMap,
    name: impl Fn(&str) -> String,
    reset: impl Fn(&str) -> Option<Duration>,
) -> Option<Window> {
    let number = |text: &str| text.parse::<u64>().ok();
    let window = Window {
        limit: first(headers, &name("limit"), number),
        remaining: first(headers, &name("remaining"), number),
        reset: first(headers, &name("reset"), reset),
    };
    (window != Window::default()).then_some(window)
}

/// The first value of a header that can be read; intermediaries repeat headers.
fn first<T>(headers: &HeaderMap, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    headers.get_all(name).iter().find_map(|value| parse(value.to_str().ok()?.trim()))
}

fn server_now(headers: &HeaderMap, now: Timestamp) -> Timestamp {
    date(headers).unwrap_or(now)
}

/// Digits with at most one dot: no sign, no exponent, no `inf`.
fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.bytes().any(|b| b.is_ascii_digit());
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (digits && plain).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    const NOW: i64 = 1_760_000_000;

    fn now() -> Timestamp {
        Timestamp::from_secs(NOW)
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    fn millis(n: u64) -> Option<Duration> {
        Some(Duration::from_millis(n))
    }

    #[test]
    fn go_durations_are_read_in_every_form_seen() {
        let cases = [
            ("20ms", millis(20)),
            ("1s", millis(1000)),
            ("59.9s", millis(59_900)),
            ("6m0s", millis(360_000)),
            ("1h2m3s", millis(3_723_000)),
            ("1m0.5s", millis(60_500)),
            ("0", millis(0)),
            ("0s", millis(0)),
            ("250us", Some(Duration::from_micros(250))),
            ("250µs", Some(Duration::from_micros(250))),
            ("", None),
            ("s", None),
            ("1", None),
            ("-1s", None),
            ("1s2", None),
            ("1 s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999999999999h", None),
        ];
        for (text, want) in cases {
            assert_eq!(go_duration(text), want, "{text:?}");
        }
    }

    #[test]
    fn retry_after_is_read_in_every_form_and_nonsense_is_absent() {
        type Case = (&'static [(&'static str, &'static str)], Option<Duration>);
        let cases: [Case; 16] = [
            (&[], None),
            (&[("retry-after", "7")], millis(7000)),
            (&[("retry-after", "0.25")], millis(250)),
            (&[("retry-after", " 3 ")], millis(3000)),
            (&[("retry-after", "7"), ("retry-after-ms", "120")], millis(120)),
            (&[("retry-after", "7"), ("retry-after-ms", "soon")], millis(7000)),
            (&[("retry-after", "")], None),
            (&[("retry-after", "-5")], None),
            (&[("retry-after", "later")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "1e3")], None),
            (&[("retry-after", "oops"), ("retry-after", "4")], millis(4000)),
            (&[("retry-after", "Thu, 09 Oct 2025 08:54:00 GMT")], millis(40_000)),
            (&[("retry-after", "Thu, 09 Oct 2025 08:00:00 GMT")], millis(0)),
            (&[("retry-after", "\u{fe}")], None),
        ];
        for (pairs, want) in cases {
            assert_eq!(retry_after(&headers(pairs), now()), want, "{pairs:?}");
        }
    }

    #[test]
    fn a_date_is_measured_by_the_servers_clock_where_it_tells_it() {
        let pairs =
            [("retry-after", "Thu, 09 Oct 2025 12:00:30 GMT"), ("date", "Thu, 09 Oct 2025 12:00:00 GMT")];
        assert_eq!(retry_after(&headers(&pairs), now()), millis(30_000));
    }

    #[test]
    fn should_retry_is_yes_no_or_absent() {
        for (text, want) in [("true", Some(true)), ("False", Some(false)), ("maybe", None), ("", None)] {
            assert_eq!(should_retry(&headers(&[("x-should-retry", text)])), want, "{text:?}");
        }
    }

    #[test]
    fn openai_tells_both_windows() {
        let observed = Observed::of_llm(
            &headers(&[
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-reset-requests", "1s"),
                ("x-ratelimit-limit-tokens", "150000"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ]),
            now(),
        );
        let requests = Window { limit: Some(60), remaining: Some(59), reset: millis(1000) };
        let tokens = Window { limit: Some(150_000), remaining: Some(0), reset: millis(360_000) };
        assert_eq!(observed, Observed { requests: Some(requests), tokens: Some(tokens), resource: None });
        assert_eq!(observed.wait_for_used_up(), millis(360_000));
    }

    #[test]
    fn anthropic_tells_instants_and_the_used_up_window_matters_most() {
        let observed = Observed::of_llm(
            &headers(&[
                ("anthropic-ratelimit-requests-limit", "50"),
                ("anthropic-ratelimit-requests-remaining", "49"),
                ("anthropic-ratelimit-requests-reset", "2025-10-09T08:53:21Z"),
                ("anthropic-ratelimit-input-tokens-limit", "30000"),
                ("anthropic-ratelimit-input-tokens-remaining", "10"),
                ("anthropic-ratelimit-output-tokens-limit", "8000"),
                ("anthropic-ratelimit-output-tokens-remaining", "0"),
                ("anthropic-ratelimit-output-tokens-reset", "2025-10-09T08:54:20Z"),
            ]),
            now(),
        );
        let requests = Window { limit: Some(50), remaining: Some(49), reset: millis(1000) };
        let tokens = Window { limit: Some(8000), remaining: Some(0), reset: millis(60_000) };
        assert_eq!(observed, Observed { requests: Some(requests), tokens: Some(tokens), resource: None });
    }

    #[test]
    fn resets_of_a_window_are_read_in_every_form() {
        let cases = [
            ("90", millis(90_000)),
            ("1760000005", millis(5000)),
            ("1760000005000", millis(5000)),
            ("1759999999", millis(0)),
            ("2025-10-09T08:53:25Z", millis(5000)),
            ("2m59.56s", millis(179_560)),
            ("soon", None),
        ];
        for (text, want) in cases {
            let window = Observed::of_llm(&headers(&[("x-ratelimit-reset-requests", text)]), now()).requests;
            assert_eq!(window.and_then(|window| window.reset), want, "{text:?}");
        }
    }

    #[test]
    fn github_tells_one_resource_with_a_reset_in_unix_seconds() {
        let pairs = [
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-used", "5000"),
            ("x-ratelimit-reset", "1760000120"),
            ("x-ratelimit-resource", "core"),
        ];
        let observed = Observed::of_github(&headers(&pairs), now());
        let window = Window { limit: Some(5000), remaining: Some(0), reset: millis(120_000) };
        assert_eq!(
            observed,
            Observed { requests: Some(window), tokens: None, resource: Some("core".to_owned()) }
        );
    }

    #[test]
    fn no_headers_tell_nothing() {
        assert_eq!(Observed::of_llm(&HeaderMap::new(), now()), Observed::default());
        assert_eq!(
            Observed::of_github(&headers(&[("x-ratelimit-limit", "many")]), now()),
            Observed::default()
        );
    }

    #[test]
    fn a_wait_beyond_the_cap_says_what_it_was() {
        let hour = Duration::from_secs(3600);
        let day = Duration::from_secs(86_400);
        assert_eq!(ServerWait::capped(day, hour), ServerWait { wait: hour, capped_from: Some(day) });
        assert_eq!(ServerWait::capped(hour, hour), ServerWait { wait: hour, capped_from: None });
    }

    #[test]
    fn request_ids_are_plain_and_short() {
        let long = "x".repeat(1000);
        assert_eq!(request_id(&headers(&[("x-request-id", &long)])).map(|id| id.len()), Some(128));
        assert_eq!(request_id(&headers(&[("x-request-id", "a b")])), None);
        assert_eq!(request_id(&headers(&[("request-id", "req_1")])).as_deref(), Some("req_1"));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*", digits in "[0-9.smhun:TZ+-]{0,40}") {
            for text in [text.as_str(), digits.as_str()] {
                let _ = (go_duration(text), seconds(text), milliseconds(text), unix_seconds(text));
                let _ = (http_date(text), reset_from_now(text, now()));
            }
        }

        #[test]
        fn no_header_makes_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            for name in [
                "retry-after", "retry-after-ms", "x-should-retry", "date", "x-request-id",
                "x-ratelimit-reset-tokens", "x-ratelimit-limit-requests", "x-ratelimit-reset",
                "x-ratelimit-resource", "anthropic-ratelimit-tokens-reset",
            ] {
                let mut map = HeaderMap::new();
                map.insert(name, value.clone());
                let _ = (retry_after(&map, now()), should_retry(&map), request_id(&map));
                let _ = (Observed::of_llm(&map, now()), Observed::of_github(&map, now()));
            }
        }

        #[test]
        fn a_duration_written_as_go_does_is_read_back(total in 0u64..400_000_000) {
            let (h, m, s, ms) =
                (total / 3_600_000, total / 60_000 % 60, total / 1000 % 60, total % 1000);
            let text = match (h, m) {
                (0, 0) => format!("{s}.{ms:03}s"),
                (0, _) => format!("{m}m{s}.{ms:03}s"),
                _ => format!("{h}h{m}m{s}.{ms:03}s"),
            };
            let read = go_duration(&text).unwrap();
            let error = read.abs_diff(Duration::from_millis(total));
            prop_assert!(error < Duration::from_micros(1), "{text} gave {read:?}");
        }

        #[test]
        fn seconds_and_milliseconds_are_read_back(n in 0u64..10_000_000) {
            prop_assert_eq!(seconds(&n.to_string()), Some(Duration::from_secs(n)));
            prop_assert_eq!(milliseconds(&n.to_string()), Some(Duration::from_millis(n)));
        }

        #[test]
        fn dates_are_read_back(secs in 0i64..253_402_207_200) {
            let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(secs.unsigned_abs());
            prop_assert_eq!(http_date(&httpdate::fmt_http_date(at)), Some(Timestamp::from_secs(secs)));
        }
    }
}
