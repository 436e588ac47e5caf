//! The lifecycle manager: one per application, in the engine's driver. It owns the truth about the application's
//! shuffles; tasks reach it over gRPC.
//!
//! | part | file |
//! |---|---|
//! | what the driver calls | here |
//! | what tasks call | `service` |
//! | finding workers for locations | `place` |
//! | freeze and seal | `commit` |
//! | the lease at the master | `lease` |
//! | addresses of workers, and whether they are gone | `workers` |
//!
//! Owns: the calls, the waits, the retries. Does not own: any rule (`mallorn_client_core::lifecycle`).

mod commit;
mod lease;
mod pages;
mod place;
mod plan;
mod service;
mod workers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::{AttemptName, Current, Lifecycle, LookupError, Protection, Stage};
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, Attempt, Generation, Instance, MapId, ShuffleId, WorkerId};
use mallorn_proto::reason::Reason;
use mallorn_proto::v1;
use mallorn_runtime::clock::{self, Clock};
use mallorn_runtime::config::Check;
use mallorn_runtime::net::Listener;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::{self, Shutdown, Tasks};
use mallorn_runtime::telemetry::quiet::Quiet;
use mallorn_runtime::{grpc, net};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::config::{LifecycleConfig, ShuffleOptions};
use crate::error::{LifecycleError, StartError};
use workers::Workers;

/// How long a call to the master may take.
const MASTER_WITHIN: Duration = Duration::from_secs(5);
/// How long stopping waits for the manager's own tasks.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The longest that an answer to a task waits for something to happen; the task asks again.
pub(crate) const LIFECYCLE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a driver waits for a stage to end before it asks whether it is still there.
const STAGE_CHECK: Duration = Duration::from_secs(10);

/// Owns the truth about one application's shuffles. Started in the engine's driver; dropped or stopped with it.
///
/// Its methods may be called from any task; a dropped future leaves nothing half-done.
#[derive(Debug)]
pub struct LifecycleManager {
    shared: Arc<Shared>,
    address: String,
    tasks: Tasks,
}

/// A stage whose maps have all ended, and whose locations are all committed or known to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageEnd {
    /// The generation that ended.
    pub generation: Generation,
    /// Partitions of which something is lost; reading them is `PartitionLost`.
    pub lost_partitions: u32,
    /// Locations that are kept once where two copies were wanted: the other copy is given up, or a call to its worker has
    /// come to nothing. Such a one is being made whole still, if its worker returns.
    pub degraded_locations: u32,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) application: Application,
    pub(crate) config: LifecycleConfig,
    pub(crate) body_limit: u32,
    pub(crate) worker_lease: Duration,
    truth: Mutex<Truth>,
    /// Rises with every change that somebody may wait for.
    changes: watch::Sender<u64>,
    workers: Workers,
    random: Random,
    clock: Clock,
    /// Log lines that placing would repeat: by what happened, and at which worker.
    quiet: Quiet<(&'static str, WorkerId)>,
    shutdown: Shutdown,
}

/// The rules' state, and which background work runs on it.
#[derive(Debug)]
struct Truth {
    lifecycle: Lifecycle,
    placing: BTreeSet<ShuffleId>,
    committing: commit::Commits,
    /// Generations of which somebody watches epochs that rest.
    resting: BTreeSet<ShuffleId>,
    /// A newer instance of the application is registered: everything is refused from here on.
    fenced: bool,
}

impl LifecycleManager {
    /// Registers the application at the master and starts to listen for its tasks. An older instance of the same name
    /// is fenced by it.
    ///
    /// # Errors
    /// `Config`, `Listen` when the address cannot be listened on, `Master` when the master is not reached or refuses.
    pub async fn start(application: &str, config: LifecycleConfig, random: Random) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let application = Application { name: application.to_owned(), instance: Instance(random.id()) };
        let listener = Listener::bind(&config.listen).await.map_err(StartError::Listen)?;
        let address = advertised(&listener, config.advertise.as_deref()).map_err(StartError::Listen)?;
        let clock = Clock::start();
        let workers = Workers::new(&config, random.clone(), clock).map_err(StartError::Listen)?;
        let registered = lease::register(&workers, &application).await?;
        tracing::info!(event = "application_registered", %application, %address);

