//! What happened in a world, for assertions from outside.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use steadfast_core::time::Timestamp;

use crate::faults::{Fault, Operation};

/// Most entries of each list; further ones are counted, not kept.
const CAP: usize = 200_000;

/// One answered or refused call of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChatRecord {
    /// When it arrived.
    pub at: Timestamp,
    /// The number of the issue that the conversation is about.
    pub issue: Option<u64>,
    /// A job's id, where the conversation or the header `x-steadfast-job` shows one.
    pub job: Option<String>,
    /// Assistant turns before it.
    pub turn: usize,
    /// The status that was sent, or would have been.
    pub status: u16,
    /// SHA-256 of messages and tools, shortened: the same hash is the same question.
    pub prompt_hash: String,
    /// Tokens of the question.
    pub prompt_tokens: u64,
    /// Those of them that were cached.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Whether the answer was sent whole, no fault having cut it.
    pub delivered: bool,
}

/// A comment as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommentRecord {
    /// GitHub's id of it.
    pub id: u64,
    /// `owner/name`.
    pub repository: String,
    /// The issue or pull request.
    pub issue: u64,
    /// Who wrote it.
    pub author: String,
    /// Its text now.
    pub body: String,
    /// Its earlier texts, oldest first.
    pub edits: Vec<String>,
    /// When it was written.
    pub created: Timestamp,
}

/// A pull request as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PullRecord {
    /// `owner/name`.
    pub repository: String,
    /// Its number.
    pub number: u64,
    /// Its title.
    pub title: String,
    /// Its text.
    pub body: String,
    /// The branch that it brings.
    pub head: String,
    /// The commit at its head when it was made.
    pub head_sha: String,
    /// The branch that it goes to.
    pub base: String,
    /// Whether it is marked as not ready.
    pub draft: bool,
    /// Whether it is open.
    pub open: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// A branch other than the default one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BranchRecord {
    /// `owner/name`.
    pub repository: String,
    /// Its name.
    pub name: String,
    /// The commit at its head.
    pub sha: String,
}

/// An installation token that was issued. The token itself is not recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenRecord {
    /// When.
    pub at: Timestamp,
    /// For these repositories; empty for all.
    pub repositories: Vec<String>,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// A request that was refused, by the servers' own rules or by a fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejection {
    /// When.
    pub at: Timestamp,
    /// What was asked.
    pub operation: Operation,
    /// The status.
    pub status: u16,
    /// Why.
    pub why: String,
}

/// A fault that hit a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Injected {
    /// When.
    pub at: Timestamp,
    /// What was asked.
    pub operation: Operation,
    /// The fault's name.
    pub fault: String,
}

/// Everything that happened since the world began.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Records {
    /// Model calls.
    pub chats: Vec<ChatRecord>,
    /// Comments.
    pub comments: Vec<CommentRecord>,
    /// Branches that are there now, other than default ones.
    pub branches: Vec<BranchRecord>,
    /// Pull requests.
    pub pulls: Vec<PullRecord>,
    /// Installation tokens.
    pub tokens: Vec<TokenRecord>,
    /// Refused requests, those of faults among them.
    pub rejections: Vec<Rejection>,
    /// Faults.
    pub faults: Vec<Injected>,
    /// Requests by kind.
    pub requests: BTreeMap<Operation, u64>,
    /// Answers with 429 or 403 for a limit, by kind.
    pub limited: BTreeMap<Operation, u64>,
    /// Most model calls in work at the same time.
    pub max_concurrent_chats: usize,
    /// Most GitHub writes in work at the same time.
    pub max_concurrent_writes: usize,
    /// The least time between the starts of two GitHub writes.
    #[serde(with = "millis")]
    pub min_write_spacing: Option<Duration>,
    /// Entries that found their list full.
    pub not_kept: u64,
    #[serde(skip)]
    pub(crate) last_write: Option<Duration>,
}

mod millis {
    use std::time::Duration;

    use serde::Serializer;

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX)),
            None => to.serialize_none(),
        }
    }
}

impl Records {
    /// Model calls that were answered with 200 though the same question had been answered whole
    /// before: what was paid twice. Questions that are equal in two jobs count too.
    pub fn paid_twice(&self) -> usize {
        let mut answered = HashSet::new();
        let paid = self.chats.iter().filter(|chat| chat.status == 200);
        paid.filter(|chat| {
            let again = answered.contains(&(&chat.prompt_hash, &chat.job));
            if chat.delivered {
                answered.insert((&chat.prompt_hash, &chat.job));
            }
            again
        })
        .count()
    }

    /// Model calls that were answered with `status`.
    pub fn chats_with(&self, status: u16) -> usize {
        self.chats.iter().filter(|chat| chat.status == status).count()
    }

    pub(crate) fn chat(&mut self, record: ChatRecord) -> Option<usize> {
        let index = self.chats.len();
        Self::keep(&mut self.chats, record, &mut self.not_kept);
        (index < self.chats.len()).then_some(index)
    }

    pub(crate) fn rejection(&mut self, at: Timestamp, operation: Operation, status: u16, why: String) {
        Self::keep(&mut self.rejections, Rejection { at, operation, status, why }, &mut self.not_kept);
    }

    pub(crate) fn fault(&mut self, at: Timestamp, operation: Operation, fault: &Fault) {
        let injected = Injected { at, operation, fault: fault.name() };
        Self::keep(&mut self.faults, injected, &mut self.not_kept);
    }

    pub(crate) fn token(&mut self, at: Timestamp, repositories: Vec<String>) -> Option<usize> {
        let index = self.tokens.len();
        let record = TokenRecord { at, repositories, revoked: false };
        Self::keep(&mut self.tokens, record, &mut self.not_kept);
        (index < self.tokens.len()).then_some(index)
    }

    pub(crate) fn write_started(&mut self, since_start: Duration) {
        if let Some(last) = self.last_write.replace(since_start) {
            let spacing = since_start.saturating_sub(last);
            self.min_write_spacing = Some(self.min_write_spacing.map_or(spacing, |least| least.min(spacing)));
        }
    }

    fn keep<T>(list: &mut Vec<T>, entry: T, not_kept: &mut u64) {
        if list.len() < CAP {
            list.push(entry);
        } else {
            *not_kept += 1;
        }
    }
}
