use mallorn_proto::id::{Attempt, BatchId};
use mallorn_proto::limits::CHUNK_BYTES;
use proptest::prelude::*;

use super::*;
use crate::push::BatchEntry;

const SEAL: SealId = SealId(9);

fn entry(map: u32, stored_bytes: u32) -> BatchEntry {
    BatchEntry { map: MapId(map), attempt: Attempt(0), batch: BatchId(0), stored_bytes }
}

fn sealed(batches: &[(u32, u32)]) -> Log {
    let mut log = Log::new();
    batches.iter().for_each(|(map, bytes)| log.append(entry(*map, *bytes)));
    log.seal(SEAL, log.length());
    log
}

/// The plan of a fetch from a location that lies in memory.
fn planned(log: &Log, hint: Cursor, offset: u64, limit: u32, maps: MapRange) -> Result<Plan, FetchError> {
    match log.plan(hint, offset, limit, maps)? {
        Planned::Memory(plan) => Ok(plan),
        Planned::Disk(plan) => panic!("nothing is on disk: {plan:?}"),
    }
}

/// (map, bytes); some batches are so large that chunks end early.
fn batches() -> impl Strategy<Value = Vec<(u32, u32)>> {
    let bytes = prop_oneof![6 => 28u32..5000, 1 => 1u32 << 20..5 << 20];
    prop::collection::vec((0u32..6, bytes), 0..60)
}

fn borders(batches: &[(u32, u32)]) -> Vec<u64> {
    let mut borders = vec![0];
    for (_, bytes) in batches {
        borders.push(borders.last().unwrap() + u64::from(*bytes));
    }
    borders
}

/// Chunk ends by the letter of the rule.
fn chunks(batches: &[(u32, u32)]) -> Vec<u64> {
    let (mut ends, mut start) = (Vec::new(), 0);
    let borders = borders(batches);
    for border in &borders[1..] {
        if border - start >= CHUNK_BYTES {
            ends.push(*border);
            start = *border;
        }
    }
    let last = borders.last().copied().filter(|last| *last > start);
    ends.extend(last);
    ends
}

