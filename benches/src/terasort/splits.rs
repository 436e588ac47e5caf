//! Range partitioning: the key space in equal parts. Keys are uniform, so nothing has to be sampled.

use std::ops::Range;

/// Where partitions begin, in key prefixes of 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Splits {
    partitions: u32,
}

impl Splits {
    /// Of so many partitions, at least one.
    pub(super) fn new(partitions: u32) -> Self {
        Self { partitions }
    }

    /// How many partitions there are.
    pub(super) fn partitions(self) -> u32 {
        self.partitions
    }

    /// The partition of a key.
    pub(super) fn partition_of(self, prefix: u64) -> u32 {
        ((u128::from(prefix) * u128::from(self.partitions)) >> u64::BITS) as u32
    }

    /// The keys of a partition.
    pub(super) fn range(self, partition: u32) -> Range<u128> {
        let start = |partition: u128| (partition << u64::BITS).div_ceil(u128::from(self.partitions));
        start(u128::from(partition))..start(u128::from(partition) + 1)
    }
}
