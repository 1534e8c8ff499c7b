//! Steps as they are kept: zstd after a version byte of its own, packed on the way in and unpacked on
//! the way out, so that nobody else knows. What earlier builds kept plain is read as it is.

use std::sync::LazyLock;

use steadfast_core::journal::{PACKED, unreadable};
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::get_frame_content_size;

use crate::{Replay, Result, StoreError};

/// What a step may refer back to, as if it had gone before: the words that every step has. A frame
/// can only be unpacked with the very bytes that it was packed with, so this file never changes; a
/// better one is a new version byte.
const WORDS: &[u8] = include_bytes!("packing_words.txt");

/// zstd's, of 22.
const LEVEL: i32 = 9;

/// The words, made ready once: doing so takes longer than packing a step.
static TO_PACK: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(WORDS, LEVEL));
static TO_UNPACK: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(WORDS));

/// Shorter steps are kept plain: a frame's own header outweighs what they save.
const SHORTEST: usize = 64;

/// Packs steps, in order.
pub(crate) fn pack(steps: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: std::io::Error| StoreError::Unusable(format!("a step cannot be packed: {error}"));
    let mut compressor = Compressor::with_prepared_dictionary(&TO_PACK).map_err(failed)?;
    let pack = |step: &Vec<u8>| {
        // One that only looks as if it were packed is packed whatever that costs.
        let ambiguous = step.first() == Some(&PACKED);
        if step.len() < SHORTEST && !ambiguous {
            return Ok(step.clone());
        }
        let frame = compressor.compress(step).map_err(failed)?;
        if frame.len() + 1 >= step.len() && !ambiguous {
            return Ok(step.clone());
        }
        let mut packed = Vec::with_capacity(frame.len() + 1);
        packed.push(PACKED);
        packed.extend_from_slice(&frame);
        Ok(packed)
    };
    steps.iter().map(pack).collect()
}

/// Unpacks what was read. A step that cannot be unpacked, or would be larger than `most` bytes, is
/// replaced by one that says so when it is decoded: the others stay readable.
pub(crate) fn unpack(replay: Replay, most: usize) -> Result<Replay> {
    let Replay { mut steps, patch } = replay;
    if steps.iter().any(|step| step.first() == Some(&PACKED)) {
        let failed = |error| StoreError::Unusable(format!("steps cannot be unpacked: {error}"));
        let mut decompressor = Decompressor::with_prepared_dictionary(&TO_UNPACK).map_err(failed)?;
        for step in &mut steps {
            if let Some((&PACKED, frame)) = step.split_first() {
                *step = frame_of(&mut decompressor, frame, most).unwrap_or_else(|why| unreadable(&why));
            }
        }
    }
    Ok(Replay { steps, patch })
}

/// In the place of a step that was journaled and is not there any more.
pub(crate) fn missing_step() -> Vec<u8> {
    unreadable("it was journaled, and is not in the store any more")
}

fn frame_of(
    decompressor: &mut Decompressor<'_>,
    frame: &[u8],
    most: usize,
) -> std::result::Result<Vec<u8>, String> {
    let size = match get_frame_content_size(frame) {
        Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
        Ok(None) | Err(_) => return Err("its packing is cut off or damaged".into()),
    };
    // The size is a claim; the buffer is what holds: no frame writes past it.
    if size > most {
        return Err(format!("unpacked it has {size} bytes, queue.max_step_bytes allows {most}"));
    }
    match decompressor.decompress(frame, size) {
        Ok(step) if step.len() == size => Ok(step),
        Ok(step) => Err(format!("it unpacks to {} bytes instead of {size}", step.len())),
        Err(error) => Err(format!("its packing is cut off or damaged: {error}")),
    }
}

#[cfg(test)]
mod tests;
