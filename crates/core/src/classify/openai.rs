//! Answers and silences of OpenAI-compatible servers, and what they mean.
//!
//! A completion has no effect outside, so an unknown outcome is repeated and never looked up; its
//! tokens may have been charged, which [`Failure::maybe_charged`] says.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::clean::{MAX_MESSAGE, cap, clean};
use super::transport::TransportFault;
use crate::failure::{Failure, FatalReason, GateReason, Provider, Verdict};
use crate::headers::{self, Observed, ServerWait};
use crate::time::Timestamp;

/// How long to stay away where the server's word is not the measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// How long the gate stays closed when the account has no quota left: `llm.quota_recheck`.
    pub quota_recheck: Duration,
    /// The longest wait that is believed of a server: `llm.max_server_wait`.
    pub max_server_wait: Duration,
}

/// An answer that came, as far as classification looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The body, or its beginning.
    pub body: &'a [u8],
}

/// What the body of a refusal says, whichever of the usual shapes it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// For people.
    pub message: Option<String>,
    /// The kind of error: `invalid_request_error`.
    pub kind: Option<String>,
    /// The field of the request that is meant.
    pub param: Option<String>,
    /// The exact error: `context_length_exceeded`, or an HTTP status as a number or string.
    pub code: Option<String>,
}

impl ErrorBody {
    /// From a body; empty where it is not JSON.
    pub fn parse(body: &[u8]) -> Self {
        serde_json::from_slice::<Value>(body).map(|value| Self::of_value(&value)).unwrap_or_default()
    }

    /// From a JSON document that holds an `error`, or is one.
    pub fn of_value(value: &Value) -> Self {
        let value = value.get(0).unwrap_or(value);
        let error = value.get("error").filter(|error| !error.is_null()).unwrap_or(value);
        let message = match error {
            Value::String(message) => Some(message.clone()),
            _ => ["message", "detail", "msg"].into_iter().find_map(|key| field(error, key)),
        };
        ErrorBody {
            message,
            kind: field(error, "type"),
            param: field(error, "param"),
            code: field(error, "code"),
        }
    }

    /// Whether `code` or `type` is one of `names`.
    pub fn is(&self, names: &[&str]) -> bool {
        [&self.code, &self.kind].into_iter().flatten().any(|name| names.contains(&name.as_str()))
    }

    /// Whether `code` names an error exactly; a number only repeats the status.
    pub fn has_named_code(&self) -> bool {
        self.code.as_ref().is_some_and(|code| code.parse::<u16>().is_err())
    }

    /// The status that an error within a 200 stands for; an error that we don't know is the
    /// server's own (500), since a request that it took at first was in order.
    fn as_status(&self) -> u16 {
        let number = self.code.as_ref().and_then(|code| code.parse().ok());
        if let Some(status) = number.filter(|status| (400..600).contains(status)) {
            return status;
        }
        const NAMES: [(u16, &[&str]); 8] = [
            (429, &["rate_limit_exceeded", "rate_limit_error", "insufficient_quota", "too_many_requests"]),
            (529, &["overloaded_error"]),
            (504, &["timeout", "timeout_error"]),
            (401, &["invalid_api_key", "authentication_error"]),
            (402, &["billing_error", "billing_hard_limit_reached"]),
            (403, &["permission_error"]),
            (404, &["model_not_found", "not_found_error"]),
            (400, &["invalid_request_error", "context_length_exceeded"]),
        ];
        NAMES.into_iter().find(|(_, names)| self.is(names)).map_or(500, |(status, _)| status)
    }
}

/// A field as text; LiteLLM writes the word `None` where it means null.
fn field(error: &Value, key: &str) -> Option<String> {
    let text = match error.get(key)? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(_) | Value::Object(_) => error.get(key)?.to_string(),
        Value::Null | Value::Bool(_) => return None,
    };
    (!text.is_empty() && text != "None").then_some(text)
}

/// An answer whose status is not a success.
pub fn refused(operation: &'static str, answer: Answer<'_>, now: Timestamp, waits: &Waits) -> Failure {
    let mut error = ErrorBody::parse(answer.body);
    if error.message.is_none() {
        error.message = plain_text(answer.body);
    }
    judge(operation, answer.status, answer.headers, &error, now, waits)
}

/// An `error` object within a 200, or within a chunk of its stream: as its code were the status.
pub fn error_within(
    operation: &'static str,
    error: &Value,
    headers: &HeaderMap,
    now: Timestamp,
    waits: &Waits,
) -> Failure {
    let error = ErrorBody::of_value(error);
    judge(operation, error.as_status(), headers, &error, now, waits)
}

/// A 200 that is no whole answer: truncated, not JSON, without choices, or a stream without end.
pub fn unreadable(operation: &'static str, what: &str, headers: &HeaderMap) -> Failure {
    Failure {
        verdict: Verdict::Retry { after: None },
        provider: Provider::Llm,
        operation,
        status: Some(200),
        message: clean(what),
        request_id: headers::request_id(headers),
        maybe_charged: true,
        unhealthy: true,
    }
}

