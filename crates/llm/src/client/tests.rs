//! Whole exchanges against a server made of prepared answers.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use steadfast_core::chat::{FinishReason, ToolCall, Usage};
use steadfast_core::failure::GateReason;
use steadfast_core::headers::Window;

use super::*;
use crate::settings::{MaxTokensField, Temperature};
use crate::testing::{FakeServer, KEY, Reply, StillClock, events, events_by, json, request, settings, sse};

const HELLO: &str = r#"{"model":"model-b","choices":[{"index":0,"delta":{"content":"hello"}}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;
const WHOLE: &str = r#"{"model":"model-b","choices":[{"message":{"content":"hello"},"finish_reason":"stop"}],
    "usage":{"prompt_tokens":7,"completion_tokens":5}}"#;

fn hello() -> Reply {
    sse(&[HELLO, STOP, USAGE, "[DONE]"])
}

fn whole() -> Settings {
    Settings { stream: false, ..settings() }
}

fn refusal(code: &str, param: &str) -> Reply {
    json(400, &[], &json!({ "error": { "message": "no", "code": code, "param": param } }).to_string())
}

async fn failure(settings: Settings, reply: Reply) -> Failure {
    FakeServer::new([reply]).client(settings).chat(&request()).await.result.unwrap_err()
}

fn retries(failure: &Failure) -> bool {
    failure.verdict == Verdict::Retry { after: None }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_the_same_streamed_or_whole() {
    let streamed = FakeServer::new([hello()]).client(settings()).chat(&request()).await.result.unwrap();
    let answer = json(200, &[("x-request-id", "req-1")], WHOLE);
    let answered = FakeServer::new([answer]).client(whole()).chat(&request()).await.result.unwrap();
    let want = ModelAnswer {
        content: Some("hello".into()),
        reasoning: None,
        tool_calls: vec![],
        finish: FinishReason::Stop,
        usage: Some(Usage { prompt_tokens: 7, completion_tokens: 5, cached_tokens: 0 }),
        model: "model-b".into(),
        request_id: Some("req-1".into()),
    };
    assert_eq!(streamed, want);
    assert_eq!(answered, want);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_stream_is_understood_and_one_that_always_does_too() {
    let server = FakeServer::new([json(200, &[], WHOLE)]);
    assert!(server.client(settings()).chat(&request()).await.result.is_ok());
    let server = FakeServer::new([hello()]);
    assert!(server.client(whole()).chat(&request()).await.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_content_type_that_is_wrong_misleads_nobody() {
    let stream: String = [HELLO, STOP, "[DONE]"].iter().map(|line| format!("data: {line}\n\n")).collect();
    let late = format!(" \r\n\n{WHOLE}");
    for (kind, body) in [
        ("text/plain", WHOLE),
        ("text/event-stream", WHOLE),
        ("text/event-stream", late.as_str()),
        ("application/json", stream.as_str()),
        ("application/octet-stream", stream.as_str()),
    ] {
        for settings in [settings(), whole()] {
            for size in [1, 7, body.len()] {
                let pieces = body.as_bytes().chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece)));
                let answer = http::Response::builder().status(200).header("content-type", kind);
                let answer = answer.body(stream::iter(pieces.collect::<Vec<_>>()).boxed()).unwrap();
                let server = FakeServer::new([Reply::Answer(answer)]);
                let answer = server.client(settings.clone()).chat(&request()).await.result.unwrap();
                assert_eq!(answer.content.as_deref(), Some("hello"), "{kind} in pieces of {size}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn blank_space_without_end_is_bounded_by_the_answers_size() {
    let blank = stream::repeat_with(|| Ok(Bytes::from(" ".repeat(50_000)))).boxed();
    let failed = failure(settings(), events_by(blank)).await;
    assert!(failed.message.contains("larger than 100000 bytes"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn the_request_carries_the_key_and_the_patience_of_the_settings() {
    let server = FakeServer::new([hello(), json(200, &[], WHOLE)]);
    server.client(settings()).chat(&request()).await.result.unwrap();
    server.client(whole()).chat(&request()).await.result.unwrap();
    let secs = Duration::from_secs;
    let patience = server.with_request(0, |request, timeouts| {
        assert_eq!(request.uri(), "https://llm.example/v1/chat/completions");
        assert_eq!(request.method(), "POST");
        assert_eq!(request.headers()["authorization"], format!("Bearer {KEY}"));
        assert_eq!(request.headers()["accept"], "text/event-stream");
        assert_eq!(request.headers()["content-type"], "application/json");
        timeouts
    });
    assert_eq!(patience, Timeouts { first_byte: secs(30), idle: secs(30) });
    let patience = server.with_request(1, |request, timeouts| {
        assert_eq!(request.headers()["accept"], "application/json");
        timeouts
    });
    assert_eq!(patience, Timeouts { first_byte: secs(600), idle: secs(600) });
}

#[tokio::test(start_paused = true)]
async fn without_a_key_none_is_sent() {
    let server = FakeServer::new([hello()]);
    let endpoint = Endpoint::new(&settings().base_url, "".into()).unwrap();
    let client = LlmClient::new(endpoint, settings(), server.clone(), Arc::new(StillClock));
    client.chat(&request()).await.result.unwrap();
    server.with_request(0, |request, _| assert!(!request.headers().contains_key("authorization")));
}

#[tokio::test(start_paused = true)]
async fn limits_are_observed_whatever_the_answer_is() {
    let headers = [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "6m0s"),
    ];
    let window = Window { limit: Some(60), remaining: Some(0), reset: Some(Duration::from_secs(360)) };
    let server =
        FakeServer::new([json(200, &headers, WHOLE), json(429, &headers, "{}"), json(200, &headers, "{")]);
    let client = server.client(whole());
    for _ in 0..3 {
        assert_eq!(client.chat(&request()).await.observed.requests, Some(window));
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_become_verdicts() {
    let limited =
        failure(settings(), json(429, &[("retry-after", "7"), ("x-request-id", "req-9")], "{}")).await;
    let at = StillClock.now() + Duration::from_secs(7);
    assert_eq!(limited.verdict, Verdict::WaitUntil { at, reason: GateReason::RateLimit });
    assert_eq!((limited.status, limited.request_id.as_deref()), (Some(429), Some("req-9")));
    assert_eq!(limited.operation, CHAT);

    let quota = r#"{"error":{"message":"pay","code":"insufficient_quota"}}"#;
    let at = StillClock.now() + Duration::from_secs(900);
    let quota = failure(settings(), json(429, &[], quota)).await;
    assert_eq!(quota.verdict, Verdict::WaitUntil { at, reason: GateReason::Quota });

    let long = refusal("context_length_exceeded", "messages");
    assert_eq!(failure(settings(), long).await.verdict, Verdict::Shrink);
    let wrong_key = failure(settings(), json(401, &[], "{}")).await;
    assert_eq!(wrong_key.verdict, Verdict::Fatal { why: FatalReason::Credentials });
}

#[tokio::test(start_paused = true)]
async fn a_refusal_whose_words_never_come_is_judged_without_them() {
    let body = stream::pending().boxed();
    let answer = http::Response::builder().status(429).header("retry-after", "7").body(body).unwrap();
    let began = Instant::now();
    let failed = failure(whole(), Reply::Answer(answer)).await;
    assert!(failed.is_rate_limit(), "{failed:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_can_be_moved_between_threads() {
    fn movable<T: Send>(future: T) -> T {
        future
    }
    let client = FakeServer::new([hello()]).client(settings());
    assert!(movable(client.chat(&request())).await.result.is_ok());
}

#[tokio::test]
async fn a_stream_comes_over_real_sockets() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            socket.read_buf(&mut request).await.unwrap();
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        for line in [HELLO, STOP, USAGE, "[DONE]"] {
            let event = format!("data: {line}\n\n");
            socket.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
        }
        socket.write_all(b"0\r\n\r\n").await.unwrap();
        String::from_utf8(request).unwrap()
    };
    let http = steadfast_http::Settings { connect_timeout: Duration::from_secs(5) };
    let transport = Arc::new(steadfast_http::ReqwestTransport::new(&http).unwrap());
    let endpoint = Endpoint::new(&base_url, KEY.into()).unwrap();
    let client = LlmClient::new(endpoint, settings(), transport, Arc::new(StillClock));
    let asked = request();
    let (exchange, sent) = tokio::join!(client.chat(&asked), server);
    assert_eq!(exchange.result.unwrap().content.as_deref(), Some("hello"));
    assert!(sent.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn an_error_within_a_200_is_judged_by_its_code() {
    let whole_error = r#"{"error":{"code":429,"message":"slow down"}}"#;
    let failed = failure(whole(), json(200, &[], whole_error)).await;
    assert!(retries(&failed) && failed.is_rate_limit() && !failed.maybe_charged, "{failed:?}");

    let chunk = r#"{"choices":[],"error":{"code":502,"message":"upstream"}}"#;
    let failed = failure(settings(), sse(&[HELLO, chunk])).await;
    assert!(retries(&failed) && failed.status == Some(502) && failed.unhealthy, "{failed:?}");
    assert!(failed.maybe_charged, "a part of the answer came");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_whole_answer_is_asked_for_again_and_may_be_charged() {
    let cut_off = || Err(TransportError::CutOff("gone".into()));
    let replies = [
        json(200, &[], "{\"choices\":[{\"mess"),
        json(200, &[], r#"{"choices":[]}"#),
        json(200, &[], ""),
        sse(&[HELLO]),
        sse(&[HELLO, "{\"choices\""]),
        sse(&["[DONE]"]),
        events(vec![Ok(Bytes::from(format!("data: {HELLO}\n\n"))), cut_off()]),
        events(vec![Ok(Bytes::from("x".repeat(200_000)))]),
        events(vec![
            Ok(Bytes::from(format!("data: {HELLO}\n\n"))),
            Err(TransportError::Timeout { what: "further data", after: Duration::from_secs(30) }),
        ]),
    ];
    for (number, reply) in replies.into_iter().enumerate() {
        let failed = failure(settings(), reply).await;
        assert!(retries(&failed) && failed.maybe_charged && failed.unhealthy, "{number}: {failed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_fails_is_judged_by_its_fault() {
    let refused = failure(settings(), Reply::Broken(TransportError::Connect("refused".into()))).await;
    assert!(retries(&refused) && !refused.maybe_charged, "{refused:?}");
    let lost = failure(settings(), Reply::Broken(TransportError::Lost("reset".into()))).await;
    assert!(retries(&lost) && lost.maybe_charged, "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn every_wait_has_the_answers_time_as_its_bound() {
    let trickle = stream::unfold(tokio::time::interval(Duration::from_secs(20)), |mut ticks| async move {
        ticks.tick().await;
        Some((Ok(Bytes::from(format!("data: {HELLO}\n\n"))), ticks))
    });
    for reply in [Reply::Never, events_by(stream::pending().boxed()), events_by(trickle.boxed())] {
        let began = Instant::now();
        let failed = failure(settings(), reply).await;
        assert!(retries(&failed) && failed.maybe_charged, "{failed:?}");
        assert!(failed.message.contains("whole answer"), "{failed}");
        assert_eq!(began.elapsed(), Duration::from_secs(600));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_other_fields_is_asked_again_at_once_and_remembered() {
    let settings = Settings { temperature: Temperature::Of(0.2), ..settings() };
    let server = FakeServer::new([
        refusal("unsupported_parameter", "max_tokens"),
        refusal("unsupported_value", "temperature"),
        refusal("unknown_parameter", "stream_options"),
        hello(),
        hello(),
    ]);
    let client = server.client(settings);
    let began = Instant::now();
    client.chat(&request()).await.result.unwrap();
    client.chat(&request()).await.result.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    let bodies = server.bodies();
    let has = |body: &Value| {
        ["max_tokens", "max_completion_tokens", "temperature", "stream_options"]
            .map(|key| body.get(key).is_some())
    };
    let sent: Vec<_> = bodies.iter().map(has).collect();
    assert_eq!(
        sent,
        [
            [true, false, true, true],
            [false, true, true, true],
            [false, true, false, true],
            [false, true, false, false],
            [false, true, false, false],
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_unspecific_refusal_is_repeated_once_without_stream_options() {
    let unspecific = || json(400, &[], r#"{"error":{"message":"extra fields not permitted"}}"#);
    let server = FakeServer::new([unspecific(), hello(), hello()]);
    let client = server.client(settings());
    client.chat(&request()).await.result.unwrap();
    client.chat(&request()).await.result.unwrap();
    let options: Vec<_> = server.bodies().iter().map(|body| body.get("stream_options").is_some()).collect();
    assert_eq!(options, [true, false, false], "what helped is remembered");

    let server = FakeServer::new([unspecific(), unspecific(), hello()]);
    let client = server.client(settings());
    let failed = client.chat(&request()).await.result.unwrap_err();
    assert_eq!(failed.verdict, Verdict::Fatal { why: FatalReason::Rejected });
    client.chat(&request()).await.result.unwrap();
    let options: Vec<_> = server.bodies().iter().map(|body| body.get("stream_options").is_some()).collect();
    assert_eq!(options, [true, false, true], "what did not help is not");
}

#[tokio::test(start_paused = true)]
async fn a_field_that_the_operator_chose_is_not_changed() {
    let settings = Settings { max_tokens_field: MaxTokensField::MaxTokens, ..settings() };
    let failed = failure(settings, refusal("unsupported_parameter", "max_tokens")).await;
    assert_eq!(failed.verdict, Verdict::Fatal { why: FatalReason::Rejected });
}

#[tokio::test(start_paused = true)]
async fn every_call_has_an_id_of_its_own_in_the_whole_conversation() {
    let call = |id: Value| json!({ "id": id, "function": { "name": "read_file", "arguments": "{}" } });
    let calls = [
        call(json!("old")),
        call(json!("new")),
        call(json!("new")),
        call(json!(null)),
        call(json!("call_3_1")),
    ];
    let body = json!({ "choices": [{ "message": { "tool_calls": calls }, "finish_reason": "tool_calls" }] });
    let server = FakeServer::new([json(200, &[], &body.to_string())]);
    let mut request = request();
    let old = ToolCall { id: "old".into(), name: "read_file".into(), arguments: "{}".into() };
    request.messages.push(Message::Assistant { content: None, tool_calls: vec![old] });
    let answer = server.client(whole()).chat(&request).await.result.unwrap();
    let ids: Vec<_> = answer.tool_calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["call_3_0", "new", "call_3_2", "call_3_3", "call_3_1"]);
}

#[tokio::test(start_paused = true)]
async fn tools_in_text_are_asked_for_and_read() {
    let settings = Settings { tools: ToolsMode::Json, ..whole() };
    let text = "Sure:\n```json\n{\"reasoning\":\"why\",\"finished\":true,\"finalAnswer\":\"done\"}\n```";
    let body = json!({ "choices": [{ "message": { "content": text }, "finish_reason": "stop" }] });
    let server = FakeServer::new([json(200, &[], &body.to_string())]);
    let answer = server.client(settings).chat(&request()).await.result.unwrap();
    let finish =
        ToolCall { id: "call_2_0".into(), name: "finish".into(), arguments: r#"{"summary":"done"}"#.into() };
    assert_eq!((answer.content.as_deref(), answer.tool_calls), (Some("why"), vec![finish]));
    let sent = &server.bodies()[0];
    assert_eq!(sent.get("tools"), None);
    assert!(sent["messages"][0]["content"].as_str().unwrap().contains("read_file"));
}

#[tokio::test(start_paused = true)]
async fn reasoning_is_kept() {
    let body = r#"{"choices":[{"message":{"content":"x","reasoning_content":"hm"},"finish_reason":"stop"}]}"#;
    let server = FakeServer::new([json(200, &[], body)]);
    let answer = server.client(whole()).chat(&request()).await.result.unwrap();
    assert_eq!(answer.reasoning.as_deref(), Some("hm"));
    assert_eq!(answer.model, "model-a", "the one that was asked, where the server names none");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_server_echoes_is_in_no_failure() {
    let echo = json!({ "error": { "message": format!("{} {KEY} is wrong", "x".repeat(480)), "code": 401 } });
    for status in [200, 401] {
        let failed = failure(whole(), json(status, &[], &echo.to_string())).await;
        assert_eq!(failed.verdict, Verdict::Fatal { why: FatalReason::Credentials });
        assert!(!failed.message.contains(&KEY[..6]), "{failed}");
    }
}
