//! The engine: one application with one shuffle, run as an engine runs it, until every partition was read whole.
//!
//! | part | file |
//! |---|---|
//! | map attempts | `map` |
//! | readers | `read` |
//! | how far it is | `progress` |
//!
//! Owns the lifecycle manager and the clients, all of them on the suite's own side, the order of maps and reads, and what
//! is done after a loss. Does not own any verdict but the oracle's, nor any fault.

mod map;
mod progress;
mod read;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client::config::Compression;
use mallorn_client::{
    ClientConfig, ClientStats, Durability, Generation, LifecycleConfig, LifecycleError, LifecycleManager, Reason,
    ShuffleClient, ShuffleOptions,
};
use mallorn_oracle::{Checked, Oracle};
use mallorn_proto::id::Application;
use mallorn_runtime::clock;
use mallorn_runtime::config::{ByteSize, Span};
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::failure::{Failure, must};
pub(crate) use progress::{Phase, Progress};

/// The only shuffle.
const SHUFFLE: u32 = 0;
/// Clients, each as a process of an engine has one.
const CLIENTS: u32 = 3;
/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often it is looked how far a job is: more often than any phase is short.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How many of the oracle's lines are kept.
const SAID_MAX: usize = 40;
/// More generations than any fault explains.
const GENERATIONS_MAX: u32 = 8;

/// What is shuffled, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) copies: u32,
    pub(crate) durability: Durability,
    pub(crate) maps: u32,
    pub(crate) partitions: u32,
    /// Of each map.
    pub(crate) units: u32,
    /// Of the largest unit.
    pub(crate) unit_bytes: u32,
    /// Maps at once.
    pub(crate) at_once: u32,
    /// After each push.
    pub(crate) push_pause: Duration,
    /// After each batch that is read.
    pub(crate) read_pause: Duration,
    /// In a hundred maps, how many have two attempts at once.
    pub(crate) twice_percent: u64,
    pub(crate) codec: Compression,
    pub(crate) wait_for_return: Duration,
    pub(crate) attempt_lease: Duration,
    pub(crate) call_within: Duration,
    /// Each attempt waits for the word when it has pushed everything; then it pushes to every partition again, and ends.
    pub(crate) pushes_again: bool,
    /// The last map pushes nothing, and waits for the word before it ends: so it is known when the commit begins.
    pub(crate) holds_last_map: bool,
    /// Reads wait for the word.
    pub(crate) holds_reads: bool,
}

impl Plan {
    /// Some tens of MiB, pushed over about two seconds.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            copies: 1,
            durability: Durability::Written,
            maps: 8,
            partitions: [12, 4, 40, 120][Random::seeded(seed ^ 0x9e37).below(4) as usize],
            units: 240,
            unit_bytes: 32 * 1024,
            at_once: 4,
            push_pause: Duration::from_millis(4),
            read_pause: Duration::ZERO,
            twice_percent: 25,
            codec: Compression::Lz4,
            wait_for_return: Duration::from_secs(15),
            attempt_lease: Duration::from_secs(5),
            call_within: Duration::from_secs(5),
            pushes_again: false,
            holds_last_map: false,
            holds_reads: false,
        }
    }

    pub(crate) fn two_copies(seed: u64) -> Self {
        Self { copies: 2, ..Self::new(seed) }
    }
}

/// What a job came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Generations after the first one.
    pub(crate) reruns: u32,
    /// Each loss that a reader was told of, as it was told.
    pub(crate) losses: Vec<String>,
    /// Attempts that failed, and were made again.
    pub(crate) failed_attempts: Vec<String>,
    /// Reads that failed without a loss, and were made again.
    pub(crate) failed_reads: Vec<String>,
    pub(crate) checked: Checked,
    pub(crate) clients: ClientStats,
    pub(crate) pushed: Duration,
    pub(crate) read: Duration,
}

/// What all tasks of a job share.
#[derive(Debug)]
struct Engine {
    plan: Plan,
    manager: LifecycleManager,
    clients: Vec<ShuffleClient>,
    oracle: Oracle,
    progress: Progress,
    may_end: Shutdown,
    may_read: Shutdown,
    report: Mutex<Report>,
    failure: Mutex<Option<Failure>>,
}

