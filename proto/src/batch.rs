//! The stored batch: a 16-byte header, then its data. Our own client's data begins with an envelope that carries codec,
//! flags, raw length and a CRC-32C over everything that names and makes up the batch.
//!
//! | bytes | field (all little-endian) |
//! |---|---|
//! | 0..4 | map |
//! | 4..8 | attempt |
//! | 8..12 | batch |
//! | 12..16 | length of the data that follows, envelope included |
//! | 16 | envelope: version (1) |
//! | 17 | envelope: codec |
//! | 18 | envelope: flags (bit 0: the last batch of its attempt for this partition) |
//! | 19 | envelope: zero |
//! | 20..24 | envelope: raw length of the payload, before compression |
//! | 24..28 | envelope: CRC-32C over instance (u64), shuffle (u32), partition (u32), bytes 0..24, payload |
//! | 28.. | payload |

use crate::checksum::Crc32c;
use crate::id::{Attempt, BatchId, Instance, MapId, Partition, ShuffleId};
use crate::limits::BODY_BYTES_MAX;

/// Bytes of the batch header.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the envelope of our own client.
pub const ENVELOPE_BYTES: usize = 12;
/// Bytes before the payload of a batch of our own client.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + ENVELOPE_BYTES;
/// The envelope's version.
pub const ENVELOPE_VERSION: u8 = 1;

const FLAG_LAST: u8 = 1;

/// How a payload is compressed. The worker never looks inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    #[default]
    None = 0,
    /// LZ4 block.
    Lz4 = 1,
    /// Zstandard frame.
    Zstd = 2,
}

impl Codec {
    fn from_wire(code: u8) -> Result<Self, BatchError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            code => Err(BatchError::Codec { code }),
        }
    }
}

/// The first 16 bytes of a stored batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchHeader {
    /// The map task.
    pub map: MapId,
    /// Its attempt.
    pub attempt: Attempt,
    /// The batch, dense per (map, attempt, partition).
    pub batch: BatchId,
    /// Bytes of data after the header, envelope included.
    pub length: u32,
}

impl BatchHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&self.map.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.attempt.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.batch.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// Reads a header from the first 16 bytes.
    ///
    /// # Errors
    /// `Short` when there are fewer.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let bytes: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or(BatchError::Short { need: HEADER_BYTES, have: bytes.len() })?;
        Ok(Self {
            map: MapId(le_u32(&bytes[0..4])),
            attempt: Attempt(le_u32(&bytes[4..8])),
            batch: BatchId(le_u32(&bytes[8..12])),
            length: le_u32(&bytes[12..16]),
        })
    }

    /// Bytes that the batch takes in the log: header and data.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.length)
    }
}

/// What our own client puts before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The payload's compression.
    pub codec: Codec,
    /// The attempt's final batch for this partition: its count is this batch's id + 1.
    pub last: bool,
    /// Bytes of the payload before compression; at most [`BODY_BYTES_MAX`], so that a reader may make room for them.
    pub raw_length: u32,
    /// CRC-32C of the batch in its place.
    pub crc: u32,
}

impl Envelope {
    /// Reads the envelope at the start of a batch's data.
    ///
    /// # Errors
    /// `Short`, `Version`, `Codec`, `Flags` or `RawLength`.
    pub fn decode(data: &[u8]) -> Result<Self, BatchError> {
        let bytes: &[u8; ENVELOPE_BYTES] =
            data.first_chunk().ok_or(BatchError::Short { need: ENVELOPE_BYTES, have: data.len() })?;
        if bytes[0] != ENVELOPE_VERSION {
            return Err(BatchError::Version { version: bytes[0] });
        }
        let flags = u16::from_le_bytes([bytes[2], bytes[3]]);
        if flags & !u16::from(FLAG_LAST) != 0 {
            return Err(BatchError::Flags { flags });
        }
        let codec = Codec::from_wire(bytes[1])?;
        let raw_length = le_u32(&bytes[4..8]);
        if raw_length as usize > BODY_BYTES_MAX {
            return Err(BatchError::RawLength { claimed: raw_length });
        }
        Ok(Self { codec, last: flags != 0, raw_length, crc: le_u32(&bytes[8..12]) })
    }

