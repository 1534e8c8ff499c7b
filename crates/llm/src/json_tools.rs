//! Tool calls for models that have none: one JSON object in the text of each answer.
//!
//! `{"reasoning", "action": {"tool", "parameters"}}` calls a tool, `{"reasoning", "finished": true,
//! "finalAnswer"}` is read as a call of `finish`. Prose and code fences around it are tolerated.

use serde_json::{Map, Value, json};
use steadfast_core::chat::{FinishReason, Message, ToolCall, ToolSpec};

use crate::assemble::Assembled;
use crate::request::text;
use crate::wire::RequestMessage;

/// The tool that a finished answer calls, and the parameter that takes its words.
const FINISH: &str = "finish";
const SUMMARY: &str = "summary";

/// Most places in an answer at which the object is looked for.
const MAX_CANDIDATES: usize = 50;

/// The conversation for such a model: tools described in the system message, its calls as the
/// object that it wrote, results as what a user says. Roles alternate, as many of these models'
/// templates demand.
pub(crate) fn messages(conversation: &[Message], tools: &[ToolSpec]) -> Vec<RequestMessage> {
    let mut turns = Vec::new();
    let mut told = Telling::default();
    let mut system = String::new();
    let mut calls: Vec<&ToolCall> = Vec::new();
    for message in conversation {
        match message {
            Message::System { content } if turns.is_empty() && told.is_empty() => add(&mut system, content),
            Message::System { content } | Message::User { content } => told.add(content),
            Message::Tool { call_id, content } => {
                let name =
                    calls.iter().rev().find(|call| call.id == *call_id).map_or("tool", |call| &call.name);
                told.add(&format!("Result of {name}:\n{content}"));
            }
            Message::Assistant { content, tool_calls } => {
                told.end(&mut turns);
                calls.extend(tool_calls);
                turns.push(RequestMessage::Assistant {
                    content: Some(text(&said(content.as_deref(), tool_calls))),
                    tool_calls: Vec::new(),
                });
            }
        }
    }
    told.end(&mut turns);
    if !tools.is_empty() {
        add(&mut system, &instructions(tools));
    }
    if !system.is_empty() {
        turns.insert(0, RequestMessage::System { content: text(&system) });
    }
    turns
}

/// What the model is told between two of its answers: one message.
#[derive(Default)]
struct Telling(String);

impl Telling {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, what: &str) {
        add(&mut self.0, what);
    }

    fn end(&mut self, turns: &mut Vec<RequestMessage>) {
        if !self.0.is_empty() {
            turns.push(RequestMessage::User { content: text(&std::mem::take(&mut self.0)) });
        }
    }
}

fn add(to: &mut String, what: &str) {
    if !to.is_empty() {
        to.push_str("\n\n");
    }
    to.push_str(what);
}

/// A turn of the model as the object that it is taught to write.
fn said(content: Option<&str>, tool_calls: &[ToolCall]) -> String {
    if tool_calls.is_empty() {
        return content.unwrap_or_default().to_owned();
    }
    let objects = tool_calls.iter().enumerate().map(|(number, call)| {
        let reasoning = content.filter(|_| number == 0).unwrap_or_default();
        let parameters =
            serde_json::from_str(&call.arguments).unwrap_or(Value::String(call.arguments.clone()));
        match parameters.get(SUMMARY).and_then(Value::as_str).filter(|_| call.name == FINISH) {
            Some(summary) => {
                json!({ "reasoning": reasoning, "finished": true, "finalAnswer": summary }).to_string()
            }
            None => json!({
                "reasoning": reasoning,
                "action": { "tool": call.name, "parameters": parameters },
            })
            .to_string(),
        }
    });
    objects.collect::<Vec<_>>().join("\n")
}

fn instructions(tools: &[ToolSpec]) -> String {
    let mut text = String::from(
        "Answer with exactly one JSON object and nothing else. To use a tool:\n\
         {\"reasoning\": \"why this is the next step\", \"action\": {\"tool\": \"name\", \"parameters\": {}}}\n\
         When the work is done:\n\
         {\"reasoning\": \"why it is done\", \"finished\": true, \"finalAnswer\": \"what was changed and why\"}\n\
         One tool in each answer; its result comes with the next message.\n\nTools:\n",
    );
    for tool in tools.iter().filter(|tool| tool.name != FINISH) {
        let description = tool.description.trim();
        text.push_str(&format!("\n{}: {description}\nparameters: {}\n", tool.name, tool.parameters));
    }
    text
}

/// Reads the object in the answer's text into a tool call. An answer without one stays as it is:
/// text without a call, which the agent tells the model.
pub(crate) fn read(mut answer: Assembled) -> Assembled {
    if !answer.tool_calls.is_empty() {
        return answer;
    }
    let Some((reasoning, call)) = answer.content.as_deref().and_then(find) else {
        return answer;
    };
    answer.content = reasoning;
    answer.tool_calls = vec![call];
    // The object is whole, whatever the server says about the end of the text behind it.
    answer.finish = FinishReason::ToolCalls;
    answer
}

fn find(text: &str) -> Option<(Option<String>, ToolCall)> {
    // Models that think aloud weigh other steps before they choose.
    let mut rest = text.rsplit_once("</think>").map_or(text, |(_, chosen)| chosen);
    for _ in 0..MAX_CANDIDATES {
        let begin = rest.find('{')?;
        rest = &rest[begin..];
        let mut documents = serde_json::Deserializer::from_str(rest).into_iter::<Map<String, Value>>();
        let skip = match documents.next() {
            Some(Ok(object)) => match step(&object) {
                Some(found) => return Some(found),
                None => documents.byte_offset().max(1),
            },
            Some(Err(_)) | None => 1,
        };
        rest = &rest[skip..];
    }
    None
}

fn step(object: &Map<String, Value>) -> Option<(Option<String>, ToolCall)> {
    let reasoning = object.get("reasoning").and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let reasoning = reasoning.map(str::to_owned);
    if let Some(action) = object.get("action").and_then(Value::as_object) {
        let name = action.get("tool").and_then(Value::as_str)?;
        let arguments = match action.get("parameters") {
            None | Some(Value::Null) => "{}".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        return Some((reasoning, ToolCall { id: String::new(), name: name.to_owned(), arguments }));
    }
    if object.get("finished") != Some(&Value::Bool(true)) {
        return None;
    }
    let summary = match object.get("finalAnswer") {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => reasoning.clone().unwrap_or_default(),
        Some(other) => other.to_string(),
    };
    let arguments = json!({ SUMMARY: summary }).to_string();
    Some((reasoning, ToolCall { id: String::new(), name: FINISH.to_owned(), arguments }))
}

#[cfg(test)]
mod tests;
