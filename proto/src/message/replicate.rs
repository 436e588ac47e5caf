//! Batches that one worker forwards to another; the answer is a `PushReply` with one status per batch.

use bytes::{Buf, BufMut};

use super::MessageError;
use super::field::{at_most, finished, need};
use crate::id::Handle;
use crate::limits;

/// One batch of a [`Replicate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicatedPart {
    /// The location, as its receiver reserved it.
    pub handle: Handle,
    /// Where the batch lies in the location, in bytes from its start: it is accepted only at the receiver's own length.
    pub offset: u64,
    /// The batch's bytes in the body.
    pub length: u32,
}

/// Batches of several locations, in the order in which their sender has appended them.
#[derive(Clone, Copy, Debug)]
pub struct Replicate<'a> {
    /// The request's number.
    pub request: u64,
    parts: &'a [u8],
}

impl<'a> Replicate<'a> {
    const PART_BYTES: usize = 20;

    /// Writes a header.
    ///
    /// # Errors
    /// `TooMany` over [`limits::REPLICATED_BATCHES_MAX`].
    pub fn encode(request: u64, parts: &[ReplicatedPart], out: &mut impl BufMut) -> Result<(), MessageError> {
        at_most("replicated batches", parts.len(), limits::REPLICATED_BATCHES_MAX)?;
        out.put_u64(request);
        out.put_u16(parts.len() as u16);
        for part in parts {
            out.put_u64(part.handle.0);
            out.put_u64(part.offset);
            out.put_u32(part.length);
        }
        Ok(())
    }

    /// Reads a header and checks it against the body's length.
    ///
    /// # Errors
    /// `Short`, `Trailing`, `TooMany`, or `Value` when the lengths do not add up to the body.
    pub fn decode(mut header: &'a [u8], body_length: usize) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 10)?;
        let request = from.get_u64();
        let count = usize::from(from.get_u16());
        at_most("replicated batches", count, limits::REPLICATED_BATCHES_MAX)?;
        need(from, count * Self::PART_BYTES)?;
        let (parts, rest) = from.split_at(count * Self::PART_BYTES);
        finished(&rest)?;
        let replicate = Self { request, parts };
        let total: u64 = replicate.parts().map(|part| u64::from(part.length)).sum();
        if total == body_length as u64 {
            Ok(replicate)
        } else {
            Err(MessageError::Value { field: "replicated lengths", value: total })
        }
    }

    /// The batches, in the order of their bytes.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = ReplicatedPart> + use<'a> {
        self.parts.chunks_exact(Self::PART_BYTES).map(|mut part| {
            let from = &mut part;
            ReplicatedPart { handle: Handle(from.get_u64()), offset: from.get_u64(), length: from.get_u32() }
        })
    }
}
