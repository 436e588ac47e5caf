//! A set of small numbers that gives its lowest member quickly: a bitmap with summaries above it.
//!
//! Owns no meaning. It allocates once, when it is made, so that taking and giving slots never does.

/// A set of numbers below a bound.
#[derive(Clone, Debug)]
pub(super) struct FreeSet {
    /// `levels[0]` has a bit per number; a bit of each level above tells whether a word of the level below has any.
    levels: Vec<Vec<u64>>,
    bound: usize,
}

const WORD_BITS: usize = u64::BITS as usize;

impl FreeSet {
    /// Empty; may hold the numbers below `bound`.
    pub(super) fn new(bound: usize) -> Self {
        let mut levels = Vec::new();
        let mut words = bound.div_ceil(WORD_BITS).max(1);
        loop {
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels, bound };
            }
            words = words.div_ceil(WORD_BITS);
        }
    }

    pub(super) fn insert(&mut self, number: usize) {
        assert!(number < self.bound, "{number} is beyond the set's bound {}", self.bound);
        let mut at = number;
        for level in &mut self.levels {
            let word = &mut level[at / WORD_BITS];
            let was_empty = *word == 0;
            *word |= 1 << (at % WORD_BITS);
            if !was_empty {
                return;
            }
            at /= WORD_BITS;
        }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        number < self.bound && self.levels[0][number / WORD_BITS] & (1 << (number % WORD_BITS)) != 0
    }

    /// Takes a number out; returns whether it was in.
    pub(super) fn remove(&mut self, number: usize) -> bool {
        if !self.contains(number) {
            return false;
        }
        let mut at = number;
        for level in &mut self.levels {
            let word = &mut level[at / WORD_BITS];
            *word &= !(1 << (at % WORD_BITS));
            if *word != 0 {
                break;
            }
            at /= WORD_BITS;
        }
        true
    }

    /// The lowest member.
    pub(super) fn lowest(&self) -> Option<usize> {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let word = level[at];
            if word == 0 {
                return None;
            }
            at = at * WORD_BITS + word.trailing_zeros() as usize;
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(bound in 1usize..5000, steps in prop::collection::vec((any::<bool>(), 0usize..5000), 0..300)) {
            let mut set = FreeSet::new(bound);
            let mut model = BTreeSet::new();
            for (insert, number) in steps {
                let number = number % bound;
                if insert {
                    set.insert(number);
                    model.insert(number);
                } else {
                    prop_assert_eq!(set.remove(number), model.remove(&number));
                }
                prop_assert_eq!(set.lowest(), model.first().copied());
            }
        }
    }
}
