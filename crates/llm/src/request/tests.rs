//! What is sent, and that its beginning stays the same from turn to turn.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::settings::Temperature;
use crate::testing::{request, settings, tools};

fn sent(request: &ModelRequest, settings: &Settings) -> Value {
    serde_json::to_value(build(request, settings, Dialect::new(settings))).unwrap()
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.into(), name: "read_file".into(), arguments: "{\"path\": \"a.rs\"}".into() }
}

fn conversation() -> Vec<Message> {
    vec![
        Message::System { content: "rules".into() },
        Message::User { content: "task".into() },
        Message::Assistant { content: Some("I look".into()), tool_calls: vec![call("a"), call("b")] },
        Message::Tool { call_id: "a".into(), content: "fn main".into() },
        Message::Tool { call_id: "b".into(), content: "".into() },
        Message::Assistant { content: None, tool_calls: vec![call("c")] },
        Message::Tool { call_id: "c".into(), content: "x".into() },
        Message::Assistant { content: None, tool_calls: vec![] },
        Message::User { content: "go on".into() },
    ]
}

#[test]
fn a_native_request_is_what_servers_expect() {
    let request = ModelRequest { messages: conversation(), ..request() };
    let call = |id: &str| {
        json!({ "id": id, "type": "function",
                "function": { "name": "read_file", "arguments": "{\"path\": \"a.rs\"}" } })
    };
    let parameters = json!({ "type": "object", "properties": { "path": { "type": "string" } } });
    let tool = |name: &str| {
        json!({ "type": "function", "function": { "name": name,
                "description": format!("what {name} does"), "parameters": parameters } })
    };
    let want = json!({
        "model": "model-a",
        "messages": [
            { "role": "system", "content": "rules" },
            { "role": "user", "content": "task" },
            { "role": "assistant", "content": "I look", "tool_calls": [call("a"), call("b")] },
            { "role": "tool", "tool_call_id": "a", "content": "fn main" },
            { "role": "tool", "tool_call_id": "b", "content": "" },
            { "role": "assistant", "content": null, "tool_calls": [call("c")] },
            { "role": "tool", "tool_call_id": "c", "content": "x" },
            { "role": "assistant", "content": "" },
            { "role": "user", "content": "go on" },
        ],
        "tools": [tool("read_file"), tool("finish")],
        "max_tokens": 1000,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    assert_eq!(sent(&request, &settings()), want);
}

#[test]
fn each_dialect_sends_its_fields_and_no_others() {
    let settings = Settings { temperature: Temperature::Of(0.5), ..settings() };
    let first = Dialect::new(&settings);
    let keys = |dialect, settings: &Settings| {
        let body = serde_json::to_value(build(&request(), settings, dialect)).unwrap();
        body.as_object().unwrap().keys().skip(3).cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys(first, &settings), "max_tokens temperature stream stream_options");
    let newer = Dialect { completion_tokens: true, temperature: false, ..first };
    assert_eq!(keys(newer, &settings), "max_completion_tokens stream stream_options");
    let plain = Dialect { usage_in_stream: UsageInStream::Refused, ..first };
    assert_eq!(keys(plain, &settings), "max_tokens temperature stream");
    let whole = Settings { stream: false, ..settings };
    assert_eq!(keys(first, &whole), "max_tokens temperature");
}

#[test]
fn a_call_that_servers_would_refuse_is_sent_in_a_form_that_they_take() {
    let long = "x".repeat(70);
    let rows = [
        ("read_file", "{ \"path\":1}", "read_file", "{ \"path\":1}"),
        ("functions.read file", "{}", "functions_read_file", "{}"),
        ("", "", "unnamed", "{}"),
        ("finish", "{\"summary\": \"cut o", "finish", r#"{"unreadable":"{\"summary\": \"cut o"}"#),
        ("finish", "[1]", "finish", r#"{"unreadable":"[1]"}"#),
        (&long, " ", &long[..64], "{}"),
    ];
    for (name, arguments, want_name, want_arguments) in rows {
        let call = ToolCall { id: "a".into(), name: name.into(), arguments: arguments.into() };
        let function = native_call(&call).function;
        assert_eq!((function.name.as_str(), function.arguments.as_str()), (want_name, want_arguments));
    }
}

#[test]
fn no_tools_means_no_field_for_them() {
    let request = ModelRequest { tools: Vec::new().into(), ..request() };
    assert_eq!(sent(&request, &settings()).get("tools"), None);
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let text = "[a-zäß\"\\\\\n{}]{0,12}";
    let call = ("[a-c]{1,3}", "read_file|finish", text).prop_map(|(id, name, arguments)| ToolCall {
        id,
        name,
        arguments,
    });
    let message = prop_oneof![
        text.prop_map(|content| Message::User { content }),
        ("[a-c]{1,3}", text).prop_map(|(call_id, content)| Message::Tool { call_id, content }),
        (proptest::option::of(text), proptest::collection::vec(call, 0..3))
            .prop_map(|(content, tool_calls)| Message::Assistant { content, tool_calls }),
    ];
    proptest::collection::vec(message, 0..12).prop_map(|mut messages| {
        messages.insert(0, Message::System { content: "rules".into() });
        messages
    })
}

proptest! {
    #[test]
    fn the_beginning_stays_byte_for_byte_the_same(messages in messages(), json_tools in any::<bool>()) {
        let settings = Settings {
            tools: if json_tools { ToolsMode::Json } else { ToolsMode::Native },
            ..settings()
        };
        let written = |count: usize| {
            let request =
                ModelRequest { messages: messages[..count].to_vec(), tools: tools().into(), max_answer_tokens: 9 };
            let body = build(&request, &settings, Dialect::new(&settings));
            serde_json::to_string(&body.messages).unwrap()
        };
        let whole = written(messages.len());
        for count in 1..=messages.len() {
            // A turn ends where the model is asked; there the conversation is continued by its answer.
            let asked = matches!(messages.get(count), Some(Message::Assistant { .. }) | None);
            if asked || !json_tools {
                let shorter = written(count);
                let open = shorter.strip_suffix(']').unwrap();
                prop_assert!(whole.starts_with(open), "{open}\nis no beginning of\n{whole}");
            }
        }
    }
}
