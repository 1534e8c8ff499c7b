//! The conversation as it is sent: what was said, and how many tokens that is thought to be.
//!
//! Entries are only ever added at the end. What is older changes by compaction alone, so that the
//! provider's prompt cache holds from turn to turn.

use steadfast_core::chat::{Message, ModelAnswer, ToolCall, ToolSpec, Usage};

/// Bytes a token, for texts that no server has counted yet: somewhat high for English and code.
const BYTES_A_TOKEN: usize = 4;
/// Tokens that a message costs beside its text.
const MESSAGE_TOKENS: u64 = 4;
/// Most characters of a tool's name that OpenAI takes back.
const MAX_NAME: usize = 64;

/// One message, in the form that compaction can work on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    /// The rules of the work.
    System(String),
    /// The task, and what the runner says between turns.
    User(String),
    /// What the model said.
    Assistant {
        /// Its words.
        content: Option<String>,
        /// Its calls, in a form that servers take back.
        calls: Vec<ToolCall>,
    },
    /// What came of a call.
    Tool(Output),
}

/// The result of one call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Output {
    /// Which call.
    pub call_id: String,
    /// Which tool.
    pub tool: String,
    /// The path that it was about, if any.
    pub path: Option<String>,
    /// What the model is told, or the line that stands for it.
    pub text: String,
    /// Whether `text` is only the line that stands for it.
    pub left_out: bool,
    /// What the runner adds; survives compaction.
    pub note: Option<String>,
}

/// All that was said, oldest first, and its size.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conversation {
    pub(super) entries: Vec<Entry>,
    /// Tokens of the next request: the server's count of the last one, and estimates for what
    /// came since.
    tokens: u64,
}

/// What a text is thought to be in tokens.
pub(super) fn estimate(text: &str) -> u64 {
    text.len().div_ceil(BYTES_A_TOKEN) as u64
}

/// What an answer is thought to be in tokens, reasoning among them.
pub(super) fn estimate_answer(answer: &ModelAnswer) -> u64 {
    let words = answer.content.iter().chain(&answer.reasoning).map(|text| estimate(text));
    words.chain(answer.tool_calls.iter().map(estimate_call)).sum()
}

fn estimate_call(call: &ToolCall) -> u64 {
    estimate(&call.name) + estimate(&call.arguments) + MESSAGE_TOKENS
}

impl Entry {
    pub(super) fn tokens(&self) -> u64 {
        let text = match self {
            Entry::System(text) | Entry::User(text) => estimate(text),
            Entry::Assistant { content, calls } => {
                content.as_deref().map_or(0, estimate) + calls.iter().map(estimate_call).sum::<u64>()
            }
            Entry::Tool(output) => estimate(&output.text) + output.note.as_deref().map_or(0, estimate),
        };
        text + MESSAGE_TOKENS
    }

    fn message(&self) -> Message {
        match self {
            Entry::System(text) => Message::System { content: text.clone() },
            Entry::User(text) => Message::User { content: text.clone() },
            Entry::Assistant { content, calls } => {
                Message::Assistant { content: content.clone(), tool_calls: calls.clone() }
            }
            Entry::Tool(output) => {
                let content = match &output.note {
                    Some(note) => format!("{}\n\n{note}", output.text),
                    None => output.text.clone(),
                };
                Message::Tool { call_id: output.call_id.clone(), content }
            }
        }
    }
}

impl Conversation {
    /// The beginning: rules and task, and the tools, which are sent with every request.
    pub(super) fn begin(system: &str, task: &str, tools: &[ToolSpec]) -> Self {
        let mut conversation = Conversation::default();
        conversation.push(Entry::System(system.to_owned()));
        conversation.push(Entry::User(task.to_owned()));
        let specs = tools.iter().map(|tool| {
            estimate(&tool.name) + estimate(&tool.description) + estimate(&tool.parameters.to_string())
        });
        conversation.tokens += specs.sum::<u64>();
        conversation
    }

    /// Tokens of the next request, as far as known.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The messages of the next request.
    pub(super) fn messages(&self) -> Vec<Message> {
        self.entries.iter().map(Entry::message).collect()
    }

    fn push(&mut self, entry: Entry) {
        self.tokens += entry.tokens();
        self.entries.push(entry);
    }

    /// The server's own count of what was sent replaces the estimate.
    pub(super) fn counted(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage.filter(|usage| usage.prompt_tokens > 0) {
            self.tokens = usage.prompt_tokens;
        }
    }

