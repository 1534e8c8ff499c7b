//! Requests are read strictly, answers leniently, both back as they were written.

use serde_json::json;

use super::*;

#[test]
fn a_request_is_read_back_as_it_was_written() {
    let request = json!({
        "model": "model-a",
        "messages": [
            { "role": "system", "content": "rules" },
            { "role": "user", "content": [{ "type": "text", "text": "task" }] },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "a", "type": "function", "function": { "name": "finish", "arguments": "{}" } },
            ]},
            { "role": "tool", "tool_call_id": "a", "content": "ok" },
        ],
        "tools": [{ "type": "function", "function": { "name": "finish", "description": "d", "parameters": {} } }],
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let read: ChatRequest = serde_json::from_value(request.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), request);
}

#[test]
fn a_request_with_what_no_server_takes_is_refused() {
    let refused = [
        json!({ "model": "m", "messages": [], "max_token": 5 }),
        json!({ "messages": [] }),
        json!({ "model": "m" }),
        json!({ "model": "m", "messages": [{ "role": "robot", "content": "x" }] }),
        json!({ "model": "m", "messages": [{ "role": "tool", "content": "x" }] }),
        json!({ "model": "m", "messages": [{ "role": "user", "content": 5 }] }),
        json!({ "model": "m", "messages": [{ "role": "user", "content": "x", "mood": "good" }] }),
        json!({ "model": "m", "messages": [], "tools": [{ "type": "oracle", "function": {} }] }),
    ];
    for request in refused {
        assert!(serde_json::from_value::<ChatRequest>(request.clone()).is_err(), "{request}");
    }
}

#[test]
fn an_answer_may_hold_nulls_extras_and_malformed_extras() {
    let answer = json!({
        "id": null, "object": null, "created": 1.5, "model": null, "system_fingerprint": {}, "error": null,
        "choices": [{
            "index": null, "logprobs": null, "finish_reason": null, "stop_reason": 3,
            "message": {
                "role": null, "content": "x", "reasoning": { "steps": [] }, "reasoning_content": null,
                "tool_calls": null, "annotations": [],
            },
        }],
        "usage": { "prompt_tokens": null, "completion_tokens": 3, "prompt_tokens_details": null, "cost": 0.1 },
    });
    let answer: ChatAnswer = serde_json::from_value(answer).unwrap();
    assert_eq!(answer.choices[0].message.as_ref().unwrap().reasoning, None);
    assert_eq!(answer.usage.unwrap().completion_tokens, 3);

    let odd: ChatAnswer = serde_json::from_value(json!({ "choices": [], "usage": "many" })).unwrap();
    assert_eq!(odd.usage, None);
}

#[test]
fn an_answer_is_read_back_as_it_was_written() {
    let chunk = json!({
        "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{
            "index": 0,
            "delta": { "tool_calls": [
                { "index": 0, "id": "a", "type": "function", "function": { "name": "finish", "arguments": "{" } },
            ]},
            "finish_reason": null,
        }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3 },
    });
    let read: ChatAnswer = serde_json::from_value(chunk.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), chunk);
}

#[test]
fn cached_tokens_are_counted_by_either_name_and_never_above_all() {
    let rows = [
        (json!({ "prompt_tokens": 10, "prompt_tokens_details": { "cached_tokens": 4 } }), 4),
        (json!({ "prompt_tokens": 10, "prompt_cache_hit_tokens": 6 }), 6),
        (json!({ "prompt_tokens": 10, "prompt_tokens_details": { "cached_tokens": 99 } }), 10),
        (json!({ "prompt_tokens": 10, "prompt_tokens_details": {} }), 0),
        (json!({ "prompt_tokens": 10 }), 0),
    ];
    for (usage, cached) in rows {
        let read: Usage = serde_json::from_value(usage.clone()).unwrap();
        assert_eq!(steadfast_core::chat::Usage::from(read).cached_tokens, cached, "{usage}");
    }
}
