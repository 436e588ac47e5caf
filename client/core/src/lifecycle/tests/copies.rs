//! Locations with two copies: which length is fixed, what one sealed copy is worth, and what becomes of the other.

use mallorn_proto::id::Epoch;

use super::*;
use crate::lifecycle::{AttemptError, Due, Holding, NoSpace, SealedAt};

const P: Partition = Partition(0);
const THIRD: WorkerId = WorkerId(3);
const KEY: AttemptKey = AttemptKey { name: AttemptName { map: MapId(0), attempt: Attempt(0) }, nonce: 9 };

/// A shuffle of one partition with two copies, whose stage has ended.
fn ended(durability: Durability) -> (Lifecycle, LocationId) {
    let mut lifecycle = protected(1, Some(1), Protection { copies: 2, durability });
    place_all(state(&mut lifecycle));
    let location = open(state(&mut lifecycle).locate(P)).location;
    end(state(&mut lifecycle), KEY, &[0]);
    (lifecycle, location)
}

/// Both copies have answered their freeze.
fn fixed(durability: Durability) -> (Lifecycle, LocationId) {
    let (mut lifecycle, location) = ended(durability);
    let state = state(&mut lifecycle);
    for (worker, length) in [(WORKER, 10), (REPLICA, 12)] {
        assert_eq!(state.due(worker).freeze, [location]);
        state.frozen(location, worker, length);
        state.fix(location, SealId(1));
    }
    (lifecycle, location)
}

fn offers(state: &mut GenerationState, worker: WorkerId) -> Vec<(SealId, u64, Durability)> {
    state.due(worker).seal.iter().map(|offer| (offer.seal, offer.length, offer.durability)).collect()
}

fn read_at(state: &GenerationState) -> Vec<(WorkerId, Option<WorkerId>)> {
    state.plan(P).locations.iter().map(|SealedAt { worker, other, .. }| (*worker, *other)).collect()
}

#[test]
fn the_least_of_the_answers_is_fixed_once_all_have_answered() {
    for order in [[(WORKER, 10), (REPLICA, 12)], [(REPLICA, 12), (WORKER, 10)], [(WORKER, 12), (REPLICA, 10)]] {
        let (mut lifecycle, location) = ended(Durability::Written);
        let state = state(&mut lifecycle);
        assert!(state.due_workers().eq([WORKER, REPLICA]));
        for (worker, length) in order {
            assert_eq!(state.due(worker).freeze, [location]);
            assert_eq!((offers(state, WORKER), offers(state, REPLICA)), (vec![], vec![]));
            state.frozen(location, worker, length);
            state.fix(location, SealId(1));
        }
        state.frozen(location, WORKER, 3);
        state.fix(location, SealId(2));
        let pair = vec![(SealId(1), 10, Durability::Written)];
        assert_eq!((offers(state, WORKER), offers(state, REPLICA)), (pair.clone(), pair));
    }
}

#[test]
fn an_answer_waits_for_the_other_call_and_no_longer() {
    let (mut lifecycle, location) = ended(Durability::Written);
    let state = state(&mut lifecycle);
    let both = [WORKER, REPLICA];
    both.iter().for_each(|worker| assert_eq!(state.due(*worker).freeze, [location]));
    // Nobody has answered: nothing is fixed, and nothing has failed.
    for worker in both {
        state.missed(location, worker);
        state.fix(location, SealId(1));
    }
    assert!(state.due_workers().eq(both) && !state.is_committed(&(0..1)));
    both.iter().for_each(|worker| assert_eq!(state.due(*worker).freeze, [location]));
    state.frozen(location, REPLICA, 12);
    state.fix(location, SealId(2));
    assert_eq!((offers(state, REPLICA), state.due(WORKER).freeze), (vec![], vec![location]));
    state.missed(location, WORKER);
    state.fix(location, SealId(3));
    // The one that could not be reached is offered the same pair.
    let pair = vec![(SealId(3), 12, Durability::Written)];
    assert_eq!((offers(state, REPLICA), offers(state, WORKER)), (pair.clone(), pair));
}

