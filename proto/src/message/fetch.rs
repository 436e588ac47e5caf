//! Reads of a sealed location: open, fetch, close.

use bytes::{Buf, BufMut};

use super::MessageError;
use super::field::{at_most, finished, need};
use crate::id::{Epoch, LocationId, Partition, SealId, ShuffleId};
use crate::limits;

/// Asks to read a sealed location; the application is the connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The request's number.
    pub request: u64,
    /// The location.
    pub location: LocationId,
    /// The seal under which its bytes are known.
    pub seal: SealId,
    /// First map to read.
    pub map_start: u32,
    /// The map after the last one to read; `u32::MAX` with a start of 0 reads all.
    pub map_end: u32,
}

impl Open {
    /// Writes the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.request);
        out.put_u32(self.location.shuffle.0);
        out.put_u32(self.location.partition.0);
        out.put_u32(self.location.epoch.0);
        out.put_u64(self.seal.0);
        out.put_u32(self.map_start);
        out.put_u32(self.map_end);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short`, `Trailing`, or `Value` when the end lies before the start.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 36)?;
        let open = Self {
            request: from.get_u64(),
            location: LocationId {
                shuffle: ShuffleId(from.get_u32()),
                partition: Partition(from.get_u32()),
                epoch: Epoch(from.get_u32()),
            },
            seal: SealId(from.get_u64()),
            map_start: from.get_u32(),
            map_end: from.get_u32(),
        };
        finished(from)?;
        if open.map_end < open.map_start {
            return Err(MessageError::Value { field: "end map", value: u64::from(open.map_end) });
        }
        Ok(open)
    }
}

/// The answer to an [`Open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The request's number.
    pub request: u64,
    /// Names the stream in fetches on this connection.
    pub stream: u64,
    /// The location's sealed length, in bytes.
    pub length: u64,
    /// Where each chunk ends, rising to the length: whole batches, the same for every copy and every reader. Empty for an
    /// empty location.
    pub chunk_ends: Vec<u64>,
}

impl Opened {
    /// Writes the header.
    ///
    /// # Errors
    /// `TooMany` over [`limits::CHUNKS_MAX`].
    pub fn encode(&self, out: &mut impl BufMut) -> Result<(), MessageError> {
        at_most("chunks", self.chunk_ends.len(), limits::CHUNKS_MAX)?;
        out.put_u64(self.request);
        out.put_u64(self.stream);
        out.put_u64(self.length);
        out.put_u16(self.chunk_ends.len() as u16);
        for end in &self.chunk_ends {
            out.put_u64(*end);
        }
        Ok(())
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short`, `Trailing`, `TooMany`, or `Value` when the chunks do not rise from above 0 to the length.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 26)?;
        let (request, stream, length) = (from.get_u64(), from.get_u64(), from.get_u64());
        let count = usize::from(from.get_u16());
        at_most("chunks", count, limits::CHUNKS_MAX)?;
        need(from, count * 8)?;
        let chunk_ends: Vec<u64> = (0..count).map(|_| from.get_u64()).collect();
        finished(from)?;
        let rising = chunk_ends.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || chunk_ends.first() == Some(&0) || chunk_ends.last().copied().unwrap_or(0) != length {
            return Err(MessageError::Value { field: "chunk ends", value: length });
        }
        Ok(Self { request, stream, length, chunk_ends })
    }
}

/// Asks for the next whole batches of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The request's number.
    pub request: u64,
    /// The stream.
    pub stream: u64,
    /// Where to go on: 0, a chunk's end, or what an earlier answer named as next.
    pub offset: u64,
    /// Largest body that the caller has room for, in bytes. A single batch larger than this is refused as too large.
    pub limit: u32,
}

impl Fetch {
    /// Writes the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.request);
        out.put_u64(self.stream);
        out.put_u64(self.offset);
        out.put_u32(self.limit);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short` or `Trailing`.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 28)?;
        let fetch =
            Self { request: from.get_u64(), stream: from.get_u64(), offset: from.get_u64(), limit: from.get_u32() };
        finished(from)?;
        Ok(fetch)
    }
}

/// The answer to a [`Fetch`]: its body holds the batches from `offset` up to `next` whose map is in the stream's range,
/// all from one chunk. An offset at or beyond the sealed length is answered with `next == offset` and no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The request's number.
    pub request: u64,
    /// The stream.
    pub stream: u64,
    /// Where the body begins.
    pub offset: u64,
    /// Where to go on.
    pub next: u64,
}

impl Fetched {
    /// Writes the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.request);
        out.put_u64(self.stream);
        out.put_u64(self.offset);
        out.put_u64(self.next);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short`, `Trailing`, or `Value` when next lies before the offset.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 32)?;
        let fetched =
            Self { request: from.get_u64(), stream: from.get_u64(), offset: from.get_u64(), next: from.get_u64() };
        finished(from)?;
        if fetched.next < fetched.offset {
            return Err(MessageError::Value { field: "next", value: fetched.next });
        }
        Ok(fetched)
    }
}

/// Ends a stream; unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseStream {
    /// The stream.
    pub stream: u64,
}

impl CloseStream {
    /// Writes the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.stream);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short` or `Trailing`.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 8)?;
        let close = Self { stream: from.get_u64() };
        finished(from)?;
        Ok(close)
    }
}