/// No whole answer came. `headers` are those of the head, where that came.
pub fn transport(
    operation: &'static str,
    fault: TransportFault,
    message: &str,
    headers: Option<&HeaderMap>,
) -> Failure {
    let verdict = match fault {
        TransportFault::Connect
        | TransportFault::Lost
        | TransportFault::Timeout
        | TransportFault::CutOff
        | TransportFault::TooLarge => Verdict::Retry { after: None },
        TransportFault::Unusable => Verdict::Fatal { why: FatalReason::Unusable },
    };
    Failure {
        verdict,
        provider: Provider::Llm,
        operation,
        status: None,
        message: clean(message),
        request_id: headers.and_then(headers::request_id),
        maybe_charged: fault.maybe_done(),
        unhealthy: !matches!(fault, TransportFault::Unusable),
    }
}

fn judge(
    operation: &'static str,
    status: u16,
    headers: &HeaderMap,
    error: &ErrorBody,
    now: Timestamp,
    waits: &Waits,
) -> Failure {
    let named = named_wait(headers, now).map(|wait| ServerWait::capped(wait, waits.max_server_wait));
    let used_up = Observed::of_llm(headers, now).wait_for_used_up().filter(|wait| !wait.is_zero());
    let used_up = used_up.map(|wait| ServerWait::capped(wait, waits.max_server_wait));
    let should_retry = headers::should_retry(headers);
    let sick = matches!(status, 408 | 409 | 500..=599);
    let mut followed = None;
    let verdict = match status {
        400..=499 if error.is(&["context_length_exceeded"]) => Verdict::Shrink,
        400 | 429 if larger_than_the_limit(error) => Verdict::Shrink,
        402 => quota(now, waits),
        400..=499
            if error.is(&["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"]) =>
        {
            quota(now, waits)
        }
        429 => match named.or(used_up) {
            Some(wait) => {
                followed = Some(wait);
                Verdict::WaitUntil { at: now + wait.wait, reason: GateReason::RateLimit }
            }
            // A server that says when to come back is taken at that word above, whatever else it
            // says: no job fails for a limit that ends.
            None if should_retry == Some(false) => Verdict::Fatal { why: FatalReason::Rejected },
            None => Verdict::Retry { after: None },
        },
        _ if should_retry.unwrap_or(sick) => {
            followed = named;
            Verdict::Retry { after: named.map(|wait| wait.wait) }
        }
        401 | 403 => Verdict::Fatal { why: FatalReason::Credentials },
        404 | 410 | 451 => Verdict::Fatal { why: FatalReason::NotFound },
        _ => Verdict::Fatal { why: FatalReason::Rejected },
    };
    Failure {
        verdict,
        provider: Provider::Llm,
        operation,
        status: Some(status),
        message: message(status, error, followed.and_then(|wait| wait.capped_from)),
        request_id: headers::request_id(headers),
        // Behind a gateway that ran out of patience the model may have gone on to the end.
        maybe_charged: matches!(status, 504 | 524),
        unhealthy: sick,
    }
}

fn quota(now: Timestamp, waits: &Waits) -> Verdict {
    Verdict::WaitUntil { at: now + waits.quota_recheck, reason: GateReason::Quota }
}

/// The server's wait. A zero says nothing about when to come back, and is as if absent.
fn named_wait(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    headers::retry_after(headers, now)
        .filter(|wait| !wait.is_zero())
        .or_else(|| headers::wait_header(headers, "llm_provider-retry-after", now))
        .filter(|wait| !wait.is_zero())
}

/// OpenAI has no code of its own for one request that is larger than the whole limit; the same
/// `rate_limit_exceeded` stands for a limit that only has to be waited for.
fn larger_than_the_limit(error: &ErrorBody) -> bool {
    error.message.as_ref().is_some_and(|message| message.to_ascii_lowercase().contains("request too large"))
}

fn message(status: u16, error: &ErrorBody, capped_from: Option<Duration>) -> String {
    let mut after = String::new();
    if let Some(code) =
        error.code.as_ref().or(error.kind.as_ref()).filter(|code| code.parse::<u16>().is_err())
    {
        after.push_str(&format!(" ({})", cap(&clean(code), 64)));
    }
    if let Some(named) = capped_from {
        after.push_str(&format!(" (the server named a wait of {} s: capped)", named.as_secs()));
    }
    let said = match &error.message {
        Some(message) => clean(message),
        None if (300..400).contains(&status) => {
            "redirected: set llm.base_url to the final address".to_owned()
        }
        None => {
            let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            reason.unwrap_or("no message").to_owned()
        }
    };
    let room = MAX_MESSAGE.saturating_sub(after.chars().count());
    cap(&said, room) + &after
}

/// A body that is not JSON, if it is text for people; a page of HTML says less than its status.
fn plain_text(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let markup = text.starts_with(['<', '{', '[']);
    (!text.is_empty() && !markup).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
