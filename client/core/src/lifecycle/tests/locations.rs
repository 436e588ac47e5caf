//! Place, revive, no space: where a partition is open, and who is told what.

use mallorn_proto::id::{Epoch, ShuffleId};

use super::*;
use crate::lifecycle::locations::EPOCHS_MAX;
use crate::lifecycle::{AttemptError, Missing, NoSpace};

const P: Partition = Partition(0);
const FULL: NoSpace = NoSpace { arena_bytes: 100, held_bytes: 99, missing: Missing::Memory };

fn started(lifecycle: &mut Lifecycle) -> &mut GenerationState {
    let state = state(lifecycle);
    for map in 0..2 {
        state.start_attempt(key(map, 0), START).unwrap();
    }
    state
}

#[test]
fn a_new_shuffle_wants_every_partition_once() {
    let mut lifecycle = lifecycle(3, Some(1));
    let state = state(&mut lifecycle);
    let wanted = state.wanted(10);
    assert!(wanted.iter().map(|location| (location.partition.0, location.epoch.0)).eq([(0, 0), (1, 0), (2, 0)]));
    assert_eq!(state.wanted(2), wanted[..2]);
    assert_eq!(state.locate(P), Revived::Wanted);
    assert_eq!(state.wanted(10).len(), 3);
    assert!(!state.was_placed(P));
    state.placed(wanted[0], WORKER, Handle(5), None);
    assert!(state.was_placed(P) && !state.was_placed(Partition(1)));
    assert_eq!(state.locate(P), Revived::Open(OpenAt { location: wanted[0], worker: WORKER, handle: Handle(5) }));
    assert_eq!(state.wanted(10), wanted[1..]);
}

