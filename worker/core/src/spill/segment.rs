//! Where the next extents of a shuffle go on one disk: a few files that grow by doubling, so that ten thousand partitions
//! cost a handful of files and one sync.

/// Space reserved for the first segment of a shuffle, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
/// Space reserved for a segment at most, unless one extent alone is larger.
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes at the start of each segment: what it is, and whose.
pub const SEGMENT_HEADER_BYTES: u64 = 64;
/// What every write begins at a multiple of, so that it may go past the system's cache.
pub const BLOCK_BYTES: u64 = 4096;

/// A run of bytes in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The segment's number.
    pub segment: u32,
    /// In bytes from the segment's start.
    pub position: u64,
    /// Space to reserve, where the segment is a new one.
    pub opens: Option<u64>,
}

/// The segments of one shuffle on one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// Number, bytes used and capacity of the last one.
    open: Option<(u32, u64, u64)>,
    /// The next segment's number.
    next: u32,
}

impl Segments {
    /// Goes on with this number, where a restarted worker has found others.
    #[must_use]
    pub fn from(next: u32) -> Self {
        Self { open: None, next }
    }

    /// A write begins: what is allocated next lies at the start of a block.
    pub fn begin(&mut self) {
        if let Some((_, used, _)) = &mut self.open {
            *used = used.next_multiple_of(BLOCK_BYTES);
        }
    }

    /// Takes `bytes` at the end of the last segment, or in a new one where that is full.
    pub fn allocate(&mut self, bytes: u64) -> Allocation {
        if let Some((segment, used, capacity)) = &mut self.open
            && *used + bytes <= *capacity
        {
            let position = *used;
            *used += bytes;
            return Allocation { segment: *segment, position, opens: None };
        }
        let doubled = self.open.map_or(SEGMENT_BYTES_MIN, |(_, _, capacity)| capacity.saturating_mul(2));
        let wanted = (BLOCK_BYTES + bytes).next_multiple_of(BLOCK_BYTES);
        let capacity = doubled.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).max(wanted);
        let segment = self.next;
        self.next += 1;
        self.open = Some((segment, BLOCK_BYTES + bytes, capacity));
        Allocation { segment, position: BLOCK_BYTES, opens: Some(capacity) }
    }

    /// Leaves the last segment alone: what was allocated in it may not be there.
    pub fn abandon(&mut self) {
        self.open = None;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_grow_by_doubling_and_never_overlap() {
        let mut segments = Segments::default();
        let mut taken: Vec<(u32, u64, u64)> = Vec::new();
        let mut capacities = Vec::new();
        for _ in 0..600 {
            let bytes = 300_000;
            let Allocation { segment, position, opens } = segments.allocate(bytes);
            if let Some(capacity) = opens {
                capacities.push(capacity);
                assert_eq!(position, BLOCK_BYTES);
            }
            assert!(taken.iter().all(|(other, _, end)| *other != segment || *end <= position));
            assert!(position + bytes <= *capacities.last().unwrap());
            taken.push((segment, position, position + bytes));
        }
        let mib = 1024 * 1024;
        assert_eq!(capacities[..7], [mib, 2 * mib, 4 * mib, 8 * mib, 16 * mib, 32 * mib, 64 * mib]);
        assert!(capacities[7..].iter().all(|capacity| *capacity == SEGMENT_BYTES_MAX));
    }

    #[test]
    fn an_extent_larger_than_a_segment_gets_one_of_its_size() {
        let mut segments = Segments::default();
        let large = 70 * 1024 * 1024;
        assert!(segments.allocate(large).opens.unwrap() >= large + BLOCK_BYTES);
        segments.abandon();
        assert_eq!(segments.allocate(1), Allocation { segment: 1, position: 4096, opens: Some(SEGMENT_BYTES_MIN) });
        segments.begin();
        assert_eq!(segments.allocate(1), Allocation { segment: 1, position: 8192, opens: None });
        assert_eq!(Segments::from(8).allocate(1).segment, 8);
    }
}
