//! The partitions that an attempt touched: kept for every winner, so in whichever form is smaller.

use std::ops::Range;

use mallorn_proto::range_set::RangeSet;

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// A set of partitions: runs where they are few, else a bit for each from the first to the last. So ten thousand maps that
/// touch every other one of ten thousand partitions take 13 MB, not 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Runs(RangeSet),
    Bits {
        /// Of the first bit.
        first: u32,
        words: Box<[u64]>,
    },
}

impl Touched {
    /// The partitions within a range.
    #[must_use]
    pub fn within(&self, range: &Range<u32>) -> RangeSet {
        match &self.0 {
            Form::Runs(runs) => runs.within(range),
            Form::Bits { first, words } => {
                let of_words = (words.len() as u32).saturating_mul(WORD);
                let (from, to) = (range.start.max(*first), range.end.min(first.saturating_add(of_words)));
                let is_set = |partition: &u32| {
                    let bit = partition - first;
                    words[(bit / WORD) as usize] >> (bit % WORD) & 1 == 1
                };
                (from..to.max(from)).filter(is_set).collect()
            }
        }
    }

    /// The partitions, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let all = self.within(&(0..u32::MAX));
        all.runs().to_vec().into_iter().flatten()
    }
}

impl FromIterator<u32> for Touched {
    fn from_iter<I: IntoIterator<Item = u32>>(partitions: I) -> Self {
        let runs: RangeSet = partitions.into_iter().collect();
        let span = match (runs.runs().first(), runs.runs().last()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => 0..0,
        };
        let words = span.len().div_ceil(WORD as usize);
        if runs.runs().len() <= words {
            return Self(Form::Runs(of_its_size(&runs)));
        }
        let mut bits = vec![0; words].into_boxed_slice();
        for partition in runs.iter() {
            let bit = partition - span.start;
            bits[(bit / WORD) as usize] |= 1 << (bit % WORD);
        }
        Self(Form::Bits { first: span.start, words: bits })
    }
}

/// Kept by the thousand, so it has room for its runs and no more.
fn of_its_size(runs: &RangeSet) -> RangeSet {
    runs.clone()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bytes(touched: &Touched) -> usize {
        match &touched.0 {
            Form::Runs(runs) => size_of_val(runs.runs()),
            Form::Bits { words, .. } => size_of_val(&words[..]),
        }
    }

    proptest! {
        #[test]
        fn either_form_is_the_same_set(
            partitions in prop::collection::btree_set(0u32..700, 0..400),
            offset in prop_oneof![Just(0u32), Just(u32::MAX - 701)],
            range in (0u32..750, 0u32..750),
        ) {
            let partitions: BTreeSet<u32> = partitions.into_iter().map(|partition| partition + offset).collect();
            let touched: Touched = partitions.iter().copied().collect();
            prop_assert!(touched.iter().eq(partitions.iter().copied()));
            let range = range.0.saturating_add(offset)..range.1.saturating_add(offset);
            let within: Vec<u32> = touched.within(&range).iter().collect();
            let expected: Vec<u32> = partitions.iter().copied().filter(|partition| range.contains(partition)).collect();
            prop_assert_eq!(within, expected);
            prop_assert!(bytes(&touched) <= 8 * 700_usize.div_ceil(64) + 8);
        }
    }

    #[test]
    fn what_is_dense_or_sparse_takes_runs_and_what_is_neither_takes_bits() {
        let of = |step: usize| (0..10_000).step_by(step).collect::<Touched>();
        assert_eq!((bytes(&of(1)), bytes(&of(2)), bytes(&of(5000))), (8, 1256, 16));
    }
}
