//! What went wrong with one call to a provider, and what it means: [`Failure`] and its [`Verdict`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Who answered, or failed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The language model's server.
    Llm,
    /// GitHub's REST interface.
    Github,
    /// The git remote.
    Git,
    /// The queue's own store.
    Store,
    /// Whoever is told of what a person must know.
    Webhook,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Provider::Llm => "llm",
            Provider::Github => "github",
            Provider::Git => "git",
            Provider::Store => "store",
            Provider::Webhook => "webhook",
        })
    }
}

/// What a failure means for the caller. Chosen by [`crate::classify`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again; after `after` where the server named a wait, else by the layer's backoff.
    Retry {
        /// The server's own wait.
        after: Option<Duration>,
    },
    /// A gate closes until `at`: no caller of this budget sends anything before.
    WaitUntil {
        /// When it opens, by the server's word or the provider's documented minimum.
        at: Timestamp,
        /// Why it closed.
        reason: GateReason,
    },
    /// The credential is stale: get a new one and repeat, once.
    Refresh,
    /// An effect whose outcome is unknown: look whether it is there before repeating it.
    Verify,
    /// The request is too large for the model: compact the conversation, then go on.
    Shrink,
    /// Repeating cannot help.
    Fatal {
        /// Of which kind.
        why: FatalReason,
    },
}

/// Why a gate is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateReason {
    /// A rate limit, with the server's own time.
    RateLimit,
    /// GitHub's secondary limit or abuse detection.
    SecondaryLimit,
    /// The account has no quota left: a person must pay.
    Quota,
    /// The credential is refused: a person must mend it.
    Credentials,
    /// The server said that it is unavailable until then.
    Unavailable,
}

impl fmt::Display for GateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GateReason::RateLimit => "rate limit",
            GateReason::SecondaryLimit => "secondary rate limit",
            GateReason::Quota => "quota exhausted",
            GateReason::Credentials => "credentials refused",
            GateReason::Unavailable => "unavailable",
        })
    }
}

/// Of which kind a failure is that repeating cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FatalReason {
    /// The credential is missing, wrong or revoked (401, 403).
    Credentials,
    /// The credential is good but may not do this (403).
    Permission,
    /// What was asked for is not there, or not to be seen by us (404, 410, 451).
    NotFound,
    /// The server refuses the request as it is (400, 413, 415, 422).
    Rejected,
    /// The request could not be made from what we were given.
    Unusable,
}

/// One call that failed: the verdict, and what a person needs to understand it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{provider} {operation}: {}{message}", status.map(|s| format!("{s} ")).unwrap_or_default())]
pub struct Failure {
    /// What it means.
    pub verdict: Verdict,
    /// Who failed.
    pub provider: Provider,
    /// What was asked, by a short name that is the same in logs and metrics: `chat`, `create_pull`.
    pub operation: &'static str,
    /// HTTP status; `None` where no answer came.
    pub status: Option<u16>,
    /// The provider's message or the transport's error, without secrets, at most 500 characters.
    pub message: String,
    /// The provider's id of the exchange.
    pub request_id: Option<String>,
    /// Whether the provider may have done the work and charged for it.
    pub maybe_charged: bool,
    /// Whether it counts as a failure of the provider's health (a 429 does not).
    pub unhealthy: bool,
}

impl Failure {
    /// Whether a rate limit of any form is the cause.
    pub fn is_rate_limit(&self) -> bool {
        match self.verdict {
            Verdict::WaitUntil { reason, .. } => {
                matches!(reason, GateReason::RateLimit | GateReason::SecondaryLimit)
            }
            Verdict::Retry { .. } => self.status == Some(429),
            Verdict::Refresh | Verdict::Verify | Verdict::Shrink | Verdict::Fatal { .. } => false,
        }
    }
}
