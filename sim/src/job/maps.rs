//! Runs maps until each has ended: starts attempts, several at once where the job says so, and new ones for those that
//! failed or died.

use std::sync::Arc;

use mallorn_client::{Generation, Token};
use mallorn_runtime::{clock, task};
use rand::Rng as _;
use tokio::sync::mpsc;

use super::{AGAIN, Job};
use crate::engine::{MapOutcome, MapTask};
use crate::setup::random;

/// How the maps of one generation came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MapsEnd {
    /// Every one has ended; with the tokens of those that were told.
    Ended(Vec<(u32, Token)>),
    /// Another generation has started.
    Moved,
    /// The cluster is full.
    NoSpace,
}

/// Attempts made so far, by map: a number is used once, whatever the generation.
pub(super) type Attempts = Vec<u32>;

/// Runs these maps.
pub(super) async fn run(
    job: &Arc<Job>,
    shuffle: u32,
    generation: Option<Generation>,
    maps: &[u32],
    attempts: &mut Attempts,
) -> MapsEnd {
    let (sender, mut ended) = mpsc::channel(maps.len().max(1));
    for map in maps {
        let (job, sender, first, map) = (Arc::clone(job), sender.clone(), attempts[*map as usize], *map);
        task::spawn(async move {
            let came_out = run_one(&job, (shuffle, map), generation, first).await;
            let _ = sender.send((map, came_out)).await;
        });
    }
    drop(sender);
    let (mut tokens, mut end) = (Vec::new(), None);
    while let Some((map, One { came_out, next_attempt })) = ended.recv().await {
        attempts[map as usize] = next_attempt;
        match came_out {
            Ok(token) => tokens.extend(token.map(|token| (map, token))),
            Err(why) => end = Some(why),
        }
    }
    end.unwrap_or(MapsEnd::Ended(tokens))
}

/// What became of one map.
struct One {
    came_out: Result<Option<Token>, MapsEnd>,
    next_attempt: u32,
}

async fn run_one(job: &Arc<Job>, (shuffle, map): (u32, u32), generation: Option<Generation>, first: u32) -> One {
    let mut random = random(job.world.seed, "map", &[shuffle, map, first]);
    let mut next_attempt = first;
    loop {
        let copies = job.world.shape.copies;
        let (sender, mut outcomes) = mpsc::channel(copies as usize);
        for attempt in next_attempt..next_attempt + copies {
            let (job, sender) = (Arc::clone(job), sender.clone());
            task::spawn(async move {
                let outcome = job.run_attempt(MapTask { shuffle, map, attempt }).await;
                let _ = sender.send((attempt, outcome)).await;
            });
        }
        drop(sender);
        next_attempt += copies;
        // The first that says how the map has ended is enough; whoever still runs is left to find out.
        while let Some((attempt, outcome)) = outcomes.recv().await {
            let of = |other: u32| generation.is_none_or(|generation| generation.0 == other) || other == u32::MAX;
            let came_out = match outcome {
                Some(MapOutcome::Ended { generation: other, token }) if of(other) => Ok(Some(token)),
                Some(MapOutcome::Overtaken { generation: other }) if of(other) => Ok(None),
                Some(MapOutcome::Ended { .. } | MapOutcome::Overtaken { .. }) => Err(MapsEnd::Moved),
                Some(MapOutcome::NoSpace) => Err(MapsEnd::NoSpace),
                Some(MapOutcome::Failed) | None => {
                    if random.random_bool(0.5) {
                        give_up(job, (shuffle, map), attempt, generation);
                    }
                    continue;
                }
            };
            return One { came_out, next_attempt };
        }
        job.world.board.count("maps tried again");
        clock::sleep(AGAIN).await;
        if generation.is_some_and(|generation| has_moved(job, shuffle, generation)) {
            return One { came_out: Err(MapsEnd::Moved), next_attempt };
        }
    }
}

/// An engine's driver may say so, whether the attempt still runs, never did, or has ended.
fn give_up(job: &Job, (shuffle, map): (u32, u32), attempt: u32, generation: Option<Generation>) {
    let generation = generation.unwrap_or(Generation(0));
    if let Err(error) = job.manager.attempt_failed(shuffle, generation, map, attempt) {
        job.world.trace.say(format_args!("declare attempt {shuffle}.{map}.{attempt} failed: {error}"));
    }
}

fn has_moved(job: &Job, shuffle: u32, generation: Generation) -> bool {
    // An attempt that never was is declared failed without any effect, but for the question of the generation.
    job.manager.attempt_failed(shuffle, generation, 0, u32::MAX).is_err()
}
