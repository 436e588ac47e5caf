//! A large shuffle: what is kept per map and per partition, and that no step looks at all of it for one of them.

use super::*;
use crate::lifecycle::epochs::PlacedEpoch;

const MAPS: u32 = 100_000;
const PARTITIONS: u32 = 10_000;

#[test]
fn a_hundred_thousand_maps_and_ten_thousand_partitions_are_no_trouble() {
    let mut lifecycle = placed(PARTITIONS, Some(MAPS));
    for map in 0..MAPS {
        let state = state(&mut lifecycle);
        let touched = [map % PARTITIONS];
        let ended = end(state, key(map, 0), &touched);
        assert_eq!(ended.stage_ended, map + 1 == MAPS);
        // An expiry per ended map is cheap, because only live attempts are looked at.
        lifecycle.expire(START);
    }
    let state = state(&mut lifecycle);
    // Readers that ask for one partition each, while the commit is under way.
    for partition in 0..PARTITIONS {
        assert!(!state.is_committed(&(partition..partition + 1)));
    }
    seal_all(state, 10);
    for partition in 0..PARTITIONS {
        assert!(state.is_committed(&(partition..partition + 1)));
        let plan = state.plan(Partition(partition));
        assert_eq!((plan.locations.len(), plan.sum.unwrap().batches, plan.lost), (1, 10, None));
    }
    // In an order in which most maps fall between two others.
    let mut tokens: Vec<_> = state.winners(0..MAPS).map(|winner| winner.token).collect();
    tokens.sort_by_key(|token| token.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    assert_eq!(state.by_tokens(&tokens).unwrap().len(), MAPS as usize);
}

#[test]
fn readers_that_commit_their_own_partition_do_not_look_at_the_others() {
    let mut lifecycle = placed(PARTITIONS, None);
    let state = state(&mut lifecycle);
    for partition in 0..PARTITIONS {
        state.commit(partition..partition + 1);
        seal_all(state, 10);
        assert!(state.is_committed(&(partition..partition + 1)));
    }
    assert!(state.is_committed(&(0..PARTITIONS)));
}

#[test]
fn an_epoch_takes_40_bytes() {
    assert_eq!(size_of::<PlacedEpoch>(), 40);
}
