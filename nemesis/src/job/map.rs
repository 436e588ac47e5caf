//! Map attempts: each map until it has a winner, some of them twice at once; the oracle is told what was pushed and told.

use std::sync::Arc;

use mallorn_client::{Generation, LifecycleError, MapAttempt, MapperEnd, PushError, Reason};
use mallorn_oracle::{AttemptName, UNIT_HEADER_BYTES, write_unit};
use mallorn_runtime::clock;
use mallorn_runtime::random::Random;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::{AGAIN, Engine, SHUFFLE};
use crate::failure::Failure;

/// More attempts than any fault explains.
const ATTEMPTS_MAX: u32 = 60;

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its map has a winner in this generation.
    Won(Generation),
    /// Another attempt has won, or another generation has begun.
    Overtaken(Option<Generation>),
    /// It failed.
    Failed(String),
}

/// Numbers of attempts used so far, by map, and those that still run without need.
#[derive(Debug)]
pub(super) struct Attempts {
    next: Vec<u32>,
    losers: Vec<JoinSet<()>>,
}

impl Attempts {
    pub(super) fn new(maps: u32) -> Self {
        Self { next: vec![0; maps as usize], losers: Vec::new() }
    }

    /// Attempts whose map has ended without them find that out.
    pub(super) async fn wait_for_losers(self) {
        for losers in self.losers {
            losers.join_all().await;
        }
    }
}

/// Runs all maps in a generation. Whether another generation has begun meanwhile.
pub(super) async fn run_all(
    engine: &Arc<Engine>,
    generation: Generation,
    attempts: &mut Attempts,
) -> Result<bool, Failure> {
    let room = Arc::new(Semaphore::new(engine.plan.at_once as usize));
    // Dropped with the job, should that be dropped, and so is what runs in it.
    let mut maps = JoinSet::new();
    for map in 0..engine.plan.maps {
        let (engine, room, first) = (Arc::clone(engine), Arc::clone(&room), attempts.next[map as usize]);
        maps.spawn(async move {
            let _room = room.acquire().await;
            (map, run_map(&engine, generation, map, first).await)
        });
    }
    let mut moved = false;
    while let Some(ended) = maps.join_next().await {
        let (map, ended) = ended.map_err(|error| Failure::Wrong(format!("a map: {error}")))?;
        attempts.next[map as usize] = ended.next;
        attempts.losers.push(ended.losers);
        moved |= ended.moved?;
    }
    Ok(moved)
}

struct MapEnded {
    moved: Result<bool, Failure>,
    next: u32,
    losers: JoinSet<()>,
}

async fn run_map(engine: &Arc<Engine>, generation: Generation, map: u32, first: u32) -> MapEnded {
    let random = Random::seeded(engine.plan.seed ^ u64::from(map) << 16 ^ u64::from(first));
    let (mut next, mut losers) = (first, JoinSet::new());
    loop {
        let at_once = if random.below(100) < engine.plan.twice_percent { 2 } else { 1 };
        let (sender, mut outcomes) = mpsc::channel(2);
        for attempt in next..next + at_once {
            let (engine, sender) = (Arc::clone(engine), sender.clone());
            losers.spawn(async move {
                let outcome = run_attempt(&engine, map, attempt).await;
                // Where the map has ended already, nobody listens.
                let _ = sender.send(outcome).await;
            });
        }
        drop(sender);
        next += at_once;
        while let Some(outcome) = outcomes.recv().await {
            let moved = match outcome {
                Outcome::Won(of) | Outcome::Overtaken(Some(of)) => Some(of != generation),
                Outcome::Overtaken(None) => Some(false),
                Outcome::Failed(why) => {
                    engine.report.lock().failed_attempts.push(why);
                    None
                }
            };
            if let Some(moved) = moved {
                return MapEnded { moved: Ok(moved), next, losers };
            }
        }
        // An attempt that never was is declared failed without any effect, but for the question of the generation.
        if engine.manager.attempt_failed(SHUFFLE, generation, map, u32::MAX).is_err() {
            return MapEnded { moved: Ok(true), next, losers };
        }
        if next - first > ATTEMPTS_MAX {
            let why = engine.report.lock().failed_attempts.last().cloned().unwrap_or_default();
            let moved = Err(Failure::Wrong(format!("map {map} has failed {ATTEMPTS_MAX} times: {why}")));
            return MapEnded { moved, next, losers };
        }
        clock::sleep(AGAIN).await;
    }
}

