//! Runs maps until each has ended: starts attempts, several at once where the job says so, and new ones for those that
//! failed or died.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client::{Generation, Token};
use mallorn_oracle::AttemptName;
use mallorn_runtime::{clock, task};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use super::{AGAIN, Job, Shuffle};
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
    shuffle: &Shuffle,
    generation: Option<Generation>,
    maps: &[u32],
    attempts: &mut Attempts,
) -> MapsEnd {
    let (sender, mut ended) = mpsc::channel(maps.len().max(1));
    for map in maps {
        let one = Arc::new(Map { job: Arc::clone(&shuffle.job), shuffle: shuffle.number, map: *map, generation });
        let (sender, first) = (sender.clone(), attempts[*map as usize]);
        task::spawn(async move {
            let map = one.map;
            let came_out = one.run(first).await;
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

/// One map in one generation; without a map count there is only one.
struct Map {
    job: Arc<Job>,
    shuffle: u32,
    map: u32,
    generation: Option<Generation>,
}

impl Map {
    async fn run(self: Arc<Self>, first: u32) -> One {
        let world = &self.job.world;
        let mut random = random(world.seed, "map", &[self.shuffle, self.map, first]);
        let mut next_attempt = first;
        loop {
            let attempts = next_attempt..next_attempt + world.shape.at_once;
            attempts.clone().for_each(|attempt| self.may_be_killed(attempt, &mut random));
            let mut outcomes = self.start(attempts);
            next_attempt += world.shape.at_once;
            // The first that says how the map has ended is enough; whoever still runs is left to find out.
            while let Some((attempt, outcome)) = outcomes.recv().await {
                if let Some(came_out) = self.came_out(outcome) {
                    return One { came_out, next_attempt };
                }
                if random.random_bool(0.5) {
                    self.give_up(attempt);
                }
            }
            world.board.count("maps tried again");
            clock::sleep(AGAIN).await;
            if self.has_moved() {
                return One { came_out: Err(MapsEnd::Moved), next_attempt };
            }
        }
    }

    fn start(&self, attempts: Range<u32>) -> mpsc::Receiver<(u32, Option<MapOutcome>)> {
        let (sender, outcomes) = mpsc::channel(attempts.len());
        for attempt in attempts {
            let (job, sender) = (Arc::clone(&self.job), sender.clone());
            let task = MapTask { shuffle: self.shuffle, map: self.map, attempt };
            task::spawn(async move {
                let outcome = job.run_attempt(task).await;
                let _ = sender.send((attempt, outcome)).await;
            });
        }
        outcomes
    }

    /// What an attempt's outcome says of the map; `None` when it is to be tried again.
    fn came_out(&self, outcome: Option<MapOutcome>) -> Option<Result<Option<Token>, MapsEnd>> {
        let is_ours = |other: u32| self.generation.is_none_or(|generation| generation.0 == other);
        match outcome? {
            MapOutcome::Ended { generation, token } if is_ours(generation) => Some(Ok(Some(token))),
            MapOutcome::Overtaken { generation: Some(other) } if !is_ours(other) => Some(Err(MapsEnd::Moved)),
            MapOutcome::Overtaken { .. } => Some(Ok(None)),
            MapOutcome::Ended { .. } => Some(Err(MapsEnd::Moved)),
            MapOutcome::NoSpace => Some(Err(MapsEnd::NoSpace)),
            MapOutcome::Failed => None,
        }
    }

    /// An engine's driver may lose patience with an attempt that still runs.
    fn may_be_killed(self: &Arc<Self>, attempt: u32, random: &mut StdRng) {
        let shape = &self.job.world.shape;
        if random.random_range(0..100) >= shape.declared_dead_percent {
            return;
        }
        let after_ms = random.random_range(0..=10 + u64::from(shape.units) * (1 + shape.pause_max_ms) / 4);
        let this = Arc::clone(self);
        task::spawn(async move {
            clock::sleep(Duration::from_millis(after_ms)).await;
            this.give_up(attempt);
        });
    }

    /// An engine's driver may say so, whether the attempt still runs, never did, or has ended.
    fn give_up(&self, attempt: u32) {
        let (shuffle, map) = (self.shuffle, self.map);
        let generation = self.generation.unwrap_or(Generation(0));
        match self.job.manager.attempt_failed(shuffle, generation, map, attempt) {
            Ok(()) => {
                let generation = generation.0;
                self.job.world.oracle.declared_dead(AttemptName { shuffle, generation, map, attempt });
            }
            Err(error) => {
                self.job.world.trace.say(format_args!("declare attempt {shuffle}.{map}.{attempt} failed: {error}"));
            }
        }
    }

    fn has_moved(&self) -> bool {
        // An attempt that never was is declared failed without any effect, but for the question of the generation.
        let asked = |generation| self.job.manager.attempt_failed(self.shuffle, generation, self.map, u32::MAX);
        self.generation.is_some_and(|generation| asked(generation).is_err())
    }
}
