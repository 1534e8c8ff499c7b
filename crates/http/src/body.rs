//! Reading a body into memory with a cap.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::{Body, TransportError};

/// The body with a cap: where more than `cap` bytes come it ends in [`TransportError::TooLarge`].
pub fn capped(body: Body, cap: usize) -> Body {
    let mut seen: usize = 0;
    let mut over = false;
    body.map(move |piece| {
        let piece = piece?;
        seen = seen.saturating_add(piece.len());
        if seen > cap { Err(TransportError::TooLarge { cap }) } else { Ok(piece) }
    })
    .take_while(move |piece| {
        let more = !over;
        over = piece.is_err();
        std::future::ready(more)
    })
    .boxed()
}

/// Reads the whole body; more than `cap` bytes are [`TransportError::TooLarge`], and the rest is
/// not read.
pub async fn read_capped(body: Body, cap: usize) -> Result<Bytes, TransportError> {
    let mut body = capped(body, cap);
    let mut whole = BytesMut::new();
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(whole.freeze())
}

/// Reads up to `cap` bytes of the body of a refusal: what came is enough to tell what the server
/// means, so an end that is early or late is no error of its own.
pub async fn read_prefix(mut body: Body, cap: usize) -> Bytes {
    let mut prefix = BytesMut::new();
    while let Some(Ok(piece)) = body.next().await {
        let room = cap.saturating_sub(prefix.len());
        prefix.extend_from_slice(piece.get(..room).unwrap_or(&piece));
        if prefix.len() >= cap {
            break;
        }
    }
    prefix.freeze()
}
