//! The engine's driver: runs shuffles as an engine does, until every partition of each was read whole, and then sees to
//! it that nothing of them is left.
//!
//! Owns the lifecycle manager, the order of maps and reads, and what is done after a loss. Does not own what maps and
//! readers do (`engine`), nor any verdict (`oracle`).

mod audit;
mod maps;
mod reads;
mod tokens;
mod winners;

use std::sync::Arc;
use std::time::Duration;

use mallorn_client::{LifecycleError, LifecycleManager, Reason};
use mallorn_runtime::random::Random;
use mallorn_runtime::{clock, task};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::task::JoinError;

use crate::board::Doing;
use crate::engine::{MapOutcome, MapTask, Queue, ReadOutcome, ReadTask, Spoil, Task, World};
use crate::faults::Phase;
use crate::setup::{APPLICATION, JobKind, Kept, derive, random};

/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// Reading waits at most so long after the commit, so that something can happen in between.
const READ_AFTER_MAX_MS: u64 = 400;

/// What all shuffles of the job share.
struct Job {
    world: World,
    manager: LifecycleManager,
    mappers: Vec<Queue>,
    reducers: Vec<Queue>,
    next_read: Mutex<u32>,
}

/// One shuffle of it.
struct Shuffle {
    job: Arc<Job>,
    number: u32,
    doing: Doing,
}

/// Runs the whole job.
pub(crate) async fn drive(world: World, mappers: Vec<Queue>, reducers: Vec<Queue>) -> turmoil::Result {
    // As a task of its own: where the driver is taken down, nothing of it outlives its clock.
    let whole = task::spawn(async move {
        let manager = start(&world).await;
        let job = Arc::new(Job { world, manager, mappers, reducers, next_read: Mutex::new(0) });
        let numbers = 0..job.world.shape.shuffles.len() as u32;
        let running: Vec<_> = numbers.map(|number| task::spawn(run_shuffle(Arc::clone(&job), number))).collect();
        for shuffle in running {
            shuffle.await?;
        }
        let board = job.world.board.clone();
        board.want_calm();
        audit::nothing_left(job).await;
        board.finish();
        Ok::<_, JoinError>(())
    });
    Ok(whole.await??)
}

/// Waits for the end of the job; where its driver dies, for everything of it to be gone all the same.
pub(crate) async fn watch(world: World, executors: Vec<Queue>) -> turmoil::Result {
    while !world.board.is_finished() {
        if world.board.is_orphaned() {
            audit::nothing_left_without_its_driver(&world, &executors).await;
            return Ok(());
        }
        clock::sleep(AGAIN).await;
    }
    Ok(())
}

async fn start(world: &World) -> LifecycleManager {
    let _doing = world.board.begin_doing("driver");
    let mut tries = 0;
    loop {
        tries += 1;
        let random = Random::seeded(derive(world.seed, "driver", &[tries]));
        match LifecycleManager::start(APPLICATION, world.settings.lifecycle(), random).await {
            Ok(manager) => return manager,
            Err(error) => world.trace.say(format_args!("the lifecycle manager does not start: {error}")),
        }
        clock::sleep(AGAIN).await;
    }
}

async fn run_shuffle(job: Arc<Job>, number: u32) {
    let doing = job.world.board.begin_doing(format_args!("shuffle {number}"));
    let shuffle = Shuffle { job, number, doing };
    match shuffle.job.world.shape.kind {
        JobKind::Winners => winners::run(&shuffle).await,
        JobKind::Tokens => tokens::run(&shuffle).await,
    }
    shuffle.release().await;
}

impl Shuffle {
    /// The faults are anchored at what the first shuffle does.
    fn begin(&self, phase: Phase, round: u32) {
        self.job.world.trace.say(format_args!("shuffle {} begins {phase:?}, round {round}", self.number));
        self.doing.now(format_args!("{phase:?}, round {round}"));
        if self.number == 0 {
            self.job.world.board.begin(phase, round);
        }
    }

    /// Lets some time pass between the commit and the reads.
    async fn committed(&self, round: u32, random: &mut StdRng) {
        self.begin(Phase::Committed, round);
        clock::sleep(Duration::from_millis(random.random_range(0..READ_AFTER_MAX_MS))).await;
        self.begin(Phase::Read, round);
    }

    fn random(&self) -> StdRng {
        random(self.job.world.seed, "shuffle", &[self.number])
    }

    fn kept(&self) -> Kept {
        let world = &self.job.world;
        let kept = world.shape.shuffles[self.number as usize];
        if world.spoil == Some(Spoil::Lone) { Kept { copies: 1, ..kept } } else { kept }
    }

    async fn release(&self) {
        self.doing.now("releases");
        self.job.world.board.releasing(self.number);
        loop {
            match self.job.manager.release(self.number).await {
                Ok(()) => break,
                Err(error) if error.reason() == Some(Reason::Released) => break,
                Err(error) => self.job.must_be_out_of_reach("release", &error),
            }
            clock::sleep(AGAIN).await;
        }
        self.read_what_is_released().await;
    }

    /// A shuffle that was released is not an empty one.
    async fn read_what_is_released(&self) {
        let tokens = (self.job.world.shape.kind == JobKind::Tokens).then(Vec::new);
        let task = ReadTask { shuffle: self.number, partitions: 0..1, maps: None, tokens, number: 0, restarts: false };
        if let Some(ReadOutcome::Whole { .. }) = self.job.run_read(task).await {
            self.job
                .world
                .oracle
                .violated(format_args!("shuffle {} is released, and was read to its end", self.number));
        }
    }
}

impl Job {
    /// Runs an attempt somewhere; `None` when its process died.
    async fn run_attempt(&self, task: MapTask) -> Option<MapOutcome> {
        let queue = &self.mappers[task.attempt as usize % self.mappers.len()];
        let (sender, receiver) = oneshot::channel();
        queue.push(Task::Map(task, sender));
        receiver.await.ok()
    }

    /// Runs a reader somewhere; `None` when its process died.
    async fn run_read(&self, mut task: ReadTask) -> Option<ReadOutcome> {
        {
            let mut next = self.next_read.lock();
            task.number = *next;
            *next += 1;
        }
        let queue = &self.reducers[task.number as usize % self.reducers.len()];
        let (sender, receiver) = oneshot::channel();
        queue.push(Task::Read(task, sender));
        receiver.await.ok()
    }

    /// The driver's own calls may fail while the master is away or the cluster is full, and for no other reason.
    fn must_be_out_of_reach(&self, what: &str, error: &LifecycleError) {
        self.world.trace.say(format_args!("{what}: {error}"));
        match error.reason() {
            None | Some(Reason::NoSpace) => {}
            Some(_) => self.world.oracle.violated(format_args!("{what}: {error}")),
        }
    }
}
