//! Freeze, seal, and what is to be read.

use std::ops::Range;

use mallorn_proto::id::{Epoch, ShuffleId};

use super::*;
use crate::lifecycle::Due;

const P: Partition = Partition(0);
const ALL: Range<u32> = 0..u32::MAX;

/// Ends the stage of a shuffle with one map, after a revive in each of these partitions.
fn ended(lifecycle: &mut Lifecycle, revived: &[u32]) {
    let state = state(lifecycle);
    state.start_attempt(key(0, 0), START).unwrap();
    for partition in revived {
        state.revive(key(0, 0), Partition(*partition), Epoch(0), Replacing::Refused).unwrap();
    }
    place_all(state);
    assert!(end(state, key(0, 0), &[0]).stage_ended);
}

#[test]
fn the_end_of_the_stage_commits_every_epoch() {
    let mut lifecycle = placed(2, Some(1));
    ended(&mut lifecycle, &[0]);
    let state = state(&mut lifecycle);
    assert!(!state.is_committed(&ALL) && !state.is_committed(&(0..1)) && !state.is_committed(&(1..2)));
    let names = |found: Vec<LocationId>| found.iter().map(|l| (l.partition.0, l.epoch.0)).collect::<Vec<_>>();
    assert!(state.due_workers().eq([WORKER]) && state.due(REPLICA) == Due::default());
    let freezes = to_freeze(state);
    assert_eq!(names(freezes.clone()), [(0, 0), (0, 1), (1, 0)]);
    for location in freezes {
        // Nothing of it may be taken for an empty partition before all is sealed.
        assert!(state.plan(location.partition).lost.is_some());
        frozen(state, location, 10, 1);
        assert!(!state.is_committed(&ALL));
    }
    assert_eq!(to_freeze(state), []);
    for offer in to_seal(state) {
        assert!(!state.is_committed(&ALL) && state.plan(offer.location.partition).lost.is_some());
        sealed(state, offer.location);
    }
    assert!(state.is_committed(&ALL) && state.due_workers().next().is_none());
    assert_eq!([epochs(state, 0), epochs(state, 1)], [vec![0, 1], vec![0]]);
    assert_eq!(state.plan(P).lost, None);
}

#[test]
fn seal_id_and_length_are_fixed_by_the_first_answer() {
    let mut lifecycle = placed(1, Some(1));
    ended(&mut lifecycle, &[]);
    let state = state(&mut lifecycle);
    let location = to_freeze(state)[0];
    sealed(state, location);
    assert!(!state.is_committed(&ALL));
    frozen(state, location, 10, 1);
    frozen(state, location, 20, 2);
    let pair = |state: &mut GenerationState| to_seal(state).iter().map(|s| (s.seal, s.length)).collect::<Vec<_>>();
    assert_eq!(pair(state), [(SealId(1), 10)]);
    sealed(state, location);
    frozen(state, location, 30, 3);
    state.commit(ALL);
    failed(state, location);
    sealed(state, location);
    assert_eq!((pair(state), to_freeze(state)), (Vec::new(), Vec::new()));
    let read = &state.plan(P).locations[0];
    assert_eq!((read.seal, read.length, read.worker), (SealId(1), 10, WORKER));
}

#[test]
fn a_location_that_its_worker_does_not_know_is_lost_and_not_empty() {
    for frozen_before in [false, true] {
        let mut lifecycle = placed(2, Some(1));
        ended(&mut lifecycle, &[0]);
        let state = state(&mut lifecycle);
        let location = to_freeze(state)[1];
        if frozen_before {
            frozen(state, location, 10, 1);
        }
        failed(state, location);
        frozen(state, location, 10, 1);
        sealed(state, location);
        seal_all(state, 10);
        assert!(state.is_committed(&ALL));
        let lost = state.plan(P).lost.unwrap().to_string();
        assert!(lost.contains("does not have it") && lost.contains(&location.to_string()), "{lost}");
        assert_eq!((state.plan(Partition(1)).lost, epochs(state, 1)), (None, vec![0]));
    }
}

#[test]
fn a_partition_that_nobody_pushed_to_is_empty_and_not_lost() {
    let mut lifecycle = placed(2, Some(1));
    let state = state(&mut lifecycle);
    end(state, key(0, 0), &[0]);
    seal_all(state, 0);
    let plan = state.plan(Partition(1));
    assert_eq!((plan.locations, plan.lost, plan.sum), (Vec::new(), None, Some(BatchSum::default())));
}

