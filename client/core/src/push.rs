//! What an attempt has pushed: dense batch ids per partition, and the sums that its end reports.
//!
//! Owns: ids and sums. Does not own: payloads, where batches go, whether they were acked.

use std::collections::BTreeMap;

use mallorn_proto::checksum::batch_hash;
use mallorn_proto::id::{BatchId, MapId, Partition};

/// An order-free sum over batches: two sets of batches with the same sum are the same set but for a chance of 2^-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSum {
    /// How many batches.
    pub batches: u64,
    /// Raw bytes of their payloads.
    pub bytes: u64,
    /// Wrapping sum of their hashes.
    pub hash: u64,
}

impl BatchSum {
    /// Adds one batch.
    pub fn add(&mut self, map: MapId, batch: BatchId, raw_bytes: u32, crc: u32) {
        self.batches += 1;
        self.bytes += u64::from(raw_bytes);
        self.hash = self.hash.wrapping_add(batch_hash(map.0, batch.0, crc));
    }

    /// Adds another sum. What another process claims may not fit: everything wraps, and two sums still compare.
    pub fn merge(&mut self, other: &Self) {
        self.batches = self.batches.wrapping_add(other.batches);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.hash = self.hash.wrapping_add(other.hash);
    }
}

/// The batches that one attempt has cut.
#[derive(Debug)]
pub struct AttemptLog {
    map: MapId,
    partitions: BTreeMap<Partition, Cut>,
}

#[derive(Debug, Default)]
struct Cut {
    next: u32,
    sum: BatchSum,
    ended: bool,
}

impl AttemptLog {
    /// Nothing cut yet.
    #[must_use]
    pub fn new(map: MapId) -> Self {
        Self { map, partitions: BTreeMap::new() }
    }

    /// Draws the id of the partition's next batch.
    ///
    /// # Panics
    /// When the partition's last batch was cut, or after 2^32 - 1 batches: programmer errors.
    pub fn cut(&mut self, partition: Partition, last: bool) -> BatchId {
        let cut = self.partitions.entry(partition).or_default();
        assert!(!cut.ended, "no batch follows the last one");
        let batch = BatchId(cut.next);
        cut.next = cut.next.checked_add(1).expect("batch ids are 32 bits");
        cut.ended = last;
        batch
    }

    /// Adds a cut batch, with its checksum, to the partition's sum.
    pub fn count(&mut self, partition: Partition, batch: BatchId, raw_bytes: u32, crc: u32) {
        let map = self.map;
        self.partitions.entry(partition).or_default().sum.add(map, batch, raw_bytes, crc);
    }

    /// Partitions that were touched and have no last batch yet.
    pub fn open_partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        self.partitions.iter().filter(|(_, cut)| !cut.ended).map(|(partition, _)| *partition)
    }

    /// What was pushed to each touched partition, rising.
    pub fn sums(&self) -> impl Iterator<Item = (Partition, BatchSum)> + '_ {
        self.partitions.iter().map(|(partition, cut)| (*partition, cut.sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dense_per_partition_and_end_with_the_last() {
        let mut log = AttemptLog::new(MapId(4));
        let (a, b) = (Partition(1), Partition(2));
        assert_eq!([log.cut(a, false), log.cut(b, false), log.cut(a, true)], [BatchId(0), BatchId(0), BatchId(1)]);
        assert_eq!(log.open_partitions().collect::<Vec<_>>(), [b]);
        log.count(a, BatchId(1), 10, 7);
        log.count(a, BatchId(0), 5, 9);
        let (_, sum) = log.sums().next().unwrap();
        let mut other = BatchSum::default();
        other.add(MapId(4), BatchId(0), 5, 9);
        other.add(MapId(4), BatchId(1), 10, 7);
        assert_eq!(sum, other);
    }

    #[test]
    #[should_panic(expected = "no batch follows")]
    fn nothing_follows_the_last_batch() {
        let mut log = AttemptLog::new(MapId(0));
        log.cut(Partition(0), true);
        log.cut(Partition(0), false);
    }
}
