//! Pushes of one or several batches, and their answer.

use bytes::{Buf, BufMut};

use super::MessageError;
use super::field::{at_most, finished, need};
use crate::id::Handle;
use crate::limits;
use crate::status::Status;

/// A push of one batch to one location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// The request's number.
    pub request: u64,
    /// The location.
    pub handle: Handle,
}

impl Push {
    /// Writes the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.request);
        out.put_u64(self.handle.0);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short` or `Trailing`.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 16)?;
        let push = Self { request: from.get_u64(), handle: Handle(from.get_u64()) };
        finished(from)?;
        Ok(push)
    }
}

/// One location of a merged push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergedPart {
    /// The location.
    pub handle: Handle,
    /// Bytes of its batch in the body.
    pub length: u32,
}

/// The header of a push of several batches, read in place: nothing is allocated for it.
#[derive(Clone, Copy, Debug)]
pub struct PushMerged<'a> {
    /// The request's number.
    pub request: u64,
    parts: &'a [u8],
}

impl<'a> PushMerged<'a> {
    const PART_BYTES: usize = 12;

    /// Writes a header.
    ///
    /// # Errors
    /// `TooMany` over [`limits::MERGED_LOCATIONS_MAX`].
    pub fn encode(request: u64, parts: &[MergedPart], out: &mut impl BufMut) -> Result<(), MessageError> {
        at_most("merged locations", parts.len(), limits::MERGED_LOCATIONS_MAX)?;
        out.put_u64(request);
        out.put_u16(parts.len() as u16);
        for part in parts {
            out.put_u64(part.handle.0);
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
        at_most("merged locations", count, limits::MERGED_LOCATIONS_MAX)?;
        need(from, count * Self::PART_BYTES)?;
        let (parts, rest) = from.split_at(count * Self::PART_BYTES);
        finished(&rest)?;
        let merged = Self { request, parts };
        let total: u64 = merged.parts().map(|part| u64::from(part.length)).sum();
        if total == body_length as u64 {
            Ok(merged)
        } else {
            Err(MessageError::Value { field: "merged lengths", value: total })
        }
    }

    /// The locations, in the order of their batches.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = MergedPart> + use<'a> {
        self.parts.chunks_exact(Self::PART_BYTES).map(|mut part| {
            let from = &mut part;
            MergedPart { handle: Handle(from.get_u64()), length: from.get_u32() }
        })
    }
}

/// The answer to a push: one status per location, in the push's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushReply {
    /// The request's number.
    pub request: u64,
    /// One per location.
    pub statuses: Vec<Status>,
}

impl PushReply {
    /// Writes the header of an answer.
    ///
    /// # Errors
    /// `TooMany` over [`limits::MERGED_LOCATIONS_MAX`].
    pub fn encode(request: u64, statuses: &[Status], out: &mut impl BufMut) -> Result<(), MessageError> {
        at_most("statuses", statuses.len(), limits::MERGED_LOCATIONS_MAX)?;
        out.put_u64(request);
        out.put_u16(statuses.len() as u16);
        for status in statuses {
            out.put_u8(*status as u8);
        }
        Ok(())
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short`, `Trailing` or `TooMany`.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 10)?;
        let request = from.get_u64();
        let count = usize::from(from.get_u16());
        at_most("statuses", count, limits::MERGED_LOCATIONS_MAX)?;
        need(from, count)?;
        let statuses = (0..count).map(|_| Status::from_wire(from.get_u8())).collect();
        finished(from)?;
        Ok(Self { request, statuses })
    }
}
