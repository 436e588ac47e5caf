//! What is shuffled: batches cut from noise made before any clock starts, each sent to a partition by a fixed pattern, so
//! that what must come back is known.
//!
//! Owns the pattern and the sums to expect. Does not own sending or reading.

use bytes::Bytes;
use mallorn_proto::checksum::{Crc32c, batch_hash};

use crate::scenario::Shape;

/// Noise to cut batches from: larger than a last-level cache, so that the sender reads cold memory, as a mapper does.
const SOURCE_BYTES: usize = 64 * 1024 * 1024;

/// The noise's seed.
pub(crate) const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The noise.
pub(crate) struct Source(Bytes);

impl Source {
    /// Made of the same numbers each time; where it is to be compressed, half of it is zeros.
    pub(crate) fn new(is_compressed: bool) -> Self {
        Self::of(SOURCE_BYTES, is_compressed)
    }

    fn of(bytes: usize, is_compressed: bool) -> Self {
        let mut state = SEED;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if is_compressed { state & 0xffff_ffff } else { state }
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
    partitions: u32,
    tasks: u32,
    is_skewed: bool,
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
    /// As many whole batches as fit, equally many for each of `tasks`; `None` when that is not even one.
    pub(crate) fn new(source: &Source, shape: &Shape, tasks: u32) -> Option<Self> {
        let batches_per_task = shape.total_bytes / shape.batch_bytes.max(1) / u64::from(tasks.max(1));
        let load = Self {
            source: source.0.clone(),
            batch_bytes: shape.batch_bytes as usize,
            batches_per_task,
            partitions: shape.partitions,
            tasks,
            is_skewed: shape.is_skewed,
        };
        (batches_per_task > 0 && load.batch_bytes > 0 && load.batch_bytes <= load.source.len()).then_some(load)
    }

    /// Tasks that push, and as many that read.
    pub(crate) fn tasks(&self) -> u32 {
        self.tasks
    }

    /// Partitions.
    pub(crate) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Batches of all tasks.
    pub(crate) fn batch_count(&self) -> u64 {
        self.batches_per_task * u64::from(self.tasks)
    }

    /// Bytes of one batch's payload.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// Bytes of all payloads.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.batch_count() * self.batch_bytes as u64
    }

    /// The partitions and payloads that a task pushes, in its order.
    pub(crate) fn batches(&self, task: u32) -> impl Iterator<Item = (u32, Bytes)> + use<> {
        let load = self.clone();
        (0..self.batches_per_task).map(move |step| {
            let start = load.slice_of(task, step) * load.batch_bytes;
            (load.partition_of(task, step), load.source.slice(start..start + load.batch_bytes))
        })
    }

    /// What each partition has to hold in the end.
    pub(crate) fn expected(&self) -> Vec<Content> {
        let hashes: Vec<u64> = self.source.chunks_exact(self.batch_bytes).map(payload_hash).collect();
        let mut contents = vec![Content::default(); self.partitions as usize];
        for task in 0..self.tasks {
            for step in 0..self.batches_per_task {
                let content = &mut contents[self.partition_of(task, step) as usize];
                content.batches += 1;
                content.bytes += self.batch_bytes as u64;
                content.sum = content.sum.wrapping_add(hashes[self.slice_of(task, step)]);
            }
        }
        contents
    }

    fn slice_of(&self, task: u32, step: u64) -> usize {
        let slices = self.source.len() / self.batch_bytes;
        (step as usize * self.tasks as usize + task as usize) % slices
    }

    /// Tasks begin at partitions as far apart as can be, and go round.
    fn partition_of(&self, task: u32, step: u64) -> u32 {
        if self.is_skewed && step.is_multiple_of(2) {
            return 0;
        }
        let step = if self.is_skewed { step / 2 } else { step };
        let first = u64::from(task) * u64::from(self.partitions) / u64::from(self.tasks);
        ((first + step) % u64::from(self.partitions)) as u32
    }
}

fn payload_hash(payload: &[u8]) -> u64 {
    let mut crc = Crc32c::new();
    crc.update(payload);
    batch_hash(0, 0, crc.value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;

    fn shape(total_bytes: u64, batch_bytes: u64) -> Shape {
        Shape { total_bytes, batch_bytes, ..SCENARIOS[0].shape }
    }

    fn pushed(load: &Load) -> Vec<Content> {
        let mut pushed = vec![Content::default(); load.partitions() as usize];
        for task in 0..load.tasks() {
            load.batches(task).for_each(|(partition, payload)| pushed[partition as usize].add(&payload));
        }
        pushed
    }

    #[test]
    fn what_is_expected_is_what_tasks_push() {
        let source = Source::of(1 << 20, false);
        let load = Load::new(&source, &shape(1536 * 1024, 1024), 4).unwrap();
        assert_eq!((load.total_bytes(), load.batch_count()), (1536 * 1024, 1536));
        assert_eq!(pushed(&load), load.expected());
        assert!(load.expected().iter().all(|content| content.batches == 6));
        let skewed = Load::new(&source, &Shape { is_skewed: true, ..shape(1 << 20, 1024) }, 4).unwrap();
        assert_eq!(pushed(&skewed), skewed.expected());
        assert_eq!(skewed.expected()[0].batches, 512 + 2, "half of all, and its share of the rest");
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
        assert!(Load::new(&Source::of(1 << 20, false), &shape(3 << 20, 1 << 20), 4).is_none());
    }
}
