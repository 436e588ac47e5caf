//! What an attempt has pushed: dense batch ids per partition, and the sums that its end reports.
//!
//! Owns: ids and sums. Does not own: payloads, where batches go, whether they were acked.

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

/// The batches that one attempt has cut. It is asked twice for every batch, so what is known of a partition is found by
/// its number: in pages, for an attempt may touch few of many.
#[derive(Debug)]
pub struct AttemptLog {
    map: MapId,
    pages: Vec<Option<Box<[Cut; PAGE]>>>,
}

/// Partitions of a page.
const PAGE: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    next: u32,
    sum: BatchSum,
    ended: bool,
    touched: bool,
}

impl AttemptLog {
    /// Nothing cut yet.
    #[must_use]
    pub fn new(map: MapId) -> Self {
        Self { map, pages: Vec::new() }
    }

    /// Draws the id of the partition's next batch.
    ///
    /// # Panics
    /// When the partition's last batch was cut, or after 2^32 - 1 batches: programmer errors.
    pub fn cut(&mut self, partition: Partition, last: bool) -> BatchId {
        let cut = self.touch(partition);
        assert!(!cut.ended, "no batch follows the last one");
        let batch = BatchId(cut.next);
        cut.next = cut.next.checked_add(1).expect("batch ids are 32 bits");
        cut.ended = last;
        batch
    }

    /// Adds a cut batch, with its checksum, to the partition's sum.
    pub fn count(&mut self, partition: Partition, batch: BatchId, raw_bytes: u32, crc: u32) {
        let map = self.map;
        self.touch(partition).sum.add(map, batch, raw_bytes, crc);
    }

    /// Partitions that were touched and have no last batch yet.
    pub fn open_partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        self.touched().filter(|(_, cut)| !cut.ended).map(|(partition, _)| partition)
    }

    /// What was pushed to each touched partition, rising.
    pub fn sums(&self) -> impl Iterator<Item = (Partition, BatchSum)> + '_ {
        self.touched().map(|(partition, cut)| (partition, cut.sum))
    }

    fn touch(&mut self, Partition(partition): Partition) -> &mut Cut {
        let (page, at) = (partition as usize / PAGE, partition as usize % PAGE);
        if page >= self.pages.len() {
            self.pages.resize(page + 1, None);
        }
        let cut = &mut self.pages[page].get_or_insert_default()[at];
        cut.touched = true;
        cut
    }

    fn touched(&self) -> impl Iterator<Item = (Partition, &Cut)> {
        let numbered = (0..).step_by(PAGE).zip(&self.pages);
        let cuts = numbered.flat_map(|(first, page)| (first..).zip(page.iter().flat_map(|page| page.iter())));
        cuts.filter(|(_, cut)| cut.touched).map(|(partition, cut)| (Partition(partition), cut))
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
    fn what_was_touched_is_told_in_order_and_nothing_else() {
        let mut log = AttemptLog::new(MapId(0));
        for partition in [99_999, 3, 16, 0, 15] {
            log.cut(Partition(partition), partition == 3);
            log.count(Partition(partition), BatchId(0), partition, 1);
        }
        let sums: Vec<_> = log.sums().map(|(partition, sum)| (partition.0, sum.bytes)).collect();
        assert_eq!(sums, [(0, 0), (3, 3), (15, 15), (16, 16), (99_999, 99_999)]);
        assert_eq!(log.open_partitions().map(|partition| partition.0).collect::<Vec<_>>(), [0, 15, 16, 99_999]);
    }

    #[test]
    #[should_panic(expected = "no batch follows")]
    fn nothing_follows_the_last_batch() {
        let mut log = AttemptLog::new(MapId(0));
        log.cut(Partition(0), true);
        log.cut(Partition(0), false);
    }
}
