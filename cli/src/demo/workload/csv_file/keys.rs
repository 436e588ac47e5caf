//! Counting rows and bytes per key.
//!
//! Owns the counts of one reduce task, their bound, and the share of the answer they come down to. Does not own how
//! rows are encoded.

use super::super::{
    Answer, KeyRows, Partial, TopKeys,
    row_sum::{Seed, hash},
};
use std::{cmp::Reverse, collections::BTreeMap};

/// How many keys an answer names.
const LARGEST_KEYS: usize = 10;

/// Longer keys are not kept whole: this many bytes, the length, and 128 bits of hash stand for them.
const KEPT_KEY_BYTES: usize = 1024;

/// What stands behind the kept bytes of a longer key: its length and its two hashes.
const LONG_KEY_TAIL: usize = 3 * size_of::<u64>();

/// Rows and bytes of one key.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    rows: u64,
    bytes: u64,
}

/// Rows and bytes per key. Memory is bounded by [`KeyCounts::BUDGET_BYTES`], whatever the keys.
#[derive(Debug, Default)]
pub(super) struct KeyCounts {
    counts: BTreeMap<Box<[u8]>, Count>,
    held_bytes: u64,
    rows: u64,
    bytes: u64,
    long_key: Vec<u8>,
}

/// There are more distinct keys than are held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "after {keys} distinct keys there is no room for more ({} MiB are set aside for them): choose a column with fewer \
     different values",
    KeyCounts::BUDGET_BYTES >> 20
)]
pub(crate) struct TooManyKeys {
    /// How many keys are held.
    pub(crate) keys: u64,
}

impl KeyCounts {
    /// How many bytes keys and their counts may take.
    const BUDGET_BYTES: u64 = 1 << 30;

    /// What a key costs beyond its own bytes: place in the map, count, allocation.
    const KEY_OVERHEAD_BYTES: u64 = 96;

    /// Counts one row with `key` and `bytes` bytes.
    pub(super) fn add(&mut self, key: &[u8], bytes: u64) -> Result<(), TooManyKeys> {
        let kept = if key.len() <= KEPT_KEY_BYTES {
            key
        } else {
            self.long_key.clear();
            self.long_key.extend_from_slice(&key[..KEPT_KEY_BYTES]);
            for part in [key.len() as u64, hash(Seed::LongKey, key), hash(Seed::LongKeyToo, key)] {
                self.long_key.extend_from_slice(&part.to_be_bytes());
            }
            &self.long_key
        };
        let count = match self.counts.get_mut(kept) {
            Some(count) => count,
            None => {
                self.held_bytes += kept.len() as u64 + Self::KEY_OVERHEAD_BYTES;
                if self.held_bytes > Self::BUDGET_BYTES {
                    return Err(TooManyKeys { keys: self.counts.len() as u64 });
                }
                self.counts.entry(kept.into()).or_default()
            }
        };
        count.rows += 1;
        count.bytes += bytes;
        self.rows += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// The share of the answer; every key must have been counted here alone.
    pub(super) fn finish(self) -> KeySummary {
        let mut summary =
            KeySummary { keys: self.counts.len() as u64, rows: self.rows, bytes: self.bytes, ..KeySummary::default() };
        let mut line = Vec::new();
        for (key, count) in self.counts {
            line.clear();
            line.extend_from_slice(&key);
            line.extend_from_slice(&count.rows.to_le_bytes());
            line.extend_from_slice(&count.bytes.to_le_bytes());
            summary.digest = summary.digest.wrapping_add(hash(Seed::KeyCount, &line));
            // Keys come in ascending order: a later one with as many rows as the last of the largest is not among them.
            let last = summary.largest.last().map_or(0, |largest| largest.count.rows);
            if summary.largest.len() < LARGEST_KEYS || count.rows > last {
                summary.largest.push(LargestKey { key, count });
                summary.keep_largest();
            }
        }
        summary
    }
}

/// What the keys of some reduce tasks come down to: small, however many keys there are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct KeySummary {
    largest: Vec<LargestKey>,
    keys: u64,
    rows: u64,
    bytes: u64,
    digest: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LargestKey {
    /// As kept in [`KeyCounts`].
    key: Box<[u8]>,
    count: Count,
}

impl KeySummary {
    fn keep_largest(&mut self) {
        self.largest.sort_by(|a, b| (Reverse(a.count.rows), &a.key).cmp(&(Reverse(b.count.rows), &b.key)));
        self.largest.truncate(LARGEST_KEYS);
    }

