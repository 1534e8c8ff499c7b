//! Checks the messages of a request: their fields, and that each tool call is answered, once, before
//! anything else is said.

use std::collections::HashSet;

use http::StatusCode;
use serde_json::{Map, Value};

use super::request::{Refusal, is_tool_name};

/// Checks each message, and that every tool call is answered before anything else is said.
pub(super) fn check_messages(messages: &[Value]) -> Result<(), Refusal> {
    // Calls that are not answered yet, and which message made them.
    let mut open: Vec<String> = Vec::new();
    let mut made_by = 0;
    let mut may_answer: HashSet<String> = HashSet::new();
    for (index, message) in messages.iter().enumerate() {
        let at = format!("messages[{index}]");
        let Value::Object(fields) = message else {
            return Err(Refusal::bad_type(&at, "an object", message));
        };
        let role = match fields.get("role") {
            None => return Err(Refusal::missing(&format!("{at}.role"))),
            Some(Value::String(role)) => role.as_str(),
            Some(other) => return Err(Refusal::bad_type(&format!("{at}.role"), "a string", other)),
        };
        if role != "tool" {
            if !open.is_empty() {
                return Err(unanswered(made_by, &open));
            }
            may_answer.clear();
        }
        let allowed: &[&str] = match role {
            "system" | "developer" | "user" => &["role", "content", "name"],
            "assistant" => &["role", "content", "name", "tool_calls", "refusal", "audio", "function_call"],
            "tool" => &["role", "content", "tool_call_id"],
            other => {
                let message = format!(
                    "Invalid value: '{other}'. Supported values are: 'system', 'assistant', 'user', 'tool', and \
                     'developer'."
                );
                return Err(Refusal::bad_value(&format!("{at}.role"), message));
            }
        };
        if let Some(name) = fields.keys().find(|name| !allowed.contains(&name.as_str())) {
            let message = format!("Unknown parameter: '{at}.{name}'.");
            return Err(Refusal::invalid(format!("{at}.{name}"), "unknown_parameter", message));
        }
        let calls = if role == "assistant" { assistant_calls(fields, &at)? } else { Vec::new() };
        check_content(fields, &at, role, !calls.is_empty())?;
        if role == "tool" {
            let id = match fields.get("tool_call_id") {
                Some(Value::String(id)) => id,
                Some(other) => {
                    return Err(Refusal::bad_type(&format!("{at}.tool_call_id"), "a string", other));
                }
                None => return Err(Refusal::missing(&format!("{at}.tool_call_id"))),
            };
            if may_answer.is_empty() {
                let message = "Invalid parameter: messages with role 'tool' must be a response to a preceding \
                               message with 'tool_calls'.";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, message, Some(format!("{at}.role")), None));
            }
            if !may_answer.contains(id) {
                let message = format!(
                    "Invalid parameter: 'tool_call_id' of '{id}' not found in 'tool_calls' of previous message."
                );
                let param = Some(format!("{at}.tool_call_id"));
                return Err(Refusal::new(StatusCode::BAD_REQUEST, message, param, None));
            }
            open.retain(|waiting| waiting != id);
        }
        if !calls.is_empty() {
            made_by = index;
            may_answer = calls.iter().cloned().collect();
            open = calls;
        }
    }
    if open.is_empty() { Ok(()) } else { Err(unanswered(made_by, &open)) }
}

fn unanswered(made_by: usize, open: &[String]) -> Refusal {
    let message = format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
         'tool_call_id'. The following tool_call_ids did not have response messages: {}",
        open.join(", ")
    );
    Refusal::new(StatusCode::BAD_REQUEST, message, Some(format!("messages.[{made_by}].role")), None)
}

fn check_content(fields: &Map<String, Value>, at: &str, role: &str, has_calls: bool) -> Result<(), Refusal> {
    let param = format!("{at}.content");
    match fields.get("content") {
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            for (index, part) in parts.iter().enumerate() {
                match part.get("type").and_then(Value::as_str) {
                    Some("text") if part.get("text").is_some_and(Value::is_string) => {}
                    Some("image_url" | "input_audio" | "file") if role == "user" => {}
                    Some("refusal") if role == "assistant" => {}
                    _ => {
                        let message = format!("Invalid value for '{param}[{index}]'.");
                        return Err(Refusal::bad_value(&format!("{param}[{index}].type"), message));
                    }
                }
            }
            Ok(())
        }
        None | Some(Value::Null) if role == "assistant" && has_calls => Ok(()),
        None if role != "assistant" => Err(Refusal::missing(&param)),
        None | Some(Value::Null) => {
            let message = "Invalid value for 'content': expected a string, got null.";
            Err(Refusal::new(StatusCode::BAD_REQUEST, message, Some(param), None))
        }
        Some(other) => Err(Refusal::bad_type(&param, "one of a string or array of objects", other)),
    }
}

fn assistant_calls(fields: &Map<String, Value>, at: &str) -> Result<Vec<String>, Refusal> {
    let at = format!("{at}.tool_calls");
    let list = match fields.get("tool_calls") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(Refusal::bad_type(&at, "an array of objects", other)),
    };
    if list.is_empty() {
        let message = format!(
            "Invalid '{at}': empty array. Expected an array with minimum length 1, but got an empty array \
             instead."
        );
        return Err(Refusal::invalid(at, "empty_array", message));
    }
    let mut ids = Vec::new();
    for (index, call) in list.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let text = |value: Option<&Value>, name: &str| match value {
            None => Err(Refusal::missing(&format!("{at}.{name}"))),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(Refusal::bad_type(&format!("{at}.{name}"), "a string", other)),
        };
        let id = text(call.get("id"), "id")?;
        if text(call.get("type"), "type")? != "function" {
            return Err(Refusal::bad_value(&format!("{at}.type"), "Invalid value: expected 'function'."));
        }
        let Some(function) = call.get("function") else {
            return Err(Refusal::missing(&format!("{at}.function")));
        };
        let name = text(function.get("name"), "function.name")?;
        if !is_tool_name(&name) {
            let param = format!("{at}.function.name");
            let message = format!("Invalid '{param}': string does not match pattern '^[a-zA-Z0-9_-]+$'.");
            return Err(Refusal::bad_value(&param, message));
        }
        text(function.get("arguments"), "function.arguments")?;
        if ids.contains(&id) {
            let message = format!("Invalid '{at}.id': '{id}' is used by two calls.");
            return Err(Refusal::bad_value(&format!("{at}.id"), message));
        }
        ids.push(id);
    }
    Ok(ids)
}
