//! Start, lease, pages, end: who wins, who loses, who is dead.

use std::time::Duration;

use mallorn_proto::id::{Epoch, MapId, Partition, Token};
use mallorn_proto::limits::MAPS_MAX;

use super::*;
use crate::lifecycle::{AttemptError, Stage, TokenError};

fn dead(map: u32, attempt: u32) -> AttemptError {
    AttemptError::Dead { map, attempt }
}

fn sums(state: &GenerationState) -> Vec<u64> {
    let sum = |partition| state.plan(Partition(partition)).sum.map_or(0, |sum| sum.batches);
    (0..state.partitions()).map(sum).collect()
}

#[test]
fn the_first_attempt_to_end_wins_and_the_next_is_told_without_an_error() {
    let mut lifecycle = placed(3, Some(2));
    let state = state(&mut lifecycle);
    state.start_attempt(key(0, 0), START).unwrap();
    assert!(end(state, key(0, 1), &[0, 2]).won);
    state.stage_page(key(0, 0), 0, &[(Partition(1), sum(5))]).unwrap();
    let loser = state.finish_attempt(key(0, 0), Token(77)).unwrap();
    assert!(!loser.won && !loser.stage_ended);
    assert_eq!(sums(state), [1, 0, 1]);
    let winners: Vec<_> = state.winners(0..9).collect();
    assert_eq!((winners.len(), winners[0].name), (1, name(0, 1)));
    assert!(winners[0].touched.iter().eq([0, 2]));
}

#[test]
fn a_repeated_end_repeats_its_answer_and_adds_nothing() {
    let mut lifecycle = placed(2, Some(2));
    let state = state(&mut lifecycle);
    let won = end(state, key(0, 0), &[0, 1]);
    let lost = end(state, key(0, 1), &[0]);
    for _ in 0..2 {
        state.stage_page(key(0, 0), 0, &[(Partition(0), sum(9))]).unwrap();
        assert_eq!(state.finish_attempt(key(0, 0), Token(555)).unwrap(), won);
        assert_eq!(state.finish_attempt(key(0, 1), Token(556)).unwrap(), lost);
        state.start_attempt(key(0, 0), START).unwrap();
    }
    assert_eq!(sums(state), [1, 1]);
    let last = end(state, key(1, 0), &[1]);
    assert!(last.stage_ended);
    let again = state.finish_attempt(key(1, 0), Token(557)).unwrap();
    assert_eq!((again.token, again.won, again.stage_ended), (last.token, true, false));
    assert_eq!(sums(state), [1, 2]);
}

#[test]
fn pages_come_in_order_and_count_only_at_the_end() {
    let mut lifecycle = placed(8, Some(2));
    let state = state(&mut lifecycle);
    let key = key(0, 0);
    state.start_attempt(key, START).unwrap();
    assert_eq!(state.stage_page(key, 1, &[]), Err(AttemptError::PageOrder { page: 1, expected: 0 }));
    state.stage_page(key, 0, &[(Partition(0), sum(1)), (Partition(3), sum(2))]).unwrap();
    state.stage_page(key, 0, &[(Partition(0), sum(9))]).unwrap();
    for wrong in [&[3][..], &[2], &[4, 4], &[5, 4], &[4, 8]] {
        let page: Vec<_> = wrong.iter().map(|partition| (Partition(*partition), sum(1))).collect();
        let refused = state.stage_page(key, 1, &page).unwrap_err();
        assert!(matches!(refused, AttemptError::Partition { .. }), "{wrong:?}");
    }
    state.stage_page(key, 1, &[(Partition(4), sum(3))]).unwrap();
    assert_eq!(sums(state), [0; 8]);
    state.finish_attempt(key, Token(1)).unwrap();
    assert_eq!(sums(state), [1, 0, 0, 2, 3, 0, 0, 0]);
}

