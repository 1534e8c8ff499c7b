//! A conversation with a language model in our own words; `steadfast-llm` turns it into wire formats.

use serde::{Deserialize, Serialize};

/// One message of the conversation, oldest first in every list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Message {
    /// The rules of the work.
    System {
        /// The text.
        content: String,
    },
    /// The task, and what the runner tells the model between turns.
    User {
        /// The text.
        content: String,
    },
    /// What the model said.
    Assistant {
        /// Its words, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// The tools it wants to have run, in order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
    },
    /// The result of one tool call. Each call is answered, in order, before the next turn.
    Tool {
        /// The `id` of the call that this answers.
        call_id: String,
        /// What the model is told.
        content: String,
    },
}

/// A tool that the model asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The provider's id of this call; made up by the client where the server sent none.
    pub id: String,
    /// The tool's name, as the model wrote it: it may name no tool of ours.
    pub name: String,
    /// The arguments as the model wrote them: they may not be JSON.
    pub arguments: String,
}

/// A tool that the model may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// The name that a [`ToolCall`] carries.
    pub name: String,
    /// What it does and when to use it, for the model.
    pub description: String,
    /// JSON schema of the arguments; an object.
    pub parameters: serde_json::Value,
}

/// One question to the model: the conversation so far, and what it may answer with.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRequest {
    /// The conversation, oldest first. Its beginning stays byte for byte the same from turn to
    /// turn, so that the provider's prompt cache holds.
    pub messages: Vec<Message>,
    /// The tools; empty where the model is not to call any.
    pub tools: std::sync::Arc<[ToolSpec]>,
    /// Most tokens that the answer may have.
    pub max_answer_tokens: u32,
}

/// A whole answer. One that was cut off is a [`crate::failure::Failure`], never this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The model's words, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Reasoning that some servers send beside the content: kept, not sent back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The tools it asks for, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens as the server counted them; `None` where it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The model that answered, by the server's word, or the one that was asked.
    pub model: String,
    /// The provider's id of the exchange, for support requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Why an answer ended, by the server's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It said all that it wanted to say.
    Stop,
    /// It waits for the results of its tool calls.
    ToolCalls,
    /// It reached `max_answer_tokens`: the last tool call's arguments may be cut.
    Length,
    /// The provider's content filter stopped it.
    ContentFilter,
    /// A word that we don't know.
    Other(String),
}

/// Tokens of one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the request, cached ones among them.
    pub prompt_tokens: u64,
    /// Tokens of the answer, reasoning among them.
    pub completion_tokens: u64,
    /// Those of `prompt_tokens` that came from the provider's prompt cache.
    #[serde(default)]
    pub cached_tokens: u64,
}

impl Usage {
    /// Prompt and completion together.
    pub fn total(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
    }
}
