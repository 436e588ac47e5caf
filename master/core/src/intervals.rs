//! Sets of shuffles as rising ranges.
//!
//! Owns the form that such a set has on the wire and in memory, and cutting one by another. Does not own what a set means:
//! what was released is said in `applications`, what is held by each worker.

use mallorn_proto::id::ShuffleId;

/// Shuffles from `first` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuffleRange {
    /// The first shuffle of the range.
    pub first: ShuffleId,
    /// The shuffle after its last.
    pub end: ShuffleId,
}

/// A set of shuffles: ranges that rise, hold at least one shuffle each and do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    ranges: Vec<ShuffleRange>,
}

/// Why ranges are no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntervalsError {
    /// More ranges than the caller allows.
    #[error("{count} ranges of shuffles, at most {limit} are taken: merge neighbours")]
    TooMany {
        /// How many were given.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A range that holds nothing.
    #[error("the range of shuffles {first}..{end} holds nothing")]
    Empty {
        /// Where it starts.
        first: ShuffleId,
        /// Where it ends.
        end: ShuffleId,
    },
    /// A range that starts before, or right where, the one before it ends.
    #[error("a range of shuffles starts at {first}, but the one before it ends at {end}: ranges rise and do not touch")]
    NotRising {
        /// Where the range starts.
        first: ShuffleId,
        /// Where the one before it ends.
        end: ShuffleId,
    },
}

impl Intervals {
    /// Takes ranges as they came, at most `limit` of them.
    ///
    /// # Errors
    /// When they are more, do not rise, touch, or one is empty.
    pub fn new(ranges: Vec<ShuffleRange>, limit: usize) -> Result<Self, IntervalsError> {
        if ranges.len() > limit {
            return Err(IntervalsError::TooMany { count: ranges.len(), limit });
        }
        if let Some(range) = ranges.iter().find(|range| range.first >= range.end) {
            return Err(IntervalsError::Empty { first: range.first, end: range.end });
        }
        if let Some(pair) = ranges.windows(2).find(|pair| pair[1].first <= pair[0].end) {
            return Err(IntervalsError::NotRising { first: pair[1].first, end: pair[0].end });
        }
        Ok(Self { ranges })
    }

    /// The ranges, rising.
    #[must_use]
    pub fn ranges(&self) -> &[ShuffleRange] {
        &self.ranges
    }

    /// How many ranges there are; what a set costs in memory and on the wire.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no shuffle in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The shuffles that are in both, cut off after `limit` ranges.
    #[must_use]
    pub fn intersection(&self, other: &Self, limit: usize) -> Self {
        let (mut mine, mut theirs) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let (first, end) = (a.first.max(b.first), a.end.min(b.end));
            if first < end {
                if ranges.len() == limit {
                    break;
                }
                ranges.push(ShuffleRange { first, end });
            }
            if a.end <= b.end {
                mine.next();
            } else {
                theirs.next();
            }
        }
        Self { ranges }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(ranges: &[(u32, u32)]) -> Intervals {
        Intervals::new(ranges.iter().map(|&(first, end)| range(first, end)).collect(), 100).unwrap()
    }

    fn range(first: u32, end: u32) -> ShuffleRange {
        ShuffleRange { first: ShuffleId(first), end: ShuffleId(end) }
    }

    fn of_members(members: &[bool]) -> Intervals {
        let mut ranges: Vec<ShuffleRange> = Vec::new();
        for (shuffle, _) in (0..).zip(members).filter(|(_, member)| **member) {
            match ranges.last_mut() {
                Some(last) if last.end.0 == shuffle => last.end = ShuffleId(shuffle + 1),
                _ => ranges.push(range(shuffle, shuffle + 1)),
            }
        }
        Intervals::new(ranges, 100).unwrap()
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert_eq!(
            Intervals::new(vec![range(3, 3)], 9),
            Err(IntervalsError::Empty { first: ShuffleId(3), end: ShuffleId(3) })
        );
        assert_eq!(
            Intervals::new(vec![range(1, 3), range(3, 4)], 9),
            Err(IntervalsError::NotRising { first: ShuffleId(3), end: ShuffleId(3) })
        );
        assert_eq!(
            Intervals::new(vec![range(1, 2), range(3, 4)], 1),
            Err(IntervalsError::TooMany { count: 2, limit: 1 })
        );
    }

    #[test]
    fn an_intersection_stops_at_its_limit() {
        let released = set(&[(0, 1), (2, 3), (4, 5)]);
        assert_eq!(set(&[(0, 9)]).intersection(&released, 2), set(&[(0, 1), (2, 3)]));
    }

    proptest! {
        #[test]
        fn an_intersection_has_the_members_of_both(pairs in prop::collection::vec(any::<(bool, bool)>(), 0..40)) {
            let (a, b): (Vec<bool>, Vec<bool>) = pairs.iter().copied().unzip();
            let both: Vec<bool> = pairs.iter().map(|(a, b)| *a && *b).collect();
            prop_assert_eq!(of_members(&a).intersection(&of_members(&b), 100), of_members(&both));
        }
    }
}
