//! A GitHub in memory: answers by a closure, remembers what it was asked and when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::StreamExt;
use secrecy::SecretString;
use steadfast_core::time::{Clock, Timestamp};
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use tokio::time::Instant;

use crate::{AccessToken, Credentials, GithubClient, Repo, Settings};

pub(super) const PKCS1: &str = include_str!("keys/app.pkcs1.pem");
pub(super) const PKCS8: &str = include_str!("keys/app.pkcs8.pem");
pub(super) const PUBLIC: &str = include_str!("keys/app.public.pem");

/// Where time begins in every test: 2025-10-09T08:53:20Z.
pub(super) const BEGIN_SECS: i64 = 1_760_000_000;

/// What is asked, as the server sees it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Since the test began.
    pub at: Duration,
    pub method: String,
    pub uri: String,
    pub headers: http::HeaderMap,
    pub body: serde_json::Value,
}

impl Asked {
    pub(super) fn bearer(&self) -> &str {
        self.headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap()
    }

    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.uri.strip_prefix("https://api.test/base").unwrap_or(&self.uri))
    }
}

/// What is answered.
#[derive(Clone)]
pub(super) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<Result<Bytes, TransportError>>,
    pub delay: Duration,
    pub error: Option<TransportError>,
    /// The body's end comes a day late.
    pub stalls: bool,
}

pub(super) fn reply(status: u16, body: impl Into<String>) -> Reply {
    Reply {
        status,
        headers: Vec::new(),
        body: vec![Ok(body.into().into())],
        delay: Duration::ZERO,
        error: None,
        stalls: false,
    }
}

pub(super) fn failing(error: TransportError) -> Reply {
    Reply { error: Some(error), ..reply(200, "") }
}

impl Reply {
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn after(self, delay: Duration) -> Self {
        Reply { delay, ..self }
    }
}

type Handler = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;

pub(super) struct Fake {
    begin: Instant,
    handler: Handler,
    asked: Mutex<Vec<Asked>>,
    in_flight: Mutex<(usize, usize)>,
}

impl Fake {
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }

    /// Most requests that were in flight at once.
    pub(super) fn most_at_once(&self) -> usize {
        self.in_flight.lock().unwrap().1
    }
}

struct InFlight<'a>(&'a Fake);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.lock().unwrap().0 -= 1;
    }
}

#[async_trait]
impl Transport for Fake {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        _: Timeouts,
    ) -> Result<http::Response<Body>, TransportError> {
        let asked = Asked {
            at: self.begin.elapsed(),
            method: request.method().to_string(),
            uri: request.uri().to_string(),
            headers: request.headers().clone(),
            body: serde_json::from_slice(request.body()).unwrap_or_default(),
        };
        self.asked.lock().unwrap().push(asked.clone());
        {
            let mut in_flight = self.in_flight.lock().unwrap();
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        let _in_flight = InFlight(self);
        let reply = (self.handler)(&asked);
        tokio::time::sleep(reply.delay).await;
        if let Some(error) = reply.error {
            return Err(error);
        }
        let pieces = futures_util::stream::iter(reply.body);
        let late = if reply.stalls { Duration::from_secs(24 * 3600) } else { Duration::ZERO };
        let end = futures_util::stream::once(async move {
            tokio::time::sleep(late).await;
            Ok(Bytes::new())
        });
        let body = pieces.chain(end).boxed();
        let mut response = http::Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(reply.status).unwrap();
        for (name, value) in reply.headers {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        Ok(response)
    }
}

/// Wall time that goes with tokio's clock.
pub(super) struct TestClock(Instant);

impl TestClock {
    pub(super) fn begin() -> Self {
        TestClock(Instant::now())
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(BEGIN_SECS) + self.0.elapsed()
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        api_url: "https://api.test/base".parse().unwrap(),
        web_url: "https://web.test".parse().unwrap(),
        app_id: "42".into(),
        user_agent: "steadfast".into(),
        api_version: "2022-11-28".into(),
        timeout: Duration::from_secs(10),
        write_spacing: Duration::from_secs(1),
        shown_after: Duration::from_secs(5),
        max_server_wait: Duration::from_secs(3600),
        max_body_bytes: ByteSize::mb(1),
        token_margin: Duration::from_secs(300),
        max_pages: 30,
    }
}

pub(super) fn credentials() -> Credentials {
    Credentials {
        private_key: Some(PKCS1.to_owned().into()),
        personal_token: Some("ghp_personal0123456789".to_owned().into()),
    }
}

pub(super) fn client_with(
    settings: Settings,
    handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> (Arc<GithubClient>, Arc<Fake>) {
    let begin = Instant::now();
    let fake = Arc::new(Fake {
        begin,
        handler: Box::new(handler),
        asked: Mutex::default(),
        in_flight: Mutex::default(),
    });
    let client =
        GithubClient::new(settings, credentials(), fake.clone(), Arc::new(TestClock(begin))).unwrap();
    (Arc::new(client), fake)
}

pub(super) fn client(
    handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> (Arc<GithubClient>, Arc<Fake>) {
    client_with(settings(), handler)
}

pub(super) fn repo() -> Repo {
    Repo { owner: "o".into(), name: "r".into() }
}

pub(super) fn token() -> AccessToken {
    AccessToken {
        secret: SecretString::from("ghs_installation0123456789"),
        expires_at: Some(Timestamp::from_secs(BEGIN_SECS + 3600)),
    }
}

pub(super) fn comment(id: u64, login: &str, body: &str) -> serde_json::Value {
    serde_json::json!({
        "id": id, "html_url": format!("https://web.test/o/r/issues/1#issuecomment-{id}"),
        "body": body, "user": {"login": login},
    })
}
