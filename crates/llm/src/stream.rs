//! Reads the body of an answer, whole or as server-sent events, into an [`Assembled`].

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use sse_stream::SseByteStream;
use steadfast_http::{Body, TransportError, capped, read_capped};

use crate::assemble::{Assembled, Assembler, Flaw};
use crate::wire::ChatAnswer;

/// Why a body gave no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Broken {
    /// It did not come, or not to its end.
    Transport(TransportError),
    /// It came, and is no answer.
    Flaw(Flaw),
}

impl From<Flaw> for Broken {
    fn from(flaw: Flaw) -> Self {
        Broken::Flaw(flaw)
    }
}

impl From<TransportError> for Broken {
    fn from(error: TransportError) -> Self {
        Broken::Transport(error)
    }
}

/// How long the connection may take to end after the stream's end mark; one that ended can be used
/// again, one that is left cannot.
const DRAIN: Duration = Duration::from_millis(100);

/// Reads an answer. Some servers answer whole though asked for a stream or the other way round, and
/// some name the wrong content type; the first character is never wrong: JSON begins with a bracket,
/// and no event does.
pub(crate) async fn read(body: Body, cap: usize) -> Result<Assembled, Broken> {
    let mut body = capped(body, cap);
    let mut begun: Vec<Bytes> = Vec::new();
    let mut first = None;
    while first.is_none() {
        let Some(piece) = body.next().await else { break };
        let piece = piece?;
        first = piece.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        begun.push(piece);
    }
    let body = stream::iter(begun.into_iter().map(Ok)).chain(body).boxed();
    match first {
        Some(b'{' | b'[') => read_whole(body, cap).await,
        Some(_) | None => read_stream(body, cap).await,
    }
}

/// Reads a whole answer.
async fn read_whole(body: Body, cap: usize) -> Result<Assembled, Broken> {
    let bytes = read_capped(body, cap).await?;
    let mut assembler = Assembler::default();
    take(&mut assembler, &bytes)?;
    assembler.mark_done();
    Ok(assembler.finish()?)
}

/// Reads a streamed answer.
async fn read_stream(body: Body, cap: usize) -> Result<Assembled, Broken> {
    // Servers leave out the blank line behind the last event; the decoder drops what lacks it.
    let last_line_end = stream::iter([Ok(Bytes::from_static(b"\n\n"))]);
    let mut events = SseByteStream::new(capped(body, cap).chain(last_line_end));
    let mut assembler = Assembler::default();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(_) if assembler.is_whole() => break,
            Err(error) => return Err(broken(error)),
        };
        let Some(data) = event.data.as_deref().map(str::trim).filter(|data| !data.is_empty()) else {
            continue;
        };
        if data == "[DONE]" {
            assembler.mark_done();
            let _ = tokio::time::timeout(DRAIN, events.next()).await;
            break;
        }
        if event.event.as_deref() == Some("error") {
            return Err(assembler.error(error_of(data)).into());
        }
        match take(&mut assembler, data.as_bytes()) {
            // Garbled usage, or half of it, takes nothing from an answer that is whole and paid for.
            Err(Flaw::Unreadable(_)) if assembler.is_whole() => break,
            taken => taken?,
        }
    }
    Ok(assembler.finish()?)
}

fn take(assembler: &mut Assembler, bytes: &[u8]) -> Result<(), Flaw> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|_| Flaw::Unreadable("the answer is not whole JSON"))?;
    // vLLM and others put the error where the answer would be.
    if value.get("object").and_then(Value::as_str) == Some("error") {
        return Err(assembler.error(value));
    }
    let answer: ChatAnswer = serde_json::from_value(value)
        .map_err(|_| Flaw::Unreadable("the answer is JSON, but no chat completion"))?;
    assembler.add(answer)
}

/// The error in an event that is called so.
fn error_of(data: &str) -> Value {
    match serde_json::from_str::<Value>(data) {
        Ok(value) => value.get("error").filter(|error| !error.is_null()).cloned().unwrap_or(value),
        Err(_) => Value::String(data.to_owned()),
    }
}

fn broken(error: sse_stream::Error) -> Broken {
    match error {
        sse_stream::Error::Body(inner) => match inner.downcast::<TransportError>() {
            Ok(error) => Broken::Transport(*error),
            Err(other) => Broken::Transport(TransportError::CutOff(other.to_string())),
        },
        _ => Broken::Flaw(Flaw::Unreadable("the answer is no stream of events")),
    }
}

#[cfg(test)]
mod tests;
