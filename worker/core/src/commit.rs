//! How a location's life ends: freeze, seal, drop.
//!
//! Owns the two steps of a commit and what their repeats answer. Only the lifecycle manager's commit makes data count;
//! it fixes (seal id, length) once, so a second pair is somebody else's. Does not own the memory that is given back.

use mallorn_proto::id::SealId;
use mallorn_sabotage::{self as sabotage, Sabotage};

use crate::push::{Life, Log};

/// The answer to a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealing {
    /// Sealed, now or before, under this id at this length.
    Sealed {
        /// Batches below the length.
        batches: u64,
    },
    /// The location is not here (any more).
    Unknown,
    /// It held less than the length. It never seals shorter: it is gone, and holds nothing.
    Short {
        /// Bytes that it held.
        held: u64,
    },
    /// It is sealed, and no disk takes it now: whoever asked for more than memory asks again.
    NotDurable,
    /// It is sealed under another pair, or the length is no border between its batches: the caller is not the lifecycle
    /// manager that its batches were acked to.
    Conflict,
    /// Another worker has taken it over, and speaks for it.
    Moved,
}

/// The answer to a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freezing {
    /// No batch is acked any more; these bytes were.
    Acked(u64),
    /// The location is not here (any more).
    Unknown,
    /// Another worker has taken it over, and speaks for it.
    Moved,
}

impl Log {
    /// Ends acks for good and returns the acked length, in bytes; `None` when the location is gone, or not all here yet:
    /// a lifecycle manager that asks for that takes it for a copy which this worker had before. A repeat answers
    /// the same, a sealed location its sealed length. What a primary holds beyond its acked length is kept: the replica
    /// may have it too, and the lifecycle manager may fix the longer one's length.
    pub fn freeze(&mut self) -> Option<u64> {
        match self.life {
            _ if self.is_arriving() => None,
            Life::Open => {
                let acked =
                    if sabotage::is(Sabotage::SealShorterThanAcked) { self.without_last() } else { self.acked() };
                self.life = Life::Frozen { acked };
                Some(acked)
            }
            Life::Frozen { acked } => Some(acked),
            Life::Sealed { length, .. } => Some(length),
            Life::Gone => None,
        }
    }

    /// What was acked before the last batch.
    fn without_last(&self) -> u64 {
        let last = self.batches.back().map_or(0, |batch| u64::from(batch.stored_bytes));
        self.acked().min(self.length - last)
    }

    /// Cuts the location at `length` bytes and makes it readable under `seal`; implies a freeze.
    pub fn seal(&mut self, seal: SealId, length: u64) -> Sealing {
        match self.life {
            _ if self.is_arriving() => Sealing::Unknown,
            Life::Open | Life::Frozen { .. } => self.cut_at(seal, length),
            Life::Sealed { seal: earlier, length: at } if (earlier, at) == (seal, length) => {
                Sealing::Sealed { batches: self.batches() }
            }
            Life::Sealed { .. } => Sealing::Conflict,
            Life::Gone => Sealing::Unknown,
        }
    }

    /// Forgets everything. Repeating it changes nothing.
    pub fn drop_all(&mut self) {
        *self = Self { life: Life::Gone, ..Self::new() };
    }

    pub(crate) fn cut_at(&mut self, seal: SealId, length: u64) -> Sealing {
        if self.length < length {
            let held = self.length;
            self.drop_all();
            return Sealing::Short { held };
        }
        // An extent is not opened to be cut: a length in the middle of what memory has forgotten is taken at its word.
        let (mut end, mut kept) = (self.length, self.batches.len());
        while end > length && kept > 0 {
            kept -= 1;
            end -= u64::from(self.batches[kept].stored_bytes);
        }
        if end != length && length >= self.memory_start {
            return Sealing::Conflict;
        }
        self.batches.truncate(kept);
        self.batches.shrink_to_fit();
        self.chunk_ends.retain(|chunk| chunk.offset <= length);
        self.cut_extents(length);
        self.written_batches = self.written_batches.min(kept);
        if length < self.memory_start {
            self.memory_start = length;
            self.forgotten = self.extents.iter().map(|extent| u64::from(extent.batches)).sum();
        }
        self.length = length;
        self.life = Life::Sealed { seal, length };
        Sealing::Sealed { batches: self.batches() }
    }
}

#[cfg(test)]
mod tests {
    use mallorn_proto::id::{Attempt, BatchId, MapId};
    use proptest::prelude::*;

    use super::*;
    use crate::push::{Admission, BatchEntry};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u32),
        Freeze,
        Seal(u64, u64),
        Drop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (1u32..6).prop_map(Step::Push),
            2 => Just(Step::Freeze),
            2 => (1u64..3, 0u64..30).prop_map(|(seal, length)| Step::Seal(seal, length)),
            1 => Just(Step::Drop),
        ]
    }

    /// The rules said again, over the plain list of batch lengths.
    #[derive(Default)]
    struct Model {
        lengths: Vec<u64>,
        closed: bool,
        sealed: Option<(u64, u64)>,
        gone: bool,
    }

    impl Model {
        fn length(&self) -> u64 {
            self.lengths.iter().sum()
        }

        fn seal(&mut self, pair: (u64, u64)) -> Sealing {
            let borders: Vec<u64> = (0..=self.lengths.len()).map(|count| self.lengths[..count].iter().sum()).collect();
            let at = borders.iter().position(|border| *border == pair.1);
            match (self.sealed, at) {
                _ if self.gone => Sealing::Unknown,
                (Some(earlier), _) if earlier != pair => Sealing::Conflict,
                (None, _) if self.length() < pair.1 => {
                    let held = self.length();
                    *self = Self { gone: true, ..Self::default() };
                    Sealing::Short { held }
                }
                (_, None) => Sealing::Conflict,
                (_, Some(count)) => {
                    self.lengths.truncate(count);
                    (self.closed, self.sealed) = (true, Some(pair));
                    Sealing::Sealed { batches: count as u64 }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_location_lives_as_the_model_does(steps in prop::collection::vec(step(), 0..40)) {
            let (mut log, mut model) = (Log::new(), Model::default());
            for step in steps {
                match step {
                    Step::Push(bytes) => {
                        let expected = if model.closed || model.gone {
                            Admission::HardSplit
                        } else {
                            Admission::Append { offset: model.length() }
                        };
                        prop_assert_eq!(log.admit(), expected);
                        if expected != Admission::HardSplit {
                            log.append(BatchEntry { map: MapId(0), attempt: Attempt(0), batch: BatchId(0), stored_bytes: bytes });
                            model.lengths.push(u64::from(bytes));
                        }
                    }
                    Step::Freeze => {
                        prop_assert_eq!(log.freeze(), (!model.gone).then(|| model.length()));
                        model.closed = true;
                    }
                    Step::Seal(seal, length) => prop_assert_eq!(log.seal(SealId(seal), length), model.seal((seal, length))),
                    Step::Drop => {
                        log.drop_all();
                        model = Model { gone: true, ..Model::default() };
                    }
                }
                prop_assert_eq!((log.length(), log.batches()), (model.length(), model.lengths.len() as u64));
            }
        }
    }
}
