//! Reads a chat completion request as strictly as OpenAI does: what it refuses is refused here,
//! with the same status, `param` and `code`.

use std::collections::HashSet;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::messages::check_messages;
use crate::config::LlmConfig;
use crate::reply::Reply;

/// A request that OpenAI would answer.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    pub(crate) messages: Vec<Value>,
    /// Names of the offered tools.
    pub(crate) tools: HashSet<String>,
    /// The tools as they were sent, for counting.
    pub(crate) tools_text: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) max_tokens: Option<u64>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) kind: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        message: impl Into<String>,
        param: Option<String>,
        code: Option<&'static str>,
    ) -> Self {
        Refusal { status, message: message.into(), kind: "invalid_request_error", param, code }
    }

    pub(super) fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message, Some(param.into()), Some(code))
    }

    pub(super) fn bad_type(param: &str, wanted: &str, found: &Value) -> Self {
        let message =
            format!("Invalid type for '{param}': expected {wanted}, but got {} instead.", kind_of(found));
        Self::invalid(param, "invalid_type", message)
    }

    pub(super) fn missing(param: &str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self::invalid(param, "missing_required_parameter", message)
    }

    pub(super) fn bad_value(param: &str, message: impl Into<String>) -> Self {
        Self::invalid(param, "invalid_value", message)
    }

    pub(crate) fn reply(&self) -> Reply {
        let body = json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }});
        Reply::json(self.status, &body).because(self.message.clone())
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Arguments of the request that are known beside those read here; their types are not checked.
const OTHER_ARGUMENTS: &[&str] = &[
    "audio",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "metadata",
    "modalities",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

const READ_ARGUMENTS: &[&str] = &[
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "n",
    "response_format",
];

/// Parses a request's body.
pub(crate) fn parse(body: &[u8], config: &LlmConfig) -> Result<ChatRequest, Refusal> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        let message = format!("The body of the request is not JSON: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, message, None, None)
    })?;
    let Value::Object(request) = value else {
        let message = "The body of the request must be a JSON object";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, None, None));
    };
    let known = |name: &str| READ_ARGUMENTS.contains(&name) || OTHER_ARGUMENTS.contains(&name);
    if let Some(name) = request.keys().find(|name| !known(name)) {
        let message = format!("Unrecognized request argument supplied: {name}");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, None, None));
    }
    let model = match request.get("model") {
        None | Some(Value::Null) => {
            let message = "you must provide a model parameter";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message, None, None));
        }
        Some(Value::String(model)) if !model.is_empty() => model.clone(),
        Some(other) => return Err(Refusal::bad_type("model", "a string", other)),
    };
    if !config.models.is_empty() && !config.models.contains(&model) {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        return Err(Refusal::new(StatusCode::NOT_FOUND, message, None, Some("model_not_found")));
    }
    let stream = flag(&request, "stream")?.unwrap_or(false);
    let include_usage = stream_options(&request, stream, config)?;
    let max_tokens = max_tokens(&request, config)?;
    temperature(&request, config)?;
    let (tools, tools_text) = tools(&request)?;
    let messages = match request.get("messages") {
        None | Some(Value::Null) => return Err(Refusal::missing("messages")),
        Some(Value::Array(list)) if list.is_empty() => {
            let message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got \
                           an empty array instead.";
            return Err(Refusal::invalid("messages", "empty_array", message));
        }
        Some(Value::Array(list)) => list.clone(),
        Some(other) => return Err(Refusal::bad_type("messages", "an array of objects", other)),
    };
    check_messages(&messages)?;
    response_format(&request, &messages)?;
    if request.get("n").is_some_and(|n| !n.is_null() && n.as_u64() != Some(1)) {
        return Err(Refusal::bad_value("n", "This simulation answers with one choice only."));
    }
    Ok(ChatRequest { model, messages, tools, tools_text, stream, include_usage, max_tokens })
}

fn flag(request: &Map<String, Value>, name: &str) -> Result<Option<bool>, Refusal> {
    match request.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(Refusal::bad_type(name, "a boolean", other)),
    }
}

fn stream_options(request: &Map<String, Value>, stream: bool, config: &LlmConfig) -> Result<bool, Refusal> {
    let options = match request.get("stream_options") {
        None | Some(Value::Null) => return Ok(false),
        Some(Value::Object(options)) => options,
        Some(other) => return Err(Refusal::bad_type("stream_options", "an object", other)),
    };
    if config.refuse_stream_options {
        let message = "Unrecognized request argument supplied: stream_options";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, None, None));
    }
    if !stream {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, Some("stream_options".into()), None));
    }
    if let Some(name) =
        options.keys().find(|name| !["include_usage", "include_obfuscation"].contains(&name.as_str()))
    {
        let param = format!("stream_options.{name}");
        let message = format!("Unknown parameter: '{param}'.");
        return Err(Refusal::invalid(param, "unknown_parameter", message));
    }
    Ok(options.get("include_usage").and_then(Value::as_bool).unwrap_or(false))
}

fn max_tokens(request: &Map<String, Value>, config: &LlmConfig) -> Result<Option<u64>, Refusal> {
    let read = |name: &str| match request.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(0) => Err(Refusal::invalid(
                name,
                "integer_below_min_value",
                format!("Invalid '{name}': integer below minimum value. Expected a value >= 1, but got 0."),
            )),
            Some(tokens) => Ok(Some(tokens)),
            None => Err(Refusal::bad_type(name, "an integer", value)),
        },
    };
    let (old, new) = (read("max_tokens")?, read("max_completion_tokens")?);
    if old.is_some() && config.refuse_max_tokens {
        let message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                       'max_completion_tokens' instead.";
        return Err(Refusal::invalid("max_tokens", "unsupported_parameter", message));
    }
    if old.is_some() && new.is_some() {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(Refusal::invalid("max_tokens", "invalid_parameter_combination", message));
    }
    Ok(old.or(new))
}

