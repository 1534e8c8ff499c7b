//! From an answer of GitHub's REST interface, or its absence, to a verdict.
//!
//! Statuses, headers and the `errors` list decide. Messages decide only where GitHub has nothing
//! else to tell a secondary rate limit from a missing permission.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::clean::clean;
use super::transport::TransportFault;
use crate::failure::{Failure, FatalReason, GateReason, Provider, Verdict};
use crate::headers::{self, Observed};
use crate::time::Timestamp;

/// GitHub's documented shortest wait after a secondary rate limit that names no time.
pub const SECONDARY_WAIT: Duration = Duration::from_secs(60);

/// Added to `x-ratelimit-reset`, which is in whole seconds.
const RESET_MARGIN: Duration = Duration::from_secs(1);

/// Shortest wait for a rate limit: `retry-after: 0` must not make a busy loop.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// A clock that is off by more than this is named as the likely cause of a refused JWT.
const NOTABLE_SKEW: i64 = 30_000;

/// What was asked of GitHub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Make an installation token.
    CreateToken,
    /// Revoke an installation token.
    RevokeToken,
    /// Read the App itself.
    App,
    /// Read a user.
    User,
    /// Read a repository.
    Repository,
    /// List an issue's comments.
    FindComment,
    /// Write a comment on an issue.
    CreateComment,
    /// Replace a comment's text.
    UpdateComment,
    /// Read the commit at a branch's head.
    BranchHead,
    /// List the pull requests from a branch.
    FindPull,
    /// Open a pull request.
    CreatePull,
}

impl Operation {
    /// The short name in failures, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Operation::CreateToken => "create_token",
            Operation::RevokeToken => "revoke_token",
            Operation::App => "app",
            Operation::User => "user",
            Operation::Repository => "repository",
            Operation::FindComment => "find_comment",
            Operation::CreateComment => "create_comment",
            Operation::UpdateComment => "update_comment",
            Operation::BranchHead => "branch_head",
            Operation::FindPull => "find_pull",
            Operation::CreatePull => "create_pull",
        }
    }

    /// Whether it changes what others see: such calls go one by one and spaced.
    pub fn is_write(self) -> bool {
        match self {
            Operation::CreateComment | Operation::UpdateComment | Operation::CreatePull => true,
            Operation::CreateToken
            | Operation::RevokeToken
            | Operation::App
            | Operation::User
            | Operation::Repository
            | Operation::FindComment
            | Operation::BranchHead
            | Operation::FindPull => false,
        }
    }

    /// Whether a blind repetition could make a second thing, so that one looks before repeating.
    /// Replacing a comment's text twice leaves what replacing it once leaves; and who found the
    /// comment and took it for the new text would leave the old one standing.
    pub fn is_effect(self) -> bool {
        self.is_write() && self != Operation::UpdateComment
    }
}

/// As whom it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// The App itself, by a signed JWT.
    AppJwt,
    /// An installation of the App, by its token.
    Installation,
    /// A person, by a personal access token.
    Personal,
}

/// One call, as far as its verdict depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// As whom.
    pub credential: Credential,
}

/// The numbers that verdicts depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Longest wait that is believed of a server.
    pub max_server_wait: Duration,
    /// Secondary limits without a named wait that came before this one without a success between.
    pub secondary_streak: u32,
}

/// GitHub's error body.
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Detail>,
}

/// One entry of `errors`; older endpoints send bare strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Detail {
    Fields {
        #[serde(default)]
        field: Option<String>,
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    },
    Other(serde_json::Value),
}

impl ErrorBody {
    fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_else(|_| ErrorBody {
            message: String::from_utf8_lossy(body).into_owned(),
            errors: Vec::new(),
        })
    }

    /// Message and details in one line, before cleaning.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for detail in &self.errors {
            let part = match detail {
                Detail::Fields { message: Some(message), .. } => message.clone(),
                Detail::Fields { field, code, message: None } => {
                    [field.as_deref(), code.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ")
                }
                Detail::Other(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            };
            if !part.is_empty() {
                text.push_str("; ");
                text.push_str(&part);
            }
        }
        text
    }

    /// GitHub has no header and no code for these two; its documentation names the words.
    fn speaks_of_secondary_limit(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        message.contains("secondary rate limit") || message.contains("abuse detection")
    }

    /// The same 403 as for a missing permission; only these words tell that it is this issue's alone.
    fn speaks_of_a_locked_issue(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        message.contains("issue is locked") || message.contains("conversation is locked")
    }

    /// Whether a refused pull request is surely wrong in itself. A missing head may be a push that
    /// is not seen yet, and `custom` says that one exists as well as that there is nothing to
    /// merge: for those one looks.
    fn blames_another_field(&self) -> bool {
        self.errors.iter().any(|detail| match detail {
            Detail::Fields { field: Some(field), code, .. } => {
                field != "head" && code.as_deref() != Some("custom")
            }
            Detail::Fields { field: None, .. } | Detail::Other(_) => false,
        })
    }
}

