//! Exactly-once reading of one partition: each batch id of a chosen attempt is delivered once, none of any other, and
//! the end is only said when nothing is missing.
//!
//! Owns: which attempts count, ids seen, sums, completeness. Does not own: where bytes come from, their checksums (the
//! shell verifies a batch before it offers it here).

use std::collections::BTreeMap;

use mallorn_proto::id::{Attempt, BatchId, MapId};
use mallorn_proto::range_set::RangeSet;
use mallorn_sabotage::{self as sabotage, Sabotage};

use crate::push::BatchSum;

/// The attempts whose batches count, by map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    attempts: BTreeMap<MapId, Attempt>,
}

impl Chosen {
    /// Adds a map's attempt; `false` when the map has one already.
    pub fn insert(&mut self, map: MapId, attempt: Attempt) -> bool {
        self.attempts.insert(map, attempt).is_none()
    }

    /// Whether batches of this attempt count.
    #[must_use]
    pub fn counts(&self, map: MapId, attempt: Attempt) -> bool {
        self.attempts.get(&map) == Some(&attempt) || sabotage::is(Sabotage::LoserDelivered)
    }
}

/// A batch as its header and envelope tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The map.
    pub map: MapId,
    /// The batch.
    pub batch: BatchId,
    /// The attempt's final batch for this partition.
    pub last: bool,
    /// Raw bytes of its payload.
    pub raw_bytes: u32,
    /// Its checksum.
    pub crc: u32,
}

/// What must have been read at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// All maps: the partition's sum over the winners.
    Sum(BatchSum),
    /// These maps, each of which touched the partition.
    Maps(RangeSet),
}

/// Follows the reading of one partition.
#[derive(Debug)]
pub struct PartitionRead {
    expected: Expected,
    maps: BTreeMap<MapId, Seen>,
    sum: BatchSum,
}

#[derive(Debug, Default)]
struct Seen {
    ids: RangeSet,
    /// How many batches the attempt has, once its last one was seen.
    count: Option<u32>,
}

/// The partition was read to its end and is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// Maps that touched the partition and whose batches are not all there.
    #[error("batches of {} map(s) are missing, the first is map {}", maps.len(), maps.iter().next().unwrap_or(0))]
    Maps {
        /// The maps.
        maps: RangeSet,
    },
    /// What was read does not add up to what the winners pushed.
    #[error(
        "read {} batches of {} bytes, the winners pushed {} of {} bytes (sums {:016x}, {:016x})",
        read.batches, read.bytes, pushed.batches, pushed.bytes, read.hash, pushed.hash
    )]
    Sum {
        /// What was delivered.
        read: BatchSum,
        /// What the winners reported.
        pushed: BatchSum,
    },
}

impl PartitionRead {
    /// Nothing read yet.
    #[must_use]
    pub fn new(expected: Expected) -> Self {
        Self { expected, maps: BTreeMap::new(), sum: BatchSum::default() }
    }

    /// Whether this batch of a chosen attempt was delivered before; asked before its payload is checked.
    #[must_use]
    pub fn is_repeat(&self, map: MapId, batch: BatchId) -> bool {
        let is_known = self.maps.get(&map).is_some_and(|seen| seen.ids.contains(batch.0));
        is_known && !sabotage::is(Sabotage::RepeatDelivered)
    }

    /// Takes a verified batch of a chosen attempt; `false` when it is a repeat and must not be delivered.
    pub fn take(&mut self, offered: &Offered) -> bool {
        let seen = self.maps.entry(offered.map).or_default();
        if !seen.ids.insert(offered.batch.0) {
            return sabotage::is(Sabotage::RepeatDelivered);
        }
        if offered.last {
            seen.count = Some(offered.batch.0 + 1);
        }
        self.sum.add(offered.map, offered.batch, offered.raw_bytes, offered.crc);
        true
    }

