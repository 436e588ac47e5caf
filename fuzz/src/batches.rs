//! Batches with their headers, envelopes and checksums.

use mallorn_proto::batch::{
    BatchError, BatchHeader, Batches, ENVELOPE_BYTES, Envelope, HEADER_BYTES, OVERHEAD_BYTES, Place, Verifier,
    encode_overhead, verify,
};
use mallorn_proto::id::{Instance, Partition, ShuffleId};
use mallorn_proto::limits::BODY_BYTES_MAX;

use crate::allocations::within;
use crate::feed::Feed;

/// The place of the golden batches.
pub const GOLDEN: Place =
    Place { instance: Instance(0x0102_0304_0506_0708), shuffle: ShuffleId(7), partition: Partition(11) };

/// How it is mended and cut, then a run of batches.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (mode, cut) = (feed.byte(), usize::from(feed.u16()));
    let mut run = feed.rest().to_vec();
    if mode & 1 == 1 {
        mend(&mut run);
    }
    within(1024, "a walk over batches", || walk(&run));
    one(&run, cut);
}

/// Gives a batch the length and the checksum that it claims to have, so that what lies behind them is reached.
fn mend(batch: &mut [u8]) {
    if batch.len() < OVERHEAD_BYTES {
        return;
    }
    let length = (batch.len() - HEADER_BYTES) as u32;
    batch[12..16].copy_from_slice(&length.to_le_bytes());
    let mut verifier = Verifier::new(&GOLDEN);
    verifier.update(&batch[..24]);
    verifier.update(&batch[OVERHEAD_BYTES..]);
    let none = Envelope { codec: mallorn_proto::batch::Codec::None, last: false, raw_length: 0, crc: 0 };
    let crc = match verifier.finish(&none) {
        Err(BatchError::Checksum { computed, .. }) => computed,
        Ok(()) | Err(_) => 0,
    };
    batch[24..28].copy_from_slice(&crc.to_le_bytes());
}

fn walk(run: &[u8]) {
    let (mut walked, mut failed) = (0, false);
    for step in Batches::new(run) {
        assert!(!failed, "an error ends the walk");
        match step {
            Ok((header, batch)) => {
                assert_eq!(header.stored_bytes(), batch.len() as u64);
                assert_eq!(batch, &run[walked..walked + batch.len()], "batches follow each other");
                assert_eq!(header.encode(), batch[..HEADER_BYTES]);
                walked += batch.len();
            }
            Err(_) => failed = true,
        }
    }
    assert!(failed || walked == run.len(), "a walk without an error has seen everything");
}

fn one(batch: &[u8], cut: usize) {
    let verified = verify(&GOLDEN, batch);
    assert_eq!(verified, in_pieces(batch, cut), "a batch that comes in pieces is the same batch");
    let Ok((header, envelope)) = verified else { return };
    assert!(envelope.raw_length as usize <= BODY_BYTES_MAX, "a reader may make room for it");
    let payload = &batch[OVERHEAD_BYTES..];
    let (overhead, crc) = encode_overhead(&GOLDEN, &header, &envelope, payload);
    assert_eq!((&overhead[..], crc), (&batch[..OVERHEAD_BYTES], envelope.crc));
    for part in [cut % batch.len(), batch.len() - 1] {
        assert!(verify(&GOLDEN, &batch[..part]).is_err(), "a part of a batch is not a batch");
    }
    let mut flipped = batch.to_vec();
    flipped[cut % batch.len()] ^= 1 << (cut / batch.len() % 8);
    assert!(verify(&GOLDEN, &flipped).is_err(), "a bit at {} may flip", cut % batch.len());
    let elsewhere = Place { partition: Partition(GOLDEN.partition.0 + 1), ..GOLDEN };
    assert!(verify(&elsewhere, batch).is_err(), "a batch is good in its place only");
}

/// As the worker does it whose body comes in slots.
fn in_pieces(batch: &[u8], cut: usize) -> Result<(BatchHeader, Envelope), BatchError> {
    let header = BatchHeader::decode(batch)?;
    if header.stored_bytes() != batch.len() as u64 {
        return Err(BatchError::Length { claimed: header.stored_bytes(), have: batch.len() as u64 });
    }
    let envelope = Envelope::decode(&batch[HEADER_BYTES..])?;
    assert!(batch.len() >= HEADER_BYTES + ENVELOPE_BYTES);
    let mut verifier = Verifier::new(&GOLDEN);
    verifier.update(&batch[..24]);
    for piece in batch[OVERHEAD_BYTES..].chunks(1 + cut) {
        verifier.update(piece);
    }
    verifier.finish(&envelope)?;
    Ok((header, envelope))
}