#[test]
fn a_partition_that_never_found_a_place_is_empty_if_no_winner_needed_it() {
    let mut lifecycle = lifecycle(2, Some(1));
    let state = state(&mut lifecycle);
    end(state, key(0, 0), &[]);
    assert!(state.is_committed(&ALL) && to_freeze(state).is_empty());
    assert_eq!((state.plan(P).locations, state.plan(P).lost), (Vec::new(), None));
}

#[test]
fn without_a_map_count_a_read_commits_what_is_open_now() {
    let mut lifecycle = placed(3, None);
    let state = state(&mut lifecycle);
    let first = end(state, key(0, 0), &[0, 1, 2]);
    assert!(state.is_committed(&ALL) && to_freeze(state).is_empty());
    state.commit(0..2);
    assert!(to_freeze(state).iter().map(|location| location.partition.0).eq([0, 1]));
    assert!(!state.is_committed(&(1..3)) && state.is_committed(&(2..3)));
    // Who pushes meanwhile goes on in the next epoch, which is none of this read's business.
    assert_eq!(state.locate(P), Revived::Wanted);
    place_all(state);
    seal_all(state, 10);
    assert!(state.is_committed(&ALL));
    assert_eq!([epochs(state, 0), epochs(state, 1), epochs(state, 2)], [vec![0], vec![0], vec![]]);
    assert_eq!(state.by_tokens(&[first.token]).unwrap()[0].name, name(0, 0));
    state.commit(0..1);
    seal_all(state, 5);
    assert_eq!((epochs(state, 0), state.plan(P).lost), (vec![0, 1], None));
}

#[test]
fn without_a_map_count_a_lost_location_is_struck_out() {
    let mut lifecycle = placed(2, None);
    let state = state(&mut lifecycle);
    state.commit(ALL);
    let gone = to_freeze(state)[1];
    failed(state, gone);
    seal_all(state, 10);
    assert_eq!((epochs(state, 0), epochs(state, 1)), (vec![0], vec![]));
    let read = state.plan(P).locations[0].location;
    state.strike(read);
    assert_eq!((epochs(state, 0), state.plan(P).lost), (vec![], None));
    assert_eq!(state.locate(P), Revived::Wanted);
}

#[test]
fn with_a_map_count_a_sealed_location_is_never_struck_out() {
    let mut lifecycle = placed(1, Some(1));
    ended(&mut lifecycle, &[]);
    let state = state(&mut lifecycle);
    seal_all(state, 10);
    state.strike(state.plan(P).locations[0].location);
    assert_eq!((epochs(state, 0), state.plan(P).lost), (vec![0], None));
}

#[test]
fn only_sealed_locations_are_struck_out() {
    let mut lifecycle = placed(1, None);
    let state = state(&mut lifecycle);
    let open = open(state.locate(P)).location;
    state.strike(open);
    failed(state, open);
    assert_eq!(state.locate(P), Revived::Open(OpenAt { location: open, worker: WORKER, handle: handle_of(open) }));
    state.commit(ALL);
    state.strike(open);
    assert_eq!(to_freeze(state).len(), 1);
}

#[test]
fn answers_for_another_generation_or_nowhere_change_nothing() {
    let mut lifecycle = placed(1, Some(1));
    ended(&mut lifecycle, &[]);
    let state = state(&mut lifecycle);
    let location = to_freeze(state)[0];
    let strays = [
        LocationId { shuffle: ShuffleId(location.shuffle.0 + 1), ..location },
        LocationId { partition: Partition(1), ..location },
        LocationId { epoch: Epoch(1), ..location },
    ];
    for stray in strays {
        frozen(state, stray, 10, 1);
        sealed(state, stray);
        failed(state, stray);
    }
    assert_eq!(to_freeze(state).len(), 1);
    frozen(state, location, 10, 2);
    strays.iter().for_each(|stray| failed(state, *stray));
    assert_eq!(to_seal(state).len(), 1);
}

#[test]
fn senseless_ranges_of_partitions_are_empty() {
    let mut lifecycle = placed(2, None);
    let state = state(&mut lifecycle);
    for (start, end) in [(2, 9), (1, 1), (2, 0), (u32::MAX, u32::MAX), (u32::MAX, 0)] {
        state.commit(start..end);
        assert_eq!((to_freeze(state), state.is_committed(&(start..end))), (Vec::new(), true));
    }
    let nothing = state.plan(Partition(2));
    assert_eq!((nothing.locations, nothing.sum), (Vec::new(), None));
}
