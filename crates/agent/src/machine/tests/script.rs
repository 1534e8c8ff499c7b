//! A model that plays a list of answers, and the words to write one.

use super::*;

/// Plays a list of answers, then `finish`.
pub(super) struct Script {
    pub(super) answers: Vec<Event>,
    pub(super) output: fn(&ToolCall) -> (String, bool),
    pub(super) pushes: Vec<Event>,
    pub(super) calls: Vec<String>,
}

impl Script {
    pub(super) fn new(mut answers: Vec<ModelAnswer>) -> Script {
        answers.reverse();
        let answers =
            answers.into_iter().map(|answer| Event::ModelAnswered { answer, endpoint: None }).collect();
        Script { answers, output: |_| ("ok".into(), false), pushes: Vec::new(), calls: Vec::new() }
    }
}

impl World for Script {
    fn model(&mut self, _: &ModelRequest) -> Event {
        let finish = || answer(None, vec![finish("Fixed the crash.")], FinishReason::ToolCalls);
        self.answers.pop().unwrap_or_else(|| Event::ModelAnswered { answer: finish(), endpoint: None })
    }

    fn tool(&mut self, call: &ToolCall) -> (String, bool) {
        self.calls.push(format!("{} {}", call.name, call.arguments));
        (self.output)(call)
    }

    fn push(&mut self) -> Event {
        let outcome = EffectOutcome::Branch { name: "steadfast/issue-42-3f2504e0".into(), sha: "abc".into() };
        self.pushes.pop().unwrap_or(Event::EffectConfirmed { key: EffectKey::Branch, outcome })
    }
}

pub(super) fn finish(summary: &str) -> ToolCall {
    call("f", "finish", &serde_json::json!({ "summary": summary }).to_string())
}

pub(super) fn read(path: &str) -> ToolCall {
    call("r", "read_file", &serde_json::json!({ "path": path }).to_string())
}

pub(super) fn write(path: &str) -> ToolCall {
    call("w", "write_file", &serde_json::json!({ "path": path, "content": "x" }).to_string())
}

pub(super) fn calls(calls: Vec<ToolCall>) -> ModelAnswer {
    answer(None, calls, FinishReason::ToolCalls)
}

pub(super) fn said(text: &str) -> ModelAnswer {
    answer(Some(text), Vec::new(), FinishReason::Stop)
}

/// Runs a script under the usual settings.
pub(super) fn play(answers: Vec<ModelAnswer>) -> (End, Run, Script) {
    let mut script = Script::new(answers);
    let (end, run) = Run::new(settings(), job()).finish(&mut script);
    (end, run, script)
}

/// The last message of the request numbered `turn`, from 0.
pub(super) fn last_told(run: &Run, turn: usize) -> &str {
    match run.requests[turn].messages.last().unwrap() {
        Message::User { content } | Message::Tool { content, .. } => content,
        other @ (Message::System { .. } | Message::Assistant { .. }) => panic!("{other:?}"),
    }
}