        let lifecycle = Lifecycle::new(config.attempt_lease.0, clock.now());
        let (placing, committing, resting) = (BTreeSet::new(), commit::Commits::new(), BTreeSet::new());
        let truth = Truth { lifecycle, placing, committing, resting, fenced: false };
        let shared = Arc::new(Shared {
            application,
            config,
            body_limit: registered.body_limit,
            worker_lease: Duration::from_millis(registered.worker_lease_ms),
            truth: Mutex::new(truth),
            changes: watch::Sender::new(0),
            workers,
            random,
            clock,
            quiet: Quiet::default(),
            shutdown: Shutdown::new(),
        });
        let mut tasks = Tasks::new();
        let routes = service::routes(Arc::clone(&shared));
        let shutdown = shared.shutdown.clone();
        tasks.spawn(async move {
            if let Err(error) = grpc::serve(listener, routes, shutdown).await {
                tracing::error!(%error, "serve the application's tasks");
            }
        });
        tasks.spawn(lease::keep(Arc::clone(&shared), Duration::from_millis(registered.lease_ms)));
        tasks.spawn(expire_attempts(Arc::clone(&shared)));
        Ok(Self { shared, address, tasks })
    }

    /// host:port that `ShuffleClient::connect` takes.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The application, with the instance that this manager drew.
    #[must_use]
    pub fn application(&self) -> &Application {
        &self.shared.application
    }

    /// The gRPC door as a service, for tasks in the same process: no port and no connection stand between.
    #[must_use]
    pub fn routes(&self) -> Routes {
        service::routes(Arc::clone(&self.shared))
    }

    /// Declares a shuffle and places its partitions. With `maps`, the stage ends when each map has a winner; without,
    /// the shuffle is read by tokens. The same declaration again answers the same.
    ///
    /// # Errors
    /// `Invalid` for senseless or different numbers, `Released`, `NoSpace` when no worker has room within
    /// `place_within`, `Fenced` when a newer instance of the application has started.
    pub async fn register(
        &self,
        shuffle: u32,
        partitions: u32,
        maps: Option<u32>,
    ) -> Result<Generation, LifecycleError> {
        self.register_with(shuffle, partitions, maps, ShuffleOptions::default()).await
    }

    /// Declares a shuffle that is kept otherwise than the application's others.
    ///
    /// # Errors
    /// As [`Self::register`]. `Invalid` also for more than two copies, `NoSpace` also when there are too few workers
    /// for two copies, or no worker with a disk for what is to be written.
    pub async fn register_with(
        &self,
        shuffle: u32,
        partitions: u32,
        maps: Option<u32>,
        options: ShuffleOptions,
    ) -> Result<Generation, LifecycleError> {
        let within = self.shared.config.place_within.0;
        let declared = options.declare(self.shared.application.instance.0, shuffle, partitions, maps);
        Ok(self.shared.register(&declared, within).await?.generation)
    }

    /// Starts the shuffle's next generation if `seen` is the current one, and answers which one is current: after a
    /// loss, re-run all maps in it.
    ///
    /// # Errors
    /// `Unknown`, `Released`, `Fenced`, `Invalid` for a shuffle without a map count, `NoSpace`.
    pub async fn next_generation(&self, shuffle: u32, seen: Generation) -> Result<Generation, LifecycleError> {
        let within = self.shared.config.place_within.0;
        Ok(self.shared.next_generation(shuffle, seen, within).await?.generation)
    }

    /// Declares an attempt dead, whoever started it. It has no effect on one that has ended.
    ///
    /// # Errors
    /// `Unknown`, `Released` or `Fenced`.
    pub fn attempt_failed(
        &self,
        shuffle: u32,
        generation: Generation,
        map: u32,
        attempt: u32,
    ) -> Result<(), LifecycleError> {
        let name = AttemptName { map: MapId(map), attempt: Attempt(attempt) };
        self.shared.with(|truth| {
            truth.lifecycle.generation(shuffle, generation)?.fail_attempt(name);
            Ok(())
        })
    }

    /// Waits until the stage has ended and is committed.
    ///
    /// # Errors
    /// `Unknown`, `Released`, `Fenced` when the generation is over, `Invalid` for a shuffle without a map count.
    pub async fn stage_end(&self, shuffle: u32, generation: Generation) -> Result<StageEnd, LifecycleError> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            if let Some(end) = self.shared.stage_end(shuffle, generation)? {
                return Ok(end);
            }
            // A change that was missed would only cost this long.
            let _ = clock::timeout(STAGE_CHECK, changes.changed()).await;
        }
    }

    /// Forgets a shuffle; its workers give its memory back.
    ///
    /// # Errors
    /// `Unknown` or `Released`.
    pub async fn release(&self, shuffle: u32) -> Result<(), LifecycleError> {
        self.shared.release(shuffle).await
    }

    /// Ends the application: everything of it is released everywhere.
    ///
    /// # Errors
    /// `Unreachable` when the master could not be told; it finds out when the lease ends.
    pub async fn stop(mut self) -> Result<(), LifecycleError> {
        self.shared.shutdown.trigger();
        let shared = Arc::clone(&self.shared);
        let told = lease::end(&shared).await;
        std::mem::take(&mut self.tasks).join(STOP_WITHIN).await;
        tracing::info!(event = "application_ended", application = %shared.application);
        told
    }
}

fn advertised(listener: &Listener, host: Option<&str>) -> std::io::Result<String> {
    let local = listener.local_addr()?;
    Ok(host.map_or_else(|| local.to_string(), |host| net::authority(host, local.port())))
}

