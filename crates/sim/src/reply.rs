//! What a simulated server answers: a head, a body in pieces on tokio's clock, and how it ends.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// What comes of a request.
pub(crate) enum Outcome {
    /// An answer.
    Reply(Reply),
    /// The connection breaks before one.
    Reset,
    /// Nothing, for ever.
    Hang,
}

/// A part of a body, and the pause before it.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) pause: Duration,
    pub(crate) data: Bytes,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    Cut,
    Silent,
}

/// The body ended before it was whole.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body was cut off")]
pub(crate) struct BodyCut;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// Boxed, since an answer is an error value too and those should be small.
    pub(crate) headers: Box<HeaderMap>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) ending: Ending,
    /// Why it is a refusal, for the records.
    pub(crate) why: Option<String>,
    /// Whether this refusal belongs to the protocol's usual course, and is not worth a record.
    pub(crate) routine: bool,
    /// Where the record of this model call is.
    pub(crate) chat: Option<usize>,
}

impl Reply {
    pub(crate) fn bytes(status: StatusCode, content_type: &'static str, data: impl Into<Bytes>) -> Self {
        let mut headers = Box::new(HeaderMap::new());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let data = data.into();
        let pieces = if data.is_empty() { Vec::new() } else { vec![Piece { pause: Duration::ZERO, data }] };
        Reply { status, headers, pieces, ending: Ending::Whole, why: None, routine: false, chat: None }
    }

    pub(crate) fn json(status: StatusCode, value: &Value) -> Self {
        Self::bytes(status, "application/json; charset=utf-8", value.to_string())
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        let mut reply = Self::bytes(status, "text/plain", Bytes::new());
        reply.headers.remove(CONTENT_TYPE);
        reply
    }

    /// Adds or replaces a header; a value that no header can hold is left out.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// Notes why this is a refusal.
    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// The body as one.
    pub(crate) fn body(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| piece.data.iter().copied()).collect()
    }

    /// Ends the body after `after` bytes, in the given way.
    pub(crate) fn end_early(&mut self, after: usize, ending: Ending) {
        let total: usize = self.pieces.iter().map(|piece| piece.data.len()).sum();
        // A body that is shorter is cut by its last byte: a fault that changes nothing is none.
        let mut left = after.min(total.saturating_sub(1));
        let mut kept = Vec::new();
        for mut piece in std::mem::take(&mut self.pieces) {
            if left == 0 {
                break;
            }
            piece.data.truncate(left);
            left -= piece.data.len();
            kept.push(piece);
        }
        self.pieces = kept;
        self.ending = ending;
    }

    /// The body as it arrives, on tokio's clock.
    pub(crate) fn stream(pieces: Vec<Piece>, ending: Ending) -> BoxStream<'static, Result<Bytes, BodyCut>> {
        let start = (pieces.into_iter(), Some(ending));
        Box::pin(stream::unfold(start, |(mut pieces, ending)| async move {
            if let Some(piece) = pieces.next() {
                if !piece.pause.is_zero() {
                    tokio::time::sleep(piece.pause).await;
                }
                return Some((Ok(piece.data), (pieces, ending)));
            }
            match ending? {
                Ending::Whole => None,
                Ending::Silent => std::future::pending().await,
                Ending::Cut => {
                    // What came before is sent off first: a writer flushes while it waits for more.
                    tokio::task::yield_now().await;
                    Some((Err(BodyCut), (pieces, None)))
                }
            }
        }))
    }

    /// Cuts the body into pieces of `size` bytes with a pause before each.
    pub(crate) fn slow_down(&mut self, pause: Duration, size: usize) {
        let whole = Bytes::from(self.body());
        let size = size.max(1);
        self.pieces = (0..whole.len())
            .step_by(size)
            .map(|start| Piece { pause, data: whole.slice(start..whole.len().min(start + size)) })
            .collect();
    }
}