#[test]
fn one_sealed_copy_is_enough_and_the_other_is_offered_the_seal_until_it_is_sealed_too() {
    let (mut lifecycle, location) = fixed(Durability::Written);
    let state = state(&mut lifecycle);
    assert!(!state.is_committed(&(0..1)) && state.plan(P).lost.is_some());
    state.sealed(location, REPLICA, Durability::Written);
    assert!(state.is_committed(&(0..1)));
    assert_eq!((read_at(state), state.plan(P).lost, state.degraded()), (vec![(REPLICA, None)], None, 0));
    assert!(state.due_workers().eq([WORKER]));
    assert_eq!(offers(state, WORKER), [(SealId(1), 10, Durability::Written)]);
    state.sealed(location, WORKER, Durability::Written);
    assert_eq!((read_at(state), state.degraded()), (vec![(WORKER, Some(REPLICA))], 0));
    assert!(state.due_workers().next().is_none());
}

#[test]
fn a_location_is_degraded_by_a_call_that_came_to_nothing_not_by_one_that_is_under_way() {
    // The seal is under way at the other copy, and its call fails; it is sealed after all.
    let (mut lifecycle, location) = fixed(Durability::Written);
    let state = state(&mut lifecycle);
    state.sealed(location, REPLICA, Durability::Written);
    assert_eq!((state.is_committed(&(0..1)), state.degraded()), (true, 0));
    state.missed(location, WORKER);
    assert_eq!((offers(state, WORKER).len(), state.degraded()), (1, 1));
    state.sealed(location, WORKER, Durability::Written);
    state.missed(location, WORKER);
    assert_eq!((read_at(state), state.degraded()), (vec![(WORKER, Some(REPLICA))], 0));
}

#[test]
fn a_location_is_degraded_where_the_other_copy_did_not_freeze_or_is_given_up() {
    let (mut lifecycle, location) = ended(Durability::Written);
    let state = state(&mut lifecycle);
    let _ = (state.due(WORKER), state.due(REPLICA));
    state.frozen(location, REPLICA, 12);
    state.missed(location, WORKER);
    state.fix(location, SealId(1));
    assert_eq!(state.degraded(), 0, "no copy is sealed");
    state.sealed(location, REPLICA, Durability::Written);
    assert_eq!(state.degraded(), 1);
    state.failed(location, WORKER, CopyFailure::Gone);
    assert_eq!((state.degraded(), state.due_workers().count()), (1, 0));
}

#[test]
fn a_location_is_lost_when_both_copies_are_and_says_why() {
    let (mut lifecycle, location) = fixed(Durability::Written);
    let state = state(&mut lifecycle);
    state.failed(location, WORKER, CopyFailure::Unknown);
    assert!(!state.is_committed(&(0..1)));
    assert_eq!(offers(state, REPLICA), [(SealId(1), 10, Durability::Written)]);
    state.failed(location, REPLICA, CopyFailure::Short);
    state.sealed(location, REPLICA, Durability::Written);
    assert!(state.is_committed(&(0..1)) && state.due_workers().next().is_none());
    let lost = state.plan(P).lost.unwrap();
    assert_eq!(lost.copies, [(WORKER, Some(CopyFailure::Unknown)), (REPLICA, Some(CopyFailure::Short))]);
    let text = lost.describe(|worker| format!("w{}", worker.0));
    assert!(text.ends_with("worker w1 does not have it, worker w2 held less of it than was acked"), "{text}");
}

#[test]
fn a_copy_that_is_unknown_while_freezing_leaves_the_other_s_length() {
    let (mut lifecycle, location) = ended(Durability::Written);
    let state = state(&mut lifecycle);
    let _ = (state.due(WORKER), state.due(REPLICA));
    state.frozen(location, REPLICA, 12);
    state.failed(location, WORKER, CopyFailure::Unknown);
    state.fix(location, SealId(1));
    assert_eq!(
        (offers(state, REPLICA), state.due(WORKER)),
        (vec![(SealId(1), 12, Durability::Written)], Due::default())
    );
}