    /// What the model said. Words that are missing are written as `(no answer)` where nothing else
    /// was said: servers refuse an empty message, and some refuse two of one side in a row.
    pub(super) fn model_said(&mut self, content: Option<&str>, calls: &[ToolCall]) {
        let words = content.filter(|text| !text.trim().is_empty());
        let words = words.or(if calls.is_empty() { Some("(no answer)") } else { None });
        let calls = calls.iter().map(acceptable).collect();
        self.push(Entry::Assistant { content: words.map(str::to_owned), calls });
    }

    /// What came of `call`.
    pub(super) fn answered(&mut self, call: &ToolCall, output: &str) {
        let arguments: Option<serde_json::Value> = serde_json::from_str(&call.arguments).ok();
        let path = arguments.as_ref().and_then(|a| a.get("path")?.as_str()).map(str::to_owned);
        self.push(Entry::Tool(Output {
            call_id: call.id.clone(),
            tool: acceptable_name(&call.name),
            path,
            text: output.to_owned(),
            left_out: false,
            note: None,
        }));
    }

    /// What the runner says in a message of its own, after words of the model.
    pub(super) fn runner_said(&mut self, text: &str) {
        self.push(Entry::User(text.to_owned()));
    }

    /// What the runner adds to the newest message, which no request has held yet. Not a message of
    /// its own: some servers refuse a user's message after a tool's.
    pub(super) fn note(&mut self, text: &str) {
        let Some(mut last) = self.entries.pop() else { return };
        self.tokens = self.tokens.saturating_sub(last.tokens());
        match &mut last {
            Entry::User(words) => *words = format!("{words}\n\n{text}"),
            Entry::Tool(output) => {
                let text = format!("[steadfast: {text}]");
                output.note = Some(match output.note.take() {
                    Some(before) => format!("{before}\n{text}"),
                    None => text,
                });
            }
            Entry::System(_) | Entry::Assistant { .. } => {}
        }
        self.push(last);
    }

    /// Replaces an entry, keeping the count of tokens; how many that saved.
    pub(super) fn replace(&mut self, at: usize, entry: Entry) -> u64 {
        let Some(place) = self.entries.get_mut(at) else { return 0 };
        let saved = place.tokens().saturating_sub(entry.tokens());
        *place = entry;
        self.tokens = self.tokens.saturating_sub(saved);
        saved
    }
}

/// A call in a form that servers take back: they parse the arguments, and refuse the whole
/// conversation where that fails. What was wrong stands in the call's result.
fn acceptable(call: &ToolCall) -> ToolCall {
    let is_object = serde_json::from_str::<serde_json::Map<_, _>>(&call.arguments).is_ok();
    let arguments = if is_object { call.arguments.clone() } else { "{}".into() };
    ToolCall { id: call.id.clone(), name: acceptable_name(&call.name), arguments }
}

fn acceptable_name(name: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    let name: String = name.chars().take(MAX_NAME).map(fits).collect();
    if name.is_empty() { "unknown".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: "c".into(), name: name.into(), arguments: arguments.into() }
    }

    #[test]
    fn what_servers_would_refuse_is_not_sent_back() {
        for arguments in ["", "{\"path\": \"a", "[1]", "null", "nonsense"] {
            assert_eq!(acceptable(&call("read_file", arguments)).arguments, "{}");
        }
        let whole = r#"{ "path":"a" }"#;
        assert_eq!(acceptable(&call("read_file", whole)).arguments, whole, "byte for byte");
        assert_eq!(acceptable(&call("read file!", "{}")).name, "read_file_");
        assert_eq!(acceptable(&call("", "{}")).name, "unknown");
        assert_eq!(acceptable(&call(&"x".repeat(200), "{}")).name.len(), 64);
    }

    #[test]
    fn the_servers_count_replaces_the_estimate() {
        let mut conversation = Conversation::begin("s", "t", &[]);
        conversation.counted(Some(Usage { prompt_tokens: 1_000, ..Usage::default() }));
        assert_eq!(conversation.tokens(), 1_000);
        conversation.counted(Some(Usage::default()));
        conversation.counted(None);
        assert_eq!(conversation.tokens(), 1_000, "a count of zero is no count");
        conversation.model_said(Some(&"x".repeat(400)), &[]);
        assert_eq!(conversation.tokens(), 1_104);
    }

    #[test]
    fn notes_go_with_the_newest_message() {
        let mut conversation = Conversation::begin("s", "t", &[]);
        conversation.model_said(None, &[call("read_file", "{}")]);
        conversation.answered(&call("read_file", "{}"), "text");
        let before = conversation.tokens();
        conversation.note("two turns are left");
        conversation.note("and one more thing");
        let messages = conversation.messages();
        let Some(Message::Tool { content, .. }) = messages.last() else { panic!("{messages:?}") };
        assert_eq!(content, "text\n\n[steadfast: two turns are left]\n[steadfast: and one more thing]");
        assert!(conversation.tokens() > before);
    }
}
