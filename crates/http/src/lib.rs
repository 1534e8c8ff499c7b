//! One HTTP exchange: the transport seam that a simulation replaces, and its reqwest form.
//!
//! `steadfast-llm` and `steadfast-github` know servers through [`Transport`] only, so a simulation
//! replaces sockets and clocks and never logic.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use steadfast_core::classify::transport::TransportFault;

mod body;
mod reqwest_transport;

pub use body::{capped, read_capped, read_prefix};
pub use reqwest_transport::{ReqwestTransport, Settings, UnusableTransport};

/// An answer's body as it arrives.
pub type Body = BoxStream<'static, Result<Bytes, TransportError>>;

/// Sends one request and returns the answer's head, with its body to be read.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`; its URI is absolute. Follows no redirect. Returns once the head of the
    /// answer is there, whatever its status, within `timeouts.first_byte`.
    async fn send(
        &self,
        request: http::Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<http::Response<Body>, TransportError>;
}

/// How long an exchange may wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of the answer, from the start, connecting included.
    pub first_byte: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
}

/// Why an exchange gave no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: refused, DNS, TLS. Nothing was sent.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection ended or broke before an answer. The server may have done the work.
    #[error("connection lost before an answer: {0}")]
    Lost(String),
    /// The time for the head of the answer, or between pieces of the body, ran out.
    #[error("no {what} within {after:?}")]
    Timeout {
        /// `answer`, or `further data`.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The body ended before it was whole.
    #[error("answer cut off: {0}")]
    CutOff(String),
    /// The body is larger than its cap.
    #[error("answer larger than {cap} bytes")]
    TooLarge {
        /// The cap.
        cap: usize,
    },
    /// The request could not be made: a bad URL or header.
    #[error("unusable request: {0}")]
    Unusable(String),
}

impl TransportError {
    /// What kind of fault it is, for classification.
    pub fn fault(&self) -> TransportFault {
        match self {
            TransportError::Connect(_) => TransportFault::Connect,
            TransportError::Lost(_) => TransportFault::Lost,
            TransportError::Timeout { .. } => TransportFault::Timeout,
            TransportError::CutOff(_) => TransportFault::CutOff,
            TransportError::TooLarge { .. } => TransportFault::TooLarge,
            TransportError::Unusable(_) => TransportFault::Unusable,
        }
    }
}
