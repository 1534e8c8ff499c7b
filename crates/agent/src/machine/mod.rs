//! The agent's state machine: journaled events in, the next action out. Pure: no I/O, no clock.
//!
//! [`Agent::apply`] folds one event into the state, [`Agent::next`] says what is to be done. Whoever
//! does it journals what came of it, applies that, and asks again. A replay is the same fold, so a
//! replayed journal gives the state that wrote it. No event is refused because a setting changed
//! since: settings decide what is next, not what has been.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use steadfast_core::chat::{ModelRequest, ToolCall, ToolSpec};
use steadfast_core::effect::{EffectKey, EffectOutcome};
use steadfast_core::end::{End, EndReason};
use steadfast_core::job::Job;

use crate::prompts::sanitise::cap;
use crate::settings::AgentSettings;
use crate::texts::MAX_SUMMARY;

mod checks;
mod compaction;
mod conversation;
mod fold;
mod next;
mod repeats;
mod spend;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use checks::Checks;
use compaction::Window;
use conversation::Conversation;
use repeats::Repeats;
use spend::Purse;
pub use spend::Spend;
pub use words::{comment_output, interrupted_output};

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Open the workspace for the first time, render the prompts, journal `Started`.
    Prepare,
    /// Ask the model. Then `ModelAnswered`; or `ContextTooLong` where the verdict is `Shrink`.
    CallModel(ModelRequest),
    /// Run a tool in the workspace. Then `ToolFinished`. The call is the model's or the runner's own
    /// (a check).
    RunTool {
        /// Which.
        call: ToolCall,
        /// Journal `ToolStarted` first: the call may change something, and must not be repeated if
        /// it is cut off. False once that is journaled: see [`Agent::interrupted_call`].
        announce: bool,
    },
    /// Do nothing, but journal `ToolFinished` with this output as an error.
    Refuse {
        /// Which call.
        call_id: String,
        /// What the model is told.
        output: String,
    },
    /// Comment on the issue, once: `EffectAnnounced`, look it up if it was announced before
    /// ([`Agent::effect`]), create it, `EffectConfirmed`; then `ToolFinished` with
    /// [`comment_output`]. Where it is confirmed already, `ToolFinished` alone is missing.
    Comment {
        /// The effect.
        key: EffectKey,
        /// Which call.
        call_id: String,
        /// The comment, marker included.
        body: String,
    },
    /// Publish the workspace's changes: `EffectAnnounced` (branch), commit and push,
    /// `EffectConfirmed`; or `NothingToPublish`; or `ChangeRefused`.
    Push {
        /// The branch.
        branch: String,
        /// The commit's message, trailer included.
        message: String,
    },
    /// Open the pull request: `EffectAnnounced`, look it up, create it, `EffectConfirmed`.
    OpenPull {
        /// The branch that was pushed.
        branch: String,
        /// The branch that it is to be merged into.
        base: String,
        /// One line.
        title: String,
        /// The text, marker included.
        body: String,
    },
    /// The job has its end: journal `Ended`. What was found where nothing was to be changed is told
    /// by the last edit of the progress comment, not by a comment of its own.
    End(End),
    /// `Ended` is journaled; only telling of it is left.
    Done(End),
}

/// How far an effect has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may stand in the world: look it up before trying again.
    Announced,
    /// It stands.
    Confirmed(EffectOutcome),
}

/// Why an event does not follow on the events before it: the journal is not one of this job, or was
/// written by a build that differs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The event cannot come now.
    #[error("journal: {event} cannot come {state}; leave the job to the build that wrote it")]
    Unexpected {
        /// The event.
        event: &'static str,
        /// Where the job stands.
        state: &'static str,
    },
    /// The event is about another call than the one that is due.
    #[error("journal: {event} for call {found:?}, where {due:?} is due")]
    OtherCall {
        /// The event.
        event: &'static str,
        /// The call that it names.
        found: String,
        /// The call that is due.
        due: String,
    },
    /// An effect was confirmed that was never announced, or as something that it is not.
    #[error("journal: effect {effect} was confirmed {why}")]
    Effect {
        /// Which.
        effect: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// A job's conversation and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    settings: Arc<AgentSettings>,
    job: Arc<Job>,
    tools: Arc<[ToolSpec]>,
    start: Option<Start>,
    conversation: Conversation,
    window: Window,
    /// The newest answer's calls that have no result yet, in order.
    pending: VecDeque<Pending>,
    /// Whether the first of `pending` was announced as started.
    running: bool,
    /// Calls of all answers.
    calls: u32,
    /// Those of the workspace that ended without error.
    finished: Vec<ToolCall>,
    /// Whether a call has run that may have changed a file.
    changed: bool,
    purse: Purse,
    repeats: Repeats,
    checks: Checks,
    effects: BTreeMap<EffectKey, Effect>,
    trouble: Trouble,
    /// The end, once it is known and not yet journaled.
    outcome: Option<End>,
    /// The journaled end.
    ended: Option<End>,
}

