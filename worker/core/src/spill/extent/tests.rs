use mallorn_proto::id::SealId;
use proptest::prelude::*;

use super::*;
use crate::commit::Sealing;
use crate::fetch::{Cursor, MapRange, Planned};

const SEAL: SealId = SealId(9);

/// A location whose batches are numbered by their place, with the lists of its extents as they are on disk.
#[derive(Default)]
struct Location {
    log: Log,
    lists: Vec<(ExtentPlace, Vec<u8>)>,
    /// Extents handed to a writer that has not come back.
    flying: Vec<Extent>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u32, u32),
    Hand(u64, bool),
    Wrote,
    WriteFailed,
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![8 => 28u32..100_000, 1 => 300_000u32..9_000_000];
    prop_oneof![
        12 => (0u32..6, bytes).prop_map(|(map, bytes)| Step::Push(map, bytes)),
        3 => (1u64..2_000_000, any::<bool>()).prop_map(|(limit, whole)| Step::Hand(limit, whole)),
        3 => Just(Step::Wrote),
        1 => Just(Step::WriteFailed),
        2 => Just(Step::Forget),
    ]
}

impl Location {
    fn take(&mut self, number: u32, step: Step) -> bool {
        match step {
            Step::Push(map, stored_bytes) => {
                let (attempt, batch) = (Attempt(0), BatchId(number));
                self.log.append(BatchEntry { map: MapId(map), attempt, batch, stored_bytes });
                return true;
            }
            Step::Hand(limit, whole) if self.flying.is_empty() => {
                for cut in self.log.cut(limit, whole) {
                    let place = ExtentPlace { disk: 0, segment: 0, position: self.lists.len() as u64 };
                    self.lists.push((place, cut.list.clone()));
                    self.flying.push(cut.written_at(place, 0, 0));
                }
            }
            Step::Hand(..) => {}
            Step::Wrote => drop(self.log.wrote(&std::mem::take(&mut self.flying))),
            Step::WriteFailed => self.flying.clear(),
            Step::Forget => drop(self.log.forget_clean()),
        }
        false
    }

    /// Everything that a reader is sent, as the ranges of the location's bytes.
    fn read(&self, limit: u32, maps: MapRange) -> Vec<Range<u64>> {
        let (mut sent, mut cursor) = (Vec::new(), Cursor::default());
        while cursor.offset < self.log.length() {
            let next = match self.log.plan(cursor, cursor.offset, limit, maps).unwrap() {
                Planned::Memory(plan) => {
                    sent.extend(plan.runs);
                    plan.next
                }
                Planned::Disk(plan) => {
                    let mut next = plan.next;
                    for part in &plan.parts {
                        if !part.selects {
                            sent.push(part.extent.offset..part.extent.end());
                            continue;
                        }
                        let (_, list) = self.lists.iter().find(|(place, _)| *place == part.extent.place).unwrap();
                        let selection = part.select(list, limit, maps).unwrap();
                        let at = |byte: u32| part.extent.offset + u64::from(byte);
                        sent.extend(selection.runs.iter().map(|run| at(run.start)..at(run.end)));
                        next = selection.next;
                    }
                    assert!(next > cursor.offset, "every answer makes progress");
                    Cursor::at(next)
                }
            };
            cursor = next;
        }
        sent
    }
}

