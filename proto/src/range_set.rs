//! A set of numbers kept as runs: what is dense costs a few bytes.
//!
//! Owns the form that such a set has in memory and on the wire. Does not own what its numbers are: maps, partitions,
//! batches or shuffles.

use std::ops::Range;

use crate::v1;

/// A set of `u32`, kept as rising ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    runs: Vec<Range<u32>>,
}

/// Why ranges that came over the wire are no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// More ranges than the receiver takes.
    #[error("{count} ranges, at most {limit} are taken: merge neighbours")]
    TooMany {
        /// How many came.
        count: usize,
        /// How many are taken.
        limit: usize,
    },
    /// A range that holds nothing.
    #[error("the range {first}..{end} holds nothing")]
    Empty {
        /// Where it starts.
        first: u32,
        /// Where it ends.
        end: u32,
    },
    /// A range that starts before, or right where, the one before it ends.
    #[error("a range starts at {first}, but the one before it ends at {end}: ranges rise and do not touch")]
    NotRising {
        /// Where the range starts.
        first: u32,
        /// Where the one before it ends.
        end: u32,
    },
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes ranges as they came over the wire, at most `limit` of them.
    ///
    /// # Errors
    /// When they are more, do not rise, touch, or one is empty.
    pub fn from_wire(ranges: Vec<v1::Range>, limit: usize) -> Result<Self, RangesError> {
        if ranges.len() > limit {
            return Err(RangesError::TooMany { count: ranges.len(), limit });
        }
        if let Some(&v1::Range { first, end }) = ranges.iter().find(|range| range.first >= range.end) {
            return Err(RangesError::Empty { first, end });
        }
        if let Some(pair) = ranges.windows(2).find(|pair| pair[1].first <= pair[0].end) {
            return Err(RangesError::NotRising { first: pair[1].first, end: pair[0].end });
        }
        Ok(Self { runs: ranges.into_iter().map(Into::into).collect() })
    }

    /// The ranges as they go over the wire.
    #[must_use]
    pub fn to_wire(&self) -> Vec<v1::Range> {
        self.runs.iter().cloned().map(Into::into).collect()
    }

    /// Adds a number; `false` when it was there. Cheap when numbers come in rising order. `u32::MAX` cannot be held and
    /// answers `false`.
    pub fn insert(&mut self, number: u32) -> bool {
        let Some(after) = number.checked_add(1) else { return false };
        let index = match self.runs.last() {
            Some(last) if last.end <= number => self.runs.len(),
            _ => self.runs.partition_point(|run| run.end <= number),
        };
        if self.runs.get(index).is_some_and(|run| run.start <= number) {
            return false;
        }
        let joins_left = index > 0 && self.runs[index - 1].end == number;
        let joins_right = self.runs.get(index).is_some_and(|run| run.start == after);
        match (joins_left, joins_right) {
            (true, true) => {
                self.runs[index - 1].end = self.runs[index].end;
                self.runs.remove(index);
            }
            (true, false) => self.runs[index - 1].end = after,
            (false, true) => self.runs[index].start = number,
            (false, false) => self.runs.insert(index, number..after),
        }
        true
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        let index = self.runs.partition_point(|run| run.end <= number);
        self.runs.get(index).is_some_and(|run| run.start <= number)
    }

    /// Whether the set is exactly the numbers below `count`.
    #[must_use]
    pub fn is_dense(&self, count: u32) -> bool {
        match self.runs.as_slice() {
            [] => count == 0,
            [run] => run.start == 0 && run.end == count,
            _ => false,
        }
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.end - run.start)).sum()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs, rising.
    #[must_use]
    pub fn runs(&self) -> &[Range<u32>] {
        &self.runs
    }

    /// The numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().cloned().flatten()
    }

    /// The part of it within a range; nothing where the range is empty or reversed.
    #[must_use]
    pub fn within(&self, range: &Range<u32>) -> Self {
        if range.is_empty() {
            return Self::new();
        }
        let from = self.runs.partition_point(|run| run.end <= range.start);
        let meets = self.runs[from..].iter().take_while(|run| run.start < range.end);
        let runs = meets.map(|run| run.start.max(range.start)..run.end.min(range.end)).collect();
        Self { runs }
    }

    /// The numbers that are in both, cut off after `limit` runs.
    #[must_use]
    pub fn intersection(&self, other: &Self, limit: usize) -> Self {
        let (mut mine, mut theirs) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        let mut runs = Vec::new();
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let (first, end) = (a.start.max(b.start), a.end.min(b.end));
            if first < end {
                if runs.len() == limit {
                    break;
                }
                runs.push(first..end);
            }
            if a.end <= b.end {
                mine.next();
            } else {
                theirs.next();
            }
        }
        Self { runs }
    }

    /// Joins the last runs into one, so that `limit` are left, one at least; from then on what lay between them is in the
    /// set too.
    pub fn join_tail(&mut self, limit: usize) {
        let limit = limit.max(1);
        if let Some(end) = self.runs.get(limit..).and_then(<[_]>::last).map(|run| run.end) {
            self.runs.truncate(limit);
            self.runs[limit - 1].end = end;
        }
    }
}

