//! A set of numbers kept as runs: what is dense costs a few bytes.

use std::ops::Range;

/// A set of `u32`, kept as rising ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    runs: Vec<Range<u32>>,
}

/// The ranges given are not rising, touch each other, or are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ranges must rise and not touch; {first}..{end} does not fit")]
pub struct Unordered {
    /// First number of the range that does not fit.
    pub first: u32,
    /// Its end.
    pub end: u32,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes ranges as they come over the wire.
    ///
    /// # Errors
    /// `Unordered` when they are not rising, touch, or are empty.
    pub fn from_runs(runs: impl IntoIterator<Item = Range<u32>>) -> Result<Self, Unordered> {
        let mut set = Self::new();
        for run in runs {
            let fits = run.start < run.end && set.runs.last().is_none_or(|last| last.end < run.start);
            if !fits {
                return Err(Unordered { first: run.start, end: run.end });
            }
            set.runs.push(run);
        }
        Ok(set)
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
            prop_assert_eq!(RangeSet::from_runs(set.runs().to_vec()).unwrap(), set.clone());
            let count = model.len() as u32;
            prop_assert_eq!(set.is_dense(count), model.iter().copied().eq(0..count));
        }
    }

    #[test]
    fn touching_or_falling_runs_are_refused() {
        assert!(RangeSet::from_runs([0..2, 2..3]).is_err());
        assert!(RangeSet::from_runs([5..6, 1..2]).is_err());
        assert!(RangeSet::from_runs(std::iter::once(5..5)).is_err());
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
