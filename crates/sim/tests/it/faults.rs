//! Faults hit whom they are aimed at, in the process and over real sockets.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use steadfast_http::{ReqwestTransport, Settings, Timeouts, Transport, TransportError};
use steadfast_sim::{Fault, FaultRule, Operation, ServeHandle, Server, Target, Weather, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Answer, TIMEOUTS, chat, chat_request, github, hello, installation_token, try_send, try_send_by, world,
};

const CHAT: Target = Target::Operation(Operation::Chat);

fn next(fault: Fault) -> FaultRule {
    FaultRule::next(CHAT, 1, fault)
}

#[tokio::test(start_paused = true)]
async fn each_form_of_refusal_looks_as_it_should() {
    let world = world(|_| {});
    for (fault, status, header, needle) in [
        (Fault::rate_limited_retry_after(7), 429, Some(("retry-after", "7")), "rate_limit_exceeded"),
        (Fault::rate_limited_retry_after_ms(1500), 429, Some(("retry-after-ms", "1500")), "rate_limit"),
        (Fault::rate_limited_reset(12), 429, Some(("x-ratelimit-reset-requests", "12s")), "rate_limit"),
        (Fault::rate_limited_bare(), 429, None, "rate_limit_exceeded"),
        (Fault::insufficient_quota(), 429, None, "insufficient_quota"),
        (Fault::context_length_exceeded(), 400, None, "context_length_exceeded"),
        (Fault::html_502(), 502, Some(("content-type", "text/html")), "<html>"),
        (Fault::unavailable(3), 503, Some(("retry-after", "3")), "overloaded"),
        (Fault::secondary_limit(None), 403, None, "secondary rate limit"),
        (Fault::forbidden(), 403, None, "not accessible"),
        (Fault::unauthorized(), 401, None, "Bad credentials"),
        (Fault::not_found(), 404, None, "Not Found"),
        (Fault::error_in_200(503), 200, None, "\"code\":503"),
        (Fault::error_in_stream(429), 200, Some(("content-type", "text/event-stream")), "\"code\":429"),
        (
            Fault::primary_limit(Duration::from_secs(90)),
            403,
            Some(("x-ratelimit-remaining", "0")),
            "API rate limit",
        ),
    ] {
        world.fault(next(fault.clone()));
        let answer = chat(&world, &hello()).await;
        assert_eq!(answer.status, status, "{fault:?}");
        assert!(answer.text().contains(needle), "{fault:?}: {}", answer.text());
        match header {
            Some((name, value)) => assert_eq!(answer.header(name), Some(value), "{fault:?}"),
            None => assert_eq!(answer.header("retry-after"), None, "{fault:?}"),
        }
    }
    assert_eq!(chat(&world, &hello()).await.status, 200);
    assert_eq!(world.records().faults.len(), 15);
}