/// What `Started` said.
#[derive(Clone, Debug, PartialEq)]
struct Start {
    base_commit: String,
    base_branch: String,
}

/// A call without a result.
#[derive(Clone, Debug, PartialEq)]
struct Pending {
    call: ToolCall,
    /// Its position among all calls of the job, from 0.
    position: u32,
    todo: Todo,
}

/// What is done with a call.
#[derive(Clone, Debug, PartialEq)]
enum Todo {
    Run { read_only: bool },
    Refuse(String),
    Comment { message: String },
    Finish { summary: String },
}

/// What goes wrong with the model, counted.
#[derive(Clone, Debug, Default, PartialEq)]
struct Trouble {
    /// Answers with words and without a tool call, since the last one with a call.
    wordy: u32,
    /// Answers without a tool call that were cut off, since the last one with a call.
    cut: u32,
    /// Empty answers in a row.
    empty: u32,
    /// Changes that must not be pushed, and the newest's reason.
    refused: u32,
    refusal: String,
    /// The tool that is called again and again.
    stuck_on: Option<String>,
    /// Nothing more can be left out, and the conversation is still too long.
    too_long: bool,
    /// The model's last words without a tool call.
    last_words: String,
}

impl Agent {
    /// A job that nothing is known of yet.
    pub fn new(settings: Arc<AgentSettings>, job: Arc<Job>) -> Agent {
        let has_issue = job.task_params.issue_number.is_some() && settings.max_comments > 0;
        let tools = crate::tools::specs().into_iter();
        let tools = tools.filter(|tool| has_issue || tool.name != "comment_on_issue").collect();
        Agent {
            settings,
            job,
            tools,
            start: None,
            conversation: Conversation::default(),
            window: Window::new(),
            pending: VecDeque::new(),
            running: false,
            calls: 0,
            finished: Vec::new(),
            changed: false,
            purse: Purse::default(),
            repeats: Repeats::default(),
            checks: Checks::default(),
            effects: BTreeMap::new(),
            trouble: Trouble::default(),
            outcome: None,
            ended: None,
        }
    }

    /// Turns, tokens and money so far.
    pub fn spend(&self) -> Spend {
        self.purse.spend
    }

    /// The confirmed progress comment's id.
    pub fn progress_comment(&self) -> Option<u64> {
        match self.effects.get(&EffectKey::Progress) {
            Some(Effect::Confirmed(EffectOutcome::Comment { id, .. })) => Some(*id),
            Some(Effect::Confirmed(_) | Effect::Announced) | None => None,
        }
    }

    /// How far an effect has come; `None` where it was never announced.
    pub fn effect(&self, key: &EffectKey) -> Option<&Effect> {
        self.effects.get(key)
    }

    /// The base commit and the base branch, once the workspace was opened.
    pub fn started(&self) -> Option<(&str, &str)> {
        self.start.as_ref().map(|start| (start.base_commit.as_str(), start.base_branch.as_str()))
    }

    /// A call that was announced as started and has no result. Where a run begins with one, its
    /// process died: journal `ToolFinished` with [`interrupted_output`] before asking for the next
    /// action.
    pub fn interrupted_call(&self) -> Option<&ToolCall> {
        self.pending.front().filter(|_| self.running && self.ended.is_none()).map(|pending| &pending.call)
    }

    /// The calls that the workspace ran without error, oldest first: for
    /// [`crate::workspace::Workspace::recall`] after a resume.
    pub fn finished_calls(&self) -> &[ToolCall] {
        &self.finished
    }

    /// The branch that stands, if any.
    pub fn branch(&self) -> Option<&str> {
        match self.effects.get(&EffectKey::Branch) {
            Some(Effect::Confirmed(EffectOutcome::Branch { name, .. })) => Some(name),
            Some(Effect::Confirmed(_) | Effect::Announced) | None => None,
        }
    }

    /// A failed end for `reason`, with the branch and pull request that stand.
    pub fn failed(&self, reason: EndReason, summary: &str) -> End {
        let pr_url = match self.effects.get(&EffectKey::PullRequest) {
            Some(Effect::Confirmed(EffectOutcome::PullRequest { url, .. })) => Some(url.clone()),
            Some(Effect::Confirmed(_) | Effect::Announced) | None => None,
        };
        End { branch: self.branch().map(str::to_owned), pr_url, ..End::failed(reason, short(summary)) }
    }
}

/// A summary within its bound.
fn short(summary: &str) -> String {
    // The word on what was left out takes some room.
    cap(summary, MAX_SUMMARY - 100)
}
