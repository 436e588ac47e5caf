//! What maps push: units that say who pushed them, so that the oracle can tell any two apart.
//!
//! Owns their form, their sizes and their checksum. Does not own who pushes which.

use std::fmt;
use std::hash::Hasher as _;

use rand::Rng;
use rustc_hash::FxHasher;

/// Length, six numbers of a name, checksum.
pub const UNIT_HEADER_BYTES: usize = 4 + 6 * 4 + 8;

/// Which attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptName {
    /// The shuffle.
    pub shuffle: u32,
    /// The generation.
    pub generation: u32,
    /// The map.
    pub map: u32,
    /// The attempt's number, used once in all generations.
    pub attempt: u32,
}

impl fmt::Display for AttemptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shuffle, generation, map, attempt } = self;
        write!(f, "s{shuffle}.g{generation}.m{map}.a{attempt}")
    }
}

/// A unit as the oracle knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    /// Who pushed it.
    pub of: AttemptName,
    /// Where to.
    pub partition: u32,
    /// Rising within the attempt.
    pub sequence: u32,
    /// Over its name and payload.
    pub checksum: u64,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.p{}#{}", self.of, self.partition, self.sequence)
    }
}

/// Why delivered bytes are not whole units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A unit is cut off.
    Cut {
        /// Where it begins.
        at: usize,
        /// How many bytes there are in all.
        of: usize,
    },
    /// A unit's bytes were changed.
    Changed {
        /// Where it begins.
        at: usize,
    },
}

/// Writes a unit of `length` bytes, at least its header, to the end of `into`.
pub fn write_unit(of: AttemptName, partition: u32, sequence: u32, length: usize, into: &mut Vec<u8>) -> Unit {
    let length = length.max(UNIT_HEADER_BYTES);
    let start = into.len();
    let AttemptName { shuffle, generation, map, attempt } = of;
    for number in [length as u32, shuffle, generation, map, attempt, partition, sequence] {
        into.extend_from_slice(&number.to_le_bytes());
    }
    into.extend_from_slice(&[0; 8]);
    // Every word four times, so that compression has something to do.
    let mut word = fold(&into[start..start + UNIT_HEADER_BYTES]) | 1;
    while into.len() < start + length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        for _ in 0..4 {
            into.extend_from_slice(&word.to_le_bytes());
        }
    }
    into.truncate(start + length);
    let checksum = checksum(&into[start..]);
    into[start + UNIT_HEADER_BYTES - 8..start + UNIT_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Unit { of, partition, sequence, checksum }
}

/// Cuts a batch into its units.
///
/// # Errors
/// When they do not add up to exactly these bytes, or are not what was written.
pub fn read_units(data: &[u8]) -> Result<Vec<Unit>, Broken> {
    let mut units = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let cut = Broken::Cut { at, of: data.len() };
        let header = data.get(at..at + UNIT_HEADER_BYTES).ok_or(cut)?;
        let (length, rest) = number(header);
        let whole = data.get(at..at + length as usize).filter(|unit| unit.len() >= UNIT_HEADER_BYTES).ok_or(cut)?;
        let ((shuffle, rest), expected) = (number(rest), checksum(whole));
        let (generation, rest) = number(rest);
        let (map, rest) = number(rest);
        let (attempt, rest) = number(rest);
        let (partition, rest) = number(rest);
        let (sequence, rest) = number(rest);
        if rest != expected.to_le_bytes() {
            return Err(Broken::Changed { at });
        }
        let of = AttemptName { shuffle, generation, map, attempt };
        units.push(Unit { of, partition, sequence, checksum: expected });
        at += length as usize;
    }
    Ok(units)
}

fn number(bytes: &[u8]) -> (u32, &[u8]) {
    let (number, rest) = bytes.split_at(4);
    (u32::from_le_bytes([number[0], number[1], number[2], number[3]]), rest)
}

/// Over the whole unit but its checksum.
fn checksum(unit: &[u8]) -> u64 {
    fold(&unit[..UNIT_HEADER_BYTES - 8]) ^ fold(&unit[UNIT_HEADER_BYTES..]).rotate_left(17)
}

fn fold(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// How large units are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitSizes {
    /// Most units are below this.
    pub usual_bytes: usize,
    /// The largest; some are near it.
    pub largest_bytes: usize,
    /// In a hundred units, how many are near the largest.
    pub large_percent: u32,
    /// In a hundred units, how many have no bytes at all.
    pub empty_percent: u32,
}

impl UnitSizes {
    /// Bytes of the next unit; zero is the empty one.
    pub fn draw(&self, random: &mut impl Rng) -> usize {
        let kind = random.random_range(0..100);
        if kind < self.empty_percent {
            0
        } else if kind < self.empty_percent + self.large_percent {
            random.random_range(self.largest_bytes * 3 / 4..=self.largest_bytes)
        } else {
            random.random_range(UNIT_HEADER_BYTES..=self.usual_bytes.max(UNIT_HEADER_BYTES))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: AttemptName = AttemptName { shuffle: 1, generation: 2, map: 3, attempt: 4 };

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = Vec::new();
        let written: Vec<_> =
            [0, 36, 37, 5000].iter().zip(0..).map(|(length, n)| write_unit(OF, 5, n, *length, &mut bytes)).collect();
        assert_eq!(read_units(&bytes), Ok(written));
        assert_eq!(read_units(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_cut_or_changed_unit_is_noticed() {
        let mut bytes = Vec::new();
        write_unit(OF, 5, 0, 100, &mut bytes);
        for length in 1..bytes.len() {
            assert!(matches!(read_units(&bytes[..length]), Err(Broken::Cut { at: 0, .. })), "{length}");
        }
        for at in 4..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(read_units(&changed), Err(Broken::Changed { at: 0 }), "{at}");
        }
    }
}