#[tokio::test(start_paused = true)]
async fn in_the_process_faults_are_transport_errors() {
    let world = world(|_| {});
    let failure = |fault: Fault| {
        world.fault(next(fault));
        let world = Arc::clone(&world);
        async move { try_send(&world, chat_request(&hello())).await.unwrap_err() }
    };
    let before = tokio::time::Instant::now();
    assert_eq!(
        failure(Fault::Hang).await,
        TransportError::Timeout { what: "answer", after: TIMEOUTS.first_byte }
    );
    assert_eq!(before.elapsed(), TIMEOUTS.first_byte);
    assert!(matches!(failure(Fault::Reset).await, TransportError::Lost(_)));
    assert!(matches!(failure(Fault::CutBody { after: 50 }).await, TransportError::CutOff(_)));
    let before = tokio::time::Instant::now();
    assert_eq!(
        failure(Fault::SilentAfter { after: 50 }).await,
        TransportError::Timeout { what: "further data", after: TIMEOUTS.idle }
    );
    assert_eq!(before.elapsed(), TIMEOUTS.idle);
    let records = world.records();
    assert_eq!(records.chats.len(), 2, "a hang and a reset do no work");
    assert!(records.chats.iter().all(|chat| !chat.delivered));
    assert_eq!(records.paid_twice(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_but_lost_is_done() {
    let world = world(|_| {});
    let token = installation_token(&world, Value::Null).await;
    world.fault(FaultRule::next(Target::Operation(Operation::CommentCreate), 1, Fault::DoneButLost));
    let path = "/repos/acme/shell-tools/issues/1/comments";
    let request = crate::support::github_request("POST", path, &token, &json!({"body": "once"}));
    assert!(matches!(try_send(&world, request).await, Err(TransportError::Lost(_))));
    let listed = github(&world, "GET", path, &token, Value::Null).await;
    assert_eq!(listed.json()[0]["body"], "once");
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_when_the_client_gives_up() {
    let world = world(|config| config.latency.github = Duration::from_secs(20));
    let token = installation_token_slowly(&world).await;
    let path = "/repos/acme/shell-tools/issues/1/comments";
    let request = crate::support::github_request("POST", path, &token, &json!({"body": "late"}));
    assert!(matches!(try_send(&world, request).await, Err(TransportError::Timeout { .. })));
    assert!(world.records().comments.is_empty());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(world.records().comments[0].body, "late");
}

async fn installation_token_slowly(world: &Arc<World>) -> String {
    installation_token(world, Value::Null).await
}

#[tokio::test(start_paused = true)]
async fn a_rule_counts_and_keeps_to_its_time() {
    let world = world(|_| {});
    world.fault(FaultRule::next(Target::Server(Server::Llm), 2, Fault::rate_limited_bare()).after(1));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(chat(&world, &hello()).await.status.as_u16());
    }
    assert_eq!(seen, [200, 429, 429, 200]);
    let (from, until) = (Duration::from_secs(10), Duration::from_secs(20));
    world.fault(FaultRule::between(CHAT, from, until, Fault::html_502()));
    assert_eq!(chat(&world, &hello()).await.status, 200);
    tokio::time::advance(from).await;
    assert_eq!(chat(&world, &hello()).await.status, 502);
    tokio::time::advance(from).await;
    assert_eq!(chat(&world, &hello()).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn weather_is_the_same_for_the_same_seed() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let world = world(|config| config.weather = Weather { llm: 0.5, github: 0.0, git: 0.0 });
        let mut seen = Vec::new();
        for _ in 0..40 {
            let answer = try_send(&world, chat_request(&hello())).await;
            seen.push(format!("{:?}", answer.map(|answer| answer.status)));
        }
        runs.push(seen);
    }
    assert_eq!(runs[0], runs[1]);
    let faulty = runs[0].iter().filter(|one| *one != "Ok(200)").count();
    assert!((8..=32).contains(&faulty), "{faulty}");
}

async fn served(world: &Arc<World>) -> ServeHandle {
    world.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap()
}

/// Sends a chat over a socket and reads until the connection ends.
async fn over_socket(served: &ServeHandle) -> (String, Option<ErrorKind>) {
    let body = hello().to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer k\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(served.addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).await.err().map(|error| error.kind());
    (String::from_utf8_lossy(&received).into_owned(), error)
}

#[tokio::test]
async fn over_sockets_a_reset_resets_and_a_cut_cuts() {
    let world = world(|_| {});
    let served = served(&world).await;
    let (answer, error) = over_socket(&served).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && error.is_none(), "{answer}");

    world.fault(next(Fault::Reset));
    assert_eq!(over_socket(&served).await, (String::new(), Some(ErrorKind::ConnectionReset)));

    world.fault(next(Fault::CutBody { after: 80 }));
    let (answer, _) = over_socket(&served).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\"object\"") && !answer.ends_with("0\r\n\r\n"), "{answer}");

    world.fault(next(Fault::html_502()));
    assert!(over_socket(&served).await.0.starts_with("HTTP/1.1 502"));
    served.shutdown().await;
}

/// What a client sees, without the wording.
fn outcome(result: Result<Answer, TransportError>) -> String {
    match result {
        Ok(answer) => answer.status.to_string(),
        Err(TransportError::Connect(_)) => "no connection".to_owned(),
        Err(TransportError::Lost(_)) => "lost".to_owned(),
        Err(TransportError::Timeout { what, .. }) => format!("no {what}"),
        Err(TransportError::CutOff(_)) => "cut off".to_owned(),
        Err(TransportError::TooLarge { .. }) => "too large".to_owned(),
        Err(TransportError::Unusable(_)) => "unusable".to_owned(),
    }
}

