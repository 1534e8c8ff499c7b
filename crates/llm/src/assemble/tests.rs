//! Answers in the many shapes that compatible servers give them.

use serde_json::json;

use super::*;

/// The answer that these chunks make, with the stream's end mark behind them.
fn assembled(chunks: impl IntoIterator<Item = Value>) -> Result<Assembled, Flaw> {
    let mut assembler = Assembler::default();
    for chunk in chunks {
        assembler.add(serde_json::from_value(chunk).unwrap())?;
    }
    assembler.mark_done();
    assembler.finish()
}

/// A chunk of the first choice.
fn delta(delta: Value) -> Value {
    json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] })
}

fn call_pieces(pieces: Vec<Value>) -> Vec<(String, String, String)> {
    let chunks = pieces.into_iter().map(|piece| delta(json!({ "tool_calls": [piece] })));
    calls(&assembled(chunks).unwrap())
}

fn calls(answer: &Assembled) -> Vec<(String, String, String)> {
    let parts = |call: &ToolCall| (call.id.clone(), call.name.clone(), call.arguments.clone());
    answer.tool_calls.iter().map(parts).collect()
}

fn call(id: &str, name: &str, arguments: &str) -> (String, String, String) {
    (id.to_owned(), name.to_owned(), arguments.to_owned())
}

#[test]
fn text_and_reasoning_are_joined() {
    let answer = assembled([
        delta(json!({ "role": "assistant", "content": "" })),
        delta(json!({ "reasoning_content": "hm, " })),
        delta(json!({ "reasoning": "so" })),
        delta(json!({ "content": "Hel" })),
        delta(json!({ "content": null, "tool_calls": null, "function_call": null, "refusal": null })),
        delta(json!({})),
        delta(json!({ "content": [{ "type": "text", "text": "lo" }, { "type": "image_url" }] })),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }], "model": "model-b" }),
        json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13 } }),
    ]);
    let usage = Usage { prompt_tokens: 9, completion_tokens: 4, cached_tokens: 0 };
    assert_eq!(
        answer,
        Ok(Assembled {
            content: Some("Hello".into()),
            reasoning: Some("hm, so".into()),
            tool_calls: vec![],
            finish: FinishReason::Stop,
            usage: Some(usage),
            model: Some("model-b".into()),
        })
    );
}

#[test]
fn reasoning_that_comes_by_both_names_is_taken_once() {
    let answer = assembled([delta(json!({ "reasoning": "hm", "reasoning_content": "hm", "content": "x" }))]);
    assert_eq!(answer.unwrap().reasoning.as_deref(), Some("hm"));
}

#[test]
fn a_refusal_stands_in_for_the_content() {
    let answer = assembled([delta(json!({ "content": null, "refusal": "I would rather not" }))]);
    assert_eq!(answer.unwrap().content.as_deref(), Some("I would rather not"));
}

#[test]
fn openai_sends_the_id_once_and_calls_by_index() {
    let calls = call_pieces(vec![
        json!({ "index": 0, "id": "a", "type": "function", "function": { "name": "read_file", "arguments": "" } }),
        json!({ "index": 0, "function": { "arguments": "{\"pa" } }),
        json!({ "index": 0, "function": { "arguments": "th\":1}" } }),
        json!({ "index": 1, "id": "b", "type": "function", "function": { "name": "finish", "arguments": "" } }),
        json!({ "index": 1, "function": { "arguments": "{}" } }),
    ]);
    assert_eq!(calls, [call("a", "read_file", "{\"path\":1}"), call("b", "finish", "{}")]);
}

#[test]
fn calls_may_come_interleaved_and_out_of_order() {
    let calls = call_pieces(vec![
        json!({ "index": 1, "id": "b", "function": { "name": "finish", "arguments": "{" } }),
        json!({ "index": 0, "id": "a", "function": { "name": "read_file", "arguments": "[" } }),
        json!({ "index": 1, "function": { "arguments": "}" } }),
        json!({ "index": 0, "function": { "arguments": "]" } }),
    ]);
    assert_eq!(calls, [call("a", "read_file", "[]"), call("b", "finish", "{}")]);
}