#[test]
fn the_pages_of_an_attempt_that_dies_are_forgotten() {
    let mut lifecycle = placed(1, Some(1));
    let state = state(&mut lifecycle);
    state.start_attempt(key(0, 0), START).unwrap();
    state.stage_page(key(0, 0), 0, &[(Partition(0), sum(7))]).unwrap();
    state.attempt_failed(key(0, 0)).unwrap();
    assert_eq!(state.stage_page(key(0, 0), 1, &[]), Err(dead(0, 0)));
    assert_eq!(state.finish_attempt(key(0, 0), Token(1)), Err(dead(0, 0)));
    assert!(end(state, key(0, 1), &[0]).won);
    assert_eq!(sums(state), [1]);
}

#[test]
fn the_same_attempt_with_another_nonce_is_refused_in_every_state() {
    let mut lifecycle = placed(1, Some(5));
    let state = state(&mut lifecycle);
    let other = |map| AttemptKey { nonce: 999, ..key(map, 0) };
    for map in 0..3 {
        state.start_attempt(key(map, 0), START).unwrap();
    }
    state.attempt_failed(key(1, 0)).unwrap();
    state.finish_attempt(key(2, 0), Token(1)).unwrap();
    for map in 0..3 {
        let not_started = AttemptError::NotStarted { map, attempt: 0 };
        assert_eq!(state.start_attempt(other(map), START), Err(AttemptError::Taken { map, attempt: 0 }));
        assert!(!state.renew_attempt(other(map), START));
        assert_eq!(state.attempt_failed(other(map)), Err(not_started.clone()));
        assert_eq!(state.stage_page(other(map), 0, &[]), Err(not_started.clone()));
        assert_eq!(state.finish_attempt(other(map), Token(2)), Err(not_started.clone()));
        assert_eq!(state.revive(other(map), Partition(0), Epoch(0), Replacing::Refused), Err(not_started));
    }
    assert!(state.renew_attempt(key(0, 0), START));
}

#[test]
fn a_lease_that_is_over_makes_an_attempt_dead_for_good() {
    let mut lifecycle = placed(1, Some(2));
    let tick = LEASE / 10;
    for map in 0..2 {
        state(&mut lifecycle).start_attempt(key(map, 0), START).unwrap();
    }
    for ticks in 0..10 {
        assert_eq!(lifecycle.expire(START + tick * ticks), 0);
    }
    assert!(state(&mut lifecycle).renew_attempt(key(1, 0), START + tick));
    assert_eq!(lifecycle.expire(START + LEASE), 1);
    assert_eq!(lifecycle.expire(START + LEASE), 0);
    let truth = state(&mut lifecycle);
    assert!(!truth.renew_attempt(key(0, 0), START));
    assert_eq!(truth.start_attempt(key(0, 0), START), Err(dead(0, 0)));
    assert_eq!(truth.stage_page(key(0, 0), 0, &[]), Err(dead(0, 0)));
    assert_eq!(truth.finish_attempt(key(0, 0), Token(1)), Err(dead(0, 0)));
    assert_eq!(truth.revive(key(0, 0), Partition(0), Epoch(0), Replacing::Refused), Err(dead(0, 0)));
    assert!(truth.renew_attempt(key(1, 0), START + LEASE));
    assert_eq!(truth.winners(0..2).count(), 0);
}

#[test]
fn a_start_that_is_repeated_renews_the_lease() {
    let mut lifecycle = placed(1, Some(1));
    let tick = LEASE / 10;
    state(&mut lifecycle).start_attempt(key(0, 0), START).unwrap();
    state(&mut lifecycle).start_attempt(key(0, 0), START + tick * 9).unwrap();
    assert_eq!((0..19).map(|ticks| lifecycle.expire(START + tick * ticks)).sum::<usize>(), 0);
    assert_eq!(lifecycle.expire(START + tick * 19), 1);
}

