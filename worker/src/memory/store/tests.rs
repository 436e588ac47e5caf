use mallorn_proto::id::Instance;
use mallorn_proto::range_set::RangeSet;
use mallorn_worker_core::commit::Freezing;
use prometheus::Registry;

use super::*;

pub(crate) const BODY: u32 = 1024 * 1024;

pub(crate) fn store() -> Store {
    let arena = Arena::new(16 * 1024 * 1024, BODY).unwrap();
    let metrics = Metrics::new(&Registry::new(), &arena).unwrap();
    let spill = Spill::new(arena, Vec::new(), metrics.clone());
    let bounds = Bounds { body_bytes_max: BODY, split: SplitLimits::NONE };
    Store::new(spill, bounds, Random::seeded(1), metrics)
}

pub(crate) fn application(name: &str) -> Application {
    Application { name: name.to_owned(), instance: Instance(7) }
}

pub(crate) fn id(shuffle: u32, partition: u32) -> LocationId {
    LocationId { shuffle: ShuffleId(shuffle), partition: Partition(partition), epoch: Epoch(0) }
}

pub(crate) fn reserve_one(store: &Store, application: &Application, id: LocationId) -> Reserved {
    let wanted = Wanted { copies: Copies::Lone, durability: Durability::Memory };
    store.reserve(application, store.incarnation(), &[id], &wanted).unwrap()[0]
}

#[test]
fn a_reservation_repeated_has_the_same_handle_and_others_have_others() {
    let store = store();
    let (first, second) = (application("a"), application("b"));
    let handle = reserve_one(&store, &first, id(1, 1));
    assert!(matches!(handle, Reserved::Handle(_)));
    assert_eq!(reserve_one(&store, &first, id(1, 1)), handle);
    assert_ne!(reserve_one(&store, &second, id(1, 1)), handle);
    assert_ne!(reserve_one(&store, &first, id(1, 2)), handle);
    let Reserved::Handle(handle) = handle else { unreachable!() };
    assert!(Arc::ptr_eq(&store.by_handle(handle).unwrap(), &store.by_name(&first, id(1, 1)).unwrap()));
}

#[test]
fn another_incarnation_is_fenced_and_a_fresh_one_voids_handles() {
    let store = store();
    let application = application("a");
    let before = store.incarnation();
    let Reserved::Handle(handle) = reserve_one(&store, &application, id(1, 1)) else { panic!("not reserved") };
    let after = store.start_again();
    assert_ne!(before, after);
    assert!(store.by_handle(handle).is_none());
    let wanted = Wanted { copies: Copies::Lone, durability: Durability::Memory };
    assert!(store.reserve(&application, before, &[id(1, 2)], &wanted).is_err());
    assert_eq!(reserve_one(&store, &application, id(1, 1)), Reserved::Closed);
    assert_eq!(store.freeze(&application, &[id(1, 1)]), [Freezing::Acked(0)], "what it held is still there");
}

#[test]
fn a_draining_worker_takes_nothing_new_and_freezes_the_rest() {
    let store = store();
    let application = application("a");
    reserve_one(&store, &application, id(1, 1));
    store.drain();
    assert!(store.is_draining());
    assert_eq!(reserve_one(&store, &application, id(1, 1)), Reserved::Closed);
    assert_eq!(reserve_one(&store, &application, id(1, 2)), Reserved::Draining);
}

#[test]
fn a_full_arena_reserves_nothing() {
    let store = store();
    let mut held = Vec::new();
    while let Some(slot) = store.arena.take(Pool::Push, u64::from(BODY), 1) {
        held.push(slot);
    }
    assert_eq!(reserve_one(&store, &application("a"), id(1, 1)), Reserved::Full);
    assert!(store.held().is_empty(), "a refused reservation leaves no trace");
}

#[test]
fn removing_takes_a_range_of_shuffles_of_one_application() {
    let store = store();
    let (first, second) = (application("a"), application("b"));
    for shuffle in 0..6 {
        reserve_one(&store, &first, id(shuffle, 0));
        reserve_one(&store, &second, id(shuffle, 0));
    }
    assert_eq!(store.remove(&first, 1..3).len(), 2);
    assert_eq!(store.remove(&first, 4..4).len(), 0);
    assert_eq!(store.remove(&first, Range { start: 9, end: 2 }).len(), 0);
    let held = store.held();
    let shuffles = RangeSet::from_iter([0, 3, 4, 5]);
    assert_eq!(held[0], Held { application: first.clone(), shuffles });
    assert_eq!(held[1].shuffles.runs().len(), 1);
    assert_eq!(store.remove_all(&second).len(), 6);
    assert_eq!(store.held().len(), 1);
    assert_eq!(store.remove(&first, 0..u32::MAX).len(), 4);
    assert!(store.held().is_empty());
    assert!(store.handles.is_empty());
}