proptest! {
    #[test]
    fn wherever_bytes_lie_a_reader_gets_exactly_its_maps(
        steps in prop::collection::vec(step(), 0..120),
        cut in any::<prop::sample::Index>(),
        (start, width) in (0u32..6, 1u32..7),
        limit in 9_000_000u32..20_000_000,
    ) {
        let mut location = Location::default();
        let mut batches: Vec<(u32, Range<u64>)> = Vec::new();
        for (number, step) in (0u32..).zip(steps) {
            let begin = location.log.length();
            if let (true, Step::Push(map, _)) = (location.take(number, step), step) {
                batches.push((map, begin..location.log.length()));
            }
            let log = &location.log;
            prop_assert!(log.memory_start() <= log.written() && log.written() <= log.length());
            prop_assert_eq!(log.unwritten(), log.length() - log.written());
        }
        // A seal that cuts, as a replica's does: maybe in the middle of an extent.
        batches.truncate(cut.index(batches.len() + 1));
        let length = batches.last().map_or(0, |(_, range)| range.end);
        prop_assert!(matches!(location.log.seal(SEAL, length), Sealing::Sealed { .. }), "{}", length);
        location.take(0, Step::Wrote);
        prop_assert!(location.log.written() <= length);

        let maps = MapRange { start, end: start + width };
        let sent = location.read(limit, maps);
        prop_assert!(sent.windows(2).all(|pair| pair[0].end <= pair[1].start), "{:?}", sent);
        let wanted: u64 = batches.iter().filter(|(map, _)| maps.contains(MapId(*map))).map(|(_, range)| range.end - range.start).sum();
        prop_assert_eq!(sent.iter().map(|range| range.end - range.start).sum::<u64>(), wanted);
        for (map, range) in &batches {
            let got = sent.iter().any(|run| run.start <= range.start && range.end <= run.end);
            prop_assert_eq!(got, maps.contains(MapId(*map)), "{:?}", range);
        }
    }

    #[test]
    fn what_is_written_whole_is_restored_as_it_was(steps in prop::collection::vec(step(), 0..60)) {
        let mut location = Location::default();
        for (number, step) in (0u32..).zip(steps) {
            location.take(number, step);
        }
        location.take(0, Step::Wrote);
        location.take(0, Step::Hand(u64::MAX, true));
        location.take(0, Step::Wrote);
        let log = &mut location.log;
        log.seal(SEAL, log.length());
        prop_assert_eq!(log.unwritten(), 0);
        let restored = Restored {
            life: log.life(),
            length: log.length(),
            batches: log.batches(),
            chunk_ends: log.whole_chunks().collect(),
            extents: log.extents().to_vec(),
        };
        let again = Log::restored(restored.clone()).unwrap();
        prop_assert_eq!(again.chunk_ends().collect::<Vec<_>>(), location.log.chunk_ends().collect::<Vec<_>>());
        let before = location.read(20_000_000, MapRange::ALL);
        location.log = again;
        let bytes = |sent: &[Range<u64>]| sent.iter().map(|range| range.end - range.start).sum::<u64>();
        prop_assert_eq!(bytes(&location.read(20_000_000, MapRange::ALL)), bytes(&before));
        if restored.length > 0 {
            let broken = Restored { length: restored.length + 1, ..restored };
            prop_assert_eq!(Log::restored(broken).map(drop), Err(BrokenRecord));
        }
    }
}

#[test]
fn extents_are_of_whole_batches_about_as_long_as_aimed_for() {
    let mut location = Location::default();
    for number in 0..40 {
        location.take(number, Step::Push(number, 100_000));
    }
    let cuts = location.log.cut(u64::MAX, false);
    assert!(cuts.iter().all(|cut| cut.bytes() == 600_000), "six batches of 100,000 reach 512 KiB");
    assert_eq!((cuts.len(), cuts[1].first_map, cuts[1].last_map, cuts[1].batches), (6, 6, 11, 6));
    assert_eq!(entries(&cuts[1].list).map(|entry| entry.batch.0).collect::<Vec<_>>(), [6, 7, 8, 9, 10, 11]);
    assert_eq!(location.log.cut(u64::MAX, true).len(), 7);
    assert_eq!(location.log.cut(1_400_000, false).len(), 2, "within the limit");
    assert_eq!(location.log.cut(1, true).len(), 1, "but one at least");
}

/// A record of one extent, whose batches are 40 and 60 bytes long.
fn recorded(change: impl FnOnce(&mut Restored)) -> Result<(), BrokenRecord> {
    let place = ExtentPlace { disk: 0, segment: 0, position: 4096 };
    let cut = Cut { range: 0..100, list: Vec::new(), batches: 2, first_map: 0, last_map: 0 };
    let (extents, chunk_ends) = (vec![cut.written_at(place, 0, 0)], vec![(40, 1)]);
    let mut restored = Restored { life: Life::Frozen { acked: 100 }, length: 100, batches: 2, chunk_ends, extents };
    change(&mut restored);
    Log::restored(restored).map(drop)
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    assert_eq!(recorded(|_| {}), Ok(()));
    assert_eq!(recorded(|of| of.life = Life::Frozen { acked: 101 }), Err(BrokenRecord), "more was acked than is there");
    assert_eq!(recorded(|of| of.chunk_ends = vec![(0, 0), (40, 1)]), Err(BrokenRecord), "no reader takes such a chunk");
    assert_eq!(recorded(|of| of.extents[0].place.position = u64::MAX - 100), Err(BrokenRecord), "no file is as long");
}

#[test]
fn a_list_that_is_not_of_what_is_stored_is_refused_whatever_its_checksum() {
    let entry = |stored_bytes| BatchEntry { map: MapId(0), attempt: Attempt(0), batch: BatchId(0), stored_bytes };
    let is_list = |lengths: &[u32], batches, spare: &[u8]| {
        let mut list = Vec::new();
        lengths.iter().for_each(|length| put_entry(&mut list, &entry(*length)));
        list.extend_from_slice(spare);
        let mut crc = Crc32c::new();
        crc.update(&list);
        let cut = Cut { range: 0..100, list: Vec::new(), batches, first_map: 0, last_map: 0 };
        cut.written_at(ExtentPlace::default(), 0, crc.value()).is_list(&list)
    };
    assert!(is_list(&[40, 60], 2, &[]));
    assert!(!is_list(&[40, u32::MAX], 2, &[]) && !is_list(&[40, 59], 2, &[]));
    assert!(!is_list(&[40, 60], 3, &[]) && !is_list(&[40, 60], 2, &[0]));
}
