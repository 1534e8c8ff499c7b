//! [`Transport`] over real sockets, by reqwest: HTTP/1.1, rustls, no redirects, no retries.

use std::error::Error as _;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Body, Timeouts, Transport, TransportError};

/// How connections are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Longest time for one connection to be made, name lookup and TLS handshake included. Where it
    /// is shorter than the time for a first byte, a connection that hangs is known to have sent
    /// nothing. Default 10s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
}

/// Why no transport could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client ({0}): check the system's certificates and the proxy variables")]
pub struct UnusableTransport(String);

/// See the module. One for the whole process: it holds the pool of connections.
#[derive(Clone, Debug)]
pub struct ReqwestTransport {
    /// By the system's proxy, where there is one.
    client: reqwest::Client,
    /// For this machine's own servers: no proxy can reach them in our place.
    direct: reqwest::Client,
}

/// Idle connections are kept for less than what common load balancers allow (60 s), so that a
/// request seldom goes out on one that is being closed.
const POOL_IDLE: Duration = Duration::from_secs(50);
const POOL_MAX_IDLE: usize = 64;
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

impl ReqwestTransport {
    /// Sets up the client; needs no network.
    pub fn new(settings: &Settings) -> Result<Self, UnusableTransport> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Fails only where another thread was first: then there is one, which is all we want.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = builder(settings).build();
        let direct = builder(settings).no_proxy().build();
        let unusable = |error| UnusableTransport(describe(error));
        Ok(ReqwestTransport { client: client.map_err(unusable)?, direct: direct.map_err(unusable)? })
    }

    fn client_for(&self, url: &Url) -> &reqwest::Client {
        let is_here = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if is_here { &self.direct } else { &self.client }
    }
}

fn builder(settings: &Settings) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(settings.connect_timeout)
        .tcp_keepalive(TCP_KEEPALIVE)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_MAX_IDLE)
}

#[async_trait]
impl Transport for ReqwestTransport {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<http::Response<Body>, TransportError> {
        let request =
            reqwest::Request::try_from(request).map_err(|error| TransportError::Unusable(describe(error)))?;
        let executed = self.client_for(request.url()).execute(request);
        let sent = tokio::time::timeout(timeouts.first_byte, executed).await;
        let answer = match sent {
            Ok(Ok(answer)) => http::Response::from(answer),
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => {
                return Err(TransportError::Timeout { what: "answer", after: timeouts.first_byte });
            }
        };
        let (head, body) = answer.into_parts();
        let pieces = http_body_util::BodyDataStream::new(body)
            .map(|piece| piece.map_err(|error| TransportError::CutOff(describe(error))));
        Ok(http::Response::from_parts(head, with_idle_timeout(pieces.boxed(), timeouts.idle)))
    }
}

/// Ends the body with an error when nothing comes for `idle`; after any error nothing more comes.
fn with_idle_timeout(body: Body, idle: Duration) -> Body {
    stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(idle, body.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => Some((Err(TransportError::Timeout { what: "further data", after: idle }), None)),
        }
    })
    .boxed()
}

fn failed(error: reqwest::Error) -> TransportError {
    if error.is_builder() {
        TransportError::Unusable(describe(error))
    } else if error.is_connect() {
        TransportError::Connect(describe(error))
    } else {
        TransportError::Lost(describe(error))
    }
}

/// The error and its causes in one line. The URL is left out: it may hold credentials.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        line.push_str(": ");
        line.push_str(&inner.to_string());
        cause = inner.source();
    }
    line
}

#[cfg(test)]
mod tests;
