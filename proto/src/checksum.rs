//! CRC-32C, and the order-free hash by which whole partitions are compared.

use crc_fast::{CrcAlgorithm, Digest};

/// A CRC-32C (Castagnoli) over several pieces of bytes.
pub struct Crc32c(Digest);

impl Crc32c {
    /// Starts over nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of everything added.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

/// The hash of one batch that winners' sums add up: over map, batch and the batch's CRC.
///
/// A strong 64-bit finaliser (two rounds of multiply and xor-shift over the 96 bits), so that a wrapping sum of many of
/// them only matches by chance for another multiset with probability about 2^-64.
#[must_use]
pub fn batch_hash(map: u32, batch: u32, crc: u32) -> u64 {
    let mut hash = (u64::from(map) << 32) | u64::from(batch);
    hash = mix(hash ^ 0x9e37_79b9_7f4a_7c15);
    mix(hash ^ (u64::from(crc) << 16) ^ u64::from(crc))
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    value = (value ^ (value >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    value ^ (value >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_castagnoli() {
        let mut crc = Crc32c::new();
        crc.update(b"1234");
        crc.update(b"56789");
        assert_eq!(crc.value(), 0xe306_9283);
    }

    #[test]
    fn the_hash_depends_on_every_part() {
        let base = batch_hash(1, 2, 3);
        assert_ne!(base, batch_hash(2, 1, 3));
        assert_ne!(base, batch_hash(1, 2, 4));
        assert_ne!(base, batch_hash(1, 3, 3));
    }
}