#[test]
fn nulls_and_empty_pieces_change_nothing() {
    let calls = call_pieces(vec![
        json!({ "index": 0, "id": "a", "type": null, "function": { "name": "finish", "arguments": null } }),
        json!({ "index": 0, "id": null, "function": null }),
        json!({ "index": 0, "id": "", "function": { "name": "", "arguments": "" } }),
        json!({ "index": 0, "id": null, "type": null, "function": { "name": null, "arguments": "{}" } }),
        json!({ "index": 1 }),
    ]);
    assert_eq!(calls, [call("a", "finish", "{}")]);
}

#[test]
fn without_an_index_ids_tell_calls_apart() {
    let calls = call_pieces(vec![
        json!({ "id": "a", "function": { "name": "read_file", "arguments": "{}" } }),
        json!({ "id": "b", "function": { "name": "read_file", "arguments": "[" } }),
        json!({ "id": "b", "function": { "arguments": "]" } }),
        json!({ "id": "a", "function": { "arguments": " " } }),
    ]);
    assert_eq!(calls, [call("a", "read_file", "{} "), call("b", "read_file", "[]")]);
}

#[test]
fn without_index_and_id_a_name_behind_arguments_begins_the_next_call() {
    let calls = call_pieces(vec![
        json!({ "function": { "name": "read_file" } }),
        json!({ "function": { "arguments": "{" } }),
        json!({ "function": { "arguments": "}" } }),
        json!({ "function": { "name": "read_file", "arguments": "[]" } }),
    ]);
    assert_eq!(calls, [call("", "read_file", "{}"), call("", "read_file", "[]")]);
}

#[test]
fn an_index_that_is_always_zero_is_seen_through_by_the_ids() {
    let calls = call_pieces(vec![
        json!({ "index": 0, "id": "a", "function": { "name": "read_file", "arguments": "{}" } }),
        json!({ "index": 0, "id": "b", "function": { "name": "finish", "arguments": "[" } }),
        json!({ "index": 0, "function": { "arguments": "]" } }),
    ]);
    assert_eq!(calls, [call("a", "read_file", "{}"), call("b", "finish", "[]")]);
}

#[test]
fn an_id_and_a_name_that_come_with_every_piece_are_taken_once() {
    let piece = |arguments: &str| json!({ "index": 0, "id": "a", "function": { "name": "finish", "arguments": arguments } });
    assert_eq!(call_pieces(vec![piece("{"), piece("}")]), [call("a", "finish", "{}")]);
}

#[test]
fn arguments_that_are_an_object_become_text() {
    let calls = call_pieces(vec![
        json!({ "id": "a", "function": { "name": "read_file", "arguments": { "path": "x", "n": 1 } } }),
    ]);
    assert_eq!(calls, [call("a", "read_file", "{\"path\":\"x\",\"n\":1}")]);
}

#[test]
fn a_function_call_of_old_counts_where_there_are_no_tool_calls() {
    let old = |arguments: &str| json!({ "function_call": { "name": "finish", "arguments": arguments } });
    let answer =
        assembled([delta(old("{")), delta(json!({ "function_call": { "arguments": "}" } }))]).unwrap();
    assert_eq!(calls(&answer), [call("", "finish", "{}")]);
    assert_eq!(answer.finish, FinishReason::ToolCalls);

    let mut both = old("{}");
    both["tool_calls"] =
        json!([{ "index": 0, "id": "a", "function": { "name": "finish", "arguments": "{}" } }]);
    assert_eq!(calls(&assembled([delta(both)]).unwrap()), [call("a", "finish", "{}")]);
}

#[test]
fn reasons_to_end_are_ours_and_stop_beside_calls_means_calls() {
    let with_call =
        json!({ "tool_calls": [{ "id": "a", "function": { "name": "finish", "arguments": "{}" } }] });
    let other = |text: &str| FinishReason::Other(text.into());
    let rows = [
        ("stop", FinishReason::Stop, FinishReason::ToolCalls),
        ("tool_calls", FinishReason::Stop, FinishReason::ToolCalls),
        ("function_call", FinishReason::Stop, FinishReason::ToolCalls),
        ("length", FinishReason::Length, FinishReason::Length),
        ("content_filter", FinishReason::ContentFilter, FinishReason::ContentFilter),
        ("eos", other("eos"), other("eos")),
    ];
    for (reason, plain, calling) in rows {
        for (message, want) in [(json!({ "content": "x" }), plain), (with_call.clone(), calling)] {
            let chunk = json!({ "choices": [{ "message": message, "finish_reason": reason }] });
            assert_eq!(assembled([chunk]).unwrap().finish, want, "{reason} {message}");
        }
    }
}