/// A job under way.
#[derive(Debug)]
pub(crate) struct Job {
    engine: Arc<Engine>,
    /// One task, dropped with this.
    running: JoinSet<Result<(), Failure>>,
}

impl Job {
    /// Joins the cluster and begins.
    pub(crate) async fn start(cluster: &Cluster, plan: Plan) -> Result<Self, Failure> {
        let engine = Arc::new(Engine::start(cluster, plan).await?);
        let watched = Arc::downgrade(&engine);
        cluster.witness().add(move || match watched.upgrade() {
            Some(engine) => format!("the job: {}, {:?}", engine.progress, engine.report.lock()),
            None => "the job is over".to_owned(),
        });
        let of = Arc::clone(&engine);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let ran = run(Arc::clone(&of)).await;
            if let Err(failure) = &ran {
                *of.failure.lock() = Some(failure.clone());
            }
            ran
        });
        Ok(Self { engine, running })
    }

    /// Waits until it is that far.
    pub(crate) async fn reaches(&self, phase: Phase, percent: u64) -> Result<(), Failure> {
        while !self.engine.progress.is_at(phase, percent) {
            self.goes_on(phase)?;
            clock::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Fails where it has ended, with what it has failed of.
    fn goes_on(&self, before: Phase) -> Result<(), Failure> {
        let failure = self.engine.failure.lock().clone();
        match failure {
            Some(failure) => Err(failure),
            None if self.is_over() => {
                Err(Failure::NotStruck(format!("the job ended and was waited for before its {before:?}")))
            }
            None => Ok(()),
        }
    }

    /// Waits until all maps but the last one, which waits for the word, have a winner.
    pub(crate) async fn all_but_the_last_won(&self) -> Result<(), Failure> {
        while self.engine.progress.winners() + 1 < u64::from(self.engine.plan.maps) {
            self.goes_on(Phase::Commit)?;
            clock::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until all units were pushed; attempts may wait for the word then.
    pub(crate) async fn pushed_all(&self) -> Result<(), Failure> {
        self.reaches(Phase::Push, 100).await
    }

    /// Whether it is that far, or further.
    pub(crate) fn is_at(&self, phase: Phase, percent: u64) -> bool {
        self.engine.progress.is_at(phase, percent)
    }

    /// Attempts that wait for the word may go on to their end.
    pub(crate) fn let_end(&self) {
        self.engine.may_end.trigger();
    }

    /// Readers may begin.
    pub(crate) fn let_read(&self) {
        self.engine.may_read.trigger();
    }

    pub(crate) fn clients(&self) -> ClientStats {
        self.engine.stats()
    }

    /// Where tasks reach the lifecycle manager.
    pub(crate) fn lifecycle_address(&self) -> String {
        self.engine.manager.address().to_owned()
    }

    pub(crate) fn application(&self) -> Application {
        self.engine.manager.application().clone()
    }

    /// Whether it has come to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.engine.progress.is_at(Phase::Over, 0) || self.engine.failure.lock().is_some()
    }

    /// Waits for its end; then nothing of it may be left at any worker that runs. Fails for whatever the oracle saw.
    pub(crate) async fn finish(self, cluster: &Cluster) -> Result<Report, Failure> {
        let engine = self.read_out().await?;
        cluster.nothing_left(Duration::from_secs(20)).await?;
        Self::leave(engine).await
    }

    /// The same where workers may keep what they can't remove: a disk is broken.
    pub(crate) async fn finish_dirty(self) -> Result<Report, Failure> {
        let engine = self.read_out().await?;
        Self::leave(engine).await
    }

    async fn read_out(mut self) -> Result<Arc<Engine>, Failure> {
        self.let_end();
        self.let_read();
        let ran = self.running.join_next().await.unwrap_or(Ok(Ok(())));
        let ran = ran.map_err(|error| Failure::Wrong(format!("the job: {error}")))?;
        let violations = self.engine.oracle.violations();
        must(violations.is_empty(), || format!("the oracle: {}", violations.join("; ")))?;
        ran?;
        Ok(self.engine)
    }

    async fn leave(engine: Arc<Engine>) -> Result<Report, Failure> {
        let mut report = engine.report.lock().clone();
        report.checked = engine.oracle.checked();
        report.clients = engine.stats();
        if let Some(engine) = Arc::into_inner(engine) {
            drop(engine.clients);
            // Where the master is away it finds out by the lease.
            let _ = engine.manager.stop().await;
        }
        Ok(report)
    }
}

impl Report {
    /// Nothing may have been lost, and nothing run again for it.
    pub(crate) fn lost_nothing(&self) -> Result<(), Failure> {
        must(self.losses.is_empty() && self.reruns == 0, || {
            format!("nothing may be lost, but: {}; {} reruns", self.losses.join("; "), self.reruns)
        })
    }

    /// No task may have failed on the way, and nothing be lost.
    pub(crate) fn failed_nothing(&self) -> Result<(), Failure> {
        self.lost_nothing()?;
        must(self.failed_attempts.is_empty() && self.failed_reads.is_empty(), || {
            format!("no task may fail, but: {:?} {:?}", self.failed_attempts, self.failed_reads)
        })
    }

    /// Something was lost, and each loss was told by name: shuffle, partition, generation, reason.
    pub(crate) fn lost_by_name(&self) -> Result<(), Failure> {
        let is_named = |loss: &String| loss.contains("partition ") && loss.contains(" of shuffle ");
        must(!self.losses.is_empty() && self.losses.iter().all(is_named), || {
            format!("a loss must be reported by name, and was as {:?}", self.losses)
        })?;
        must(self.reruns > 0, || "a loss must start a generation".to_owned())
    }

    /// Whatever was lost was told by name.
    pub(crate) fn lost_by_name_or_nothing(&self) -> Result<(), Failure> {
        if self.losses.is_empty() { self.lost_nothing() } else { self.lost_by_name() }
    }

    /// In a few words.
    pub(crate) fn summary(&self) -> String {
        let mut words = vec![format!("{} units pushed, {} read", self.checked.units_pushed, self.checked.units_read)];
        words.push(match (self.losses.len(), self.reruns) {
            (0, 0) => "nothing lost".to_owned(),
            (losses, reruns) => format!("{losses} losses by name, {reruns} reruns"),
        });
        for (count, what) in [
            (self.clients.repushed_batches, "batches pushed again"),
            (self.clients.read_failovers, "reads at the other copy"),
            (self.failed_attempts.len() as u64, "attempts failed"),
            (self.failed_reads.len() as u64, "reads tried again"),
        ] {
            if count > 0 {
                words.push(format!("{count} {what}"));
            }
        }
        words.join(", ")
    }
}

impl Engine {
    async fn start(cluster: &Cluster, plan: Plan) -> Result<Self, Failure> {
        let lifecycle = LifecycleConfig {
            master: cluster.master(),
            listen: format!("{}:0", cluster.suite()),
            attempt_lease: Span(plan.attempt_lease),
            wait_for_return: Span(plan.wait_for_return),
            copies: plan.copies,
            durability: plan.durability,
            ..LifecycleConfig::default()
        };
        let random = Random::seeded(plan.seed ^ u64::from(std::process::id()) << 32);
        let manager = LifecycleManager::start("nemesis", lifecycle, random.clone()).await;
        let manager = manager.map_err(|error| Failure::Wrong(format!("start the application: {error}")))?;
        let client = ClientConfig {
            memory: ByteSize::mib(16),
            codec: plan.codec,
            call_within: Span(plan.call_within),
            read_within: Span(Duration::from_secs(120)),
            ..ClientConfig::default()
        };
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let (config, registry) = (client.clone(), Registry::new());
            let joined = ShuffleClient::connect(manager.address(), config, random.clone(), &registry).await;
            clients.push(joined.map_err(|error| Failure::Wrong(format!("join: {error}")))?);
        }
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, said) = (Arc::clone(&said), said);
        cluster.witness().add(move || tell.lock().iter().map(|line| format!("\n    {line}")).collect());
        let oracle = Oracle::new(move |line| keep(&mut said.lock(), line.to_string()));
        let progress = Progress::new(u64::from(plan.maps) * u64::from(plan.units));
        let (may_end, may_read) = (Shutdown::new(), Shutdown::new());
        Ok(Self {
            plan,
            manager,
            clients,
            oracle,
            progress,
            may_end,
            may_read,
            report: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    fn client(&self, of: u32) -> &ShuffleClient {
        &self.clients[of as usize % self.clients.len()]
    }

    fn stats(&self) -> ClientStats {
        let mut all = ClientStats::default();
        for stats in self.clients.iter().map(ShuffleClient::stats) {
            all.repushed_batches += stats.repushed_batches;
            all.refused_batches += stats.refused_batches;
            all.read_failovers += stats.read_failovers;
            all.revives += stats.revives;
            all.hard_splits += stats.hard_splits;
            all.sent_bytes += stats.sent_bytes;
            all.fetched_bytes += stats.fetched_bytes;
        }
        all
    }

    /// The driver's own calls may fail while the master is away, and for no other reason.
    fn may_be_away(&self, what: &str, error: &LifecycleError) {
        match error.reason() {
            None | Some(Reason::NoSpace) => {}
            Some(_) => self.oracle.violated(format_args!("{what}: {error}")),
        }
    }
}

/// The oracle's last words are told where a scenario fails.
fn keep(said: &mut VecDeque<String>, line: String) {
    if said.len() == SAID_MAX {
        said.pop_front();
    }
    said.push_back(line);
}

async fn run(engine: Arc<Engine>) -> Result<(), Failure> {
    let plan = &engine.plan;
    let options = ShuffleOptions { copies: Some(plan.copies), durability: Some(plan.durability) };
    let registered = engine.manager.register_with(SHUFFLE, plan.partitions, Some(plan.maps), options).await;
    let mut generation = registered.map_err(|error| Failure::Wrong(format!("register: {error}")))?;
    let mut attempts = map::Attempts::new(plan.maps);
    loop {
        let began = clock::now();
        engine.progress.enter(Phase::Push);
        let moved = map::run_all(&engine, generation, &mut attempts).await?;
        engine.report.lock().pushed += began.elapsed();
        if !moved {
            engine.progress.enter(Phase::Commit);
            stage_end(&engine, generation).await;
            engine.progress.enter(Phase::Committed);
            if plan.holds_reads {
                engine.may_read.wait().await;
            }
            let began = clock::now();
            engine.progress.enter(Phase::Read);
            let whole = read::run_all(&engine, generation).await?;
            engine.report.lock().read += began.elapsed();
            if whole {
                break;
            }
        }
        generation = next_generation(&engine, generation).await?;
    }
    engine.progress.enter(Phase::Over);
    attempts.wait_for_losers().await;
    release(&engine).await
}

async fn stage_end(engine: &Engine, generation: Generation) {
    match engine.manager.stage_end(SHUFFLE, generation).await {
        Ok(_) => {}
        Err(error) if error.reason() == Some(Reason::Fenced) => {}
        Err(error) => engine.may_be_away("stage end", &error),
    }
}

async fn next_generation(engine: &Engine, seen: Generation) -> Result<Generation, Failure> {
    let reruns = {
        let mut report = engine.report.lock();
        report.reruns += 1;
        report.reruns
    };
    must(reruns < GENERATIONS_MAX, || {
        let report = engine.report.lock();
        format!("{GENERATIONS_MAX} generations are not enough: {:?} {:?}", report.losses, report.failed_attempts)
    })?;
    loop {
        match engine.manager.next_generation(SHUFFLE, seen).await {
            Ok(generation) => return Ok(generation),
            Err(error) => engine.may_be_away("next generation", &error),
        }
        clock::sleep(AGAIN).await;
    }
}

async fn release(engine: &Engine) -> Result<(), Failure> {
    loop {
        match engine.manager.release(SHUFFLE).await {
            Ok(()) => return Ok(()),
            Err(error) if error.reason() == Some(Reason::Released) => return Ok(()),
            Err(error) => engine.may_be_away("release", &error),
        }
        clock::sleep(AGAIN).await;
    }
}
