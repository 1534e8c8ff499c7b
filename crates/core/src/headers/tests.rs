//! Headers as servers send them, and nonsense.

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
    let cases: [Case; 23] = [
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
        (&[("retry-after", "7s")], millis(7000)),
        (&[("retry-after", "6m0s")], millis(360_000)),
        (&[("retry-after", "7, 7")], millis(7000)),
        (&[("retry-after", ", 7")], None),
        (&[("retry-after", "7"), ("retry-after-ms", "0")], millis(7000)),
        (&[("retry-after-ms", "0")], millis(0)),
        (&[("retry-after", "604800000")], millis(604_800_000_000)),
    ];
    for (pairs, want) in cases {
        assert_eq!(retry_after(&headers(pairs), now()), want, "{pairs:?}");
    }
}

#[test]
fn a_date_is_measured_by_the_servers_clock_where_it_tells_it() {
    let pairs = [("retry-after", "Thu, 09 Oct 2025 12:00:30 GMT"), ("date", "Thu, 09 Oct 2025 12:00:00 GMT")];
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
    assert_eq!(Observed::of_github(&headers(&[("x-ratelimit-limit", "many")]), now()), Observed::default());
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