#[test]
fn usage_may_come_with_every_chunk_and_the_last_counts() {
    let chunk = |completion: u64| {
        json!({
            "choices": [{ "index": 0, "delta": { "content": "x" } }],
            "usage": { "prompt_tokens": 10, "completion_tokens": completion,
                       "prompt_tokens_details": { "cached_tokens": 8 } },
        })
    };
    let mut last = delta(json!({}));
    last["usage"] = Value::Null;
    let answer = assembled([chunk(1), chunk(2), last]).unwrap();
    assert_eq!(answer.usage, Some(Usage { prompt_tokens: 10, completion_tokens: 2, cached_tokens: 8 }));
}

#[test]
fn other_choices_are_left_out() {
    let answer = assembled([json!({ "choices": [
        { "index": 1, "delta": { "content": "no" } },
        { "index": 0, "delta": { "content": "yes" }, "finish_reason": "stop" },
    ]})]);
    assert_eq!(answer.unwrap().content.as_deref(), Some("yes"));
}

#[test]
fn a_whole_message_is_not_put_together_from_pieces() {
    let finish = |id: Value| json!({ "id": id, "function": { "name": "finish", "arguments": "{}" } });
    let ids = [json!("a"), json!("a"), Value::Null];
    let whole = json!({ "content": "hello", "tool_calls": ids.map(finish) });
    let chunk = |delta: &str| json!({ "choices": [{ "delta": { "content": delta }, "message": whole }] });
    let answer =
        assembled([chunk("hel"), chunk("lo"), json!({ "choices": [{ "message": { "content": "" } }] })]);
    let answer = answer.unwrap();
    assert_eq!(answer.content.as_deref(), Some("hello"));
    assert_eq!(calls(&answer), ["a", "a", ""].map(|id| call(id, "finish", "{}")));
}

#[test]
fn there_is_a_bound_on_calls() {
    let chunk = |index: usize| {
        delta(
            json!({ "tool_calls": [{ "index": index, "function": { "name": "finish", "arguments": "{}" } }] }),
        )
    };
    assert_eq!(assembled((0..MAX_CALLS).map(chunk)).unwrap().tool_calls.len(), MAX_CALLS);
    assert!(matches!(assembled((0..=MAX_CALLS).map(chunk)), Err(Flaw::Unreadable(_))));
}

#[test]
fn what_is_no_answer_is_told() {
    let no_choices = Err(Flaw::Unreadable("the answer holds no choices"));
    assert_eq!(assembled([]), no_choices);
    assert_eq!(assembled([json!({ "choices": [] })]), no_choices);
    assert_eq!(assembled([json!({ "choices": null })]), no_choices);
    assert_eq!(assembled([json!({ "choices": [{}] })]), no_choices);

    let error = json!({ "code": 502, "message": "upstream" });
    let chunk = json!({ "choices": [], "error": error });
    assert_eq!(assembled([chunk.clone()]), Err(Flaw::Error { error: error.clone(), begun: false }));
    let begun = assembled([delta(json!({ "content": "x" })), chunk]);
    assert_eq!(begun, Err(Flaw::Error { error, begun: true }));

    let gave_up = assembled([json!({ "choices": [{ "delta": {}, "finish_reason": "error" }] })]);
    assert!(matches!(gave_up, Err(Flaw::Unreadable(_))), "{gave_up:?}");
}

#[test]
fn without_an_end_mark_the_reason_to_end_is_needed() {
    let mut assembler = Assembler::default();
    assembler.add(serde_json::from_value(delta(json!({ "content": "half" }))).unwrap()).unwrap();
    assert!(!assembler.is_whole());
    assert!(matches!(assembler.finish(), Err(Flaw::Unreadable(_))));
}
