//! Register, generations, release: which numbers mean what, and when they stop to.

use std::slice::from_ref;

use mallorn_proto::id::ShuffleId;
use mallorn_proto::limits::{MAPS_MAX, PARTITIONS_MAX};

use super::*;
use crate::lifecycle::{LookupError, RegisterError, SHUFFLES_MAX, Stage};

#[test]
fn the_same_declaration_again_answers_the_same() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    let first = lifecycle.register(SHUFFLE, 4, Some(2), ONE_COPY).unwrap();
    assert!(first.started);
    let again = lifecycle.register(SHUFFLE, 4, Some(2), ONE_COPY).unwrap();
    assert_eq!((again.generation, again.wire, again.started), (first.generation, first.wire, false));
    lifecycle.next_generation(SHUFFLE, FIRST).unwrap();
    assert_eq!(lifecycle.register(SHUFFLE, 4, Some(2), ONE_COPY).unwrap().generation, Generation(1));
    for (partitions, maps) in [(5, Some(2)), (4, Some(3)), (4, None)] {
        let differs = RegisterError::Differs { shuffle: SHUFFLE, partitions: 4, maps: Some(2), protection: ONE_COPY };
        assert_eq!(lifecycle.register(SHUFFLE, partitions, maps, ONE_COPY), Err(differs));
    }
}

#[test]
fn senseless_numbers_are_refused() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    for (partitions, maps) in [(0, None), (PARTITIONS_MAX + 1, None), (1, Some(0)), (1, Some(MAPS_MAX + 1))] {
        assert_eq!(lifecycle.register(1, partitions, maps, ONE_COPY), Err(RegisterError::Shape { partitions, maps }));
    }
    assert_eq!(lifecycle.register(u32::MAX, 1, None, ONE_COPY), Err(RegisterError::TooMany));
    assert_eq!(lifecycle.shuffles().count(), 0);
    assert!(lifecycle.register(1, PARTITIONS_MAX, Some(MAPS_MAX), ONE_COPY).is_ok());
}

#[test]
fn a_thousand_readers_of_one_loss_start_one_generation() {
    let mut lifecycle = placed(1, Some(1));
    let old = lifecycle.register(SHUFFLE, 1, Some(1), ONE_COPY).unwrap().wire;
    end(state(&mut lifecycle), key(0, 0), &[0]);
    let started: Vec<_> = (0..1000).map(|_| lifecycle.next_generation(SHUFFLE, FIRST).unwrap()).collect();
    assert_eq!((started[0].started, started[0].replaced), (true, Some(old)));
    assert!(started.iter().all(|current| current.generation == Generation(1) && current.wire == started[0].wire));
    assert!(started[1..].iter().all(|current| !current.started && current.replaced.is_none()));
    assert_ne!(started[0].wire, old);
    // A reader from the future, or from a long way back, starts none either.
    for seen in [FIRST, Generation(9)] {
        assert!(!lifecycle.next_generation(SHUFFLE, seen).unwrap().started);
    }
}

#[test]
fn a_generation_that_is_over_is_fenced_and_leaves_nothing() {
    let mut lifecycle = placed(2, Some(1));
    let won = end(state(&mut lifecycle), key(0, 0), &[0, 1]);
    seal_all(state(&mut lifecycle), 10);
    let old = state(&mut lifecycle).plan(Partition(0)).locations[0].location;
    lifecycle.next_generation(SHUFFLE, FIRST).unwrap();
    let current = Generation(1);
    for generation in [FIRST, Generation(2)] {
        let fenced = LookupError::Fenced { shuffle: SHUFFLE, generation, current };
        assert_eq!(lifecycle.generation(SHUFFLE, generation).err(), Some(fenced));
    }
    let state = lifecycle.generation(SHUFFLE, current).unwrap();
    assert_eq!((state.stage(), state.winners(0..9).count(), state.workers().count()), (Stage::Running, 0, 0));
    assert!(state.by_tokens(&[won.token]).is_err());
    assert_eq!(state.plan(Partition(0)).sum, Some(BatchSum::default()));
    assert!(state.wanted(9).iter().all(|location| location.shuffle != old.shuffle && location.epoch.0 == 0));
    state.placed(old, WORKER, Handle(1), None);
    assert_eq!(state.answer(Partition(0), None), Revived::Wanted);
    assert!(end(state, key(0, 0), &[0]).won);
}

#[test]
fn a_shuffle_without_a_map_count_has_one_generation() {
    let mut lifecycle = placed(1, None);
    let refused = Err(LookupError::OneGeneration { shuffle: SHUFFLE });
    assert_eq!(lifecycle.next_generation(SHUFFLE, FIRST), refused);
    assert!(lifecycle.generation(SHUFFLE, FIRST).is_ok());
}