    fn encode_without_crc(&self) -> [u8; ENVELOPE_BYTES - 4] {
        let mut bytes = [ENVELOPE_VERSION, self.codec as u8, u8::from(self.last) * FLAG_LAST, 0, 0, 0, 0, 0];
        bytes[4..8].copy_from_slice(&self.raw_length.to_le_bytes());
        bytes
    }
}

/// Where a batch belongs: part of its checksum, so that a batch in the wrong place is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The application's instance.
    pub instance: Instance,
    /// The shuffle's number on the wire.
    pub shuffle: ShuffleId,
    /// The partition.
    pub partition: Partition,
}

/// Makes the 28 bytes before a payload: header, envelope and the checksum over both, the place and the payload.
///
/// `header.length` must be the payload's length plus [`ENVELOPE_BYTES`]; `envelope.crc` is ignored and computed.
/// Returns the bytes and the checksum.
#[must_use]
pub fn encode_overhead(
    place: &Place,
    header: &BatchHeader,
    envelope: &Envelope,
    payload: &[u8],
) -> ([u8; OVERHEAD_BYTES], u32) {
    debug_assert_eq!(header.length as usize, payload.len() + ENVELOPE_BYTES);
    let mut bytes = [0; OVERHEAD_BYTES];
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    bytes[HEADER_BYTES..24].copy_from_slice(&envelope.encode_without_crc());
    let mut verifier = Verifier::new(place);
    verifier.update(&bytes[..24]);
    verifier.update(payload);
    let crc = verifier.crc.value();
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    (bytes, crc)
}

/// Checks a whole batch of our own client, given as its 16-byte header and data together.
///
/// # Errors
/// `Short` or `Length` when the bytes are not exactly one batch, the envelope's errors, or `Checksum`.
pub fn verify(place: &Place, batch: &[u8]) -> Result<(BatchHeader, Envelope), BatchError> {
    let header = BatchHeader::decode(batch)?;
    if header.stored_bytes() != batch.len() as u64 {
        return Err(BatchError::Length { claimed: header.stored_bytes(), have: batch.len() as u64 });
    }
    let envelope = Envelope::decode(&batch[HEADER_BYTES..])?;
    let mut verifier = Verifier::new(place);
    verifier.update(&batch[..24]);
    verifier.update(&batch[OVERHEAD_BYTES..]);
    verifier.finish(&envelope)?;
    Ok((header, envelope))
}

/// Checks a batch whose payload comes in pieces: give it the first 24 bytes, then the payload, then ask.
pub struct Verifier {
    crc: Crc32c,
}

impl Verifier {
    /// Starts with the place.
    #[must_use]
    pub fn new(place: &Place) -> Self {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&place.instance.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&place.shuffle.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&place.partition.0.to_le_bytes());
        let mut crc = Crc32c::new();
        crc.update(&bytes);
        Self { crc }
    }

    /// Adds bytes: the batch's first 24, then its payload; the four bytes of the checksum itself are left out.
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
    }

    /// Compares with the envelope's checksum.
    ///
    /// # Errors
    /// `Checksum` when they differ.
    pub fn finish(&self, envelope: &Envelope) -> Result<(), BatchError> {
        let computed = self.crc.value();
        if computed == envelope.crc { Ok(()) } else { Err(BatchError::Checksum { claimed: envelope.crc, computed }) }
    }
}