#[test]
fn callers_who_lost_one_epoch_get_one_answer() {
    let mut lifecycle = placed(1, Some(2));
    let state = started(&mut lifecycle);
    assert_eq!(state.revive(key(0, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
    assert_eq!(state.revive(key(1, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
    assert_eq!(state.wanted(10).len(), 1);
    place_all(state);
    let first = open(state.answer(P, None));
    assert_eq!(first.location.epoch, Epoch(1));
    // Who comes late with the same epoch costs nothing.
    assert_eq!(state.revive(key(1, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Open(first)));
    assert_eq!(state.wanted(10), []);
}

#[test]
fn a_refused_epoch_is_never_handed_out_again() {
    let mut lifecycle = placed(1, Some(2));
    let state = started(&mut lifecycle);
    for epoch in 0..20 {
        assert_eq!(state.revive(key(0, 0), P, Epoch(epoch), Replacing::Refused), Ok(Revived::Wanted));
        assert_eq!(state.locate(P), Revived::Wanted);
        place_all(state);
        assert_eq!(open(state.locate(P)).location.epoch, Epoch(epoch + 1));
    }
}

#[test]
fn a_location_that_never_was_is_no_reason_for_a_new_one() {
    let mut lifecycle = placed(1, Some(2));
    let state = started(&mut lifecycle);
    for (partition, epoch) in [(0, 1), (0, u32::MAX), (1, 0)] {
        let refused = state.revive(key(0, 0), Partition(partition), Epoch(epoch), Replacing::Refused);
        assert_eq!(refused, Err(AttemptError::Partition { partition }));
    }
    assert_eq!(open(state.locate(P)).location.epoch, Epoch(0));
    assert_eq!(state.locate(Partition(1)), Revived::NoSpace(NoSpace::default()));
    assert_eq!(state.answer(Partition(1), None), Revived::NoSpace(NoSpace::default()));
}

#[test]
fn a_partition_that_was_never_placed_may_be_revived() {
    let mut lifecycle = lifecycle(1, Some(2));
    let state = started(&mut lifecycle);
    assert_eq!(state.revive(key(0, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
    assert_eq!(state.revive(key(0, 0), P, Epoch(1), Replacing::Refused), Err(AttemptError::Partition { partition: 0 }));
    place_all(state);
    assert_eq!(open(state.answer(P, None)).location.epoch, Epoch(0));
}

#[test]
fn no_space_is_told_until_somebody_asks_again() {
    let mut lifecycle = placed(1, Some(2));
    let state = started(&mut lifecycle);
    state.revive(key(0, 0), P, Epoch(0), Replacing::Refused).unwrap();
    state.not_placed(P, FULL);
    assert_eq!((state.answer(P, None), state.answer(P, None)), (Revived::NoSpace(FULL), Revived::NoSpace(FULL)));
    assert_eq!(state.wanted(10), []);
    assert_eq!(state.revive(key(1, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
    assert_eq!(state.answer(P, None), Revived::Wanted);
    place_all(state);
    // An answer that comes late changes nothing.
    state.not_placed(P, FULL);
    assert_eq!(open(state.answer(P, None)).location.epoch, Epoch(1));
}

#[test]
fn only_the_location_that_is_wanted_is_placed() {
    let mut lifecycle = lifecycle(1, Some(2));
    let state = started(&mut lifecycle);
    let first = state.wanted(1)[0];
    let strays = [
        LocationId { shuffle: ShuffleId(first.shuffle.0 + 1), ..first },
        LocationId { epoch: Epoch(1), ..first },
        LocationId { partition: Partition(1), ..first },
    ];
    for stray in strays {
        state.placed(stray, WorkerId(66), Handle(66), None);
        assert_eq!(state.answer(P, None), Revived::Wanted);
    }
    state.placed(first, WORKER, Handle(1), None);
    state.placed(first, WorkerId(2), Handle(2), None);
    assert_eq!(open(state.answer(P, None)).handle, Handle(1));
    state.revive(key(0, 0), P, Epoch(0), Replacing::Refused).unwrap();
    state.placed(first, WorkerId(3), Handle(3), None);
    assert_eq!(state.answer(P, None), Revived::Wanted);
    // Everybody who reserved something of this generation is told of its release.
    assert!(state.workers().eq([WORKER, WorkerId(2), WorkerId(3), WorkerId(66)]));
}

#[test]
fn a_map_that_has_a_winner_needs_no_location() {
    let mut lifecycle = placed(1, Some(2));
    let state = started(&mut lifecycle);
    end(state, key(0, 1), &[0]);
    assert_eq!(state.revive(key(0, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::MapEnded));
    assert_eq!(open(state.locate(P)).location.epoch, Epoch(0));
    assert_eq!(state.revive(key(1, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
}

#[test]
fn nothing_is_placed_after_the_end_of_the_stage_and_who_waits_is_told() {
    let mut lifecycle = placed(3, Some(2));
    let state = started(&mut lifecycle);
    state.revive(key(1, 0), P, Epoch(0), Replacing::Refused).unwrap();
    state.revive(key(1, 0), Partition(1), Epoch(0), Replacing::Refused).unwrap();
    state.not_placed(Partition(1), FULL);
    let late = state.wanted(10)[0];
    end(state, key(0, 1), &[2]);
    end(state, key(1, 1), &[2]);
    assert_eq!(state.wanted(10), []);
    state.placed(late, WORKER, Handle(9), None);
    for partition in (0..3).map(Partition) {
        assert_eq!(state.answer(partition, None), Revived::StageEnded);
        assert_eq!(state.locate(partition), Revived::StageEnded);
        assert_eq!(state.revive(key(1, 0), partition, Epoch(0), Replacing::Refused), Ok(Revived::StageEnded));
    }
    assert_eq!(state.wanted(10), []);
}

#[test]
fn without_a_map_count_a_revive_never_says_that_anything_has_ended() {
    let mut lifecycle = placed(1, None);
    let state = started(&mut lifecycle);
    end(state, key(0, 1), &[0]);
    end(state, key(1, 1), &[0]);
    assert_eq!(state.revive(key(0, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
    place_all(state);
    assert_eq!(open(state.revive(key(0, 1), P, Epoch(0), Replacing::Refused).unwrap()).location.epoch, Epoch(1));
}

#[test]
fn who_waits_for_a_location_that_a_commit_closed_is_not_left_waiting() {
    let mut lifecycle = placed(1, None);
    let state = started(&mut lifecycle);
    state.revive(key(0, 0), P, Epoch(0), Replacing::Refused).unwrap();
    place_all(state);
    state.commit(0..1);
    assert_eq!(state.answer(P, None), Revived::NoSpace(NoSpace::default()));
    assert_eq!(state.revive(key(0, 0), P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
    place_all(state);
    assert_eq!(open(state.answer(P, None)).location.epoch, Epoch(2));
}

#[test]
fn the_epochs_of_a_partition_are_bounded() {
    let mut lifecycle = placed(1, Some(2));
    let state = started(&mut lifecycle);
    for epoch in 0..EPOCHS_MAX as u32 - 1 {
        assert_eq!(state.revive(key(0, 0), P, Epoch(epoch), Replacing::Refused), Ok(Revived::Wanted));
        place_all(state);
    }
    let no_space = Revived::NoSpace(NoSpace::default());
    assert_eq!(state.revive(key(0, 0), P, Epoch(EPOCHS_MAX as u32 - 1), Replacing::Refused), Ok(no_space));
    assert_eq!((state.locate(P), state.answer(P, None), state.wanted(10)), (no_space, no_space, Vec::new()));
}
