//! The journal: a job's steps as data. Replaying them gives the agent's state.
//!
//! A step is encoded as one version byte and JSON after it. A version that this build does not
//! know is an error that leaves the job to a newer runner; old versions stay readable.

use serde::{Deserialize, Serialize};

use crate::chat::ModelAnswer;
use crate::effect::{EffectKey, EffectOutcome};
use crate::end::End;
use crate::time::Timestamp;

/// The version of most steps.
pub const VERSION: u8 = 1;

/// The version byte of a step that a store keeps packed; the store unpacks it when it is read, and
/// to a build before it, this is a newer version.
pub const PACKED: u8 = 2;

/// The version of steps that builds before this one would not understand: they leave the job to a
/// newer runner instead of taking its journal for garbage. Each event that is added gets a version
/// of its own ([`Event::version`]).
const REOPENED: u8 = 3;

/// The newest version that this build reads.
const NEWEST: u8 = REOPENED;

/// In the place of a step that a store could not unpack: decoding it is [`JournalError::Corrupt`]
/// with this reason.
pub fn unreadable(why: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(why.as_bytes());
    bytes
}

/// One journaled event of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// When, by the clock of the runner that wrote it: for people, never for decisions.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened. Journaled before anything is done on the strength of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The workspace was opened for the first time.
    Started {
        /// The commit that it stands on, in full.
        base_commit: String,
        /// The branch that a pull request will ask to be merged into.
        base_branch: String,
        /// The system prompt as sent: kept, so that a changed template changes no running job.
        system_prompt: String,
        /// The task as sent.
        task_prompt: String,
    },
    /// The model answered. Paid for: never asked for again.
    ModelAnswered {
        /// The answer.
        answer: ModelAnswer,
        /// The name of the endpoint that gave it, where the configuration names any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
    },
    /// The provider said that the conversation is too long: it is compacted from here on.
    ContextTooLong,
    /// A tool call begins that must not be repeated if it is cut off.
    ToolStarted {
        /// The call's id.
        call_id: String,
    },
    /// A tool call ended, or was found interrupted.
    ToolFinished {
        /// The call's id.
        call_id: String,
        /// What the model is told; capped.
        output: String,
        /// Whether the tool refused or failed.
        is_error: bool,
    },
    /// An effect is about to be tried.
    EffectAnnounced {
        /// Which.
        key: EffectKey,
    },
    /// An effect stands in the world.
    EffectConfirmed {
        /// Which.
        key: EffectKey,
        /// What stands there.
        outcome: EffectOutcome,
    },
    /// The model finished, and the workspace holds no change to publish.
    NothingToPublish,
    /// What the workspace holds must not be pushed.
    ChangeRefused {
        /// Why, for the model and for a person.
        why: String,
    },
    /// The job has its end; only telling of it is left.
    Ended {
        /// How.
        end: End,
    },
    /// It was retried after its end: it goes on from where it stands, with its limits on turns and
    /// spend counted anew.
    Reopened,
}

impl Event {
    /// The event's name, as in the encoding.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Started { .. } => "started",
            Event::ModelAnswered { .. } => "model_answered",
            Event::ContextTooLong => "context_too_long",
            Event::ToolStarted { .. } => "tool_started",
            Event::ToolFinished { .. } => "tool_finished",
            Event::EffectAnnounced { .. } => "effect_announced",
            Event::EffectConfirmed { .. } => "effect_confirmed",
            Event::NothingToPublish => "nothing_to_publish",
            Event::ChangeRefused { .. } => "change_refused",
            Event::Ended { .. } => "ended",
            Event::Reopened => "reopened",
        }
    }

    fn version(&self) -> u8 {
        match self {
            Event::Started { .. }
            | Event::ModelAnswered { .. }
            | Event::ContextTooLong
            | Event::ToolStarted { .. }
            | Event::ToolFinished { .. }
            | Event::EffectAnnounced { .. }
            | Event::EffectConfirmed { .. }
            | Event::NothingToPublish
            | Event::ChangeRefused { .. }
            | Event::Ended { .. } => VERSION,
            Event::Reopened => REOPENED,
        }
    }
}

/// Why bytes are not a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Written by a newer build.
    #[error("journal version {found}, this build reads up to {NEWEST}: leave the job to a newer runner")]
    Newer {
        /// The version found.
        found: u8,
    },
    /// Cut off or garbage.
    #[error("unreadable journal step: {0}")]
    Corrupt(String),
}

impl Step {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.event.version()];
        // Maps with string keys and plain data: serialising to a vector has no way to fail.
        if let Err(error) = serde_json::to_writer(&mut bytes, self) {
            unreachable!("a step is plain data: {error}");
        }
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalError> {
        match bytes.split_first() {
            Some((&(VERSION | REOPENED), body)) => {
                serde_json::from_slice(body).map_err(|e| JournalError::Corrupt(e.to_string()))
            }
            Some((&PACKED, _)) => Err(JournalError::Corrupt("it is packed, and was not unpacked".into())),
            Some((&0, why)) if !why.is_empty() => {
                Err(JournalError::Corrupt(String::from_utf8_lossy(why).into_owned()))
            }
            Some((&0, _)) | None => Err(JournalError::Corrupt("no version".into())),
            Some((&found, _)) => Err(JournalError::Newer { found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_survives_its_encoding() {
        let step = Step {
            at: Timestamp::from_millis(1),
            event: Event::ToolFinished { call_id: "c".into(), output: "x\n".into(), is_error: false },
        };
        assert_eq!(Step::decode(&step.encode()), Ok(step));
    }

    #[test]
    fn an_answer_is_read_with_and_without_the_endpoint_that_gave_it() {
        let answer = r#""answer":{"content":"hi","finish":"stop","model":"m"}"#;
        let step = |rest: &str| {
            let json =
                format!(r#"{{"at":"2025-10-09T08:53:20.123Z","event":"model_answered",{answer}{rest}}}"#);
            let step = Step::decode(&[&[VERSION], json.as_bytes()].concat()).unwrap();
            assert_eq!(step.encode()[1..], *json.as_bytes(), "and is written as it was");
            step.event
        };
        for (rest, want) in [("", None), (r#","endpoint":"spare""#, Some("spare"))] {
            let Event::ModelAnswered { endpoint, .. } = step(rest) else { panic!("another event") };
            assert_eq!(endpoint.as_deref(), want);
        }
    }

    #[test]
    fn what_an_older_build_cannot_know_has_a_version_that_it_does_not_read() {
        let step = Step { at: Timestamp::from_millis(1), event: Event::Reopened };
        assert_eq!(step.encode()[0], 3);
        assert_eq!(Step::decode(&step.encode()), Ok(step));
    }

    #[test]
    fn a_newer_version_and_garbage_are_told_apart() {
        assert_eq!(Step::decode(&[9, b'{', b'}']), Err(JournalError::Newer { found: 9 }));
        for garbage in [&b""[..], b"\0", b"\x01", b"\x02", b"\x01{\"event\":\"ended\"}"] {
            assert!(matches!(Step::decode(garbage), Err(JournalError::Corrupt(_))), "{garbage:?}");
        }
    }

    #[test]
    fn what_could_not_be_unpacked_says_why() {
        assert_eq!(Step::decode(&unreadable("cut off")), Err(JournalError::Corrupt("cut off".into())));
    }
}
