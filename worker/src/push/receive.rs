//! Large bodies: read straight into slots, and checked where they lie.
//!
//! Owns reading a body that no buffer holds. Does not own whose it is or what becomes of it.

use mallorn_proto::batch::{BatchError, BatchHeader, Envelope, HEADER_BYTES, OVERHEAD_BYTES, Place, Verifier};
use mallorn_proto::status::Status;
use mallorn_runtime::connection::Inbound;

use crate::memory::arena::{ReceiveBuffers, Slot};
use crate::server::Ended;

/// What is read away of a large body goes through a buffer of this size.
const SKIP_BYTES: usize = 64 * 1024;

/// Reads the next `length` bytes of a body into slots; what they have no room for is read away.
pub(crate) async fn fill(
    inbound: &mut Inbound<ReceiveBuffers>,
    slots: &mut [Slot],
    length: usize,
) -> Result<(), Ended> {
    let mut left = length;
    for slot in slots {
        let part = left.min(slot.length());
        inbound.body_into(&mut slot.as_mut()[..part]).await?;
        left -= part;
    }
    let mut away = vec![0; left.min(SKIP_BYTES)];
    while left > 0 {
        let part = left.min(away.len());
        inbound.body_into(&mut away[..part]).await?;
        left -= part;
    }
    Ok(())
}

/// Checks a batch that lies in slots, `length` bytes from the start of the first.
pub(crate) fn verify_pieces(place: &Place, slots: &[Slot], length: usize) -> Result<BatchHeader, BatchError> {
    let first = slots.first().map_or(&[][..], |slot| &slot.as_ref()[..length.min(slot.length())]);
    let header = BatchHeader::decode(first)?;
    if header.stored_bytes() != length as u64 {
        return Err(BatchError::Length { claimed: header.stored_bytes(), have: length as u64 });
    }
    let envelope = Envelope::decode(&first[HEADER_BYTES..])?;
    let mut verifier = Verifier::new(place);
    verifier.update(&first[..OVERHEAD_BYTES - size_of_val(&envelope.crc)]);
    verifier.update(&first[OVERHEAD_BYTES..]);
    let mut left = length - first.len();
    for slot in &slots[1..] {
        let part = left.min(slot.length());
        verifier.update(&slot.as_ref()[..part]);
        left -= part;
    }
    verifier.finish(&envelope)?;
    Ok(header)
}

/// The status of a batch that is not what it claims to be.
pub(crate) fn refused(error: &BatchError) -> Status {
    match error {
        BatchError::Checksum { .. } => Status::BadChecksum,
        BatchError::Short { .. }
        | BatchError::Length { .. }
        | BatchError::Version { .. }
        | BatchError::Codec { .. }
        | BatchError::Flags { .. }
        | BatchError::RawLength { .. } => Status::Malformed,
    }
}
