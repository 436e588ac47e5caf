//! A shuffle without a map count: reads name the attempts that count; after a loss the maps of the tokens that are no
//! longer complete run again, and no others.

use std::collections::BTreeMap;

use mallorn_client::{Generation, Token};
use mallorn_runtime::clock;

use super::maps::{self, MapsEnd};
use super::reads::{self, ReadsEnd};
use super::{AGAIN, Shuffle};
use crate::faults::Phase;

pub(super) async fn run(shuffle: &Shuffle) {
    let world = &shuffle.job.world;
    let maps = world.shape.maps;
    let mut random = shuffle.random();
    let mut attempts = vec![0; maps as usize];
    let mut missing: Vec<u32> = (0..maps).collect();
    let mut tokens: BTreeMap<u32, Token> = BTreeMap::new();
    register(shuffle).await;
    for round in 0.. {
        shuffle.begin(Phase::Map, round);
        while !missing.is_empty() {
            match maps::run(shuffle, None, &missing, &mut attempts).await {
                MapsEnd::Ended(ended) => tokens.extend(ended),
                MapsEnd::Moved | MapsEnd::NoSpace => clock::sleep(AGAIN).await,
            }
            missing.retain(|map| !tokens.contains_key(map));
        }
        shuffle.begin(Phase::Commit, round);
        shuffle.committed(round, &mut random).await;
        let named: Vec<Token> = tokens.values().copied().collect();
        match reads::start(shuffle, Some(&named), &mut random).finish(Generation(0)).await {
            ReadsEnd::Whole => return,
            ReadsEnd::Revoked => world.oracle.violated("a shuffle without a map count has one generation for life"),
            ReadsEnd::Lost { incomplete, .. } => {
                tokens.retain(|_, token| !incomplete.contains(token));
                missing = (0..maps).filter(|map| !tokens.contains_key(map)).collect();
                world.board.add("maps run again for their tokens", missing.len() as u64);
            }
        }
    }
}

async fn register(shuffle: &Shuffle) {
    let job = &shuffle.job;
    let (partitions, options) = (job.world.shape.partitions, shuffle.kept().into());
    while let Err(error) = job.manager.register_with(shuffle.number, partitions, None, options).await {
        job.must_be_out_of_reach("register", &error);
        clock::sleep(AGAIN).await;
    }
}
