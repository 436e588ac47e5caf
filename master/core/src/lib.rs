//! The master's rules: membership, placement and application leases. Pure: time comes in, decisions go out.
//!
//! Owns the state of a master and every decision about it. Does not own sockets, clocks, tasks or logs: the shell
//! (`mallorn-master`) translates calls, ticks, and reports what was decided. The master sees no byte of any shuffle.
//!
//! The state is soft. It is in memory only, and after a restart it is built again from the next calls of workers and
//! lifecycle managers. Until everybody had a lease's time to call, silence means nothing: nobody is expired and nothing
//! is deleted.
//!
//! # The life of a worker
//!
//! | from | event | to |
//! |---|---|---|
//! | unknown | registers | live, or draining if it says so |
//! | live, draining | heartbeat of its incarnation | live or draining, as it says; the lease is renewed |
//! | live, draining | registers with a fresh incarnation (started again) | live or draining; the old incarnation is over |
//! | live, draining | lease over | lost |
//! | lost | registers with a fresh incarnation | live or draining: returned |
//! | lost | ten application leases later, or room is needed | unknown |
//! | any | heartbeat of an incarnation that is not believed | unchanged; told to register again |
//!
//! # The life of an application (one instance of it)
//!
//! | from | event | to |
//! |---|---|---|
//! | unknown | registers | active; active older instances of its name are fenced |
//! | unknown | renews or places (this master started after it) | active, or refused if an instance of its name registered here |
//! | active | renews | active |
//! | active | another instance of its name registers | fenced: calls are refused, data is kept |
//! | active, fenced | lease over | ended: workers are told to delete what they hold of it |
//! | unknown, active, fenced | ended by its lifecycle manager | ended |
//! | ended | ten application leases after a worker last reported it, or room is needed | unknown |
//! | unknown | reported by a worker when the master is one application lease old | the worker is told to delete it |
//!
//! Times are `Duration`s since an arbitrary start, the same for all calls.

#![forbid(unsafe_code)]

mod applications;
mod copies;
mod expiry;
mod handover;
mod placement;
mod workers;

use std::time::Duration;

use mallorn_proto::id::{Application, Incarnation, LocationId, WorkerId};
use mallorn_proto::range_set::RangeSet;

use crate::applications::Applications;
use crate::expiry::LeaseClock;
use crate::handover::Handovers;
use crate::placement::Turns;
use crate::workers::{Renewal, Workers};

pub use crate::applications::{
    ApplicationCounts, ApplicationError, Held, Orders, RegisteredApplication, RenewedApplication,
};
pub use crate::expiry::{Expired, KEPT_LEASES};
pub use crate::handover::{HANDED_OVER_MAX, TakenOver};
pub use crate::placement::{PlaceRequest, Placement, load_aware, round_robin};
pub use crate::workers::{
    Address, Disk, DiskHealth, Memory, RegisterWorkerError, Registered, Registration, Report, Worker, WorkerState,
};

/// Most instances of applications that a master keeps, ended ones among them.
pub const APPLICATIONS_MAX: usize = 100_000;
/// Most instances under one name that a master keeps, ended ones among them.
pub const INSTANCES_MAX: usize = 1_024;
/// Most ranges of released shuffles that a master keeps for all applications (32 MiB). Beyond it an application's
/// lease is renewed, but what it newly released is deleted by its lifecycle manager's own calls alone.
pub const RELEASED_RANGES_TOTAL_MAX: usize = 4 * 1024 * 1024;
/// Most applications that one heartbeat's answer names, so that it fits one message.
pub const ORDERED_APPLICATIONS_MAX: usize = 4_096;
/// Most ranges of released shuffles that one heartbeat's answer names, so that it fits one message.
pub const ORDERED_RANGES_MAX: usize = 65_536;

/// How workers are picked for new locations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each worker in turn.
    RoundRobin,
    /// In proportion to the memory that pushes may still take.
    LoadAware,
}

/// What a master goes by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a worker is believed after each call.
    pub worker_lease: Duration,
    /// How long an application is kept after each renewal; also how long a restarted master listens before it orders
    /// any deletion.
    pub application_lease: Duration,
    /// How often [`Master::tick`] is called; less than the leases.
    pub tick: Duration,
    /// How workers are picked.
    pub strategy: Strategy,
    /// A worker whose pushes may take less than this gets no new location: the cluster's largest body.
    pub room_bytes: u64,
}

/// A worker's heartbeat.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Its id.
    pub worker: WorkerId,
    /// The incarnation that it registered with.
    pub incarnation: Incarnation,
    /// How it is.
    pub report: Report,
    /// What it holds, or a part of it.
    pub held: Vec<Held>,
    /// What was handed over to it, or a part of it; all of it after each registration.
    pub taken_over: Vec<TakenOver>,
}

/// What a heartbeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatAnswer {
    /// This incarnation is not believed: the worker registers again.
    RegisterAgain,
    /// Its lease is renewed.
    Renewed {
        /// Where the worker stands from here on, if that is new.
        moved: Option<WorkerState>,
        /// What it is to delete.
        orders: Orders,
        /// How many of the locations that it took over found no room here.
        not_kept: usize,
    },
}

