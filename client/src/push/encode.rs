//! Makes a batch ready for the wire, once: compressed, enveloped, checksummed.

use bytes::{BufMut, Bytes, BytesMut};
use mallorn_proto::batch::{BatchHeader, Codec, ENVELOPE_BYTES, Envelope, OVERHEAD_BYTES, encode_overhead};
use mallorn_proto::id::{Attempt, BatchId, MapId, Partition};

use super::AttemptShared;
use super::buffers::Cut;
use crate::codec;
use crate::memory::Permit;

/// A batch as it is pushed, however often.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) partition: Partition,
    pub(super) id: BatchId,
    pub(super) overhead: [u8; OVERHEAD_BYTES],
    pub(super) payload: Bytes,
    /// Held until a worker has taken the batch.
    pub(super) permit: Option<Permit>,
}

impl Encoded {
    /// Bytes of it in a push's body.
    pub(super) fn length(&self) -> usize {
        OVERHEAD_BYTES + self.payload.len()
    }
}

impl AttemptShared {
    /// Encodes batches, and counts them.
    pub(super) fn encode(&self, cut: Vec<Cut>) -> Vec<Encoded> {
        let counted: Vec<_> = cut.into_iter().map(|cut| self.encode_one(cut)).collect();
        let mut state = self.state.lock();
        let count = |(batch, raw_length, crc): (Encoded, u32, u32)| {
            state.buffers.count(batch.partition, batch.id, raw_length, crc);
            batch
        };
        counted.into_iter().map(count).collect()
    }

    /// The batch, its raw length and its checksum.
    fn encode_one(&self, cut: Cut) -> (Encoded, u32, u32) {
        let Cut { partition, batch, last, raw, mut permit } = cut;
        let raw_length = raw.len() as u32;
        let (codec, payload) = codec::compress(self.client.codec, raw);
        let header = BatchHeader {
            map: MapId(self.id.map),
            attempt: Attempt(self.id.attempt),
            batch,
            length: (payload.len() + ENVELOPE_BYTES) as u32,
        };
        let envelope = Envelope { codec, last, raw_length, crc: 0 };
        let (overhead, crc) = encode_overhead(&self.place(partition), &header, &envelope, &payload);
        // What is not compressed lies in its buffer still, with all of its capacity.
        if let Some(permit) = permit.as_mut().filter(|_| codec != Codec::None) {
            permit.shrink_to(payload.len() as u64);
        }
        (Encoded { partition, id: batch, overhead, payload, permit }, raw_length, crc)
    }
}

/// The body of a push of one batch, after the overhead that its frame's head carries.
pub(super) fn body_of_one(batch: &Encoded) -> Vec<Bytes> {
    if batch.payload.is_empty() { Vec::new() } else { vec![batch.payload.clone()] }
}

/// The body of a merged push. Small batches are copied together: many short slices would cost more.
pub(super) fn body_of_many(batches: &[&Encoded]) -> Vec<Bytes> {
    let mut body = BytesMut::with_capacity(batches.iter().map(|batch| batch.length()).sum());
    for batch in batches {
        body.put_slice(&batch.overhead);
        body.put_slice(&batch.payload);
    }
    vec![body.freeze()]
}
