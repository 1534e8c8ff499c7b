//! The model server refuses what OpenAI refuses, in its form.

use serde_json::{Value, json};

use crate::support::{chat, chat_request, hello, try_send, world};

fn with(field: &str, value: Value) -> Value {
    let mut body = hello();
    body[field] = value;
    body
}

fn messages(list: Value) -> Value {
    with("messages", list)
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}})
}

fn call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "read_file", "arguments": "{}"}})
}

#[tokio::test(start_paused = true)]
async fn refuses_what_openai_refuses() {
    let world = world(|config| config.llm.models = vec!["m".to_owned()]);
    let user = json!({"role": "user", "content": "x"});
    let asks = json!({"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]});
    let answers = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "done"});
    let many_tools = json!([tool(), tool()]);
    for (what, body, status, needle) in [
        ("no model", json!({"messages": [user]}), 400, "model"),
        ("unknown model", with("model", json!("other")), 404, "model_not_found"),
        ("no messages", json!({"model": "m"}), 400, "missing_required_parameter"),
        ("empty messages", messages(json!([])), 400, "empty_array"),
        ("unknown argument", with("max_token", json!(3)), 400, "Unrecognized request argument"),
        ("no role", messages(json!([{"content": "x"}])), 400, "messages[0].role"),
        ("unknown role", messages(json!([{"role": "robot", "content": "x"}])), 400, "invalid_value"),
        ("no content", messages(json!([{"role": "user"}])), 400, "messages[0].content"),
        ("null content", messages(json!([user, {"role": "assistant", "content": null}])), 400, "got null"),
        ("numeric content", messages(json!([{"role": "user", "content": 3}])), 400, "invalid_type"),
        (
            "unknown field of a message",
            messages(json!([user, {"role": "assistant", "content": "x", "reasoning": "y"}])),
            400,
            "unknown_parameter",
        ),
        (
            "empty tool_calls",
            messages(json!([user, {"role": "assistant", "content": "x", "tool_calls": []}])),
            400,
            "empty_array",
        ),
        ("tool result without a call", messages(json!([user, answers("a")])), 400, "preceding message"),
        ("tool result for another call", messages(json!([user, asks, answers("z")])), 400, "not found"),
        (
            "tool result without an id",
            messages(json!([user, asks, {"role": "tool", "content": "x"}])),
            400,
            "tool_call_id",
        ),
        (
            "call left unanswered",
            messages(json!([user, asks, answers("a"), user])),
            400,
            "response messages: b",
        ),
        ("call left unanswered at the end", messages(json!([user, asks, answers("b")])), 400, "messages: a"),
        (
            "arguments not a string",
            messages(json!([user, {"role": "assistant", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": {}}}]}, answers("a")])),
            400,
            "function.arguments",
        ),
        ("empty tools", with("tools", json!([])), 400, "empty_array"),
        ("same tool twice", with("tools", many_tools), 400, "used by two"),
        (
            "tool name",
            with("tools", json!([{"type": "function", "function": {"name": "a b"}}])),
            400,
            "pattern",
        ),
        (
            "tool schema",
            with(
                "tools",
                json!([{"type": "function", "function": {"name": "f",
                "parameters": {"type": "string"}}}]),
            ),
            400,
            "invalid_function_parameters",
        ),
        ("tool_choice without tools", with("tool_choice", json!("auto")), 400, "only allowed when 'tools'"),
        ("max_tokens of 0", with("max_tokens", json!(0)), 400, "integer_below_min_value"),
        ("max_tokens as text", with("max_tokens", json!("3")), 400, "invalid_type"),
        ("temperature", with("temperature", json!(3)), 400, "decimal_out_of_range"),
        (
            "stream_options without stream",
            with("stream_options", json!({"include_usage": true})),
            400,
            "only allowed when 'stream'",
        ),
        (
            "json mode without the word",
            with("response_format", json!({"type": "json_object"})),
            400,
            "word 'json'",
        ),
        (
            "too long",
            messages(json!([{"role": "user", "content": "x".repeat(600_000)}])),
            400,
            "context_length_exceeded",
        ),
        ("too long with its answer", with("max_tokens", json!(128_000)), 400, "context_length_exceeded"),
    ] {
        let answer = chat(&world, &body).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert!(answer.text().contains(needle), "{what}: {}", answer.text());
        let error = &answer.json()["error"];
        for field in ["message", "type", "param", "code"] {
            assert!(error.get(field).is_some(), "{what}: no {field}");
        }
        assert!(answer.header("x-request-id").is_some(), "{what}");
    }
    let rejected = world.records().rejections;
    assert!(rejected.iter().any(|one| one.why.contains("response messages: b")), "{rejected:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_a_sound_conversation() {
    let world = world(|_| {});
    let body = json!({"model": "m", "max_tokens": 100, "tools": [tool()], "messages": [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": [{"type": "text", "text": "task"}]},
        {"role": "assistant", "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "b", "content": "two"},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "user", "content": "go on"},
    ]});
    let answer = chat(&world, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let value = answer.json();
    assert_eq!(value["object"], "chat.completion");
    let usage = &value["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn wants_a_key_and_json() {
    let world = world(|config| config.llm.api_key = Some("sk-right".to_owned()));
    let answer = chat(&world, &hello()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["error"]["code"].as_str()),
        (401, Some("invalid_api_key"))
    );
    let mut request = chat_request(&hello());
    request.headers_mut().remove("authorization");
    assert_eq!(try_send(&world, request).await.unwrap().status, 401);
    let mut request = chat_request(&hello());
    request.headers_mut().insert("authorization", "Bearer sk-right".parse().unwrap());
    request.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(try_send(&world, request).await.unwrap().status, 415);
}

#[tokio::test(start_paused = true)]
async fn newer_models_refuse_what_older_ones_want() {
    let world = world(|config| config.llm.refuse_max_tokens = true);
    let answer = chat(&world, &with("max_tokens", json!(5))).await;
    assert_eq!(answer.json()["error"]["code"], "unsupported_parameter");
    let answer = chat(&world, &with("temperature", json!(0))).await;
    assert_eq!(answer.json()["error"]["code"], "unsupported_value");
    assert_eq!(chat(&world, &with("max_completion_tokens", json!(5))).await.status, 200);
}

/// The data of server-sent events.
fn events(text: &str) -> Vec<&str> {
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_the_same_in_pieces() {
    let world = world(|_| {});
    let mut body = hello();
    body["messages"][0]["content"] = json!("roman 4 prints IIII. Please mend it.");
    body["tools"] = json!([tool(), {"type": "function", "function": {"name": "list_directory"}}]);
    let whole = chat(&world, &body).await.json();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let streamed = chat(&world, &body).await;
    assert!(streamed.header("content-type").unwrap().starts_with("text/event-stream"));
    let text = streamed.text();
    let events = events(&text);
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let mut content = String::new();
    let mut names = Vec::new();
    let mut arguments = vec![String::new(); 4];
    let mut finish = None;
    for chunk in &chunks {
        let choice = &chunk["choices"][0];
        content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            names.extend(call["function"]["name"].as_str().map(str::to_owned));
            arguments[index].push_str(call["function"]["arguments"].as_str().unwrap_or_default());
        }
        finish = choice["finish_reason"].as_str().or(finish);
    }
    let message = &whole["choices"][0]["message"];
    assert_eq!(content, message["content"].as_str().unwrap_or_default());
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    for (index, call) in calls.iter().enumerate() {
        assert_eq!(names[index], call["function"]["name"]);
        assert_eq!(arguments[index], call["function"]["arguments"].as_str().unwrap());
    }
    assert!(!content.is_empty() || !calls.is_empty());
    assert_eq!(finish, whole["choices"][0]["finish_reason"].as_str());
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert!(chunks[0]["usage"].is_null());
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_cut_at_its_maximum_and_a_prefix_is_cached() {
    let world = world(|_| {});
    let mut body = with("max_tokens", json!(2));
    body["messages"][0]["content"] = json!("long ".repeat(2000));
    let first = chat(&world, &body).await.json();
    assert_eq!(first["choices"][0]["finish_reason"], "length");
    assert_eq!(first["usage"]["completion_tokens"], 2);
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let second = chat(&world, &body).await.json();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= 2000 && cached % 128 == 0, "{cached}");
    assert_eq!(world.records().paid_twice(), 1);
}
