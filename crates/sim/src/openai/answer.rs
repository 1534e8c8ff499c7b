//! Writes the model's answer as one JSON object or as server-sent events, as OpenAI does.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::reply::{Piece, Reply};

/// What the model says, with what it costs.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) id: String,
    pub(crate) created: i64,
    pub(crate) model: String,
    pub(crate) content: Option<String>,
    pub(crate) calls: Vec<Call>,
    pub(crate) finish: String,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
}

/// One tool call of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Answer {
    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        })
    }

    /// As one JSON object.
    pub(crate) fn whole(&self) -> Reply {
        let mut message = json!({"role": "assistant", "content": self.content, "refusal": null});
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.iter().map(Call::json).collect();
        }
        let body = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish}],
            "usage": self.usage(),
            "service_tier": "default",
            "system_fingerprint": "fp_simulation",
        });
        Reply::json(StatusCode::OK, &body)
    }

    fn chunk(&self, delta: Value, finish: Option<&str>, include_usage: bool) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulation",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
        });
        if include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// As server-sent events, `per_token` apart for each token that they bring.
    pub(crate) fn stream(&self, include_usage: bool, per_token: Duration) -> Reply {
        let mut events: Vec<(Value, usize)> = Vec::new();
        let mut event = |delta: Value, tokens: usize| {
            events.push((self.chunk(delta, None, include_usage), tokens));
        };
        let first = if self.content.is_some() { json!("") } else { Value::Null };
        event(json!({"role": "assistant", "content": first, "refusal": null}), 0);
        for piece in pieces(self.content.as_deref().unwrap_or_default()) {
            event(json!({"content": piece}), tokens(piece));
        }
        for (index, call) in self.calls.iter().enumerate() {
            let head = json!({"index": index, "id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": ""}});
            event(json!({"tool_calls": [head]}), 1);
            for piece in pieces(&call.arguments) {
                let delta = json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]});
                event(delta, tokens(piece));
            }
        }
        events.push((self.chunk(json!({}), Some(&self.finish), include_usage), 0));
        if include_usage {
            let mut last = self.chunk(json!({}), None, true);
            last["choices"] = json!([]);
            last["usage"] = self.usage();
            events.push((last, 0));
        }
        let mut reply = Reply::bytes(StatusCode::OK, "text/event-stream; charset=utf-8", Bytes::new());
        reply.pieces = events
            .iter()
            .map(|(event, tokens)| Piece {
                pause: per_token.saturating_mul(u32::try_from(*tokens).unwrap_or(u32::MAX)),
                data: Bytes::from(format!("data: {event}\n\n")),
            })
            .collect();
        reply.pieces.push(Piece { pause: Duration::ZERO, data: Bytes::from_static(b"data: [DONE]\n\n") });
        reply
    }
}

impl Call {
    fn json(&self) -> Value {
        json!({"id": self.id, "type": "function",
            "function": {"name": self.name, "arguments": self.arguments}})
    }
}

fn tokens(text: &str) -> usize {
    text.len().div_ceil(4)
}

/// A text in pieces of about 24 bytes, whole characters each.
fn pieces(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut end = rest.len().min(24);
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, tail) = rest.split_at(end);
        out.push(piece);
        rest = tail;
    }
    out
}