    /// The answer, once every reduce task's share is merged in.
    pub(super) fn answer(&self) -> Answer {
        Answer::TopKeys(TopKeys {
            largest: self.largest.iter().map(LargestKey::answer).collect(),
            keys: self.keys,
            rows: self.rows,
            bytes: self.bytes,
            digest: format!("{:016x}", self.digest),
        })
    }
}

impl Partial for KeySummary {
    fn merge(&mut self, other: Self) {
        self.largest.extend(other.largest);
        self.keep_largest();
        self.keys += other.keys;
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

impl LargestKey {
    fn answer(&self) -> KeyRows {
        let (key, key_bytes) = match self.key.split_at_checked(KEPT_KEY_BYTES) {
            Some((kept, tail)) if tail.len() == LONG_KEY_TAIL => {
                let (length, _) = tail.split_first_chunk().expect("it is longer than a length");
                (text(kept, true) + "…", u64::from_be_bytes(*length))
            }
            _ => (text(&self.key, false), self.key.len() as u64),
        };
        KeyRows { key, key_bytes, rows: self.count.rows, bytes: self.count.bytes }
    }
}

/// `key` as text, with bytes that are no UTF-8 as `\xNN`. Of a key that was cut, a cut character at the end is left out.
fn text(key: &[u8], was_cut: bool) -> String {
    let mut text = String::with_capacity(key.len());
    let mut chunks = key.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let cut_character = was_cut
            && chunks.peek().is_none()
            && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
        if !cut_character {
            text.extend(chunk.invalid().iter().flat_map(|byte| byte.escape_ascii()).map(char::from));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(rows: &[(&[u8], u64)]) -> KeyCounts {
        let mut counts = KeyCounts::default();
        rows.iter().for_each(|(key, bytes)| counts.add(key, *bytes).unwrap());
        counts
    }

    fn answer(summary: &KeySummary) -> TopKeys {
        match summary.answer() {
            Answer::TopKeys(answer) => answer,
            Answer::Query12(_) => panic!("not an answer about keys"),
        }
    }

    #[test]
    fn the_largest_keys_come_first_and_ties_by_key() {
        let letters: Vec<[u8; 1]> = (b'a'..=b'z').map(|letter| [letter]).collect();
        let mut rows: Vec<(&[u8], u64)> = letters.iter().map(|letter| (letter.as_slice(), 2)).collect();
        rows.extend([(b"x".as_slice(), 2), (b"x", 2), (b"q", 2)]);
        let answer = answer(&counts(&rows).finish());
        let order: Vec<_> = answer.largest.iter().map(|key| (key.key.as_str(), key.rows, key.bytes)).collect();
        let ones = "abcdefgh".split_inclusive(|_| true).map(|letter| (letter, 1, 2));
        assert_eq!(order, [("x", 3, 6), ("q", 2, 4)].into_iter().chain(ones).collect::<Vec<_>>());
        assert_eq!((answer.keys, answer.rows, answer.bytes), (26, 29, 58));
    }

    #[test]
    fn long_keys_that_differ_at_their_ends_are_two() {
        let long = vec![b'k'; 300_000];
        let mut other = long.clone();
        *other.last_mut().unwrap() = b'l';
        let cut = &long[..long.len() - 1];
        let answer = answer(&counts(&[(&long, 1), (&other, 1), (cut, 1), (&long, 1), (&long[..1024], 1)]).finish());
        assert_eq!(answer.keys, 4);
        assert_eq!(answer.largest[0].key, "k".repeat(1024) + "…");
        assert_eq!((answer.largest[0].key_bytes, answer.largest[0].rows), (300_000, 2));
        assert!(answer.largest.iter().any(|key| key.key_bytes == 299_999));
        assert!(answer.largest.iter().any(|key| key.key == "k".repeat(1024) && key.key_bytes == 1024));
    }

    #[test]
    fn long_keys_take_little_memory() {
        let mut counts = KeyCounts::default();
        counts.add(&vec![b'k'; 1 << 20], 1).unwrap();
        assert!(counts.held_bytes < 1200);
    }

    #[test]
    fn memory_for_keys_ends_in_an_error() {
        let mut counts = KeyCounts { held_bytes: KeyCounts::BUDGET_BYTES - 200, ..KeyCounts::default() };
        counts.add(b"first", 1).unwrap();
        assert_eq!(counts.add(b"second", 1), Err(TooManyKeys { keys: 1 }));
        counts.add(b"first", 1).unwrap();
        let message = TooManyKeys { keys: 1 }.to_string();
        assert!(message.starts_with("after 1 distinct keys there is no room for more (1024 MiB"), "{message}");
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped() {
        assert_eq!(text(b"caf\xc3\xa9 \xff\xfe!", false), "café \\xff\\xfe!");
        let mut key = vec![b'k'; 1023];
        key.extend("é and more".as_bytes());
        assert_eq!(answer(&counts(&[(&key, 1)]).finish()).largest[0].key, "k".repeat(1023) + "…");
        key[1023] = 0xff;
        assert_eq!(answer(&counts(&[(&key, 1)]).finish()).largest[0].key, "k".repeat(1023) + "\\xff…");
    }

    #[test]
    fn the_digest_covers_keys_that_are_not_named() {
        let rows: Vec<(Vec<u8>, u64)> = (0..100u8).map(|key| (vec![key, 0], u64::from(key))).collect();
        let sum = |rows: &[(Vec<u8>, u64)]| {
            let rows: Vec<(&[u8], u64)> = rows.iter().map(|(key, bytes)| (key.as_slice(), *bytes)).collect();
            answer(&counts(&rows).finish())
        };
        let right = sum(&rows);
        let mut wrong = rows;
        (wrong[70].1, wrong[80].1) = (80, 70);
        assert_eq!(right.largest, sum(&wrong).largest);
        assert_ne!(right.digest, sum(&wrong).digest);
    }

    proptest! {
        #[test]
        fn counting_apart_is_counting_together(rows in prop::collection::vec((0..40u8, 0..50u64), 0..300), tasks in 1..6u8) {
            let mut together = KeyCounts::default();
            let mut apart: Vec<KeyCounts> = (0..tasks).map(|_| KeyCounts::default()).collect();
            for (key, bytes) in rows {
                together.add(&[key], bytes).unwrap();
                apart[usize::from(key % tasks)].add(&[key], bytes).unwrap();
            }
            let mut merged = KeySummary::default();
            apart.into_iter().for_each(|counts| merged.merge(counts.finish()));
            prop_assert_eq!(merged, together.finish());
        }
    }
}