#[test]
fn in_memory_the_last_copy_is_written() {
    let (mut lifecycle, location) = fixed(Durability::Memory);
    let state = state(&mut lifecycle);
    assert_eq!(offers(state, REPLICA), [(SealId(1), 10, Durability::Memory)]);
    state.failed(location, WORKER, CopyFailure::Gone);
    assert_eq!(offers(state, REPLICA), [(SealId(1), 10, Durability::Written)]);
    // The call under way asked for less.
    state.sealed(location, REPLICA, Durability::Memory);
    assert!(state.is_committed(&(0..1)));
    assert_eq!(offers(state, REPLICA), [(SealId(1), 10, Durability::Written)]);
    state.sealed(location, REPLICA, Durability::Written);
    assert!(state.due_workers().next().is_none());

    // The same where it was sealed before the other one was lost.
    let (mut lifecycle, location) = fixed(Durability::Memory);
    let state = super::state(&mut lifecycle);
    state.sealed(location, WORKER, Durability::Memory);
    state.failed(location, REPLICA, CopyFailure::Gone);
    assert_eq!((read_at(state), state.is_committed(&(0..1))), (vec![(WORKER, None)], true));
    assert_eq!(offers(state, WORKER), [(SealId(1), 10, Durability::Written)]);
    // No disk takes it: then it stays as it is.
    state.not_durable(location, WORKER);
    assert!(state.due_workers().next().is_none() && read_at(state) == [(WORKER, None)]);
}

#[test]
fn what_no_disk_takes_is_failed_or_kept_in_memory_where_that_was_asked_for() {
    let (mut lifecycle, location) = fixed(Durability::Synced);
    let state = state(&mut lifecycle);
    for worker in [WORKER, REPLICA] {
        assert_eq!(offers(state, worker), [(SealId(1), 10, Durability::Synced)]);
        state.not_durable(location, worker);
    }
    assert!(state.plan(P).lost.unwrap().to_string().contains("has no disk that takes it"));

    let (mut lifecycle, location) = fixed(Durability::Memory);
    let state = super::state(&mut lifecycle);
    state.failed(location, WORKER, CopyFailure::Gone);
    state.not_durable(location, REPLICA);
    assert_eq!(offers(state, REPLICA), [(SealId(1), 10, Durability::Memory)]);
    state.sealed(location, REPLICA, Durability::Memory);
    assert_eq!((read_at(state), state.due_workers().count()), (vec![(REPLICA, None)], 0));
}

#[test]
fn a_sealed_copy_that_a_reader_did_not_find_is_offered_its_seal_again_and_read_last() {
    let (mut lifecycle, location) = fixed(Durability::Written);
    let state = state(&mut lifecycle);
    state.reported(location, WORKER);
    [WORKER, REPLICA].into_iter().for_each(|worker| state.sealed(location, worker, Durability::Written));
    state.reported(location, WORKER);
    assert_eq!(read_at(state), [(REPLICA, Some(WORKER))]);
    assert_eq!(state.holders(location), Some(vec![(REPLICA, Holding::Sealed), (WORKER, Holding::Asked)]));
    assert_eq!(offers(state, WORKER), [(SealId(1), 10, Durability::Written)]);
    state.sealed(location, WORKER, Durability::Written);
    assert_eq!(read_at(state), [(WORKER, Some(REPLICA))]);
    state.reported(location, WORKER);
    state.failed(location, WORKER, CopyFailure::Unknown);
    assert_eq!(
        (read_at(state), state.holders(location)),
        (vec![(REPLICA, None)], Some(vec![(REPLICA, Holding::Sealed)]))
    );
    // The last one is not given up for being away: it may come back.
    state.reported(location, REPLICA);
    state.failed(location, REPLICA, CopyFailure::Gone);
    assert_eq!((read_at(state), state.due_workers().count()), (vec![(REPLICA, None)], 0));
    state.reported(location, REPLICA);
    state.failed(location, REPLICA, CopyFailure::Unknown);
    assert_eq!(read_at(state), []);
    assert!(state.plan(P).lost.is_some() && state.holders(location) == Some(vec![]));
}

#[test]
fn a_location_whose_sealed_copy_is_gone_waits_for_the_other_one() {
    let (mut lifecycle, location) = fixed(Durability::Written);
    let state = state(&mut lifecycle);
    state.sealed(location, WORKER, Durability::Written);
    state.reported(location, WORKER);
    state.failed(location, WORKER, CopyFailure::Unknown);
    assert_eq!((state.is_committed(&(0..1)), read_at(state)), (false, vec![]));
    state.sealed(location, REPLICA, Durability::Written);
    assert_eq!((state.is_committed(&(0..1)), read_at(state)), (true, vec![(REPLICA, None)]));
}