/// What an answer that is no success means. `now` is the wall time here; waits until an instant of
/// the server's are measured by the server's own clock where the answer tells it.
pub fn classify(
    call: &Call,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
    bounds: &Bounds,
) -> Failure {
    let error = ErrorBody::parse(body);
    let mut text = error.text();
    // A page of HTML says less than its status, and an empty body nothing.
    if text.is_empty() || text.trim_start().starts_with('<') {
        text = status.canonical_reason().unwrap_or_default().to_owned();
    }
    let verdict = match status.as_u16() {
        403 | 429 => match rate_limit_wait(status, headers, &error, now, bounds) {
            Some((wait, reason)) => {
                Verdict::WaitUntil { at: now + wait.max(MIN_WAIT).min(bounds.max_server_wait), reason }
            }
            None if error.speaks_of_a_locked_issue() => Verdict::Fatal { why: FatalReason::Rejected },
            None => {
                if let Some(needed) = header(headers, "x-accepted-github-permissions") {
                    text = format!("{text}; give the App or the token the permission: {needed}");
                }
                Verdict::Fatal { why: FatalReason::Permission }
            }
        },
        401 => match call.credential {
            Credential::AppJwt => {
                let skew = clock_skew(headers, now).unwrap_or(0);
                if skew.abs() > NOTABLE_SKEW {
                    text =
                        format!("{text}; the clock here differs from GitHub's by {} s: set it", skew / 1000);
                }
                Verdict::Refresh
            }
            Credential::Installation => Verdict::Refresh,
            Credential::Personal => {
                text = format!("{text}; the personal token is wrong, expired or revoked: replace it");
                Verdict::Fatal { why: FatalReason::Credentials }
            }
        },
        404 => {
            text = format!("{text}; it is not there, or the App or the token has no access to it");
            Verdict::Fatal { why: FatalReason::NotFound }
        }
        410 | 451 => Verdict::Fatal { why: FatalReason::NotFound },
        409 if call.operation == Operation::CreatePull => Verdict::Verify,
        422 if call.operation == Operation::CreatePull && !error.blames_another_field() => Verdict::Verify,
        422 if call.operation == Operation::CreateToken => {
            text = format!(
                "{text}; grant the installation contents, issues and pull_requests: write, and the repository"
            );
            Verdict::Fatal { why: FatalReason::Permission }
        }
        408 | 500..=599 if call.operation.is_effect() => Verdict::Verify,
        408 | 500..=599 => {
            let after = headers::retry_after(headers, now).map(|wait| wait.min(bounds.max_server_wait));
            Verdict::Retry { after }
        }
        _ => Verdict::Fatal { why: FatalReason::Rejected },
    };
    let unhealthy = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
    failure(call, verdict, Some((status, headers)), &text, unhealthy)
}

/// The wait that a 403 or 429 asks for, and why; `None` where it is no rate limit at all.
fn rate_limit_wait(
    status: StatusCode,
    headers: &HeaderMap,
    error: &ErrorBody,
    now: Timestamp,
    bounds: &Bounds,
) -> Option<(Duration, GateReason)> {
    let secondary = error.speaks_of_secondary_limit();
    let reason = if secondary { GateReason::SecondaryLimit } else { GateReason::RateLimit };
    let named = headers::retry_after(headers, now);
    if let Some(wait) = named.filter(|wait| !wait.is_zero()) {
        return Some((wait, reason));
    }
    let window = Observed::of_github(headers, now).requests.unwrap_or_default();
    let used_up = window.remaining == Some(0);
    match window.reset {
        Some(reset) if used_up => Some((reset + RESET_MARGIN, GateReason::RateLimit)),
        // A wait of no time says that it is a limit, and not how long.
        Some(_) | None if named.is_some() && !secondary => Some((MIN_WAIT, reason)),
        // A bare 429 is a rate limit by its status, and gets GitHub's wait for those without a time.
        Some(_) | None if used_up || secondary || status == StatusCode::TOO_MANY_REQUESTS => {
            Some((secondary_wait(bounds.secondary_streak), GateReason::SecondaryLimit))
        }
        Some(_) | None => None,
    }
}

/// What it means that no whole answer came. `detail` is the transport's word for it.
pub fn no_answer(call: &Call, fault: TransportFault, detail: &str) -> Failure {
    let (mut verdict, unhealthy) = match fault {
        TransportFault::Connect | TransportFault::Lost | TransportFault::Timeout | TransportFault::CutOff => {
            (RETRY, true)
        }
        TransportFault::TooLarge | TransportFault::Unusable => {
            (Verdict::Fatal { why: FatalReason::Unusable }, false)
        }
    };
    if call.operation.is_effect() && fault.maybe_done() {
        verdict = Verdict::Verify;
    }
    failure(call, verdict, None, detail, unhealthy)
}

/// What it means that a success has a body that is not what was promised: cut off, not JSON.
pub fn unreadable(call: &Call, status: StatusCode, headers: &HeaderMap, detail: &str) -> Failure {
    let verdict = if call.operation.is_effect() { Verdict::Verify } else { RETRY };
    failure(call, verdict, Some((status, headers)), &format!("unreadable answer: {detail}"), true)
}

const RETRY: Verdict = Verdict::Retry { after: None };

fn failure(
    call: &Call,
    verdict: Verdict,
    answer: Option<(StatusCode, &HeaderMap)>,
    text: &str,
    unhealthy: bool,
) -> Failure {
    Failure {
        verdict,
        provider: Provider::Github,
        operation: call.operation.name(),
        status: answer.map(|(status, _)| status.as_u16()),
        message: clean(text.trim_start_matches("; ")),
        request_id: answer.and_then(|(_, headers)| header(headers, "x-github-request-id")),
        maybe_charged: false,
        unhealthy,
    }
}

/// How far the clock here is ahead of the server's, in milliseconds; `None` without a `Date`.
pub fn clock_skew(headers: &HeaderMap, now: Timestamp) -> Option<i64> {
    Some(now.millis() - headers::date(headers)?.millis())
}

/// One minute, doubling with each secondary limit in a row.
pub fn secondary_wait(streak: u32) -> Duration {
    SECONDARY_WAIT.saturating_mul(2u32.saturating_pow(streak.min(20)))
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = clean(headers.get(name)?.to_str().ok()?);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
