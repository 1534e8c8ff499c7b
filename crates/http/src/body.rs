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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn body(pieces: &[Result<&'static str, TransportError>]) -> Body {
        let pieces: Vec<_> = pieces.iter().cloned().map(|piece| piece.map(Bytes::from)).collect();
        stream::iter(pieces).boxed()
    }

    fn cut() -> TransportError {
        TransportError::CutOff("gone".into())
    }

    #[tokio::test]
    async fn a_body_up_to_its_cap_is_read_and_one_byte_more_is_not() {
        let pieces = [Ok("abc"), Ok("de")];
        assert_eq!(read_capped(body(&pieces), 5).await, Ok(Bytes::from("abcde")));
        assert_eq!(read_capped(body(&pieces), 4).await, Err(TransportError::TooLarge { cap: 4 }));
        assert_eq!(read_capped(body(&[]), 0).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_no_body() {
        assert_eq!(read_capped(body(&[Ok("abc"), Err(cut())]), 10).await, Err(cut()));
    }

    #[tokio::test]
    async fn nothing_comes_after_the_first_error() {
        let pieces: Vec<_> = capped(body(&[Ok("abc"), Ok("de"), Ok("f"), Err(cut())]), 4).collect().await;
        assert_eq!(pieces, [Ok(Bytes::from("abc")), Err(TransportError::TooLarge { cap: 4 })]);
        let pieces: Vec<_> = capped(body(&[Err(cut()), Ok("f")]), 4).collect().await;
        assert_eq!(pieces, [Err(cut())]);
    }

    #[tokio::test]
    async fn a_prefix_is_what_came_up_to_the_cap() {
        assert_eq!(read_prefix(body(&[Ok("abc"), Ok("de")]), 4).await, Bytes::from("abcd"));
        assert_eq!(read_prefix(body(&[Ok("abc"), Ok("de")]), 9).await, Bytes::from("abcde"));
        assert_eq!(read_prefix(body(&[Ok("abc"), Err(cut())]), 9).await, Bytes::from("abc"));
    }
}
