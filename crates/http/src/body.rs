//! Reading a body into memory with a cap.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::{Body, TransportError};

/// Reads the whole body; more than `cap` bytes are [`TransportError::TooLarge`], and the rest is
/// not read.
pub async fn read_capped(mut body: Body, cap: usize) -> Result<Bytes, TransportError> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if whole.len().saturating_add(piece.len()) > cap {
            return Err(TransportError::TooLarge { cap });
        }
        whole.extend_from_slice(&piece);
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