#[test]
fn a_manager_that_did_not_run_lets_nobody_die_for_it() {
    let mut lifecycle = placed(1, Some(1));
    let tick = LEASE / 10;
    state(&mut lifecycle).start_attempt(key(0, 0), START).unwrap();
    lifecycle.expire(START);
    let paused = Duration::from_secs(3600);
    assert_eq!(lifecycle.expire(START + paused), 0);
    // One tick of the lease is used up: what is left of it counts from here on.
    assert_eq!((1..9).map(|ticks| lifecycle.expire(START + paused + tick * ticks)).sum::<usize>(), 0);
    assert_eq!(lifecycle.expire(START + paused + tick * 9), 1);
}

#[test]
fn a_manager_that_stood_still_before_its_first_look_lets_nobody_die_for_it() {
    let mut lifecycle = placed(1, Some(1));
    let tick = LEASE / 10;
    state(&mut lifecycle).start_attempt(key(0, 0), START).unwrap();
    let paused = tick / 2 + LEASE * 3;
    assert_eq!(lifecycle.expire(START + paused), 0);
    assert_eq!((1..9).map(|ticks| lifecycle.expire(START + paused + tick * ticks)).sum::<usize>(), 0);
    assert_eq!(lifecycle.expire(START + paused + tick * 9), 1);
}

#[test]
fn a_time_that_goes_back_harms_nothing() {
    let mut lifecycle = placed(1, Some(1));
    state(&mut lifecycle).start_attempt(key(0, 0), START).unwrap();
    assert_eq!([START, Duration::ZERO, START + LEASE / 10].map(|now| lifecycle.expire(now)), [0; 3]);
    assert_eq!(lifecycle.expire(START), 0);
    state(&mut lifecycle).start_attempt(key(0, 0), Duration::MAX).unwrap();
    assert_eq!(lifecycle.expire(START + LEASE * 2), 0);
}

#[test]
fn declared_failed_is_dead_but_never_undoes_an_end() {
    let mut lifecycle = placed(1, Some(3));
    let state = state(&mut lifecycle);
    let ended = [end(state, key(0, 0), &[0]), end(state, key(0, 1), &[0])];
    for attempt in 0..2 {
        state.attempt_failed(key(0, attempt)).unwrap();
        state.fail_attempt(name(0, attempt));
        assert!(state.renew_attempt(key(0, attempt), START));
        assert_eq!(state.finish_attempt(key(0, attempt), Token(9)).unwrap(), ended[attempt as usize]);
    }
    state.start_attempt(key(1, 0), START).unwrap();
    state.attempt_failed(key(1, 0)).unwrap();
    state.attempt_failed(key(1, 0)).unwrap();
    state.start_attempt(key(1, 1), START).unwrap();
    state.fail_attempt(name(1, 1));
    for attempt in 0..2 {
        assert_eq!(state.finish_attempt(key(1, attempt), Token(9)), Err(dead(1, attempt)));
    }
    state.fail_attempt(name(2, 0));
    assert!(end(state, key(2, 0), &[0]).won);
    assert_eq!(sums(state), [2]);
}

#[test]
fn the_stage_ends_with_the_last_map_and_takes_no_new_attempts() {
    let mut lifecycle = placed(1, Some(2));
    let state = state(&mut lifecycle);
    state.start_attempt(key(0, 1), START).unwrap();
    assert!(!end(state, key(0, 0), &[0]).stage_ended);
    assert_eq!(state.stage(), Stage::Running);
    assert!(end(state, key(1, 0), &[]).stage_ended);
    assert_eq!(state.stage(), Stage::Ended);
    assert_eq!(state.start_attempt(key(1, 1), START), Err(AttemptError::StageEnded));
    // Those that were under way may ask and end: they are told, and renewed until then.
    state.start_attempt(key(0, 1), START).unwrap();
    assert!(!state.finish_attempt(key(0, 1), Token(3)).unwrap().won);
}

#[test]
fn a_map_that_the_shuffle_does_not_have_is_refused() {
    let mut counted = placed(1, Some(3));
    let refused = state(&mut counted).start_attempt(key(3, 0), START);
    assert_eq!(refused, Err(AttemptError::MapOutOfRange { map: 3, maps: 3 }));
    let mut open_ended = placed(1, None);
    let over = AttemptKey { name: AttemptName { map: MapId(MAPS_MAX), ..name(0, 0) }, nonce: 1 };
    let refused = state(&mut open_ended).start_attempt(over, START);
    assert_eq!(refused, Err(AttemptError::MapOutOfRange { map: MAPS_MAX, maps: MAPS_MAX }));
}