async fn run_attempt(engine: &Engine, map: u32, number: u32) -> Outcome {
    match engine.client(map + number).start_attempt(SHUFFLE, map, number).await {
        Ok(attempt) => {
            let generation = attempt.generation();
            let name = AttemptName { shuffle: SHUFFLE, generation: generation.0, map, attempt: number };
            engine.oracle.started(name);
            Attempt { engine, name, generation, attempt, buffer: Vec::new() }.run().await
        }
        Err(error) => {
            if let Some(Reason::Taken | Reason::Invalid | Reason::Unknown) = error.reason() {
                engine.oracle.violated(format_args!("attempt {map}.{number} not started: {error}"));
            }
            match error.reason() {
                Some(Reason::StageEnded) => Outcome::Overtaken(None),
                _ => Outcome::Failed(format!("attempt {map}.{number} not started: {error}")),
            }
        }
    }
}

struct Attempt<'a> {
    engine: &'a Engine,
    name: AttemptName,
    generation: Generation,
    attempt: MapAttempt,
    buffer: Vec<u8>,
}

impl Attempt<'_> {
    async fn run(mut self) -> Outcome {
        let plan = &self.engine.plan;
        let (map, attempt) = (u64::from(self.name.map), u64::from(self.name.attempt));
        let random = Random::seeded(plan.seed ^ map << 32 ^ attempt << 8);
        let is_held = plan.holds_last_map && self.name.map + 1 == plan.maps;
        for sequence in 0..if is_held { 0 } else { plan.units } {
            let partition = random.below(u64::from(plan.partitions)) as u32;
            let least = u64::from(plan.unit_bytes / 2);
            let length = UNIT_HEADER_BYTES + (least + random.below(least.max(1))) as usize;
            if let Err(error) = self.push(partition, sequence, length).await {
                return self.failed(&error);
            }
            self.engine.progress.pushed();
            if !plan.push_pause.is_zero() {
                clock::sleep(plan.push_pause).await;
            }
        }
        if is_held {
            self.engine.may_end.wait().await;
        }
        if plan.pushes_again {
            self.engine.may_end.wait().await;
            for partition in 0..plan.partitions {
                if let Err(error) = self.push(partition, plan.units + partition, UNIT_HEADER_BYTES).await {
                    return self.failed(&error);
                }
            }
        }
        self.engine.oracle.asks_end(self.name);
        match self.attempt.mapper_end().await {
            Ok(ended) => self.ended(&ended),
            Err(error) => match &error {
                PushError::Lifecycle(inner) if inner.reason() != Some(Reason::Dead) => self.outcome_of(&error),
                _ => self.failed(&error),
            },
        }
    }

    async fn push(&mut self, partition: u32, sequence: u32, length: usize) -> Result<(), PushError> {
        self.buffer.clear();
        let unit = write_unit(self.name, partition, sequence, length, &mut self.buffer);
        self.engine.oracle.pushing(unit, self.buffer.len());
        self.attempt.push(partition, &self.buffer).await
    }

    fn ended(&self, ended: &MapperEnd) -> Outcome {
        let bytes: Vec<_> = ended.bytes.iter().map(|(partition, bytes)| (partition.0, *bytes)).collect();
        self.engine.oracle.ended(self.name, ended.won, &bytes);
        if ended.won {
            self.engine.progress.won();
        }
        if ended.won { Outcome::Won(self.generation) } else { Outcome::Overtaken(Some(self.generation)) }
    }

    /// It never asked for its end, or was refused it.
    fn failed(&self, error: &PushError) -> Outcome {
        self.engine.oracle.failed(self.name, &error.to_string());
        self.outcome_of(error)
    }

    fn outcome_of(&self, error: &PushError) -> Outcome {
        let failed = || Outcome::Failed(format!("attempt {}: {error}", self.name));
        match error {
            PushError::TooLarge { .. } | PushError::Partition { .. } | PushError::Refused { .. } | PushError::Ended => {
                self.engine.oracle.violated(format_args!("{}: {error}", self.name));
                failed()
            }
            _ if error.is_overtaken() => Outcome::Overtaken(Some(self.generation)),
            PushError::Lifecycle(LifecycleError::Refused { reason: Reason::Fenced, .. }) => failed(),
            PushError::NoSpace { .. } | PushError::MapEnded | PushError::StageEnded | PushError::Lifecycle(_) => {
                failed()
            }
        }
    }
}
