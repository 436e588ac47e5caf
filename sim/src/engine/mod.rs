//! The engine's executors: processes that run map attempts and readers, as the driver hands them out.
//!
//! Owns the queue between driver and executor (an engine has its own way to send tasks; it is not simulated), and the
//! executor's life: it joins the application, and dies with everything it runs. Does not own what the tasks do.

mod map;
mod read;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client::{ClientStats, ShuffleClient};
use mallorn_oracle::Oracle;
use mallorn_runtime::random::Random;
use mallorn_runtime::simulation::Host;
use mallorn_runtime::{clock, task};
use parking_lot::Mutex;
use prometheus::Registry;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::{Notify, oneshot};

pub(crate) use map::{MapOutcome, MapTask};
pub(crate) use read::{ReadOutcome, ReadTask};

use crate::board::Board;
use crate::scenario::Scenario;
use crate::setup::{DRIVER_PORT, JobShape, Settings, derive};
use crate::trace::Trace;

/// How often something is dropped half-way before it is left to finish.
const DROPS_MAX: u32 = 8;
/// Between two tries to join the application.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// A way to spoil what the oracle sees, or what it takes for granted: for its own tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// One unit that was delivered is left out.
    Lose,
    /// One batch is delivered twice.
    Repeat,
    /// A unit of an attempt that lost is delivered.
    Loser,
    /// A unit is cut off.
    Cut,
    /// Disks say that they have synced, and have not.
    Lie,
    /// There is one copy only, where two are promised.
    Lone,
}

impl Spoil {
    pub(crate) const ALL: [Self; 6] = [Self::Lose, Self::Repeat, Self::Loser, Self::Cut, Self::Lie, Self::Lone];

    /// Where it shows.
    pub(crate) fn scenario(self) -> Scenario {
        match self {
            Self::Lose | Self::Repeat | Self::Loser | Self::Cut => Scenario::Network,
            Self::Lie => Scenario::Power,
            Self::Lone => Scenario::Copies,
        }
    }
}

/// What every part of the engine shares.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) shape: JobShape,
    pub(crate) oracle: Oracle,
    pub(crate) board: Board,
    pub(crate) trace: Trace,
    pub(crate) spoil: Option<Spoil>,
    /// Whether disks spoil in this run what they were given, or can't read it.
    pub(crate) disks_spoil: bool,
    /// The machine of each host.
    pub(crate) machines: BTreeMap<String, Host>,
}

impl World {
    /// What runs from here on runs on this host's machine.
    pub(crate) fn enter(&self, host: &str) {
        if let Some(machine) = self.machines.get(host) {
            machine.enter();
        }
    }
}

/// Work for an executor; the answer is lost when the executor dies.
pub(crate) enum Task {
    Map(MapTask, oneshot::Sender<MapOutcome>),
    Read(ReadTask, oneshot::Sender<ReadOutcome>),
    /// Leave the application.
    Leave,
}

/// Tasks on their way to one executor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    inner: Arc<(Mutex<VecDeque<Task>>, Notify)>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(task, _) => task.fmt(f),
            Self::Read(task, _) => task.fmt(f),
            Self::Leave => f.write_str("Leave"),
        }
    }
}

impl Queue {
    pub(crate) fn push(&self, task: Task) {
        self.inner.0.lock().push_back(task);
        self.inner.1.notify_one();
    }

    async fn next(&self) -> Task {
        loop {
            let front = self.inner.0.lock().pop_front();
            match front {
                Some(task) => return task,
                None => self.inner.1.notified().await,
            }
        }
    }
}

/// An executor's process: number `number` of the hosts, in its life `life`.
pub(crate) async fn run(world: World, queue: Queue, number: u32, life: u32) -> turmoil::Result {
    let client = task::spawn(join(world.clone(), number, life)).await?;
    loop {
        match queue.next().await {
            Task::Leave => break,
            Task::Map(task, reply) => {
                let (world, client) = (world.clone(), client.clone());
                task::spawn(async move {
                    // Nobody listens any more where the driver has what it needs.
                    let _ = reply.send(map::run(&world, &client, task).await);
                });
            }
            Task::Read(task, reply) => {
                let (world, client) = (world.clone(), client.clone());
                task::spawn(async move {
                    let _ = reply.send(read::run(&world, &client, task).await);
                });
            }
        }
    }
    count(&world.board, &client.stats());
    drop(client);
    // What the client leaves behind, it may still finish.
    clock::sleep(Duration::from_secs(1)).await;
    Ok(())
}

fn count(board: &Board, stats: &ClientStats) {
    board.add("batches pushed again", stats.repushed_batches);
    board.add("revives", stats.revives);
    board.add("batches left out by readers", stats.skipped_batches);
}

async fn join(world: World, number: u32, life: u32) -> ShuffleClient {
    let random = Random::seeded(derive(world.seed, "executor", &[number, life]));
    loop {
        let (config, registry) = (world.settings.client(), Registry::new());
        match ShuffleClient::connect(&format!("driver:{DRIVER_PORT}"), config, random.clone(), &registry).await {
            Ok(client) => return client,
            Err(error) => world.trace.say(format_args!("executor {number} can't join yet: {error}")),
        }
        clock::sleep(JOIN_PAUSE).await;
    }
}

/// Drops futures half-way, now and then, to see that this harms nothing.
#[derive(Debug)]
struct Dropper {
    percent: u32,
    dropped: u32,
}

impl Dropper {
    fn new(shape: &JobShape) -> Self {
        Self { percent: shape.dropped_percent, dropped: 0 }
    }

    /// How long the next future may run; `None` to its end.
    fn draw(&mut self, random: &mut StdRng) -> Option<Duration> {
        let drop = self.dropped < DROPS_MAX && random.random_range(0..100) < self.percent;
        drop.then(|| {
            self.dropped += 1;
            Duration::from_millis(random.random_range(0..20))
        })
    }
}

/// Runs a future to its end, or for as long as it may.
async fn run_for<F: Future>(within: Option<Duration>, future: F) -> Option<F::Output> {
    match within {
        Some(within) => clock::timeout(within, future).await.ok(),
        None => Some(future.await),
    }
}

async fn pause(shape: &JobShape, random: &mut StdRng) {
    let ms = random.random_range(0..=shape.pause_max_ms);
    // Most steps follow at once.
    if ms > 0 && random.random_bool(0.3) {
        clock::sleep(Duration::from_millis(ms)).await;
    }
}
