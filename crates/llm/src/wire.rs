//! The chat-completions interface as it goes over the wire, both ways.
//!
//! Requests are strict: an unknown field is an error. Answers are lenient: servers that call
//! themselves compatible leave out, null and add nearly anything.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The body of `POST /chat/completions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatRequest {
    /// The model that is asked.
    pub model: String,
    /// The conversation, oldest first.
    pub messages: Vec<RequestMessage>,
    /// The tools that may be called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Most tokens of the answer, by the name that most servers know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The same, by the name that newer models of OpenAI want.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    /// 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Whether the answer comes as a stream of server-sent events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// What else comes in the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
}

/// See [`ChatRequest::stream_options`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// One more chunk, with the usage and without choices, before the stream ends.
    pub include_usage: bool,
}

/// One message of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
pub enum RequestMessage {
    /// The rules of the work.
    System {
        /// The text.
        content: Content,
    },
    /// What the model is told.
    User {
        /// The text.
        content: Content,
    },
    /// What the model said.
    Assistant {
        /// Its words; null where it only called tools.
        content: Option<Content>,
        /// The tools that it called.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<RequestToolCall>,
    },
    /// The result of a tool call.
    Tool {
        /// The id of the call.
        tool_call_id: String,
        /// The result.
        content: Content,
    },
}

/// A call that the model made earlier, sent back to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestToolCall {
    /// The id that its result carries.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// What was called.
    pub function: RequestFunction,
}

/// A called function with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFunction {
    /// The tool's name.
    pub name: String,
    /// The arguments as the model wrote them.
    pub arguments: String,
}

/// A tool that may be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The tool.
    pub function: ToolFunction,
}

/// The only kind of tool that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    /// A function.
    Function,
}

/// A tool's name, use and arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolFunction {
    /// The name that calls carry.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON schema of the arguments.
    pub parameters: Value,
}

/// Text, plain or in parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain.
    Text(String),
    /// In parts, of which only text is of use to us.
    Parts(Vec<Part>),
}

impl Content {
    /// All text in it, in order.
    pub fn into_text(self) -> String {
        match self {
            Content::Text(text) => text,
            Content::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect(),
        }
    }
}

/// A part of a [`Content`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `text`, or something else, which is left out.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A whole answer, or one chunk of a stream: they differ in `message` and `delta` alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatAnswer {
    /// The answer's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `chat.completion` or `chat.completion.chunk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Value>,
    /// The model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The alternatives; we ask for one. Empty in the chunk that holds the usage.
    #[serde(default, deserialize_with = "null_as_default")]
    pub choices: Vec<Choice>,
    /// Tokens, as the server counted them.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub usage: Option<Usage>,
    /// What went wrong, with a status of 200 nonetheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
}

/// One alternative.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Its number; the first is 0.
    #[serde(default, deserialize_with = "null_as_default")]
    pub index: u32,
    /// All of it, in a whole answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<AnswerMessage>,
    /// What is new of it, in a chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<AnswerMessage>,
    /// Why it ended; null until it does.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// What the model says, or the next piece of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerMessage {
    /// `assistant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Its words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Its reasoning, by one name.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub reasoning: Option<String>,
    /// Its reasoning, by the other name.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub reasoning_content: Option<String>,
    /// Why it does not want to answer, instead of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The tools that it calls, or pieces of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<AnswerToolCall>>,
    /// The one function that it calls, as it was before there were tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<AnswerFunction>,
}

/// A tool call or a piece of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerToolCall {
    /// Which of the calls it is, or belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Its id; in a stream only in its first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<AnswerFunction>,
}

/// A called function, or a piece of the call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerFunction {
    /// The tool's name; in a stream only in its first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The arguments: text that is meant to be JSON. Some servers send the object itself.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_json")]
    pub arguments: Option<String>,
}

/// Tokens of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of the request.
    #[serde(default, deserialize_with = "null_as_default")]
    pub prompt_tokens: u64,
    /// Of the answer.
    #[serde(default, deserialize_with = "null_as_default")]
    pub completion_tokens: u64,
    /// Both.
    #[serde(default, deserialize_with = "null_as_default")]
    pub total_tokens: u64,
    /// What the request's are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// The cached ones, as DeepSeek says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_cache_hit_tokens: Option<u64>,
}

/// See [`Usage::prompt_tokens_details`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Those that the provider's prompt cache held.
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

impl From<Usage> for steadfast_core::chat::Usage {
    fn from(usage: Usage) -> Self {
        let details = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
        let cached = details.or(usage.prompt_cache_hit_tokens).unwrap_or(0);
        steadfast_core::chat::Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: cached.min(usage.prompt_tokens),
        }
    }
}

/// The body of an answer whose status is not a success, as OpenAI writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// The error.
    pub error: ErrorObject,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// The kind of error: `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field of the request that is meant.
    pub param: Option<String>,
    /// The exact error: `context_length_exceeded`.
    pub code: Option<String>,
}

/// What cannot be read is as if absent: no answer is lost for a malformed extra.
fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn text_or_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

#[cfg(test)]
mod tests;
