//! The transport against servers that misbehave on real sockets.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::{read_capped, read_prefix};

/// What a server does behind the bytes that it answers with.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Hold,
    /// Serves the next request on the same connection.
    Serve,
}

/// A server that reads one request after another and answers each with the same bytes. Its task
/// gives the requests that it read on one connection, when that ends.
async fn server(answer: &'static str, then: Then) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut requests = Vec::new();
        while let Some(request) = read_request(&mut socket).await {
            requests.push(request);
            socket.write_all(answer.as_bytes()).await.unwrap();
            match then {
                Then::Close => break,
                Then::Hold => std::future::pending().await,
                Then::Serve => {}
            }
        }
        requests
    });
    (address, task)
}

/// A request with its body; `None` where the connection ended.
async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut request = String::new();
    loop {
        if let Some((head, body)) = request.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(request);
            }
        }
        let mut piece = [0; 4096];
        match socket.read(&mut piece).await.unwrap() {
            0 => return None,
            n => request.push_str(std::str::from_utf8(&piece[..n]).unwrap()),
        }
    }
}

fn transport() -> ReqwestTransport {
    ReqwestTransport::new(&Settings { connect_timeout: Duration::from_secs(5) }).unwrap()
}

/// Long enough for a busy machine.
const PATIENT: Timeouts = Timeouts { first_byte: Duration::from_secs(60), idle: Duration::from_secs(60) };
const SHORT: Duration = Duration::from_millis(30);

fn get(url: &str) -> http::Request<Bytes> {
    http::Request::get(url).body(Bytes::new()).unwrap()
}

async fn fetch(address: SocketAddr, timeouts: Timeouts) -> Result<http::Response<Body>, TransportError> {
    transport().send(get(&format!("http://{address}/path")), timeouts).await
}

async fn body_of(address: SocketAddr, timeouts: Timeouts) -> Result<Bytes, TransportError> {
    let answer = fetch(address, timeouts).await.unwrap();
    assert_eq!(answer.status(), 200);
    read_capped(answer.into_body(), 1000).await
}

#[tokio::test]
async fn an_exchange_carries_everything_both_ways() {
    let answer = "HTTP/1.1 418 Teapot\r\nretry-after: 3\r\ncontent-length: 5\r\n\r\nhello";
    let (address, server) = server(answer, Then::Close).await;
    let request = http::Request::post(format!("http://{address}/v1/chat?x=1"))
        .header("authorization", "Bearer key")
        .body(Bytes::from("question"))
        .unwrap();
    let answer = transport().send(request, PATIENT).await.unwrap();
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.headers()["retry-after"], "3");
    assert_eq!(read_capped(answer.into_body(), 1000).await, Ok(Bytes::from("hello")));
    let request = server.await.unwrap().remove(0);
    assert!(request.starts_with("POST /v1/chat?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer key\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\nquestion"), "{request}");
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (address, server) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Serve).await;
    let transport = transport();
    for _ in 0..3 {
        let answer = transport.send(get(&format!("http://{address}/")), PATIENT).await.unwrap();
        assert_eq!(read_capped(answer.into_body(), 10).await, Ok(Bytes::from("ok")));
    }
    drop(transport);
    assert_eq!(server.await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_refused_connection_is_known_to_have_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = fetch(address, PATIENT).await.err();
    assert!(matches!(error, Some(TransportError::Connect(_))), "{error:?}");
}