/// How many there are of what, for metrics and operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Live workers.
    pub live: usize,
    /// Draining workers.
    pub draining: usize,
    /// Lost workers that are remembered.
    pub lost: usize,
    /// Applications.
    pub applications: ApplicationCounts,
    /// The memory of live and draining workers.
    pub memory: Memory,
    /// Locations that are known to have been handed over.
    pub handed_over: usize,
}

/// The state of a master.
#[derive(Debug)]
pub struct Master {
    settings: Settings,
    clock: LeaseClock,
    workers: Workers,
    applications: Applications,
    turns: Turns,
    handovers: Handovers,
}

impl Master {
    /// A master that starts now and knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, now: Duration) -> Self {
        let clock = LeaseClock::start(settings.tick, now);
        Self {
            settings,
            clock,
            workers: Workers::default(),
            applications: Applications::default(),
            turns: Turns::default(),
            handovers: Handovers::default(),
        }
    }

    /// A worker says who it is.
    ///
    /// # Errors
    /// When its name is another worker's, its incarnation is over, or the cluster is full. Nothing has changed then.
    pub fn register_worker(
        &mut self,
        now: Duration,
        registration: Registration,
    ) -> Result<Registered, RegisterWorkerError> {
        let worker = registration.worker;
        let registered = self.workers.register(self.clock.at(now), registration)?;
        if registered != Registered::Repeated {
            self.handovers.forget_taker(worker);
        }
        Ok(registered)
    }

    /// A worker renews its lease, says what it holds and learns what to delete.
    pub fn heartbeat(&mut self, now: Duration, heartbeat: Heartbeat) -> HeartbeatAnswer {
        let now = self.clock.at(now);
        let Heartbeat { worker, incarnation, report, held, taken_over } = heartbeat;
        let moved = match self.workers.heartbeat(now, worker, incarnation, report) {
            Renewal::RegisterAgain => return HeartbeatAnswer::RegisterAgain,
            Renewal::Renewed => None,
            Renewal::Moved(state) => Some(state),
        };
        let kept =
            taken_over.iter().filter(|taken| taken.from != worker && !self.applications.is_over(&taken.application));
        let not_kept = kept.map(|taken| self.handovers.note(worker, taken)).sum();
        let orders = self.applications.orders(now, self.settings.application_lease, held);
        HeartbeatAnswer::Renewed { moved, orders, not_kept }
    }

    /// For each location that `from` had, the worker that has taken it over, as far as that has said so.
    #[must_use]
    pub fn resolve_moved(
        &self,
        application: &Application,
        from: WorkerId,
        locations: &[LocationId],
    ) -> Vec<Option<WorkerId>> {
        self.handovers.find(application, from, locations)
    }

    /// A lifecycle manager starts an application; older instances of its name are fenced.
    ///
    /// # Errors
    /// When this instance is itself fenced or over, or there is no room.
    pub fn register_application(
        &mut self,
        now: Duration,
        application: &Application,
    ) -> Result<RegisteredApplication, ApplicationError> {
        self.applications.register(self.clock.at(now), application)
    }

    /// A lifecycle manager renews its lease and says all that it has released so far.
    ///
    /// # Errors
    /// When the instance is fenced or over, or is not known and there is no room to take it in.
    pub fn renew_application(
        &mut self,
        now: Duration,
        application: &Application,
        released: RangeSet,
    ) -> Result<RenewedApplication, ApplicationError> {
        self.handovers.forget_released(application, &released);
        self.applications.renew(self.clock.at(now), application, released)
    }

    /// A lifecycle manager ends its application. Answers whether it was not over before.
    pub fn end_application(&mut self, now: Duration, application: &Application) -> bool {
        self.handovers.forget_application(application);
        self.applications.end(self.clock.at(now), application)
    }

    /// Picks a worker for each of so many locations. An application that was there before this master started is taken
    /// in, as by a renewal.
    ///
    /// # Errors
    /// When the instance is fenced or over, or is not known and there is no room to take it in. That no worker has room
    /// is no error: the picks are empty.
    pub fn place(&mut self, now: Duration, request: &PlaceRequest) -> Result<Placement, ApplicationError> {
        self.applications.admit(self.clock.at(now), &request.application)?;
        let Settings { strategy, room_bytes, .. } = self.settings;
        Ok(self.turns.place(&mut self.workers, strategy, room_bytes, request))
    }

    /// The worker with this id, if it is remembered.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// All workers that are remembered, by id.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter()
    }

    /// How long ago the worker's lease ended; `None` unless it is lost.
    #[must_use]
    pub fn lost_for(&self, now: Duration, worker: &Worker) -> Option<Duration> {
        match worker.state {
            WorkerState::Live | WorkerState::Draining => None,
            WorkerState::Lost { since } => Some(self.clock.at(now).saturating_sub(since)),
        }
    }

    /// Counts everything.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            applications: self.applications.counts(),
            memory: placement::memory_of(&self.workers),
            handed_over: self.handovers.count(),
            ..Census::default()
        };
        for (_, worker) in self.workers.iter() {
            match worker.state {
                WorkerState::Live => census.live += 1,
                WorkerState::Draining => census.draining += 1,
                WorkerState::Lost { .. } => census.lost += 1,
            }
        }
        census
    }
}