#[test]
fn what_was_handed_over_is_asked_for_where_it_is_now() {
    let (mut lifecycle, location) = ended(Durability::Written);
    let state = state(&mut lifecycle);
    let _ = (state.due(WORKER), state.due(REPLICA));
    state.frozen(location, REPLICA, 12);
    state.moved(location, WORKER, THIRD);
    assert!(state.due_workers().eq([THIRD]));
    assert_eq!(state.due(THIRD).freeze, [location]);
    state.frozen(location, WORKER, 2);
    state.frozen(location, THIRD, 10);
    state.fix(location, SealId(1));
    let pair = vec![(SealId(1), 10, Durability::Written)];
    assert_eq!((offers(state, THIRD), offers(state, REPLICA), offers(state, WORKER)), (pair.clone(), pair, vec![]));
    [THIRD, REPLICA].into_iter().for_each(|worker| state.sealed(location, worker, Durability::Written));
    state.moved(location, REPLICA, WORKER);
    assert_eq!((read_at(state), state.due_workers().count()), (vec![(THIRD, Some(WORKER))], 0));
    // Two copies at one worker are one.
    state.reported(location, WORKER);
    state.moved(location, WORKER, THIRD);
    assert_eq!((read_at(state), state.due_workers().count()), (vec![(THIRD, None)], 0));
    assert!(state.workers().eq([WORKER, REPLICA, THIRD]), "all of them are told of the release");
}

#[test]
fn a_copy_that_is_handed_over_to_the_worker_that_had_lost_the_other_one_lives_on_there() {
    let (mut lifecycle, location) = ended(Durability::Written);
    let state = state(&mut lifecycle);
    let _ = (state.due(WORKER), state.due(REPLICA));
    // The replica's worker was started again without it, and takes over from the primary's, which leaves.
    state.failed(location, REPLICA, CopyFailure::Unknown);
    state.missed(location, WORKER);
    state.moved(location, WORKER, REPLICA);
    assert_eq!((state.due(REPLICA).freeze, state.due(WORKER)), (vec![location], Due::default()));
    state.frozen(location, REPLICA, 10);
    state.fix(location, SealId(1));
    state.sealed(location, REPLICA, Durability::Written);
    assert_eq!((state.is_committed(&(0..1)), read_at(state)), (true, vec![(REPLICA, None)]));
    // And back again, sealed.
    state.moved(location, REPLICA, WORKER);
    assert_eq!((read_at(state), state.due_workers().count()), (vec![(WORKER, None)], 0));
    assert_eq!(state.plan(P).lost, None);
}

#[test]
fn a_struck_location_has_no_copies_left() {
    let mut lifecycle = protected(1, None, Protection { copies: 2, durability: Durability::Written });
    let state = state(&mut lifecycle);
    place_all(state);
    let location = open(state.locate(P)).location;
    state.commit(0..1);
    state.strike(location);
    assert_eq!(state.due(WORKER).freeze, [location], "only what is sealed is struck out");
    seal_all(state, 10);
    assert_eq!(read_at(state), [(WORKER, Some(REPLICA))]);
    state.strike(location);
    assert_eq!((read_at(state), state.plan(P).lost, state.due_workers().count()), (vec![], None, 0));
}

#[test]
fn a_refused_epoch_is_committed_at_once() {
    for maps in [Some(2), None] {
        let mut lifecycle = placed(1, maps);
        let state = state(&mut lifecycle);
        state.start_attempt(KEY, START).unwrap();
        let first = open(state.locate(P)).location;
        assert_eq!(state.revive(KEY, P, Epoch(0), Replacing::Refused), Ok(Revived::Wanted));
        assert_eq!(to_freeze(state), [first]);
        assert!(!state.is_resting() && !state.is_committed(&(0..1)));
        place_all(state);
        seal_all(state, 10);
        assert_eq!((epochs(state, 0), open(state.locate(P)).location.epoch), (vec![0], Epoch(1)));
    }
}

