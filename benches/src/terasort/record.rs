//! Records: a random key, and a value that tells which record it is.
//!
//! | bytes | field |
//! |---|---|
//! | 0..10 | key: drawn from (seed, record number), compared as bytes |
//! | 10..18 | record number, big-endian |
//! | 18..100 | filler: letters drawn likewise, each eight times, so that it compresses as text with repeats does |

/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = 100;
const KEY_BYTES: usize = 10;
const FILLER_AT: usize = 18;
/// Times that a letter of the filler is repeated.
const REPEATED: usize = 8;

/// A record.
pub(super) type Record = [u8; RECORD_BYTES];

/// Draws records by their numbers, so that any can be made again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generator {
    seed: u64,
}

impl Generator {
    /// Two seeds have nothing in common, also neighbours.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed: mix(seed ^ 0x5851_f42d_4c95_7f2d) }
    }

    /// The record of this number.
    pub(super) fn record(self, number: u64) -> Record {
        let first = mix(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let second = mix(first ^ self.seed.rotate_left(32));
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&first.to_be_bytes());
        record[8..KEY_BYTES].copy_from_slice(&second.to_be_bytes()[..2]);
        record[KEY_BYTES..FILLER_AT].copy_from_slice(&number.to_be_bytes());
        let mut letters = second;
        for repeated in record[FILLER_AT..].chunks_mut(REPEATED) {
            repeated.fill(b'A' + (letters % 16) as u8);
            letters >>= 4;
        }
        record
    }
}

/// The first 8 bytes of a record's key as a number that is ordered as they are: what splits go by.
pub(super) fn prefix(record: &Record) -> u64 {
    (key(record) >> 16) as u64
}

/// A record's key as a number that is ordered as its bytes are; below 2^80.
pub(super) fn key(record: &Record) -> u128 {
    let mut bytes = [0; 16];
    bytes[16 - KEY_BYTES..].copy_from_slice(&record[..KEY_BYTES]);
    u128::from_be_bytes(bytes)
}

/// An order-free sum of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    /// How many.
    pub(super) records: u64,
    /// Wrapping sum of their hashes.
    pub(super) hash: u64,
}

impl Sum {
    /// Adds a record.
    pub(super) fn add(&mut self, record: &Record) {
        self.merge(Self { records: 1, hash: hash(record) });
    }

    /// Adds another sum.
    pub(super) fn merge(&mut self, other: Self) {
        self.records += other.records;
        self.hash = self.hash.wrapping_add(other.hash);
    }
}

/// A hash that depends on every bit. Each step maps hashes one to one, so that two records that differ in one word only
/// never have the same.
fn hash(record: &Record) -> u64 {
    let (words, rest) = record.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let step = |hash: u64, word: &[u8; 8]| {
        let mixed = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    };
    mix(words.iter().chain([&last]).fold(RECORD_BYTES as u64, step))
}

/// Maps numbers one to one to numbers that look random.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    value = (value ^ (value >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    value ^ (value >> 33)
}
