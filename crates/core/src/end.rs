//! How a job ended, and why: written to the status hash, the journal and the issue.

use serde::{Deserialize, Serialize};

/// The three ends that the queue's other readers know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndStatus {
    /// The work is done: a pull request, or a comment that says why there is none.
    Completed,
    /// It could not be done.
    Failed,
    /// Somebody called it off.
    Cancelled,
}

impl EndStatus {
    /// The word in the status hash.
    pub fn as_str(self) -> &'static str {
        match self {
            EndStatus::Completed => "completed",
            EndStatus::Failed => "failed",
            EndStatus::Cancelled => "cancelled",
        }
    }
}

/// What ended a job. The word in the status hash's `endReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// A pull request stands.
    PullRequest,
    /// The model finished and nothing was to be changed.
    NoChanges,
    /// Somebody called it off.
    Cancelled,
    /// Another job for the same issue was alive: this one was joined to it.
    Joined,
    /// A credential is missing, wrong or revoked.
    Credentials,
    /// The App or token lacks a permission.
    Permission,
    /// The repository, installation, issue or model is not there, or not to be seen by us.
    NotFound,
    /// A provider refuses what we ask.
    Rejected,
    /// `job.max_attempts` requeues without progress.
    AttemptsExhausted,
    /// `job.deadline` passed.
    Deadline,
    /// It crashed its runner `job.max_crashes` times and was set aside.
    Poison,
    /// `agent.max_turns` model turns.
    TurnLimit,
    /// `agent.max_tokens` or `agent.max_cost`.
    SpendLimit,
    /// The conversation no longer fits the model, even compacted.
    ContextTooLong,
    /// Answers that could not be read, or empty ones, too many in a row.
    FormatErrors,
    /// The same call with the same result again and again.
    Stuck,
    /// The model said that it gives up.
    GaveUp,
    /// What it wants to push is not allowed: a secret, a workflow, too large.
    ChangeRefused,
    /// The journal cannot be read, or is at its cap.
    Journal,
}

/// The end of a job, with what a person needs to understand it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Which of the three.
    pub status: EndStatus,
    /// What ended it.
    pub reason: EndReason,
    /// For a person: the model's summary, or what failed, on what, and what can be done. At most
    /// 4,000 characters.
    pub summary: String,
    /// The branch that stands, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The pull request's page, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pr_url: Option<String>,
}

impl End {
    /// A failed end without branch or pull request.
    pub fn failed(reason: EndReason, summary: impl Into<String>) -> Self {
        End { status: EndStatus::Failed, reason, summary: summary.into(), branch: None, pr_url: None }
    }
}