#[test]
fn a_full_epoch_is_open_until_the_next_one_is_there_and_committed_when_it_has_rested() {
    let mut lifecycle = placed(1, Some(2));
    let state = state(&mut lifecycle);
    state.start_attempt(KEY, START).unwrap();
    let first = open(state.locate(P));
    assert_eq!(state.revive(KEY, P, Epoch(0), Replacing::Full), Ok(Revived::Wanted));
    assert_eq!((state.locate(P), state.answer(P, None)), (Revived::Open(first), Revived::Open(first)));
    assert_eq!(state.answer(P, Some(Epoch(0))), Revived::Wanted);
    let full = NoSpace { arena_bytes: 9, ..NoSpace::default() };
    state.not_placed(P, full);
    assert_eq!(state.answer(P, Some(Epoch(0))), Revived::NoSpace(full));
    assert_eq!(state.locate(P), Revived::Open(first), "where there is no space, what is open stays open");
    assert_eq!(state.revive(KEY, P, Epoch(0), Replacing::Full), Ok(Revived::Wanted));
    place_all(state);
    let next = open(state.answer(P, Some(Epoch(0))));
    assert_eq!((next.location.epoch, state.is_resting()), (Epoch(1), true));
    // Who reports it late costs nothing.
    assert_eq!(state.revive(KEY, P, Epoch(0), Replacing::Full), Ok(Revived::Open(next)));
    let second = Duration::from_secs(1);
    for (after, freezes) in [(0, vec![]), (1, vec![]), (2, vec![first.location])] {
        state.commit_rested(START + after * second);
        assert_eq!(to_freeze(state), freezes);
    }
    assert!(!state.is_resting());
}

#[test]
fn a_rest_ends_with_a_refusal_or_the_stage() {
    for is_refused in [true, false] {
        let mut lifecycle = placed(1, Some(1));
        let state = state(&mut lifecycle);
        state.start_attempt(KEY, START).unwrap();
        state.revive(KEY, P, Epoch(0), Replacing::Full).unwrap();
        place_all(state);
        if is_refused {
            let next = open(state.locate(P));
            assert_eq!(state.revive(KEY, P, Epoch(0), Replacing::Refused), Ok(Revived::Open(next)));
        } else {
            state.stage_page(KEY, 0, &[]).unwrap();
            state.finish_attempt(KEY, Token(1)).unwrap();
        }
        assert_eq!((state.is_resting(), to_freeze(state).len()), (false, if is_refused { 1 } else { 2 }));
    }
}

#[test]
fn an_abandoned_reservation_is_nobody_s_location() {
    let mut lifecycle = lifecycle(1, Some(2));
    let state = state(&mut lifecycle);
    state.start_attempt(KEY, START).unwrap();
    let first = state.wanted(1)[0];
    state.abandoned(first, REPLICA);
    assert!(!state.was_placed(P) && state.answer(P, None) == Revived::Wanted);
    state.placed(first, WORKER, Handle(1), None);
    assert_eq!(state.answer(P, None), Revived::Wanted, "its name is not used again");
    place_all(state);
    let open_at = open(state.locate(P));
    assert_eq!((open_at.location.epoch, state.was_placed(P)), (Epoch(1), true));
    // One that was to follow a full epoch leaves that one open.
    state.revive(KEY, P, Epoch(1), Replacing::Full).unwrap();
    state.abandoned(state.wanted(1)[0], WORKER);
    assert_eq!((state.locate(P), state.is_resting()), (Revived::Open(open_at), false));
    place_all(state);
    assert_eq!(open(state.locate(P)).location.epoch, Epoch(3));
    assert_eq!(state.revive(KEY, P, Epoch(4), Replacing::Full), Err(AttemptError::Partition { partition: 0 }));
    state.commit(0..1);
    assert!(to_freeze(state).iter().map(|location| location.epoch.0).eq([1, 3]));
    seal_all(state, 10);
    assert!(state.is_committed(&(0..1)));
    assert!(state.workers().eq([WORKER, REPLICA]), "who was asked is told of the release");
}

#[test]
fn copies_are_one_or_two() {
    for copies in [0, 3, u32::MAX] {
        let protection = Protection { copies, ..ONE_COPY };
        let error = Lifecycle::new(LEASE, START).register(SHUFFLE, 1, None, protection).unwrap_err();
        assert_eq!(error.to_string(), format!("copies must be 1 or 2, not {copies}"));
    }
}