#[tokio::test]
async fn both_transports_show_a_fault_alike() {
    let world = world(|_| {});
    let served = served(&world).await;
    let settings = Settings { connect_timeout: Duration::from_secs(30) };
    let sockets = ReqwestTransport::new(&settings).unwrap();
    let in_process = world.transport();
    let patient = TIMEOUTS;
    let brief = Duration::from_millis(200);
    let mut streamed = hello();
    streamed["stream"] = json!(true);
    for (fault, body, timeouts, expected) in [
        (Fault::Hang, hello(), Timeouts { first_byte: brief, ..patient }, "no answer"),
        (Fault::Reset, hello(), patient, "lost"),
        (Fault::DoneButLost, hello(), patient, "lost"),
        (Fault::CutBody { after: 60 }, hello(), patient, "cut off"),
        (Fault::CutBody { after: 700 }, streamed.clone(), patient, "cut off"),
        (Fault::SilentAfter { after: 60 }, hello(), Timeouts { idle: brief, ..patient }, "no further data"),
        (Fault::SlowStream { pause_ms: 1, piece: 50 }, streamed, patient, "200 OK"),
        (Fault::html_502(), hello(), patient, "502 Bad Gateway"),
    ] {
        for (name, transport) in
            [("in the process", &*in_process), ("over sockets", &sockets as &dyn Transport)]
        {
            world.fault(next(fault.clone()));
            let mut request = chat_request(&body);
            *request.uri_mut() = format!("{}/v1/chat/completions", served.url()).parse().unwrap();
            let seen = outcome(try_send_by(transport, request, timeouts).await);
            assert_eq!(seen, expected, "{fault:?} {name}");
        }
    }
    served.shutdown().await;
}

#[tokio::test]
async fn over_sockets_a_hang_hangs_until_the_server_ends() {
    let world = world(|_| {});
    let served = served(&world).await;
    world.fault(next(Fault::Hang));
    let addr = served.addr();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let body = hello().to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nauthorization: Bearer k\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let arrived = async {
        while world.records().faults.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), arrived).await.unwrap();
    let mut byte = [0];
    served.shutdown().await;
    assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0, "an answer came");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn faults_and_records_are_reachable_over_http() {
    let world = world(|_| {});
    let rule = json!({"target": {"operation": "chat"}, "times": 1, "fault": {"cut_body": {"after": 3}}});
    let post = http::Request::post("http://sim/_sim/faults").body(rule.to_string().into()).unwrap();
    assert_eq!(try_send(&world, post).await.unwrap().status, 204);
    let bad = http::Request::post("http://sim/_sim/faults").body("{\"fault\":\"hang\"}".into()).unwrap();
    assert_eq!(try_send(&world, bad).await.unwrap().status, 400);
    assert!(try_send(&world, chat_request(&hello())).await.is_err());
    let get = http::Request::get("http://sim/_sim/records").body(bytes::Bytes::new()).unwrap();
    let records = try_send(&world, get).await.unwrap().json();
    assert_eq!(records["faults"][0]["fault"], "cut after 3 bytes");
    assert_eq!(records["requests"]["chat"], 1);
    assert_eq!(records["chats"][0]["delivered"], false);
}

#[tokio::test]
async fn the_manuals_examples_are_accepted() {
    let world = world(|_| {});
    let manual = include_str!("../../README.md");
    let posted = |page: &'static str, body: String| {
        let world = Arc::clone(&world);
        async move {
            let request = http::Request::post(format!("http://sim/_sim/{page}")).body(body.clone().into());
            let answer = try_send(&world, request.unwrap()).await.unwrap();
            assert_eq!(answer.status, 204, "{body}: {}", answer.text());
        }
    };
    let examples: Vec<&str> =
        manual.split("-d '").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        posted("faults", example.to_owned()).await;
    }
    for (page, start) in [("weather", "`{\"llm\""), ("scripts", "`{\"whose\"")] {
        let at = manual.find(start).unwrap() + 1;
        posted(page, manual[at..].split('`').next().unwrap().to_owned()).await;
    }
}
