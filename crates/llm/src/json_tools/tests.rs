//! The protocol of one JSON object, with everything that models put around it.

use serde_json::json;

use super::*;
use crate::testing::tools;

fn answer(content: &str) -> Assembled {
    Assembled {
        content: Some(content.into()),
        reasoning: None,
        tool_calls: vec![],
        finish: FinishReason::Stop,
        usage: None,
        model: None,
    }
}

fn call(name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: String::new(), name: name.into(), arguments: arguments.into() }
}

#[test]
fn the_object_is_found_whatever_is_around_it() {
    let object = r#"{"reasoning":"to see","action":{"tool":"read_file","parameters":{"path":"{a}.rs"}}}"#;
    let surroundings = [
        object.to_owned(),
        format!("\n\n  {object}\n"),
        format!("```json\n{object}\n```"),
        format!("I will read the file first.\n\n```\n{object}\n```\nThen we'll see."),
        format!("In {{braces}} and {{\"other\": [1, {{}}]}} there is: {object}"),
        format!("{object}{object}"),
        format!("<think>{{ \"unfinished </think>{object}"),
        format!("<think>or {{\"action\":{{\"tool\":\"finish\"}}}}?</think>\n{object}"),
    ];
    for text in surroundings {
        let read = read(answer(&text));
        assert_eq!(read.tool_calls, [call("read_file", r#"{"path":"{a}.rs"}"#)], "{text}");
        assert_eq!(read.content.as_deref(), Some("to see"), "{text}");
        assert_eq!(read.finish, FinishReason::ToolCalls, "{text}");
    }
}

#[test]
fn the_shapes_of_an_action_and_of_an_end() {
    let rows = [
        (r#"{"action":{"tool":"read_file"}}"#, call("read_file", "{}")),
        (r#"{"action":{"tool":"read_file","parameters":null}}"#, call("read_file", "{}")),
        (r#"{"action":{"tool":"read_file","parameters":"{\"path\":1"}}"#, call("read_file", "{\"path\":1")),
        (r#"{"action":{"tool":"x","parameters":{}},"finished":false,"finalAnswer":null}"#, call("x", "{}")),
        (r#"{"finished":true,"finalAnswer":"all done"}"#, call("finish", r#"{"summary":"all done"}"#)),
        (
            r#"{"finished":true,"finalAnswer":"all done","action":null}"#,
            call("finish", r#"{"summary":"all done"}"#),
        ),
        (r#"{"finished":true,"reasoning":"it works"}"#, call("finish", r#"{"summary":"it works"}"#)),
    ];
    for (text, want) in rows {
        assert_eq!(read(answer(text)).tool_calls, [want], "{text}");
    }
}

#[test]
fn what_holds_no_object_is_never_taken_for_finished() {
    let texts = [
        "I am finished.",
        "",
        "{\"finished\":false}",
        "{\"finished\":\"true\"}",
        "{\"action\":{\"parameters\":{}}}",
        "{\"action\":\"read_file\"}",
        "{\"reasoning\":\"to see\",\"action\":{\"tool\":\"read_file\",\"par",
        "[1,2,3]",
    ];
    for text in texts {
        assert_eq!(read(answer(text)), answer(text), "{text}");
    }
}

#[test]
fn a_hostile_answer_is_given_up_soon() {
    let braces = "{\"a\":".repeat(20_000);
    assert!(read(answer(&braces)).tool_calls.is_empty());
}

#[test]
fn native_calls_are_left_alone() {
    let native = Assembled { tool_calls: vec![call("finish", "{}")], ..answer("{\"finished\":true}") };
    assert_eq!(read(native.clone()), native);
}

#[test]
fn the_conversation_is_told_in_turns() {
    let turn = |id: &str, content: Option<&str>, name: &str, arguments: &str| Message::Assistant {
        content: content.map(str::to_owned),
        tool_calls: vec![ToolCall { id: id.into(), ..call(name, arguments) }],
    };
    let conversation = [
        Message::System { content: "rules".into() },
        Message::User { content: "task".into() },
        turn("a", Some("to see"), "read_file", r#"{"path":"a.rs"}"#),
        Message::Tool { call_id: "a".into(), content: "fn main() {}".into() },
        Message::User { content: "2 turns are left".into() },
        Message::Assistant { content: Some("no object".into()), tool_calls: vec![] },
        Message::User { content: "answer with one object".into() },
        turn("b", None, "finish", r#"{"summary":"done"}"#),
        Message::Tool { call_id: "b".into(), content: "refused: tests fail".into() },
        turn("c", None, "read_file", "not json"),
    ];
    let told = serde_json::to_value(messages(&conversation, &tools())).unwrap();
    let roles: Vec<_> =
        told.as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(
        roles,
        ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user", "assistant"]
    );
    assert_eq!(told[1]["content"], "task");
    assert_eq!(
        told[2]["content"],
        r#"{"reasoning":"to see","action":{"tool":"read_file","parameters":{"path":"a.rs"}}}"#
    );
    assert_eq!(told[3]["content"], "Result of read_file:\nfn main() {}\n\n2 turns are left");
    assert_eq!(told[4]["content"], "no object");
    assert_eq!(told[6]["content"], r#"{"reasoning":"","finished":true,"finalAnswer":"done"}"#);
    assert_eq!(told[7]["content"], "Result of finish:\nrefused: tests fail");
    assert_eq!(
        told[8]["content"],
        r#"{"reasoning":"","action":{"tool":"read_file","parameters":"not json"}}"#
    );
}

#[test]
fn the_tools_are_described_in_the_system_message() {
    let told = messages(&[Message::User { content: "task".into() }], &tools());
    let RequestMessage::System { content } = told[0].clone() else { panic!("{told:?}") };
    let text = content.into_text();
    assert!(text.contains("read_file: what read_file does\nparameters: {\"type\":\"object\""), "{text}");
    assert!(!text.contains("finish: what"), "finishing is the protocol's own: {text}");
    assert_eq!(messages(&[], &[]), []);
}

#[test]
fn what_the_model_is_shown_of_itself_is_read_as_what_it_did() {
    let calls =
        [call("read_file", r#"{"path":"a.rs"}"#), call("finish", r#"{"summary":"done"}"#), call("x", "{}")];
    for one in calls {
        let read = read(answer(&said(Some("why"), std::slice::from_ref(&one))));
        assert_eq!((read.content.as_deref(), read.tool_calls), (Some("why"), vec![one]));
    }
    let finish = call("finish", &json!({ "summary": "done", "more": 1 }).to_string());
    assert_eq!(read(answer(&said(None, &[finish]))).tool_calls.len(), 1);
}
