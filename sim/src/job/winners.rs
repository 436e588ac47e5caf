//! A shuffle with a map count: all maps, the stage's end, all reads; after a loss the next generation, from the start.

use std::sync::Arc;
use std::time::Duration;

use mallorn_client::{Generation, Reason};
use mallorn_runtime::clock;
use rand::Rng as _;

use super::maps::{self, MapsEnd};
use super::reads::{self, ReadsEnd};
use super::{AGAIN, Job};
use crate::faults::Phase;
use crate::setup::random;

/// Reading waits at most so long after the commit, so that something can happen in between.
const READ_AFTER_MAX_MS: u64 = 400;

pub(super) async fn run(job: &Arc<Job>, shuffle: u32) {
    let shape = &job.world.shape;
    let mut random = random(job.world.seed, "shuffle", &[shuffle]);
    let mut attempts = vec![0; shape.maps as usize];
    let all: Vec<u32> = (0..shape.maps).collect();
    let mut generation = register(job, shuffle).await;
    for round in 0.. {
        job.begin(shuffle, Phase::Map, round);
        let early = shape.reads_early.then(|| reads::start(job, shuffle, None, &mut random));
        let ended = maps::run(job, shuffle, Some(generation), &all, &mut attempts).await;
        let end = if ended == MapsEnd::NoSpace {
            job.doing(shuffle, "waits for space");
            next_generation(job, shuffle, generation).await;
            wait_for_earlier_ones(job, shuffle).await;
            ReadsEnd::Revoked
        } else {
            stage_end(job, shuffle, generation).await;
            job.begin(shuffle, Phase::Committed, round);
            clock::sleep(Duration::from_millis(random.random_range(0..READ_AFTER_MAX_MS))).await;
            job.begin(shuffle, Phase::Read, round);
            let reads = early.unwrap_or_else(|| reads::start(job, shuffle, None, &mut random));
            reads.finish(generation).await
        };
        let seen = match end {
            ReadsEnd::Whole => return,
            ReadsEnd::Revoked => Generation(generation.0.wrapping_sub(1)),
            ReadsEnd::Lost { generation, .. } => generation,
        };
        generation = next_generation(job, shuffle, seen).await;
        job.world.board.count("generations after the first");
    }
}

async fn register(job: &Job, shuffle: u32) -> Generation {
    let shape = &job.world.shape;
    job.doing(shuffle, "registers");
    loop {
        match job.manager.register(shuffle, shape.partitions, Some(shape.maps)).await {
            Ok(generation) => return generation,
            Err(error) => job.must_be_out_of_reach("register", &error),
        }
        clock::sleep(AGAIN).await;
    }
}

/// Whether `seen` is the current one or an older one, the answer is the current one.
async fn next_generation(job: &Job, shuffle: u32, seen: Generation) -> Generation {
    job.doing(shuffle, &format!("asks for the generation after {}", seen.0));
    loop {
        // It may have started without a place for its partitions: the same question then finds them one.
        match job.manager.next_generation(shuffle, seen).await {
            Ok(generation) => return generation,
            Err(error) => job.must_be_out_of_reach("next generation", &error),
        }
        clock::sleep(AGAIN).await;
    }
}

async fn stage_end(job: &Job, shuffle: u32, generation: Generation) {
    job.doing(shuffle, &format!("waits for the end of generation {generation}"));
    match job.manager.stage_end(shuffle, generation).await {
        Ok(end) if end.lost_partitions > 0 => job.world.board.count("stages that ended with a loss"),
        Ok(_) => {}
        Err(error) if error.reason() == Some(Reason::Fenced) => {
            job.world.trace.say(format_args!("generation {generation} of shuffle {shuffle} is over"));
        }
        Err(error) => job.must_be_out_of_reach("stage end", &error),
    }
}

/// The earlier shuffle goes first where there is not room for all.
async fn wait_for_earlier_ones(job: &Job, shuffle: u32) {
    while (0..shuffle).any(|earlier| job.world.board.is_anybody_doing(&format!("shuffle {earlier}"))) {
        clock::sleep(AGAIN).await;
    }
}
