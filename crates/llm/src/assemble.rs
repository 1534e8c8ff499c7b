//! Puts an answer together from a whole message or from the pieces of a stream.
//!
//! Servers that call themselves compatible send the pieces of tool calls in many ways: with or
//! without an index, the id once, always or never, several calls in turn, all of one at once.

use serde_json::Value;
use steadfast_core::chat::{FinishReason, ToolCall, Usage};

use crate::wire::{AnswerFunction, AnswerMessage, AnswerToolCall, ChatAnswer, Content};

/// A whole answer before it gets its ids: what the server said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assembled {
    pub content: Option<String>,
    pub reasoning: Option<String>,
    /// Ids are empty where the server sent none.
    pub tool_calls: Vec<ToolCall>,
    pub finish: FinishReason,
    pub usage: Option<Usage>,
    pub model: Option<String>,
}

/// Why what came is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Flaw {
    /// The server says itself what went wrong.
    Error {
        /// In its words.
        error: Value,
        /// A part of the answer came before, and may be charged.
        begun: bool,
    },
    /// It is not whole, or not what was asked for.
    Unreadable(&'static str),
}

/// Most tool calls of one answer; OpenAI allows as many tools in a request.
const MAX_CALLS: usize = 128;

/// The answer so far.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    content: String,
    reasoning: String,
    refusal: String,
    calls: Vec<Slot>,
    legacy: Option<Slot>,
    finish: Option<String>,
    usage: Option<Usage>,
    model: Option<String>,
    any_choice: bool,
    done: bool,
}

/// One tool call so far.
#[derive(Debug, Default)]
struct Slot {
    /// Its place by the server's word, or by its order of appearance.
    place: u32,
    id: String,
    name: String,
    arguments: String,
}