proptest! {
    #[test]
    fn chunks_are_whole_batches_and_the_same_however_the_copy_is_cut(batches in batches(), cut in any::<prop::sample::Index>()) {
        let count = cut.index(batches.len() + 1);
        let log = sealed(&batches[..count]);
        prop_assert_eq!(log.chunk_ends().collect::<Vec<_>>(), chunks(&batches[..count]));
        let mut longer = Log::new();
        batches.iter().for_each(|(map, bytes)| longer.append(entry(*map, *bytes)));
        longer.seal(SEAL, log.length());
        prop_assert_eq!(longer.chunk_ends().collect::<Vec<_>>(), log.chunk_ends().collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_gets_exactly_its_maps_in_order(batches in batches(), start in 0u32..6, width in 0u32..6, limit in (5u32 << 20)..(12 << 20), hinted: bool) {
        let log = sealed(&batches);
        let maps = MapRange { start, end: start + width };
        let (ends, borders) = (chunks(&batches), borders(&batches));
        let (mut got, mut cursor) = (Vec::new(), Cursor::default());
        while cursor.offset < log.length() {
            let hint = if hinted { cursor } else { Cursor { offset: u64::MAX, batches: 0 } };
            let plan = planned(&log, hint, cursor.offset, limit, maps).unwrap();
            prop_assert!(plan.bytes <= u64::from(limit));
            prop_assert_eq!(plan.bytes, plan.runs.iter().map(|run| run.end - run.start).sum::<u64>());
            prop_assert!(plan.runs.windows(2).all(|pair| pair[0].end < pair[1].start), "neighbours are joined");
            prop_assert!(plan.next.offset > cursor.offset, "every answer makes progress");
            let chunk_end = ends.iter().find(|end| **end > cursor.offset).copied().unwrap();
            prop_assert!(plan.next.offset <= chunk_end && plan.runs.iter().all(|run| run.end <= plan.next.offset));
            got.extend(plan.runs);
            cursor = plan.next;
        }
        let selected: Vec<usize> = (0..batches.len()).filter(|index| (start..start + width).contains(&batches[*index].0)).collect();
        let sent = |index: usize| got.iter().filter(|run| run.start <= borders[index] && borders[index + 1] <= run.end).count();
        prop_assert!(selected.iter().all(|index| sent(*index) == 1));
        let bytes: u64 = selected.iter().map(|index| u64::from(batches[*index].1)).sum();
        prop_assert_eq!(bytes, got.iter().map(|run| run.end - run.start).sum::<u64>());
    }

    #[test]
    fn only_borders_may_be_asked_for(batches in batches(), offset in 0u64..20_000) {
        let log = sealed(&batches);
        let plan = planned(&log, Cursor::default(), offset, u32::MAX, MapRange::ALL);
        if offset >= log.length() {
            let plan = plan.unwrap();
            prop_assert_eq!((plan.runs.len(), plan.bytes, plan.next.offset), (0, 0, offset));
        } else {
            prop_assert_eq!(plan.is_ok(), borders(&batches).contains(&offset));
        }
    }
}

#[test]
fn a_batch_over_the_limit_is_too_large_and_one_that_does_not_fit_any_more_waits() {
    let log = sealed(&[(1, 100), (9, 5000), (1, 300)]);
    let maps = MapRange { start: 1, end: 2 };
    assert_eq!(planned(&log, Cursor::default(), 0, 99, maps), Err(FetchError::TooLarge { bytes: 100, limit: 99 }));
    let plan = planned(&log, Cursor::default(), 0, 399, maps).unwrap();
    assert_eq!((plan.runs.len(), &plan.runs[0], plan.next.offset), (1, &(0..100), 5100));
    let plan = planned(&log, plan.next, 5100, 300, maps).unwrap();
    assert_eq!((plan.runs.len(), &plan.runs[0], plan.next.offset), (1, &(5100..5400), 5400));
}

#[test]
fn the_runs_of_one_answer_are_bounded() {
    let batches: Vec<(u32, u32)> = (0..4 * RUNS_MAX as u32).map(|index| (index % 2, 28)).collect();
    let log = sealed(&batches);
    let maps = MapRange { start: 0, end: 1 };
    let plan = planned(&log, Cursor::default(), 0, u32::MAX, maps).unwrap();
    assert_eq!(plan.runs.len(), RUNS_MAX);
    let rest = planned(&log, plan.next, plan.next.offset, u32::MAX, maps).unwrap();
    assert_eq!(rest.runs.len(), RUNS_MAX);
    assert_eq!(rest.next.offset, log.length());
}

#[test]
fn the_open_range_reads_every_map() {
    let log = sealed(&[(0, 28), (u32::MAX, 28)]);
    let plan = planned(&log, Cursor::default(), 0, u32::MAX, MapRange::ALL).unwrap();
    assert_eq!(plan.runs.len(), 1);
    assert_eq!(plan.bytes, 56);
}

#[test]
fn only_what_is_sealed_under_that_id_is_opened() {
    let mut log = Log::new();
    log.append(entry(0, 28));
    assert_eq!(log.open(SEAL), Err(OpenError::NotHere));
    log.freeze();
    assert_eq!(log.open(SEAL), Err(OpenError::NotHere));
    log.seal(SEAL, 28);
    assert_eq!(log.open(SEAL), Ok(28));
    assert_eq!(log.open(SealId(1)), Err(OpenError::NotHere));
    log.drop_all();
    assert_eq!(log.open(SEAL), Err(OpenError::NotHere));
    assert_eq!(planned(&log, Cursor::default(), 0, 100, MapRange::ALL), Err(FetchError::NotHere));
}
