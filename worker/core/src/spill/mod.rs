//! What goes to disk, when, and where: watermarks, extents, segments, disks.
//!
//! | part | file |
//! |---|---|
//! | when memory is given up, and whose | here |
//! | a location's extents | `extent` |
//! | files of a shuffle on one disk | `segment` |
//! | which disks take data | `disk` |
//!
//! Owns the decisions. Does not own the bytes, the files, or the tasks that write them.

pub mod disk;
pub mod extent;
pub mod segment;

/// What memory asks of the spill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Bytes of clean memory to forget.
    pub forget_bytes: u64,
    /// Bytes to write so that they can be forgotten.
    pub spill_bytes: u64,
}

/// Shares of what locations may hold, in percent: above the first, memory that is on disk too is forgotten; above the
/// second, the locations that hold most are written. Both go on until the third is reached, so that the worker does not
/// start and stop with every batch.
const FORGET_ABOVE: u64 = 60;
const SPILL_ABOVE: u64 = 70;
const DOWN_TO: u64 = 50;
/// Part of what locations may hold below which nothing is asked for: all locations are looked at then. Nothing is missed:
/// above a mark a tenth of the limit at least is to be forgotten, to be written, or on its way.
const STEP: u64 = 64;

/// Bytes not on disk that a disk may owe to shuffles whose durability asks for it, so that a commit finds little left.
pub const UNWRITTEN_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What to do about memory: `held_bytes` of `limit_bytes` are held by locations, of which `clean_bytes` are on disk too,
/// `moving_bytes` are on their way there: asked for only where it matters, since this is asked with every batch.
#[must_use]
pub fn demand(held_bytes: u64, limit_bytes: u64, clean_bytes: u64, moving_bytes: impl FnOnce() -> u64) -> Demand {
    let above = |percent: u64| held_bytes > limit_bytes / 100 * percent;
    if !above(FORGET_ABOVE) {
        return Demand::default();
    }
    let excess = held_bytes.saturating_sub(limit_bytes / 100 * DOWN_TO);
    let forget_bytes = excess.min(clean_bytes);
    let rest = excess - forget_bytes;
    let spill_bytes = if above(SPILL_ABOVE) { rest.saturating_sub(moving_bytes()) } else { 0 };
    let worth = |bytes: u64| if bytes >= limit_bytes / STEP { bytes } else { 0 };
    Demand { forget_bytes: worth(forget_bytes), spill_bytes: worth(spill_bytes) }
}

/// A location that could be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The caller's index of it. Indices rise in the order of applications, shuffles, partitions and epochs.
    pub index: usize,
    /// Bytes of it that are in memory only.
    pub unwritten_bytes: u64,
}

/// Picks the largest until `wanted_bytes` are reached; the answer is in the order of partitions, so that what is written
/// together is one sequential run.
#[must_use]
pub fn victims(mut candidates: Vec<Candidate>, wanted_bytes: u64) -> Vec<usize> {
    candidates.sort_unstable_by_key(|candidate| (std::cmp::Reverse(candidate.unwritten_bytes), candidate.index));
    let mut missing = wanted_bytes;
    let enough = |candidate: &Candidate| {
        let goes_on = missing > 0 && candidate.unwritten_bytes > 0;
        missing = missing.saturating_sub(candidate.unwritten_bytes);
        goes_on
    };
    let mut picked: Vec<usize> = candidates.iter().copied().take_while(enough).map(|picked| picked.index).collect();
    picked.sort_unstable();
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_memory_goes_first_and_spilling_has_hysteresis() {
        assert_eq!(demand(60, 100, 30, || 0), Demand::default());
        assert_eq!(demand(65, 100, 30, || 0), Demand { forget_bytes: 15, spill_bytes: 0 });
        assert_eq!(demand(65, 100, 5, || 0), Demand { forget_bytes: 5, spill_bytes: 0 }, "under the spill's mark");
        assert_eq!(demand(80, 100, 5, || 0), Demand { forget_bytes: 5, spill_bytes: 25 });
        assert_eq!(demand(80, 100, 5, || 20), Demand { forget_bytes: 5, spill_bytes: 5 }, "what is on its way counts");
        assert_eq!(demand(80, 100, 0, || 90), Demand::default());
        assert_eq!(
            demand(8000, 10_000, 100, || 2800),
            Demand::default(),
            "a little is not worth a look at all locations"
        );
        assert_eq!(demand(8000, 10_000, 160, || 2600), Demand { forget_bytes: 160, spill_bytes: 240 });
    }

    #[test]
    fn the_largest_are_picked_and_written_in_order() {
        let of = |sizes: &[u64]| {
            let candidates = sizes.iter().enumerate();
            candidates.map(|(index, unwritten_bytes)| Candidate { index, unwritten_bytes: *unwritten_bytes }).collect()
        };
        assert_eq!(victims(of(&[10, 50, 0, 40, 30]), 80), [1, 3]);
        assert_eq!(victims(of(&[10, 50, 0, 40, 30]), 95), [1, 3, 4]);
        assert_eq!(victims(of(&[10, 50, 0, 40, 30]), 1000), [0, 1, 3, 4]);
        assert_eq!(victims(of(&[5, 5]), 0), [0; 0]);
    }
}
