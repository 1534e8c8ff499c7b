//! What this crate's tests share: settings, a server made of prepared answers, a still clock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use secrecy::SecretString;
use serde_json::Value;
use steadfast_core::chat::{Message, ModelRequest, ToolSpec};
use steadfast_core::time::{Clock, Timestamp};
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use url::Url;

use crate::{Endpoint, LlmClient, MaxTokensField, Price, Settings, Temperature, ToolsMode};

pub(crate) const KEY: &str = "sesame-open-0123456789";

pub(crate) fn settings() -> Settings {
    Settings {
        base_url: base_url(),
        model: "model-a".into(),
        stream: true,
        tools: ToolsMode::Native,
        max_tokens_field: MaxTokensField::Auto,
        max_answer_tokens: 1000,
        temperature: Temperature::Default,
        timeout: Duration::from_secs(30),
        answer_timeout: Duration::from_secs(600),
        max_answer_bytes: ByteSize::kb(100),
        quota_recheck: Duration::from_secs(900),
        max_server_wait: Duration::from_secs(3600),
        spacing: Duration::from_millis(100),
        context_window: 128_000,
        price: Price { prompt: 1.0, cached: 0.1, completion: 4.0 },
    }
}

fn base_url() -> Url {
    Url::parse("https://llm.example/v1").unwrap()
}

pub(crate) struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_760_000_000)
    }
}

/// What the fake server does with one request.
pub(crate) enum Reply {
    Answer(Response<Body>),
    Broken(TransportError),
    Never,
}

/// Answers each request with the next prepared reply, and keeps what it was sent.
#[derive(Default)]
pub(crate) struct FakeServer {
    replies: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<(Request<Bytes>, Timeouts)>>,
}

impl FakeServer {
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Arc<Self> {
        let replies = Mutex::new(replies.into_iter().collect());
        Arc::new(FakeServer { replies, requests: Mutex::default() })
    }

    pub fn client(self: &Arc<Self>, settings: Settings) -> LlmClient {
        let endpoint = Endpoint::new(&settings.base_url, SecretString::from(KEY)).unwrap();
        LlmClient::new(endpoint, settings, self.clone(), Arc::new(StillClock))
    }

    /// The bodies of all requests so far.
    pub fn bodies(&self) -> Vec<Value> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|(request, _)| serde_json::from_slice(request.body()).unwrap()).collect()
    }

    pub fn with_request<T>(&self, number: usize, look: impl Fn(&Request<Bytes>, Timeouts) -> T) -> T {
        let requests = self.requests.lock().unwrap();
        look(&requests[number].0, requests[number].1)
    }
}

#[async_trait]
impl Transport for FakeServer {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<Response<Body>, TransportError> {
        self.requests.lock().unwrap().push((request, timeouts));
        let reply = self.replies.lock().unwrap().pop_front().expect("more requests than prepared replies");
        match reply {
            Reply::Answer(answer) => Ok(answer),
            Reply::Broken(error) => Err(error),
            Reply::Never => std::future::pending().await,
        }
    }
}

pub(crate) fn body_of(pieces: Vec<Result<Bytes, TransportError>>) -> Body {
    stream::iter(pieces).boxed()
}

/// A whole answer in JSON.
pub(crate) fn json(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut answer = Response::builder().status(status).header("content-type", "application/json");
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    Reply::Answer(answer.body(body_of(vec![Ok(Bytes::copy_from_slice(body.as_bytes()))])).unwrap())
}

/// A stream of events, made of these pieces.
pub(crate) fn events(pieces: Vec<Result<Bytes, TransportError>>) -> Reply {
    events_by(body_of(pieces))
}

pub(crate) fn events_by(body: Body) -> Reply {
    let answer = Response::builder().status(200).header("content-type", "text/event-stream; charset=utf-8");
    Reply::Answer(answer.header("x-request-id", "req-1").body(body).unwrap())
}

/// A stream of these data lines, in one piece.
pub(crate) fn sse(lines: &[&str]) -> Reply {
    let text: String = lines.iter().map(|line| format!("data: {line}\n\n")).collect();
    events(vec![Ok(Bytes::from(text))])
}

pub(crate) fn request() -> ModelRequest {
    ModelRequest {
        messages: vec![Message::System { content: "rules".into() }, Message::User { content: "task".into() }],
        tools: tools().into(),
        max_answer_tokens: 1000,
    }
}

pub(crate) fn tools() -> Vec<ToolSpec> {
    ["read_file", "finish"].map(tool).to_vec()
}

fn tool(name: &str) -> ToolSpec {
    let parameters = serde_json::json!({ "type": "object", "properties": { "path": { "type": "string" } } });
    ToolSpec { name: name.into(), description: format!("what {name} does"), parameters }
}
