//! The simulated model: a deterministic function of seed and conversation that really works the
//! tool loop on the fixture's issues, each job in its own way; or a script.

pub(crate) mod conversation;
mod plan;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fixture::{self, Issue};
use conversation::Conversation;

/// Whose conversations a script is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptFor {
    /// Those about the issue of this number.
    Issue(u64),
    /// Those that hold this text before the first answer.
    Containing(String),
}

/// One answer of a script. The script's answer for a question is chosen by the number of assistant
/// turns before it, so a question that is asked again gets the same answer again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptedAnswer {
    /// Prose; `finish_reason` is `stop`.
    Text(String),
    /// Tool calls: names and arguments, the arguments as they are, JSON or not.
    Calls(Vec<(String, String)>),
    /// Anything.
    Raw {
        /// The prose.
        content: Option<String>,
        /// Names and arguments.
        calls: Vec<(String, String)>,
        /// `finish_reason`.
        finish_reason: String,
    },
}

/// What the model says in one turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) content: Option<String>,
    pub(crate) calls: Vec<(String, String)>,
    /// The summary, if the work is done.
    pub(crate) finish: Option<String>,
    /// A `finish_reason` by script.
    pub(crate) reason: Option<String>,
}

impl Said {
    pub(crate) fn prose(text: impl Into<String>) -> Self {
        Said { content: Some(text.into()), ..Said::default() }
    }

    pub(crate) fn calls(calls: Vec<(String, String)>) -> Self {
        Said { calls, ..Said::default() }
    }
}

impl From<&ScriptedAnswer> for Said {
    fn from(answer: &ScriptedAnswer) -> Said {
        match answer {
            ScriptedAnswer::Text(text) => Said::prose(text.clone()),
            ScriptedAnswer::Calls(calls) => Said::calls(calls.clone()),
            ScriptedAnswer::Raw { content, calls, finish_reason } => Said {
                content: content.clone(),
                calls: calls.clone(),
                finish: None,
                reason: Some(finish_reason.clone()),
            },
        }
    }
}

/// What this job's model does beside the straight way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Habits {
    /// Begins with words instead of a call.
    pub(crate) prose: bool,
    /// Lists the folder first.
    pub(crate) list: bool,
    /// Makes several calls in one turn.
    pub(crate) together: bool,
    /// Once writes arguments that are not JSON.
    pub(crate) malformed: bool,
    /// Once calls a tool that doesn't exist.
    pub(crate) unknown_tool: bool,
    /// Searches before reading.
    pub(crate) search: bool,
    /// Comments on the issue before working.
    pub(crate) comment: bool,
    /// Reads the tests too.
    pub(crate) read_tests: bool,
    /// Runs the tests before the change.
    pub(crate) test_before: bool,
    /// Makes a wrong change first.
    pub(crate) wrong_first: bool,
}

/// A number that depends on every byte of the parts.
pub(crate) fn mix(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

impl Habits {
    /// The habits of the job that this task belongs to.
    fn choose(seed: u64, task: &str) -> Self {
        let bits = mix(seed, &[b"habits", task.as_bytes()]);
        // Each habit has its own byte; shares in percent, roughly those of real agents.
        let one_in = |place: u32, percent: u64| (bits >> (place * 6) & 63) * 100 / 64 < percent;
        Habits {
            prose: one_in(0, 15),
            list: one_in(1, 60),
            together: one_in(2, 30),
            malformed: one_in(3, 15),
            unknown_tool: one_in(4, 15),
            search: one_in(5, 50),
            comment: one_in(6, 40),
            read_tests: one_in(7, 50),
            test_before: one_in(8, 60),
            wrong_first: one_in(9, 35),
        }
    }
}

/// The issue of the fixture that a conversation is about: by its title, else by its number.
fn issue_of(seen: &Conversation) -> Option<&'static Issue> {
    let titled = fixture::issues().iter().find(|issue| seen.task.contains(issue.title));
    titled.or_else(|| fixture::issue(named_number(seen)?))
}

/// The number in `issue #42`, where the task says so.
fn named_number(seen: &Conversation) -> Option<u64> {
    let (_, rest) = seen.task.split_once("issue #")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The number of the issue that a conversation is about, as the repository counts.
pub(crate) fn issue_number(seen: &Conversation) -> Option<u64> {
    named_number(seen).or_else(|| issue_of(seen).map(|issue| issue.number))
}

/// What the model says next.
pub(crate) fn answer(seed: u64, seen: &Conversation, scripts: &[(ScriptFor, Vec<ScriptedAnswer>)]) -> Said {
    let issue = issue_of(seen);
    let scripted = scripts.iter().rev().find(|(whose, _)| match whose {
        ScriptFor::Issue(number) => issue_number(seen) == Some(*number),
        ScriptFor::Containing(text) => seen.task.contains(text.as_str()),
    });
    let said = match scripted.and_then(|(_, answers)| answers.get(seen.turns)) {
        Some(answer) => return Said::from(answer),
        None => match issue {
            Some(issue) => plan::next(seen, Habits::choose(seed, &seen.task), issue),
            None => plan::look_around(seen),
        },
    };
    if seen.native { natively(said, seen) } else { as_json(said) }
}

/// The end as a call of `finish`, or as words where there is no such tool.
fn natively(mut said: Said, seen: &Conversation) -> Said {
    if let Some(summary) = said.finish.take() {
        if seen.offers("finish") {
            said.calls.push(("finish".to_owned(), json!({"summary": summary}).to_string()));
        } else {
            said.content = Some(summary);
        }
    }
    said
}

/// The protocol for models without native tool calling: one JSON object.
fn as_json(said: Said) -> Said {
    let reasoning = said.content.clone().unwrap_or_else(|| "the next step of the plan".to_owned());
    let object = match (said.finish, said.calls.first()) {
        (Some(summary), _) => json!({"reasoning": reasoning, "finished": true, "finalAnswer": summary}),
        (None, Some((tool, arguments))) => {
            let parameters: Value = serde_json::from_str(arguments).unwrap_or(Value::Null);
            json!({"reasoning": reasoning, "action": {"tool": tool, "parameters": parameters}})
        }
        (None, None) => return Said::prose(reasoning),
    };
    Said::prose(object.to_string())
}

/// Reads a conversation; `tools` are the names of those that are offered.
pub(crate) fn read(messages: &[Value], tools: &HashSet<String>) -> Conversation {
    Conversation::read(messages, tools)
}
