//! What is shuffled: batches cut from noise made before any clock starts, each sent to a partition by a fixed pattern, so
//! that what must come back is known.
//!
//! Owns the pattern and the sums to expect. Does not own sending or reading.

use bytes::Bytes;
use mallorn_proto::checksum::{Crc32c, batch_hash};

/// Noise to cut batches from: larger than a last-level cache, so that the sender reads cold memory, as a mapper does.
const SOURCE_BYTES: usize = 64 * 1024 * 1024;

/// Partitions of a shuffle.
pub(crate) const PARTITIONS: u32 = 256;
/// Connections to the worker, and as many tasks that push, later read.
pub(crate) const CONNECTIONS: u32 = 4;

/// The noise.
pub(crate) struct Source(Bytes);

impl Source {
    /// Made of the same numbers each time.
    pub(crate) fn new() -> Self {
        Self::of(SOURCE_BYTES)
    }

    fn of(bytes: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        let bytes: Vec<u8> = words.take(bytes / size_of::<u64>()).flat_map(u64::to_le_bytes).collect();
        Self(Bytes::from(bytes))
    }
}

/// One shuffle: every task pushes equally many batches of one size.
#[derive(Clone)]
pub(crate) struct Load {
    source: Bytes,
    batch_bytes: usize,
    batches_per_task: u64,
}

/// What came, or has to come, out of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Batches.
    pub(crate) batches: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    /// Wrapping sum of a hash of each payload's CRC; 0 where payloads were only counted.
    pub(crate) sum: u64,
}

impl Content {
    /// Counts a batch without looking at its bytes.
    pub(crate) fn count(&mut self, payload: &[u8]) {
        self.batches += 1;
        self.bytes += payload.len() as u64;
    }

    /// Counts a batch and adds up every byte.
    pub(crate) fn add(&mut self, payload: &[u8]) {
        self.count(payload);
        self.sum = self.sum.wrapping_add(payload_hash(payload));
    }

    /// The same without the sum.
    pub(crate) fn counts(self) -> Self {
        Self { sum: 0, ..self }
    }
}

impl Load {
    /// As many whole batches as fit `total_bytes`, equally many for each task; `None` when that is not even one.
    pub(crate) fn new(source: &Source, batch_bytes: usize, total_bytes: u64) -> Option<Self> {
        let batches_per_task = total_bytes / batch_bytes as u64 / u64::from(CONNECTIONS);
        let load = Self { source: source.0.clone(), batch_bytes, batches_per_task };
        (batches_per_task > 0).then_some(load)
    }

    /// Bytes of one batch's payload.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// Bytes of all payloads.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.batches_per_task * u64::from(CONNECTIONS) * self.batch_bytes as u64
    }

    /// The partitions and payloads that a task pushes, in its order.
    pub(crate) fn batches(&self, task: u32) -> impl Iterator<Item = (u32, Bytes)> + use<> {
        let load = self.clone();
        (0..self.batches_per_task).map(move |step| {
            let start = load.slice_of(task, step) * load.batch_bytes;
            (partition_of(task, step), load.source.slice(start..start + load.batch_bytes))
        })
    }

    /// What each partition has to hold in the end.
    pub(crate) fn expected(&self) -> Vec<Content> {
        let hashes: Vec<u64> = self.source.chunks_exact(self.batch_bytes).map(payload_hash).collect();
        let mut contents = vec![Content::default(); PARTITIONS as usize];
        for task in 0..CONNECTIONS {
            for step in 0..self.batches_per_task {
                let content = &mut contents[partition_of(task, step) as usize];
                content.batches += 1;
                content.bytes += self.batch_bytes as u64;
                content.sum = content.sum.wrapping_add(hashes[self.slice_of(task, step)]);
            }
        }
        contents
    }

    fn slice_of(&self, task: u32, step: u64) -> usize {
        let slices = self.source.len() / self.batch_bytes;
        (step as usize * CONNECTIONS as usize + task as usize) % slices
    }
}

/// Tasks begin at partitions as far apart as can be, and go round.
fn partition_of(task: u32, step: u64) -> u32 {
    let first = u64::from(task * (PARTITIONS / CONNECTIONS));
    ((first + step) % u64::from(PARTITIONS)) as u32
}

fn payload_hash(payload: &[u8]) -> u64 {
    let mut crc = Crc32c::new();
    crc.update(payload);
    batch_hash(0, 0, crc.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_what_tasks_push() {
        let source = Source::of(1 << 20);
        let load = Load::new(&source, 1024, 1536 * 1024).unwrap();
        assert_eq!(load.total_bytes(), 1536 * 1024);
        let mut pushed = vec![Content::default(); PARTITIONS as usize];
        for task in 0..CONNECTIONS {
            load.batches(task).for_each(|(partition, payload)| pushed[partition as usize].add(&payload));
        }
        assert_eq!(pushed, load.expected());
        assert!(pushed.iter().all(|content| content.batches == 6));
    }

    #[test]
    fn one_flipped_bit_changes_the_sum_and_not_the_counts() {
        let (mut good, mut bad) = (Content::default(), Content::default());
        good.add(&[7; 100]);
        let mut payload = [7; 100];
        payload[50] ^= 1;
        bad.add(&payload);
        assert_ne!(good, bad);
        assert_eq!(good.counts(), bad.counts());
    }

    #[test]
    fn too_little_for_one_batch_each_is_no_load() {
        assert!(Load::new(&Source::of(1 << 20), 1 << 20, 3 << 20).is_none());
    }
}
