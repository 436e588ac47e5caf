use mallorn_proto::batch::BatchHeader;
use mallorn_proto::id::{Attempt, BatchId, Epoch, Instance, MapId, Partition, SealId, ShuffleId};
use prometheus::Registry;
use proptest::prelude::*;

use super::append::{Body, NotAppended};
use super::*;
use crate::metrics::Metrics;

const MIB: u64 = 1024 * 1024;

fn arena() -> Arc<Arena> {
    Arena::new(16 * MIB, MIB as u32).unwrap()
}

fn location(arena: &Arc<Arena>) -> Arc<Location> {
    let id = LocationId { shuffle: ShuffleId(1), partition: Partition(2), epoch: Epoch(0) };
    let application = Arc::new(Application { name: "a".to_owned(), instance: Instance(7) });
    let (limits, durability) = (SplitLimits::NONE, Durability::Memory);
    let terms = Terms { copy: Copy::Lone, replica: None, origins: Origins::default(), limits, durability };
    let made = Made { id, application, terms, log: Log::new() };
    let metrics = Metrics::new(&Registry::new(), arena).unwrap();
    let spill = Spill::new(Arc::clone(arena), Vec::new(), metrics);
    let heap = arena.charge(Pool::Push, LOCATION_HEAP_BYTES).unwrap();
    Arc::new(Location::new(made, Handle(1), heap, spill))
}

/// A location takes verified batches on trust, so these have a header's length and no envelope.
fn header(length: usize) -> BatchHeader {
    BatchHeader { map: MapId(0), attempt: Attempt(0), batch: BatchId(0), length: length as u32 - 16 }
}

fn bytes_of(location: &Location, range: Range<u64>) -> Vec<u8> {
    let mut views = Vec::new();
    location.lock().views(range, &mut views);
    assert!(views.iter().all(|view| view.length() > 0));
    views.iter().map(AsRef::as_ref).collect::<Vec<_>>().concat()
}

#[derive(Clone, Debug)]
struct Batch {
    bytes: usize,
    attached: bool,
    fill: u8,
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (28usize..100_000, prop::bool::weighted(0.2), any::<u8>());
    prop::collection::vec(batch.prop_map(|(bytes, attached, fill)| Batch { bytes, attached, fill }), 0..40)
}

fn push(location: &Arc<Location>, arena: &Arc<Arena>, batch: &Batch) -> (Result<(), NotAppended>, Vec<u8>) {
    let mut bytes = vec![batch.fill; batch.bytes];
    bytes[batch.bytes / 2..].fill(batch.fill.wrapping_add(1));
    if !batch.attached {
        return (append(location, arena, Body::Copied(&bytes), bytes.len()), bytes);
    }
    let Some(mut slots) = arena.take_all(Pool::Push, batch.bytes as u64) else {
        return (Err(NotAppended::NoMemory), bytes);
    };
    let mut rest = &bytes[..];
    for slot in &mut slots {
        let part = rest.len().min(slot.length());
        slot.as_mut()[..part].copy_from_slice(&rest[..part]);
        rest = &rest[part..];
    }
    (append(location, arena, Body::Apart(slots, batch.bytes), batch.bytes), bytes)
}

fn append(location: &Location, arena: &Arc<Arena>, body: Body<'_>, length: usize) -> Result<(), NotAppended> {
    let mut state = location.lock();
    let admission = state.log.admit();
    state.append(arena, admission, header(length), body).map(|_| ())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_read_is_what_was_appended(batches in batches(), cut in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let arena = arena();
        let location = location(&arena);
        let (mut all, mut borders) = (Vec::new(), vec![0]);
        for batch in &batches {
            let (status, bytes) = push(&location, &arena, batch);
            prop_assert_eq!(status, Ok(()));
            all.extend(bytes);
            borders.push(all.len() as u64);
        }
        prop_assert_eq!(&bytes_of(&location, 0..all.len() as u64), &all);
        let length = *cut.get(&borders);
        {
            let mut state = location.lock();
            state.log.seal(SealId(1), length);
            state.trim();
        }
        let start = from.index(length as usize + 1) as u64;
        prop_assert_eq!(&bytes_of(&location, start..length), &all[start as usize..length as usize]);
        location.lock().clear();
        prop_assert_eq!(arena.usage().held_total_bytes(), 0);
    }

    #[test]
    fn a_full_arena_refuses_and_keeps_what_was_acked(bytes in 1000usize..900_000, attached: bool) {
        let arena = arena();
        let location = location(&arena);
        let batch = Batch { bytes, attached, fill: 3 };
        let mut acked = 0;
        let refused = loop {
            let before = arena.usage();
            match push(&location, &arena, &batch) {
                (Ok(()), _) => acked += bytes as u64,
                (status, _) => {
                    prop_assert_eq!(arena.usage().held_bytes, before.held_bytes, "a refused batch holds nothing");
                    break status;
                }
            }
        };
        prop_assert_eq!(refused, Err(NotAppended::NoMemory));
        prop_assert_eq!(location.lock().log.length(), acked);
        let mut views = Vec::new();
        location.lock().views(0..acked, &mut views);
        prop_assert_eq!(views.iter().map(View::length).sum::<usize>() as u64, acked);
    }
}

#[test]
fn readers_finish_on_what_they_hold() {
    let arena = arena();
    let location = location(&arena);
    let (_, bytes) = push(&location, &arena, &Batch { bytes: 5000, attached: false, fill: 1 });
    let mut views = Vec::new();
    location.lock().views(0..5000, &mut views);
    location.lock().clear();
    // A new holder of memory must not be given what the reader still sees.
    let other = self::location(&arena);
    push(&other, &arena, &Batch { bytes: 90_000, attached: false, fill: 200 }).0.unwrap();
    assert_eq!(views.iter().flat_map(AsRef::as_ref).copied().collect::<Vec<_>>(), bytes);
    other.lock().clear();
    assert!(arena.usage().held_total_bytes() > 0);
    drop(views);
    assert_eq!(arena.usage().held_total_bytes(), 0);
}

#[test]
fn the_batch_list_is_charged() {
    let arena = arena();
    let location = location(&arena);
    for _ in 0..1000 {
        push(&location, &arena, &Batch { bytes: 28, attached: false, fill: 0 }).0.unwrap();
    }
    let state = location.lock();
    let charged = state.heap.as_ref().unwrap().bytes();
    assert!(charged >= 1000 * BatchEntry::HEAP_BYTES, "{charged}");
}
