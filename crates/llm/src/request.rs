//! From a [`ModelRequest`] to the body that is sent. A message is written the same way whatever
//! comes after it, so that the provider's prompt cache holds from turn to turn.

use steadfast_core::chat::{Message, ModelRequest, ToolCall, ToolSpec};

use crate::dialect::{Dialect, UsageInStream};
use crate::json_tools;
use crate::settings::{Settings, ToolsMode};
use crate::wire::{
    ChatRequest, Content, RequestFunction, RequestMessage, RequestToolCall, StreamOptions, Tool,
    ToolFunction, ToolKind,
};

/// The body of a request, in this server's dialect.
pub(crate) fn build(request: &ModelRequest, settings: &Settings, dialect: Dialect) -> ChatRequest {
    let (messages, tools) = match settings.tools {
        ToolsMode::Native => (
            request.messages.iter().map(native_message).collect(),
            request.tools.iter().map(native_tool).collect(),
        ),
        ToolsMode::Json => (json_tools::messages(&request.messages, &request.tools), Vec::new()),
    };
    let most = Some(request.max_answer_tokens);
    let ask_for_usage = settings.stream && dialect.usage_in_stream != UsageInStream::Refused;
    ChatRequest {
        model: settings.model.clone(),
        messages,
        tools,
        max_tokens: most.filter(|_| !dialect.completion_tokens),
        max_completion_tokens: most.filter(|_| dialect.completion_tokens),
        temperature: settings.temperature.value().filter(|_| dialect.temperature),
        stream: settings.stream,
        stream_options: ask_for_usage.then_some(StreamOptions { include_usage: true }),
    }
}

fn native_message(message: &Message) -> RequestMessage {
    match message {
        Message::System { content } => RequestMessage::System { content: text(content) },
        Message::User { content } => RequestMessage::User { content: text(content) },
        Message::Assistant { content, tool_calls } => RequestMessage::Assistant {
            content: assistant_content(content.as_deref(), tool_calls),
            tool_calls: tool_calls.iter().map(native_call).collect(),
        },
        Message::Tool { call_id, content } => {
            RequestMessage::Tool { tool_call_id: call_id.clone(), content: text(content) }
        }
    }
}

/// Servers refuse empty text beside tool calls, and null without any.
fn assistant_content(content: Option<&str>, tool_calls: &[ToolCall]) -> Option<Content> {
    match content {
        Some(said) if !said.is_empty() => Some(text(said)),
        Some(_) | None if tool_calls.is_empty() => Some(text("")),
        Some(_) | None => None,
    }
}

/// A call as the model made it, unless servers would refuse the whole conversation for it: many
/// check names and read arguments of calls long past. What was wrong, its result tells the model.
fn native_call(call: &ToolCall) -> RequestToolCall {
    RequestToolCall {
        id: call.id.clone(),
        kind: ToolKind::Function,
        function: RequestFunction { name: fit_name(&call.name), arguments: fit_arguments(&call.arguments) },
    }
}

/// Most characters of a function's name, by OpenAI's reference.
const MAX_NAME: usize = 64;

fn fit_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let fit: String = name.chars().take(MAX_NAME).map(|c| if fits(c) { c } else { '_' }).collect();
    if fit.is_empty() { "unnamed".to_owned() } else { fit }
}

fn fit_arguments(arguments: &str) -> String {
    if arguments.trim().is_empty() {
        return "{}".to_owned();
    }
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(arguments) {
        Ok(_) => arguments.to_owned(),
        Err(_) => serde_json::json!({ "unreadable": arguments }).to_string(),
    }
}

fn native_tool(spec: &ToolSpec) -> Tool {
    Tool {
        kind: ToolKind::Function,
        function: ToolFunction {
            name: spec.name.clone(),
            description: spec.description.clone(),
            parameters: spec.parameters.clone(),
        },
    }
}

/// A plain text content.
pub(crate) fn text(text: &str) -> Content {
    Content::Text(text.to_owned())
}

#[cfg(test)]
mod tests;