#[tokio::test]
async fn a_failed_handshake_is_no_connection() {
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", plain.local_addr().unwrap());
    let answer_in_plain = async {
        let (mut socket, _) = plain.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let (error, ()) =
        tokio::join!(async { transport().send(get(&url), PATIENT).await.err() }, answer_in_plain);
    assert!(matches!(error, Some(TransportError::Connect(_))), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_closes_before_an_answer_is_lost() {
    for half_an_answer in ["", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let (address, _server) = server(half_an_answer, Then::Close).await;
        let error = fetch(address, PATIENT).await.err();
        assert!(matches!(error, Some(TransportError::Lost(_))), "{half_an_answer:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_before_an_answer_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reset = async {
        // Closed with the request unread, which the kernel tells the other side by a reset.
        let (socket, _) = listener.accept().await.unwrap();
        socket.readable().await.unwrap();
    };
    let (answer, ()) = tokio::join!(fetch(address, PATIENT), reset);
    let error = answer.err();
    assert!(matches!(error, Some(TransportError::Lost(_))), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_lost() {
    let (address, _server) = server("220 mail.example ready\r\n\r\n", Then::Hold).await;
    let error = fetch(address, PATIENT).await.err();
    assert!(matches!(error, Some(TransportError::Lost(_))), "{error:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_runs_out_of_time() {
    let (address, _server) = server("", Then::Hold).await;
    let error = fetch(address, Timeouts { first_byte: SHORT, ..PATIENT }).await.err();
    assert_eq!(error, Some(TransportError::Timeout { what: "answer", after: SHORT }));
}

#[tokio::test]
async fn a_body_that_stops_coming_runs_out_of_time() {
    let (address, _server) = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhell", Then::Hold).await;
    let result = body_of(address, Timeouts { idle: SHORT, ..PATIENT }).await;
    assert_eq!(result, Err(TransportError::Timeout { what: "further data", after: SHORT }));
}

#[tokio::test]
async fn a_body_that_ends_early_is_cut_off_and_what_came_can_be_read() {
    let truncated = [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhell\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhell",
    ];
    for answer in truncated {
        let (address, _server) = server(answer, Then::Close).await;
        let result = body_of(address, PATIENT).await;
        assert!(matches!(result, Err(TransportError::CutOff(_))), "{answer:?}: {result:?}");

        let (address, _server) = server(answer, Then::Close).await;
        let answer = fetch(address, PATIENT).await.unwrap();
        assert_eq!(read_prefix(answer.into_body(), 100).await, Bytes::from("hell"));
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let (address, _server) = server(redirect, Then::Close).await;
    assert_eq!(fetch(address, PATIENT).await.unwrap().status(), 302);
}

#[tokio::test]
async fn a_request_without_a_host_cannot_be_sent() {
    let error = transport().send(get("/just/a/path"), PATIENT).await.err();
    assert!(matches!(error, Some(TransportError::Unusable(_))), "{error:?}");
}

#[tokio::test]
async fn no_error_tells_what_the_address_holds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (cut, _server) = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhell", Then::Close).await;
    let mut errors = Vec::new();
    for host in [address, cut] {
        let url = format!("http://someone:hunter2@{host}/?token=hunter2");
        match transport().send(get(&url), PATIENT).await {
            Ok(answer) => errors.extend(read_capped(answer.into_body(), 100).await.err()),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(errors.len(), 2);
    for error in errors {
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_whole_as_long_as_it_keeps_coming() {
    let ticks = tokio::time::interval(Duration::from_secs(20));
    let slow = stream::unfold((ticks, 0), |(mut ticks, count)| async move {
        ticks.tick().await;
        (count < 10).then(|| (Ok(Bytes::from("x")), (ticks, count + 1)))
    });
    let body = with_idle_timeout(slow.boxed(), Duration::from_secs(30));
    assert_eq!(read_capped(body, 100).await, Ok(Bytes::from("xxxxxxxxxx")));
}

#[tokio::test(start_paused = true)]
async fn a_body_ends_with_its_first_error() {
    let started = tokio::time::Instant::now();
    let silent = stream::iter([Ok(Bytes::from("x"))]).chain(stream::pending());
    let pieces: Vec<_> = with_idle_timeout(silent.boxed(), Duration::from_secs(30)).collect().await;
    let timeout = TransportError::Timeout { what: "further data", after: Duration::from_secs(30) };
    assert_eq!(pieces, [Ok(Bytes::from("x")), Err(timeout)]);
    assert_eq!(started.elapsed(), Duration::from_secs(30));
}