impl From<Range<u32>> for v1::Range {
    fn from(range: Range<u32>) -> Self {
        Self { first: range.start, end: range.end }
    }
}

impl From<v1::Range> for Range<u32> {
    fn from(range: v1::Range) -> Self {
        range.first..range.end
    }
}

impl FromIterator<u32> for RangeSet {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut set = Self::new();
        for number in numbers {
            set.insert(number);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers() -> impl Strategy<Value = BTreeSet<u32>> {
        prop::collection::btree_set(0u32..40, 0..30)
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in prop::collection::vec(0u32..60, 0..80), from in 0u32..60, length in 0u32..60) {
            let mut set = RangeSet::new();
            let mut model = BTreeSet::new();
            for number in &numbers {
                prop_assert_eq!(set.insert(*number), model.insert(*number));
                prop_assert!(set.runs().windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert!((0..61).all(|number| set.contains(number) == model.contains(&number)));
            let part = set.within(&(from..from + length));
            prop_assert!(part.iter().eq(model.range(from..from + length).copied()));
            prop_assert_eq!(RangeSet::from_wire(set.to_wire(), set.runs().len()), Ok(set.clone()));
            let count = model.len() as u32;
            prop_assert_eq!(set.is_dense(count), model.iter().copied().eq(0..count));
        }

        #[test]
        fn an_intersection_has_the_members_of_both(a in numbers(), b in numbers()) {
            let both = RangeSet::from_iter(a.intersection(&b).copied());
            let (a, b) = (RangeSet::from_iter(a), RangeSet::from_iter(b));
            prop_assert_eq!(a.intersection(&b, usize::MAX), both);
        }

        #[test]
        fn a_joined_tail_covers_the_rest_and_nothing_else(numbers in numbers(), limit in 0usize..12) {
            let set = RangeSet::from_iter(numbers);
            let mut joined = set.clone();
            joined.join_tail(limit);
            prop_assert!(joined.runs().len() <= limit.max(1));
            let kept = set.runs().len().min(limit.max(1)).saturating_sub(1);
            prop_assert_eq!(&joined.runs()[..kept], &set.runs()[..kept]);
            let tail = |set: &RangeSet| Some(set.runs().get(kept)?.start..set.runs().last()?.end);
            prop_assert_eq!(tail(&joined), tail(&set));
        }
    }

    fn refused(ranges: &[(u32, u32)], limit: usize) -> RangesError {
        let ranges = ranges.iter().map(|&(first, end)| v1::Range { first, end }).collect();
        RangeSet::from_wire(ranges, limit).unwrap_err()
    }

    #[test]
    fn what_is_no_set_is_refused() {
        assert_eq!(refused(&[(1, 2), (3, 4)], 1), RangesError::TooMany { count: 2, limit: 1 });
        assert_eq!(refused(&[(3, 3)], 9), RangesError::Empty { first: 3, end: 3 });
        assert_eq!(refused(&[(1, 3), (3, 4)], 9), RangesError::NotRising { first: 3, end: 3 });
        assert_eq!(refused(&[(5, 6), (1, 2)], 9), RangesError::NotRising { first: 1, end: 6 });
    }

    #[test]
    fn an_intersection_stops_at_its_limit() {
        let odd = RangeSet::from_iter([0, 2, 4]);
        assert_eq!(RangeSet::from_iter(0..9).intersection(&odd, 2), RangeSet::from_iter([0, 2]));
    }

    #[test]
    fn nothing_is_within_an_empty_or_reversed_range() {
        let set = RangeSet::from_iter(3..8);
        for (start, end) in [(5, 5), (3, 3), (7, 4), (9, 0), (u32::MAX, 5)] {
            assert_eq!(set.within(&(start..end)), RangeSet::new(), "{start}..{end}");
        }
    }

    #[test]
    fn the_largest_number_is_refused_rather_than_wrapped() {
        assert!(!RangeSet::new().insert(u32::MAX));
    }
}
