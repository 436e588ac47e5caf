//! Order-free sums of rows, and the hash behind them.
//!
//! Owns the hash, which is the same on every machine and in every version. Does not own what a row is.

use std::fmt;

/// Count, bytes and hashes of a set of rows, whatever their order. Two sets with equal sums hold the same rows, but
/// for a chance of about one in 2^64; a lost, repeated or changed row shows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowSum {
    /// Number of rows.
    pub(crate) rows: u64,
    /// Their lengths, summed up.
    pub(crate) bytes: u64,
    /// The hashes of all rows, added up without regard to overflow.
    pub(crate) hash: u64,
}

impl RowSum {
    /// Adds one row.
    #[inline]
    pub(crate) fn add(&mut self, row: &[u8]) {
        self.merge(Self { rows: 1, bytes: row.len() as u64, hash: hash(Seed::RowSum, row) });
    }

    /// Adds all rows that `other` is the sum of.
    #[inline]
    pub(crate) fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.hash = self.hash.wrapping_add(other.hash);
    }

    /// What differs between the rows that were pushed, `self`, and those that were read, in words; `None` if nothing.
    pub(crate) fn difference(&self, read: &Self) -> Option<String> {
        if self == read {
            return None;
        }
        let what = match read.rows.cmp(&self.rows) {
            std::cmp::Ordering::Less => format!("rows missing: {}", self.rows - read.rows),
            std::cmp::Ordering::Equal => "their content differs".to_owned(),
            std::cmp::Ordering::Greater => format!("rows too many: {}", read.rows - self.rows),
        };
        Some(format!("{what} (pushed {self}, read {read})"))
    }
}

impl fmt::Display for RowSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows of {} bytes with hash {:016x}", self.rows, self.bytes, self.hash)
    }
}

/// What a hash is for. Hashes for different purposes are independent of each other.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(super) enum Seed {
    /// Rows of a [`RowSum`].
    RowSum = 1,
    /// The partition of a row.
    Partition = 2,
    /// Keys too long to be kept whole, first half.
    LongKey = 3,
    /// Keys too long to be kept whole, second half.
    LongKeyToo = 4,
    /// The counts of a key.
    KeyCount = 5,
}

/// The fractions of the square roots of 2, 3 and 5, made odd: no pattern of their own.
const ROOT2: u64 = 0x6a09_e667_f3bc_c909;
const ROOT3: u64 = 0xbb67_ae85_84ca_a73b;
const ROOT5: u64 = 0x3c6e_f372_fe94_f82b;

/// Both halves of the 128-bit product, mixed into one.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// A stable 64-bit hash of `bytes`: two words per multiplication, the length taken in first, so that the zeros which
/// fill up the last pair stand for nothing.
#[inline]
pub(super) fn hash(seed: Seed, bytes: &[u8]) -> u64 {
    let mut state = fold(bytes.len() as u64 ^ ROOT2, seed as u64 ^ ROOT3);
    let (pairs, tail) = bytes.as_chunks::<16>();
    for pair in pairs {
        state = take_in(state, pair);
    }
    if !tail.is_empty() {
        let mut pair = [0; 16];
        pair[..tail.len()].copy_from_slice(tail);
        state = take_in(state, &pair);
    }
    fold(state ^ ROOT3, ROOT5)
}

#[inline]
fn take_in(state: u64, pair: &[u8; 16]) -> u64 {
    let both = u128::from_le_bytes(*pair);
    // Added once more, the state survives a word that makes the product zero.
    fold(both as u64 ^ ROOT2, (both >> 64) as u64 ^ state).wrapping_add(state)
}

/// A stable 64-bit hash of a number.
#[inline]
pub(super) fn hash_number(seed: Seed, number: u64) -> u64 {
    let state = fold(number ^ ROOT2, seed as u64 ^ ROOT3);
    fold(state ^ number ^ ROOT3, ROOT5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_hash_is_stable() {
        // Computed by a program of a few lines in another language.
        assert_eq!(hash(Seed::RowSum, b""), 0x223d_ab40_76af_a73e);
        assert_eq!(hash(Seed::RowSum, b"a row of more than sixteen bytes, with a tail"), 0xf535_60cb_6c5f_87b3);
        assert_eq!(hash_number(Seed::Partition, 1), 0x623c_60e8_d956_7f8c);
    }

    #[test]
    fn close_inputs_have_far_hashes() {
        let mut seen = BTreeSet::new();
        for length in 0..100 {
            let mut row = vec![0u8; length];
            assert!(seen.insert(hash(Seed::RowSum, &row)), "{length} zeros");
            for place in 0..length {
                row[place] = 1;
                assert!(seen.insert(hash(Seed::RowSum, &row)), "{length} bytes, one at {place}");
                row[place] = 0;
            }
        }
        assert_ne!(hash(Seed::LongKey, b"key"), hash(Seed::LongKeyToo, b"key"));
    }

    #[test]
    fn numbers_spread_over_partitions() {
        for partitions in [2, 16, 1000] {
            let mut sizes = vec![0u32; partitions as usize];
            // Order keys as TPC-H makes them: eight of every thirty-two.
            for index in 0..1_000_000u64 {
                let order_key = (index / 8) * 32 + index % 8;
                sizes[(hash_number(Seed::Partition, order_key) % partitions) as usize] += 1;
            }
            let even = 1_000_000 / partitions as u32;
            let spread = even / 5;
            assert!(sizes.iter().all(|size| size.abs_diff(even) < spread), "{partitions}: {sizes:?}");
        }
    }

    #[test]
    fn a_sum_ignores_order_and_shows_what_is_wrong() {
        let sum = |rows: &[&str]| {
            let mut sum = RowSum::default();
            rows.iter().for_each(|row| sum.add(row.as_bytes()));
            sum
        };
        let pushed = sum(&["one", "two", "six"]);
        assert_eq!(pushed.difference(&sum(&["six", "one", "two"])), None);
        assert!(pushed.difference(&sum(&["one", "two"])).unwrap().starts_with("rows missing: 1"));
        assert!(pushed.difference(&sum(&["one", "two", "two"])).unwrap().starts_with("their content differs"));
        let twice = pushed.difference(&sum(&["one", "two", "six", "six"])).unwrap();
        assert!(twice.starts_with("rows too many: 1 (pushed 3 rows of 9 bytes"), "{twice}");
    }
}
