//! One attempt at a map: pushes its units and ends, and tells the oracle what it did and was told.

use mallorn_client::{LifecycleError, MapAttempt, MapperEnd, PushError, Reason, ShuffleClient, Token};
use mallorn_oracle::{AttemptName, Unit, write_unit};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::{Dropper, World, pause, run_for};
use crate::setup::{JobKind, random};

/// An attempt to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapTask {
    pub(crate) shuffle: u32,
    pub(crate) map: u32,
    /// Used once, in all generations.
    pub(crate) attempt: u32,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapOutcome {
    /// It ended: it has won, or its token was given.
    Ended { generation: u32, token: Token },
    /// Another attempt of the map has won; in which generation is not known where this one never started.
    Overtaken { generation: Option<u32> },
    /// No worker had room.
    NoSpace,
    /// It gave up, or could not go on; or nobody knows how it ended.
    Failed,
}

pub(super) async fn run(world: &World, client: &ShuffleClient, task: MapTask) -> MapOutcome {
    let who = format!("attempt {}.{}.{}", task.shuffle, task.map, task.attempt);
    let doing = world.board.begin_doing(&who);
    match client.start_attempt(task.shuffle, task.map, task.attempt).await {
        Ok(attempt) => {
            doing.now("pushes and ends");
            run_started(world, task, attempt).await
        }
        Err(error) => not_started(world, &who, &error),
    }
}

fn not_started(world: &World, who: &str, error: &LifecycleError) -> MapOutcome {
    world.trace.say(format_args!("{who} not started: {error}"));
    match error.reason() {
        Some(Reason::StageEnded) => MapOutcome::Overtaken { generation: None },
        Some(Reason::Taken | Reason::Invalid | Reason::Unknown) => {
            world.oracle.violated(format_args!("{who} not started: {error}"));
            MapOutcome::Failed
        }
        _ => MapOutcome::Failed,
    }
}

/// An attempt under way.
struct Running<'a> {
    world: &'a World,
    name: AttemptName,
    attempt: MapAttempt,
    random: StdRng,
    dropper: Dropper,
    buffer: Vec<u8>,
}

async fn run_started(world: &World, task: MapTask, attempt: MapAttempt) -> MapOutcome {
    let generation = attempt.generation().0;
    let name = AttemptName { shuffle: task.shuffle, generation, map: task.map, attempt: task.attempt };
    world.oracle.started(name);
    let random = random(world.seed, "attempt", &[task.shuffle, task.map, task.attempt]);
    let dropper = Dropper::new(&world.shape);
    let mut running = Running { world, name, attempt, random, dropper, buffer: Vec::new() };
    let shape = &world.shape;
    let units = running.random.random_range(shape.units / 2..=shape.units);
    let abandoned = running.random.random_range(0..100) < shape.abandoned_percent;
    let until = if abandoned { running.random.random_range(0..=units) } else { units };
    for sequence in 0..until {
        if let Err(error) = running.push(sequence).await {
            return running.failed(&error);
        }
        pause(shape, &mut running.random).await;
    }
    if abandoned {
        return running.abandon().await;
    }
    running.end().await
}

impl Running<'_> {
    async fn push(&mut self, sequence: u32) -> Result<(), PushError> {
        let shape = &self.world.shape;
        // The first partitions get more than the others.
        let highest = self.random.random_range(0..shape.partitions);
        let partition = self.random.random_range(0..=highest);
        let length = shape.sizes.draw(&mut self.random);
        self.buffer.clear();
        if length > 0 {
            let unit: Unit = write_unit(self.name, partition, sequence, length, &mut self.buffer);
            self.world.oracle.pushing(unit, self.buffer.len());
        }
        let owned = self.random.random_bool(0.2);
        loop {
            let within = self.dropper.draw(&mut self.random);
            let pushed = if owned {
                let unit = bytes::Bytes::copy_from_slice(&self.buffer);
                run_for(within, self.attempt.push_owned(partition, unit)).await
            } else {
                run_for(within, self.attempt.push(partition, &self.buffer)).await
            };
            if let Some(pushed) = pushed {
                return pushed;
            }
        }
    }

    async fn abandon(mut self) -> MapOutcome {
        self.world.oracle.failed(self.name, "it was told to give up");
        if self.random.random_bool(0.5) {
            self.attempt.failed().await;
        }
        MapOutcome::Failed
    }

    async fn end(mut self) -> MapOutcome {
        self.world.oracle.asks_end(self.name);
        let mut asked = 0;
        let ended = loop {
            asked += 1;
            let within = self.dropper.draw(&mut self.random);
            if let Some(ended) = run_for(within, self.attempt.mapper_end()).await {
                break ended;
            }
        };
        match ended {
            Ok(ended) => self.ended(&ended),
            Err(error) => {
                // What an earlier call that was dropped has come to, nobody knows.
                let unknown = matches!(&error, PushError::Lifecycle(error) if error.reason() != Some(Reason::Dead));
                if unknown || asked > 1 {
                    self.world.trace.say(format_args!("attempt {} was not told how it ended: {error}", self.name));
                    self.outcome_of(&error)
                } else {
                    self.failed(&error)
                }
            }
        }
    }

    fn ended(&self, ended: &MapperEnd) -> MapOutcome {
        let bytes: Vec<_> = ended.bytes.iter().map(|(partition, bytes)| (partition.0, *bytes)).collect();
        let (oracle, generation) = (&self.world.oracle, self.name.generation);
        match self.world.shape.kind {
            JobKind::Tokens => oracle.ended_with_token(self.name, ended.token.0, &bytes),
            JobKind::Winners => {
                oracle.ended(self.name, ended.won, &bytes);
                if !ended.won {
                    return MapOutcome::Overtaken { generation: Some(generation) };
                }
            }
        }
        MapOutcome::Ended { generation, token: ended.token }
    }

    /// It never asked for its end, or was refused it.
    fn failed(&self, error: &PushError) -> MapOutcome {
        self.world.oracle.failed(self.name, &error.to_string());
        self.outcome_of(error)
    }

    fn outcome_of(&self, error: &PushError) -> MapOutcome {
        let (board, name) = (&self.world.board, self.name);
        if error.to_string().contains("says that it is dead") {
            let is_over = board.is_over(name.shuffle, name.generation) || board.is_released(name.shuffle);
            self.world.oracle.told_dead(name, is_over);
        }
        match error {
            PushError::NoSpace { .. } => {
                self.world.board.count("no space");
                MapOutcome::NoSpace
            }
            PushError::TooLarge { .. } | PushError::Partition { .. } | PushError::Refused { .. } | PushError::Ended => {
                self.world.oracle.violated(format_args!("{}: {error}", self.name));
                MapOutcome::Failed
            }
            _ if error.is_overtaken() => MapOutcome::Overtaken { generation: Some(self.name.generation) },
            PushError::MapEnded | PushError::StageEnded | PushError::Lifecycle(_) => MapOutcome::Failed,
        }
    }
}