async fn expire_attempts(shared: Arc<Shared>) {
    let period = shared.config.attempt_lease.0 / 10;
    while shared.shutdown.or(clock::sleep(period)).await.is_some() {
        let now = shared.clock.now();
        let died = shared.truth.lock().lifecycle.expire(now);
        if died > 0 {
            tracing::info!(event = "attempts_expired", count = died);
            shared.changed();
        }
    }
}

impl Shared {
    /// Runs a rule on the truth, unless a newer instance has fenced this one.
    fn with<T>(&self, rule: impl FnOnce(&mut Truth) -> Result<T, LifecycleError>) -> Result<T, LifecycleError> {
        let mut truth = self.truth.lock();
        if truth.fenced {
            return Err(self.fenced());
        }
        rule(&mut truth)
    }

    fn fenced(&self) -> LifecycleError {
        LifecycleError::refused(
            Reason::Fenced,
            format!("a newer instance of application {} has started", self.application.name),
        )
    }

    /// How long a reader waits for a worker that vanished.
    fn reader_waits(&self) -> Duration {
        self.worker_lease + self.config.wait_for_return.0
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    pub(crate) async fn register(
        self: &Arc<Self>,
        declared: &v1::RegisterShuffleRequest,
        within: Duration,
    ) -> Result<Current, LifecycleError> {
        let v1::RegisterShuffleRequest { shuffle, partitions, maps, .. } = *declared;
        let (copies, durability) = (self.config.copies, Durability::from(self.config.durability));
        let copies = declared.copies.unwrap_or(copies);
        let protection =
            Protection { copies, durability: declared.durability.map_or(durability, Durability::from_wire) };
        let current = self.with(|truth| Ok(truth.lifecycle.register(shuffle, partitions, maps, protection)?))?;
        if current.started {
            let (wire, durability) = (current.wire, protection.durability.name());
            tracing::info!(event = "shuffle_registered", shuffle, partitions, maps, copies, durability, %wire);
        }
        place::all(self, shuffle, current.generation, within).await?;
        Ok(current)
    }

    pub(crate) async fn next_generation(
        self: &Arc<Self>,
        shuffle: u32,
        seen: Generation,
        within: Duration,
    ) -> Result<Current, LifecycleError> {
        let (current, old_workers) = self.with(|truth| {
            let old = truth.lifecycle.current(shuffle)?.1.workers().collect::<Vec<_>>();
            Ok((truth.lifecycle.next_generation(shuffle, seen)?, old))
        })?;
        if let Some(replaced) = current.replaced {
            tracing::warn!(event = "generation_started", shuffle, generation = %current.generation);
            self.changed();
            self.release_in_background(old_workers, replaced);
        }
        place::all(self, shuffle, current.generation, within).await?;
        Ok(current)
    }

    pub(crate) async fn release(self: &Arc<Self>, shuffle: u32) -> Result<(), LifecycleError> {
        let (wire, workers) = self.with(|truth| {
            let workers = truth.lifecycle.current(shuffle)?.1.workers().collect::<Vec<_>>();
            Ok((truth.lifecycle.release(shuffle)?, workers))
        })?;
        self.changed();
        // Whoever cannot be told now is told by the master, which learns it with the next renewal.
        self.workers.release(&self.application, wire, &workers).await;
        tracing::info!(event = "shuffle_released", shuffle, wire = %wire);
        Ok(())
    }

    fn release_in_background(self: &Arc<Self>, workers: Vec<WorkerId>, wire: ShuffleId) {
        let shared = Arc::clone(self);
        task::spawn(async move {
            let release = shared.workers.release(&shared.application, wire, &workers);
            shared.shutdown.or(release).await;
        });
    }

    fn stage_end(self: &Arc<Self>, shuffle: u32, generation: Generation) -> Result<Option<StageEnd>, LifecycleError> {
        self.with(|truth| {
            let state = truth.lifecycle.generation(shuffle, generation)?;
            if state.maps().is_none() {
                let text = format!("shuffle {shuffle} has no map count: its stage has no end");
                return Err(LifecycleError::refused(Reason::Invalid, text));
            }
            let all = 0..state.partitions();
            if state.stage() == Stage::Running || !state.is_committed(&all) {
                return Ok(None);
            }
            let lost = all.filter(|p| state.plan((*p).into()).lost.is_some()).count();
            let degraded_locations = state.degraded() as u32;
            Ok(Some(StageEnd { generation, lost_partitions: lost as u32, degraded_locations }))
        })
    }
}

impl Drop for LifecycleManager {
    fn drop(&mut self) {
        self.shared.shutdown.trigger();
    }
}

impl From<LookupError> for LifecycleError {
    fn from(error: LookupError) -> Self {
        let reason = match error {
            LookupError::Unknown { .. } => Reason::Unknown,
            LookupError::Released { .. } => Reason::Released,
            LookupError::Fenced { .. } => Reason::Fenced,
            LookupError::OneGeneration { .. } | LookupError::TooManyGenerations => Reason::Invalid,
        };
        Self::refused(reason, error.to_string())
    }
}

fn application_of(shared: &Shared) -> Option<v1::Application> {
    Some(shared.application.clone().into())
}