#[test]
fn never_existed_and_released_are_two_answers() {
    let mut lifecycle = placed(1, Some(1));
    let (unknown, released) = (LookupError::Unknown { shuffle: 8 }, LookupError::Released { shuffle: SHUFFLE });
    assert_eq!(lifecycle.current(8).err(), Some(unknown.clone()));
    assert_eq!(lifecycle.release(8), Err(unknown.clone()));
    assert_eq!(lifecycle.next_generation(8, FIRST), Err(unknown));
    assert_eq!(lifecycle.release(SHUFFLE), Ok(ShuffleId(0)));
    assert_eq!(lifecycle.release(SHUFFLE), Err(released.clone()));
    assert_eq!(lifecycle.current(SHUFFLE).err(), Some(released.clone()));
    assert_eq!(lifecycle.generation(SHUFFLE, FIRST).err(), Some(released.clone()));
    assert_eq!(lifecycle.next_generation(SHUFFLE, FIRST), Err(released));
    assert_eq!(lifecycle.register(SHUFFLE, 1, Some(1), ONE_COPY), Err(RegisterError::Released { shuffle: SHUFFLE }));
}

#[test]
fn everything_released_is_told_by_its_number_on_the_wire() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    let wires: Vec<_> =
        (0..4).map(|shuffle| lifecycle.register(shuffle, 1, Some(1), ONE_COPY).unwrap().wire.0).collect();
    let next = lifecycle.next_generation(1, FIRST).unwrap().wire.0;
    lifecycle.release(3).unwrap();
    assert!(lifecycle.released_wire.iter().eq([wires[1], wires[3]]));
    lifecycle.release(1).unwrap();
    assert!(lifecycle.released_wire.iter().eq([wires[1], wires[3], next]));
    assert!(lifecycle.shuffles().eq([0, 2]));
}

#[test]
fn more_runs_than_one_call_takes_are_told_in_turn() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    for shuffle in 0..10 {
        lifecycle.register(shuffle, 1, None, ONE_COPY).unwrap();
    }
    for shuffle in [0, 2, 4, 6, 8] {
        lifecycle.release(shuffle).unwrap();
    }
    assert_eq!(lifecycle.released_wire_from(0, 5), (&[0..1, 2..3, 4..5, 6..7, 8..9][..], 0), "all fit");
    assert_eq!(lifecycle.released_wire_from(0, 2), (&[0..1, 2..3][..], 4));
    assert_eq!(lifecycle.released_wire_from(4, 2), (&[4..5, 6..7][..], 8));
    assert_eq!(lifecycle.released_wire_from(8, 2), (from_ref(&(8..9)), 0), "and from the start again");
    lifecycle.release(7).unwrap();
    assert_eq!(lifecycle.released_wire_from(8, 2), (from_ref(&(6..9)), 0), "two have become one meanwhile");
}

#[test]
fn released_shuffles_cost_nothing_where_numbers_are_dense() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    for shuffle in 0..100_000 {
        lifecycle.register(shuffle, 1, None, ONE_COPY).unwrap();
        lifecycle.release(shuffle).unwrap();
    }
    assert_eq!((lifecycle.released.runs().len(), lifecycle.released_wire.runs().len()), (1, 1));
}

#[test]
fn shuffles_are_bounded_and_a_release_makes_room() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    let most = SHUFFLES_MAX as u32;
    for shuffle in 0..most {
        lifecycle.register(shuffle, 1, None, ONE_COPY).unwrap();
    }
    assert_eq!(lifecycle.register(most, 1, None, ONE_COPY), Err(RegisterError::TooMany));
    assert!(!lifecycle.register(0, 1, None, ONE_COPY).unwrap().started);
    lifecycle.release(5).unwrap();
    assert!(lifecycle.register(most, 1, None, ONE_COPY).unwrap().started);
}

#[test]
fn scattered_numbers_are_refused_before_remembering_them_costs_much() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    let most = super::super::RELEASED_RUNS_MAX as u32;
    for number in 0..most {
        lifecycle.released.insert(number * 2);
    }
    assert_eq!(lifecycle.register(most * 2, 1, None, ONE_COPY), Err(RegisterError::TooMany));
    assert_eq!(lifecycle.register(4, 1, None, ONE_COPY), Err(RegisterError::Released { shuffle: 4 }));
    assert_eq!(lifecycle.register(3, 1, None, ONE_COPY).err(), Some(RegisterError::TooMany));
}

#[test]
fn leases_of_all_shuffles_expire() {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    for shuffle in 0..3 {
        lifecycle.register(shuffle, 1, None, ONE_COPY).unwrap();
        let (_, state) = lifecycle.current(shuffle).unwrap();
        state.start_attempt(key(0, 0), START).unwrap();
    }
    lifecycle.release(1).unwrap();
    assert_eq!((1..10).map(|ticks| lifecycle.expire(START + LEASE / 10 * ticks)).sum::<usize>(), 0);
    assert_eq!(lifecycle.expire(START + LEASE), 2);
}
