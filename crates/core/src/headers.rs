//! What answers say in their headers about limits and waits: parsers, and [`Observed`].
//!
//! Nonsense counts as absent: an answer is never refused for a header that cannot be read.
//! Instants are taken relative to the server's own `Date` where it sent one, so that a clock that
//! is wrong, theirs or ours, shifts no wait.

use std::time::Duration;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// One limit of a provider, as an answer's headers tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The most that one window allows.
    pub limit: Option<u64>,
    /// What is left of it.
    pub remaining: Option<u64>,
    /// Time from the answer until it is whole again.
    pub reset: Option<Duration>,
}

/// What the headers of one answer tell about the provider's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

    /// From the headers of GitHub's REST interface; the reset is in Unix seconds there, and what stands
    /// in its place may tell it otherwise.
    pub fn of_github(headers: &HeaderMap, now: Timestamp) -> Self {
        let now = server_now(headers, now);
        Observed {
            requests: window(
                headers,
                |part| format!("x-ratelimit-{part}"),
                |text| reset_from_now(text, now).filter(|_| text != "0"),
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

/// The wait that `retry-after-ms` names, else `retry-after`: seconds, fractions of them, an HTTP date,
/// or a duration with its unit. A date that is past gives zero, and so do milliseconds that are zero
/// where nothing else is named.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let precise = first(headers, "retry-after-ms", milliseconds);
    precise.filter(|wait| !wait.is_zero()).or_else(|| wait_header(headers, "retry-after", now)).or(precise)
}

/// The wait that one header names, in any form that `retry-after` may have.
pub fn wait_header(headers: &HeaderMap, name: &str, now: Timestamp) -> Option<Duration> {
    let now = server_now(headers, now);
    // Proxies join a header that came twice with a comma.
    let joined = |text: &str| seconds(text.split_once(',')?.0);
    first(headers, name, |text| {
        let named = seconds(text).or_else(|| http_date(text).map(|at| at.since(now)));
        named.or_else(|| go_duration(text)).or_else(|| joined(text))
    })
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
    let number = |text: &str| text.parse::<u64>().ok().or_else(|| decimal(text).map(|number| number as u64));
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
mod tests;