fn temperature(request: &Map<String, Value>, config: &LlmConfig) -> Result<(), Refusal> {
    let value = match request.get("temperature") {
        None | Some(Value::Null) => return Ok(()),
        Some(value) => value,
    };
    let Some(number) = value.as_f64() else {
        return Err(Refusal::bad_type("temperature", "a decimal", value));
    };
    if !(0.0..=2.0).contains(&number) {
        let message = format!("Invalid 'temperature': expected a value from 0 to 2, but got {number}.");
        return Err(Refusal::invalid("temperature", "decimal_out_of_range", message));
    }
    if config.refuse_max_tokens && number != 1.0 {
        let message = format!(
            "Unsupported value: 'temperature' does not support {number} with this model. Only the default (1) \
             value is supported."
        );
        return Err(Refusal::invalid("temperature", "unsupported_value", message));
    }
    Ok(())
}

pub(super) fn is_tool_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn tools(request: &Map<String, Value>) -> Result<(HashSet<String>, String), Refusal> {
    let list = match request.get("tools") {
        None | Some(Value::Null) => {
            for name in ["tool_choice", "parallel_tool_calls"] {
                if request.get(name).is_some_and(|value| !value.is_null()) {
                    let message = format!("'{name}' is only allowed when 'tools' are specified.");
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, message, Some(name.into()), None));
                }
            }
            return Ok((HashSet::new(), String::new()));
        }
        Some(Value::Array(list)) => list,
        Some(other) => return Err(Refusal::bad_type("tools", "an array of objects", other)),
    };
    if list.is_empty() {
        let message = "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty \
                       array instead.";
        return Err(Refusal::invalid("tools", "empty_array", message));
    }
    flag(request, "parallel_tool_calls")?;
    let mut names = HashSet::new();
    for (index, tool) in list.iter().enumerate() {
        let at = format!("tools[{index}]");
        match tool.get("type").and_then(Value::as_str) {
            Some("function") => {}
            Some(_) => {
                return Err(Refusal::bad_value(&format!("{at}.type"), "Invalid value: expected 'function'."));
            }
            None => return Err(Refusal::missing(&format!("{at}.type"))),
        }
        let Some(Value::Object(function)) = tool.get("function") else {
            return Err(Refusal::missing(&format!("{at}.function")));
        };
        let at = format!("{at}.function");
        let known = ["name", "description", "parameters", "strict"];
        if let Some(name) = function.keys().find(|name| !known.contains(&name.as_str())) {
            let message = format!("Unknown parameter: '{at}.{name}'.");
            return Err(Refusal::invalid(format!("{at}.{name}"), "unknown_parameter", message));
        }
        let Some(name) = function.get("name").and_then(Value::as_str) else {
            return Err(Refusal::missing(&format!("{at}.name")));
        };
        if !is_tool_name(name) {
            let message = format!(
                "Invalid '{at}.name': string does not match pattern. Expected '^[a-zA-Z0-9_-]+$' of at most 64."
            );
            return Err(Refusal::bad_value(&format!("{at}.name"), message));
        }
        if let Some(parameters) = function.get("parameters") {
            if !parameters.is_object() {
                return Err(Refusal::bad_type(&format!("{at}.parameters"), "an object", parameters));
            }
            let kind = parameters.get("type").and_then(Value::as_str);
            if parameters.as_object().is_some_and(|map| !map.is_empty()) && kind != Some("object") {
                let message = format!(
                    "Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'."
                );
                return Err(Refusal::invalid(
                    format!("{at}.parameters"),
                    "invalid_function_parameters",
                    message,
                ));
            }
        }
        if !names.insert(name.to_owned()) {
            let message = format!("Invalid '{at}.name': the name '{name}' is used by two tools.");
            return Err(Refusal::bad_value(&format!("{at}.name"), message));
        }
    }
    match request.get("tool_choice") {
        None | Some(Value::Null) => {}
        Some(Value::String(choice)) if ["auto", "none", "required"].contains(&choice.as_str()) => {}
        Some(Value::Object(choice)) => {
            let name =
                choice.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
            if name.is_none_or(|name| !names.contains(name)) {
                return Err(Refusal::bad_value("tool_choice", "'tool_choice' names no tool of 'tools'."));
            }
        }
        Some(_) => return Err(Refusal::bad_value("tool_choice", "Invalid value for 'tool_choice'.")),
    }
    Ok((names, Value::Array(list.clone()).to_string()))
}

fn response_format(request: &Map<String, Value>, messages: &[Value]) -> Result<(), Refusal> {
    let kind = match request.get("response_format") {
        None | Some(Value::Null) => return Ok(()),
        Some(format) => format.get("type").and_then(Value::as_str),
    };
    match kind {
        Some("text" | "json_schema") => Ok(()),
        Some("json_object") => {
            let says_json =
                |message: &Value| message["content"].to_string().to_ascii_lowercase().contains("json");
            if messages.iter().any(says_json) {
                return Ok(());
            }
            let message = "'messages' must contain the word 'json' in some form, to use 'response_format' of \
                           type 'json_object'.";
            Err(Refusal::new(StatusCode::BAD_REQUEST, message, Some("messages".into()), None))
        }
        Some(_) => {
            Err(Refusal::bad_value("response_format.type", "Invalid value for 'response_format.type'."))
        }
        None => Err(Refusal::missing("response_format.type")),
    }
}
