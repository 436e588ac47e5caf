//! A shuffle without a map count: reads name the attempts that count; after a loss the maps of the tokens that are no
//! longer complete run again, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use mallorn_client::{Generation, Token};
use mallorn_runtime::clock;
use rand::Rng as _;

use super::maps::{self, MapsEnd};
use super::reads::{self, ReadsEnd};
use super::{AGAIN, Job};
use crate::faults::Phase;
use crate::setup::{millis, random};

const READ_AFTER_MAX_MS: u64 = 400;

pub(super) async fn run(job: &Arc<Job>, shuffle: u32) {
    let shape = &job.world.shape;
    let mut random = random(job.world.seed, "shuffle", &[shuffle]);
    let mut attempts = vec![0; shape.maps as usize];
    let mut missing: Vec<u32> = (0..shape.maps).collect();
    let mut tokens: BTreeMap<u32, Token> = BTreeMap::new();
    register(job, shuffle).await;
    for round in 0.. {
        job.begin(shuffle, Phase::Map, round);
        while !missing.is_empty() {
            match maps::run(job, shuffle, None, &missing, &mut attempts).await {
                MapsEnd::Ended(ended) => tokens.extend(ended),
                MapsEnd::Moved | MapsEnd::NoSpace => clock::sleep(AGAIN).await,
            }
            missing.retain(|map| !tokens.contains_key(map));
        }
        job.begin(shuffle, Phase::Committed, round);
        clock::sleep(millis(random.random_range(0..READ_AFTER_MAX_MS))).await;
        job.begin(shuffle, Phase::Read, round);
        let named: Vec<Token> = tokens.values().copied().collect();
        let reads = reads::start(job, shuffle, Some(&named), &mut random);
        match reads.finish(Generation(0)).await {
            ReadsEnd::Whole => return,
            ReadsEnd::Revoked => job.world.oracle.violated("a shuffle without a map count has one generation for life"),
            ReadsEnd::Lost { incomplete, .. } => {
                tokens.retain(|_, token| !incomplete.contains(token));
                missing = (0..shape.maps).filter(|map| !tokens.contains_key(map)).collect();
                job.world.board.add("maps run again for their tokens", missing.len() as u64);
            }
        }
    }
}

async fn register(job: &Job, shuffle: u32) {
    let shape = &job.world.shape;
    job.doing(shuffle, "registers");
    while let Err(error) = job.manager.register(shuffle, shape.partitions, None).await {
        job.must_be_out_of_reach("register", &error);
        clock::sleep(AGAIN).await;
    }
}