/// Walks the batches of a run of whole batches, as a fetch returns them.
///
/// Yields each batch's header and its bytes (header included); an error ends the walk.
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// Walks `bytes`, which must hold whole batches.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let step = BatchHeader::decode(self.rest).and_then(|header| {
            let stored = header.stored_bytes();
            if stored > self.rest.len() as u64 {
                return Err(BatchError::Length { claimed: stored, have: self.rest.len() as u64 });
            }
            let (batch, rest) = self.rest.split_at(stored as usize);
            Ok((header, batch, rest))
        });
        Some(match step {
            Ok((header, batch, rest)) => {
                self.rest = rest;
                Ok((header, batch))
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
    }
}

/// Why bytes are not the batch that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header or an envelope.
    #[error("a batch needs {need} bytes here, only {have} are left")]
    Short {
        /// Bytes that the header or envelope takes.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The header's length is not the batch's.
    #[error("the batch header claims {claimed} bytes, {have} are there")]
    Length {
        /// Bytes by the header.
        claimed: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// An envelope of another version.
    #[error("the batch envelope has version {version}, this build reads version {ENVELOPE_VERSION}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// A codec that this build does not know.
    #[error("the batch uses the unknown codec {code}")]
    Codec {
        /// The codec's code.
        code: u8,
    },
    /// Flags that this build does not know.
    #[error("the batch envelope has unknown flags {flags:#06x}")]
    Flags {
        /// The flags found, the zero byte behind them as the high one.
        flags: u16,
    },
    /// More bytes than any batch has.
    #[error("the batch claims {claimed} bytes before compression, at most {BODY_BYTES_MAX} are legal")]
    RawLength {
        /// Bytes by the envelope.
        claimed: u32,
    },
    /// The bytes, or their place, are not those of the checksum.
    #[error("the batch checksum is {claimed:#010x}, its bytes in this place make {computed:#010x}")]
    Checksum {
        /// The checksum in the envelope.
        claimed: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> Place {
        Place { instance: Instance(7), shuffle: ShuffleId(3), partition: Partition(11) }
    }

    fn whole(header: (u32, u32, u32), codec: Codec, last: bool, payload: &[u8]) -> Vec<u8> {
        let header = BatchHeader {
            map: MapId(header.0),
            attempt: Attempt(header.1),
            batch: BatchId(header.2),
            length: (payload.len() + ENVELOPE_BYTES) as u32,
        };
        let envelope = Envelope { codec, last, raw_length: payload.len() as u32, crc: 0 };
        let (overhead, _) = encode_overhead(&place(), &header, &envelope, payload);
        [&overhead[..], payload].concat()
    }

    proptest! {
        #[test]
        fn a_batch_is_what_was_encoded(ids in any::<(u32, u32, u32)>(), last in any::<bool>(), payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = whole(ids, Codec::Lz4, last, &payload);
            let (header, envelope) = verify(&place(), &bytes).unwrap();
            prop_assert_eq!((header.map.0, header.attempt.0, header.batch.0), ids);
            prop_assert_eq!((envelope.last, envelope.codec, envelope.raw_length as usize), (last, Codec::Lz4, payload.len()));
        }

        #[test]
        fn one_flipped_bit_is_found(at in 0usize..(OVERHEAD_BYTES + 40), bit in 0u8..8) {
            let mut bytes = whole((1, 2, 3), Codec::None, false, &[5; 40]);
            bytes[at] ^= 1 << bit;
            prop_assert!(verify(&place(), &bytes).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = verify(&place(), &bytes);
            let walked: u64 = Batches::new(&bytes).filter_map(Result::ok).map(|(header, _)| header.stored_bytes()).sum();
            prop_assert!(walked <= bytes.len() as u64);
        }
    }

    #[test]
    fn a_batch_in_another_place_is_refused() {
        let bytes = whole((1, 2, 3), Codec::None, false, b"payload");
        for other in [
            Place { instance: Instance(8), ..place() },
            Place { shuffle: ShuffleId(4), ..place() },
            Place { partition: Partition(12), ..place() },
        ] {
            assert!(matches!(verify(&other, &bytes), Err(BatchError::Checksum { .. })));
        }
    }

    #[test]
    fn a_run_of_batches_is_walked_to_its_end() {
        let run = [whole((1, 0, 0), Codec::None, false, b"one"), whole((2, 0, 0), Codec::None, true, b"")].concat();
        let maps: Vec<u32> = Batches::new(&run).map(|step| step.unwrap().0.map.0).collect();
        assert_eq!(maps, [1, 2]);
        assert!(Batches::new(&run[..run.len() - 1]).any(|step| step.is_err()));
    }
}
