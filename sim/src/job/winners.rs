//! A shuffle with a map count: all maps, the stage's end, all reads; after a loss the next generation, from the start.

use mallorn_client::{Generation, Reason};
use mallorn_runtime::clock;

use super::maps::{self, MapsEnd};
use super::reads::{self, ReadsEnd};
use super::{AGAIN, Shuffle};
use crate::faults::Phase;

pub(super) async fn run(shuffle: &Shuffle) {
    let shape = &shuffle.job.world.shape;
    let mut random = shuffle.random();
    let mut attempts = vec![0; shape.maps as usize];
    let all: Vec<u32> = (0..shape.maps).collect();
    let mut generation = register(shuffle).await;
    for round in 0.. {
        shuffle.begin(Phase::Map, round);
        let early = shape.reads_early.then(|| reads::start(shuffle, None, &mut random));
        let end = if maps::run(shuffle, Some(generation), &all, &mut attempts).await == MapsEnd::NoSpace {
            next_generation(shuffle, generation).await;
            wait_for_earlier_ones(shuffle).await;
            ReadsEnd::Revoked
        } else {
            shuffle.begin(Phase::Commit, round);
            stage_end(shuffle, generation).await;
            shuffle.committed(round, &mut random).await;
            let reads = early.unwrap_or_else(|| reads::start(shuffle, None, &mut random));
            reads.finish(generation).await
        };
        let seen = match end {
            ReadsEnd::Whole => return,
            // It has moved on: any older one asks for the current one.
            ReadsEnd::Revoked => Generation(generation.0.wrapping_sub(1)),
            ReadsEnd::Lost { generation, .. } => generation,
        };
        generation = next_generation(shuffle, seen).await;
        shuffle.job.world.board.count("generations after the first");
    }
}

async fn register(shuffle: &Shuffle) -> Generation {
    let job = &shuffle.job;
    let (shape, options) = (&job.world.shape, shuffle.kept().into());
    loop {
        match job.manager.register_with(shuffle.number, shape.partitions, Some(shape.maps), options).await {
            Ok(generation) => return generation,
            Err(error) => job.must_be_out_of_reach("register", &error),
        }
        clock::sleep(AGAIN).await;
    }
}

/// Whether `seen` is the current one or an older one, the answer is the current one.
async fn next_generation(shuffle: &Shuffle, seen: Generation) -> Generation {
    shuffle.doing.now(format_args!("asks for the generation after {}", seen.0));
    // `MAX` asks for the current one only.
    if seen.0 < u32::MAX {
        shuffle.job.world.board.leaves_generation(shuffle.number, seen.0);
    }
    loop {
        // It may have started without a place for its partitions: the same question then finds them one.
        match shuffle.job.manager.next_generation(shuffle.number, seen).await {
            Ok(generation) => return generation,
            Err(error) => shuffle.job.must_be_out_of_reach("next generation", &error),
        }
        clock::sleep(AGAIN).await;
    }
}

async fn stage_end(shuffle: &Shuffle, generation: Generation) {
    shuffle.doing.now(format_args!("waits for the end of generation {generation}"));
    let job = &shuffle.job;
    match job.manager.stage_end(shuffle.number, generation).await {
        Ok(end) if end.lost_partitions > 0 => job.world.board.count("stages that ended with a loss"),
        Ok(_) => {}
        Err(error) if error.reason() == Some(Reason::Fenced) => {
            job.world.trace.say(format_args!("generation {generation} of shuffle {} is over", shuffle.number));
        }
        Err(error) => job.must_be_out_of_reach("stage end", &error),
    }
}

/// The earlier shuffle goes first where there is not room for all.
async fn wait_for_earlier_ones(shuffle: &Shuffle) {
    shuffle.doing.now("waits for earlier shuffles to make room");
    while (0..shuffle.number).any(|earlier| !shuffle.job.world.board.is_released(earlier)) {
        clock::sleep(AGAIN).await;
    }
}