    /// Says whether everything was read.
    ///
    /// # Errors
    /// `Maps` or `Sum`: the partition must not be reported as ended.
    pub fn finish(&self) -> Result<(), Incomplete> {
        if sabotage::is(Sabotage::LossTakenForTheEnd) {
            return Ok(());
        }
        let whole = |map: &MapId| {
            self.maps.get(map).is_some_and(|seen| seen.count.is_some_and(|count| seen.ids.is_dense(count)))
        };
        let missing: RangeSet = match &self.expected {
            Expected::Sum(_) => self.maps.keys().filter(|map| !whole(map)).map(|map| map.0).collect(),
            Expected::Maps(maps) => {
                let strays = self.maps.keys().filter(|map| !maps.contains(map.0) || !whole(map)).map(|map| map.0);
                maps.iter().filter(|map| !whole(&MapId(*map))).chain(strays).collect()
            }
        };
        if !missing.is_empty() {
            return Err(Incomplete::Maps { maps: missing });
        }
        match &self.expected {
            Expected::Sum(pushed) if *pushed != self.sum => Err(Incomplete::Sum { read: self.sum, pushed: *pushed }),
            Expected::Sum(_) | Expected::Maps(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offered(map: u32, batch: u32, last: bool) -> Offered {
        Offered { map: MapId(map), batch: BatchId(batch), last, raw_bytes: 8, crc: map * 100 + batch }
    }

    fn all(maps: u32, batches: u32) -> Vec<Offered> {
        (0..maps).flat_map(|map| (0..batches).map(move |batch| offered(map, batch, batch + 1 == batches))).collect()
    }

    fn sum(batches: &[Offered]) -> BatchSum {
        let mut sum = BatchSum::default();
        batches.iter().for_each(|batch| sum.add(batch.map, batch.batch, batch.raw_bytes, batch.crc));
        sum
    }

    proptest! {
        #[test]
        fn any_order_with_repeats_delivers_each_once(order in Just(all(3, 4)).prop_shuffle(), repeats in prop::collection::vec(0usize..12, 0..12)) {
            for expected in [Expected::Sum(sum(&order)), Expected::Maps((0..3).collect())] {
                let mut read = PartitionRead::new(expected);
                let mut delivered = Vec::new();
                for batch in order.iter().chain(repeats.iter().map(|index| &order[*index])) {
                    let repeat = read.is_repeat(batch.map, batch.batch);
                    prop_assert_eq!(read.take(batch), !repeat);
                    if !repeat {
                        delivered.push(*batch);
                    }
                }
                prop_assert_eq!(delivered.len(), 12);
                prop_assert_eq!(read.finish(), Ok(()));
            }
        }

        #[test]
        fn one_missing_batch_is_never_the_end(missing in 0usize..12) {
            let batches = all(3, 4);
            for expected in [Expected::Sum(sum(&batches)), Expected::Maps((0..3).collect())] {
                let mut read = PartitionRead::new(expected);
                for (index, batch) in batches.iter().enumerate() {
                    if index != missing {
                        read.take(batch);
                    }
                }
                prop_assert!(read.finish().is_err());
            }
        }
    }

    #[test]
    fn a_map_that_never_appears_is_missed() {
        let batches = all(2, 1);
        let mut read = PartitionRead::new(Expected::Sum(sum(&batches)));
        read.take(&batches[0]);
        assert!(matches!(read.finish(), Err(Incomplete::Sum { .. })));
        let mut read = PartitionRead::new(Expected::Maps((0..2).collect()));
        read.take(&batches[0]);
        assert_eq!(read.finish(), Err(Incomplete::Maps { maps: std::iter::once(1).collect() }));
    }

    #[test]
    fn a_changed_payload_under_the_right_id_is_found() {
        let batches = all(1, 2);
        let mut read = PartitionRead::new(Expected::Sum(sum(&batches)));
        read.take(&batches[0]);
        read.take(&Offered { crc: 999, ..batches[1] });
        assert!(matches!(read.finish(), Err(Incomplete::Sum { .. })));
    }

    #[test]
    fn only_the_chosen_attempt_counts() {
        let mut chosen = Chosen::default();
        assert!(chosen.insert(MapId(1), Attempt(2)));
        assert!(!chosen.insert(MapId(1), Attempt(3)));
        assert!(!chosen.counts(MapId(0), Attempt(2)));
    }
}