#[test]
fn without_a_map_count_every_ended_attempt_is_read_by_its_token() {
    let mut lifecycle = placed(4, None);
    let state = state(&mut lifecycle);
    let first = end(state, key(5, 0), &[0, 1]);
    let again = end(state, key(5, 1), &[3]);
    let other = end(state, key(2, 0), &[2]);
    assert!([first, again, other].iter().all(|ended| ended.won && !ended.stage_ended));
    let named = state.by_tokens(&[other.token, again.token]).unwrap();
    assert_eq!([named[0].name, named[1].name], [name(2, 0), name(5, 1)]);
    assert!(named[1].touched.iter().eq([3]));
    assert_eq!(state.by_tokens(&[first.token, again.token]), Err(TokenError::SameMap { map: 5 }));
    assert_eq!(state.by_tokens(&[first.token, first.token]), Err(TokenError::SameMap { map: 5 }));
    let unknown = Token(0xdead);
    assert_eq!(state.by_tokens(&[first.token, unknown]), Err(TokenError::Unknown { token: unknown }));
    assert_eq!((state.winners(0..9).count(), state.plan(Partition(0)).sum), (0, None));
}

#[test]
fn the_token_of_a_loser_reads_nothing() {
    let mut lifecycle = placed(1, Some(2));
    let state = state(&mut lifecycle);
    let winner = end(state, key(0, 0), &[0]);
    let loser = end(state, key(0, 1), &[0]);
    assert_eq!(state.by_tokens(&[winner.token]).unwrap()[0].name, name(0, 0));
    assert_eq!(state.by_tokens(&[loser.token]), Err(TokenError::Unknown { token: loser.token }));
}

#[test]
fn a_token_that_is_drawn_twice_names_one_attempt() {
    let mut lifecycle = placed(2, Some(3));
    let state = state(&mut lifecycle);
    let tokens: Vec<_> = (0..2)
        .map(|map| {
            state.start_attempt(key(map, 0), START).unwrap();
            state.stage_page(key(map, 0), 0, &[(Partition(map), sum(1))]).unwrap();
            state.finish_attempt(key(map, 0), Token(u64::MAX)).unwrap().token
        })
        .collect();
    assert_ne!(tokens[0], tokens[1]);
    let named: Vec<_> = state.by_tokens(&tokens).unwrap().iter().map(|winner| winner.name).collect();
    assert_eq!(named, [name(0, 0), name(1, 0)]);
    assert!(state.winners(0..3).map(|winner| winner.token).eq(tokens));
}

#[test]
fn senseless_sums_from_outside_wrap_and_stop_nobody() {
    let mut lifecycle = placed(1, Some(3));
    let state = state(&mut lifecycle);
    let huge = BatchSum { batches: u64::MAX, bytes: u64::MAX, hash: u64::MAX };
    for map in 0..2 {
        state.start_attempt(key(map, 0), START).unwrap();
        state.stage_page(key(map, 0), 0, &[(Partition(0), huge)]).unwrap();
        state.finish_attempt(key(map, 0), Token(u64::from(map))).unwrap();
    }
    assert_eq!(sums(state), [u64::MAX - 1]);
}

#[test]
fn winners_are_listed_by_ranges_of_maps() {
    let mut lifecycle = placed(1, Some(9));
    let state = state(&mut lifecycle);
    for map in [7, 1, 4] {
        end(state, key(map, 0), &[0]);
    }
    let maps = |range| state.winners(range).map(|winner| winner.name.map.0).collect::<Vec<_>>();
    assert_eq!([maps(0..9), maps(1..4), maps(5..7)], [vec![1, 4, 7], vec![1], vec![]]);
    let (start, end) = (7, 1);
    assert_eq!(maps(start..end), Vec::<u32>::new());
}