impl Assembler {
    /// Takes a whole answer or a chunk of a stream.
    pub fn add(&mut self, answer: ChatAnswer) -> Result<(), Flaw> {
        if let Some(error) = answer.error.filter(|error| !error.is_null()) {
            return Err(self.error(error));
        }
        if let Some(usage) = answer.usage {
            self.usage = Some(usage.into());
        }
        if let Some(model) = answer.model.filter(|model| !model.is_empty()) {
            self.model = Some(model);
        }
        for choice in answer.choices.into_iter().filter(|choice| choice.index == 0) {
            self.any_choice |=
                choice.delta.is_some() || choice.message.is_some() || choice.finish_reason.is_some();
            if let Some(piece) = choice.delta {
                self.add_piece(piece);
            }
            if let Some(message) = choice.message {
                self.add_whole(message);
            }
            if self.calls.len() > MAX_CALLS {
                return Err(Flaw::Unreadable("the answer asks for more than 128 tools at once"));
            }
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finish = Some(reason);
            }
        }
        Ok(())
    }

    /// The server gave up, at this point of the answer.
    pub fn error(&self, error: Value) -> Flaw {
        Flaw::Error { error, begun: self.any_choice }
    }

    /// The stream's end mark came.
    pub fn mark_done(&mut self) {
        self.done = true;
    }

    /// Whether the model ended its answer: a connection that breaks now takes nothing from it.
    pub fn is_whole(&self) -> bool {
        self.any_choice && (self.done || self.finish.is_some())
    }

    /// The answer, if it is whole.
    pub fn finish(self) -> Result<Assembled, Flaw> {
        if !self.any_choice {
            return Err(Flaw::Unreadable("the answer holds no choices"));
        }
        if !self.is_whole() {
            return Err(Flaw::Unreadable("the answer ended without [DONE] or finish_reason"));
        }
        let mut slots = self.calls;
        if slots.is_empty() {
            slots.extend(self.legacy);
        }
        // Stable: calls that claim the same place stay in the order in which they came.
        slots.sort_by_key(|slot| slot.place);
        let tool_calls: Vec<_> = slots
            .into_iter()
            .filter(|slot| !slot.name.is_empty() || !slot.arguments.is_empty())
            .map(|slot| ToolCall { id: slot.id, name: slot.name, arguments: slot.arguments })
            .collect();
        let finish = match self.finish.as_deref() {
            Some("length" | "max_tokens") => FinishReason::Length,
            Some("content_filter") => FinishReason::ContentFilter,
            Some("error") => return Err(Flaw::Unreadable("the server gave up in the middle of the answer")),
            // Many servers say `stop` beside tool calls.
            None | Some("stop" | "end_turn" | "tool_calls" | "function_call") if !tool_calls.is_empty() => {
                FinishReason::ToolCalls
            }
            None | Some("stop" | "end_turn" | "tool_calls" | "function_call") => FinishReason::Stop,
            Some(other) => FinishReason::Other(other.chars().take(64).collect()),
        };
        let said = if self.content.is_empty() { self.refusal } else { self.content };
        Ok(Assembled {
            content: Some(said).filter(|text| !text.is_empty()),
            reasoning: Some(self.reasoning).filter(|text| !text.is_empty()),
            tool_calls,
            finish,
            usage: self.usage,
            model: self.model,
        })
    }

    /// A whole message says it all: it stands for what its pieces said, where some servers send both.
    fn add_whole(&mut self, mut message: AnswerMessage) {
        let mut whole = Assembler::default();
        for (place, call) in (0..).zip(message.tool_calls.take().into_iter().flatten()) {
            let mut slot = Slot { place, id: call.id.unwrap_or_default(), ..Slot::default() };
            slot.add(call.function.unwrap_or_default());
            whole.calls.push(slot);
        }
        whole.add_piece(message);
        for (mine, its) in [
            (&mut self.content, whole.content),
            (&mut self.reasoning, whole.reasoning),
            (&mut self.refusal, whole.refusal),
        ] {
            if !its.is_empty() {
                *mine = its;
            }
        }
        if !whole.calls.is_empty() {
            self.calls = whole.calls;
        }
        self.legacy = whole.legacy.or(self.legacy.take());
    }

    fn add_piece(&mut self, piece: AnswerMessage) {
        if let Some(content) = piece.content.map(Content::into_text) {
            self.content.push_str(&content);
        }
        // Some servers send the same reasoning by both names.
        if let Some(reasoning) = piece.reasoning.filter(|text| !text.is_empty()).or(piece.reasoning_content) {
            self.reasoning.push_str(&reasoning);
        }
        if let Some(refusal) = piece.refusal {
            self.refusal.push_str(&refusal);
        }
        for call in piece.tool_calls.into_iter().flatten() {
            if self.calls.len() > MAX_CALLS {
                break;
            }
            self.add_call(call);
        }
        if let Some(function) = piece.function_call {
            self.legacy.get_or_insert_default().add(function);
        }
    }

    fn add_call(&mut self, piece: AnswerToolCall) {
        let id = piece.id.unwrap_or_default();
        let function = piece.function.unwrap_or_default();
        let position = match self.continued(piece.index, &id, &function) {
            Some(position) => position,
            None => {
                let place = piece.index.unwrap_or(u32::try_from(self.calls.len()).unwrap_or(u32::MAX));
                self.calls.push(Slot { place, id: id.clone(), ..Slot::default() });
                self.calls.len() - 1
            }
        };
        if let Some(slot) = self.calls.get_mut(position) {
            if slot.id.is_empty() {
                slot.id = id;
            }
            slot.add(function);
        }
    }

    /// Which call a piece belongs to; `None` where it begins a new one.
    fn continued(&self, index: Option<u32>, id: &str, function: &AnswerFunction) -> Option<usize> {
        let position = match index {
            // The newest: some servers give every call the index 0.
            Some(index) => self.calls.iter().rposition(|slot| slot.place == index)?,
            None if !id.is_empty() => match self.calls.iter().rposition(|slot| slot.id == id) {
                Some(position) => position,
                None => self.calls.len().checked_sub(1)?,
            },
            None => self.calls.len().checked_sub(1)?,
        };
        let slot = self.calls.get(position)?;
        if !id.is_empty() && !slot.id.is_empty() {
            return (slot.id == id).then_some(position);
        }
        // With neither index nor ids to go by, a name behind arguments begins the next call.
        let named = function.name.as_ref().is_some_and(|name| !name.is_empty());
        let begins_anew = index.is_none() && named && !slot.name.is_empty() && !slot.arguments.is_empty();
        (!begins_anew).then_some(position)
    }
}

impl Slot {
    fn add(&mut self, function: AnswerFunction) {
        if let Some(name) = function.name {
            // A name that comes again and again is the same name, not a longer one.
            if self.name != name {
                self.name.push_str(&name);
            }
        }
        if let Some(arguments) = function.arguments {
            self.arguments.push_str(&arguments);
        }
    }
}

#[cfg(test)]
mod tests;
