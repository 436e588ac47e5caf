//! Membership: who the workers are, and whether they are believed.
//!
//! Owns the table of workers, the uniqueness of their names and the passage live, draining, lost, returned. Does not own
//! the clock of leases (`expiry`) nor the choice of workers (`placement`). Times here are on the clock of leases.
//!
//! Invariants: an incarnation that was replaced or declared lost is never believed again; two workers that are not lost
//! never share a name; only `Workers::expire` declares a worker lost.

use std::collections::BTreeMap;
use std::time::Duration;

use mallorn_proto::id::{Incarnation, WorkerId};
use mallorn_proto::limits::WORKERS_MAX;

/// Incarnations before the present one that are remembered of a worker.
const REPLACED_MAX: usize = 8;

/// Where a worker is reached, and its name for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Unique among the workers that are not lost.
    pub name: String,
    /// host:port of its gRPC door.
    pub control: String,
    /// host:port of its data plane.
    pub data: String,
    /// Where it stands, for keeping copies apart; empty where that is not known.
    pub rack: String,
}

/// A worker's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The arena's budget.
    pub arena_bytes: u64,
    /// Bytes of it that are held.
    pub held_bytes: u64,
    /// Bytes that pushes may still take.
    pub push_free_bytes: u64,
}

impl Memory {
    /// The memory of both; a sum that does not fit is the largest number.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            arena_bytes: self.arena_bytes.saturating_add(other.arena_bytes),
            held_bytes: self.held_bytes.saturating_add(other.held_bytes),
            push_free_bytes: self.push_free_bytes.saturating_add(other.push_free_bytes),
        }
    }
}

/// Whether a data folder can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskHealth {
    /// It can.
    Healthy,
    /// It has no room for more; what it has is read.
    Full,
    /// It answers too late to be given new data.
    Slow,
    /// The worker has given it up.
    Failed,
}

/// One data folder of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The folder, on the worker's machine.
    pub path: String,
    /// Whether it can be used.
    pub health: DiskHealth,
    /// Size of its file system.
    pub capacity_bytes: u64,
    /// Bytes free on it.
    pub free_bytes: u64,
}

/// What a worker says of itself at registration and in every heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its memory.
    pub memory: Memory,
    /// Its data folders.
    pub disks: Vec<Disk>,
    /// It takes no new locations.
    pub draining: bool,
}

/// A worker's registration.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its id.
    pub worker: WorkerId,
    /// Drawn at its start, or since it was told to register again.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub address: Address,
    /// How it is.
    pub report: Report,
}

/// Where a worker stands with the master. It starts live or draining, moves between the two as it reports, is lost when
/// its lease is over, and comes back from there only by registering with a fresh incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Believed, and takes new locations.
    Live,
    /// Believed, but takes no new locations.
    Draining,
    /// Its lease is over.
    Lost {
        /// When the lease ended, on the clock of leases.
        since: Duration,
    },
}

/// A worker as the master knows it.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its present incarnation; of a lost worker its last.
    pub incarnation: Incarnation,
    /// Where it is, or was, reached.
    pub address: Address,
    /// Its memory at its last call.
    pub memory: Memory,
    /// Its data folders at its last call.
    pub disks: Vec<Disk>,
    /// Where it stands.
    pub state: WorkerState,
    /// The incarnations before this one, the latest first, at most [`REPLACED_MAX`]: a call of one that was long under way
    /// must not bring it back.
    replaced: Vec<Incarnation>,
    /// When its lease was last renewed.
    renewed_at: Duration,
    /// Its turn in load-aware placement: what it was given so far, each location weighed by the memory then free.
    pub(crate) turn: u128,
    /// The same for what it leads: the primaries of locations with two copies.
    pub(crate) led: u128,
}

/// What a registration was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The first that this master hears of the worker.
    New,
    /// The same registration once more; the lease is renewed.
    Repeated,
    /// A fresh incarnation of a worker that was believed until now: its process was started again.
    Restarted,
    /// A worker that was lost is back.
    Returned,
}

/// Why a registration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterWorkerError {
    /// Another worker has this name and is not lost.
    #[error(
        "the name `{name}` belongs to worker {holder}: give this worker another name, or wait until the other one is lost"
    )]
    NameTaken {
        /// The name asked for.
        name: String,
        /// The worker that has it.
        holder: WorkerId,
    },
    /// This incarnation was declared lost or replaced.
    #[error("incarnation {incarnation:016x} of worker {worker} is over: register with a fresh one", incarnation = incarnation.0)]
    IncarnationOver {
        /// The worker.
        worker: WorkerId,
        /// Its incarnation that is over.
        incarnation: Incarnation,
    },
    /// The cluster has as many workers as a master keeps.
    #[error("the cluster has {WORKERS_MAX} workers already: stop one first")]
    TooManyWorkers,
}

/// What a heartbeat did to a worker's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The incarnation is not believed; nothing was done.
    RegisterAgain,
    /// The lease is renewed, and the worker stands where it stood.
    Renewed,
    /// The lease is renewed, and from here on the worker stands here.
    Moved(WorkerState),
}

/// The table of workers.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    workers: BTreeMap<WorkerId, Worker>,
    /// Who has which name, of the workers that are not lost.
    names: BTreeMap<String, WorkerId>,
}

impl Worker {
    /// What a registration with this incarnation is to the worker known; `None` when that incarnation is over.
    fn registers(&self, incarnation: Incarnation) -> Option<Registered> {
        if self.replaced.contains(&incarnation) {
            return None;
        }
        let is_same = self.incarnation == incarnation;
        match self.state {
            WorkerState::Live | WorkerState::Draining => {
                Some(if is_same { Registered::Repeated } else { Registered::Restarted })
            }
            WorkerState::Lost { .. } => (!is_same).then_some(Registered::Returned),
        }
    }

    /// Whether its lease is not over.
    fn is_believed(&self) -> bool {
        match self.state {
            WorkerState::Live | WorkerState::Draining => true,
            WorkerState::Lost { .. } => false,
        }
    }
}

impl Workers {
    pub(crate) fn register(
        &mut self,
        now: Duration,
        registration: Registration,
    ) -> Result<Registered, RegisterWorkerError> {
        let Registration { worker: id, incarnation, address, report } = registration;
        if let Some(&holder) = self.names.get(&address.name).filter(|holder| **holder != id) {
            return Err(RegisterWorkerError::NameTaken { name: address.name, holder });
        }
        let (registered, replaced, turn, led) = match self.workers.get(&id) {
            None => {
                self.make_room()?;
                (Registered::New, Vec::new(), 0, 0)
            }
            Some(known) => {
                let over = RegisterWorkerError::IncarnationOver { worker: id, incarnation };
                let registered = known.registers(incarnation).ok_or(over)?;
                let is_repeated = registered == Registered::Repeated;
                let mut replaced = known.replaced.clone();
                if !is_repeated {
                    replaced.insert(0, known.incarnation);
                    replaced.truncate(REPLACED_MAX);
                }
                (registered, replaced, known.turn, known.led)
            }
        };
        self.give_up_name(id);
        self.names.insert(address.name.clone(), id);
        let state = standing(&report);
        let Report { memory, disks, draining: _ } = report;
        let worker = Worker { incarnation, address, memory, disks, state, replaced, renewed_at: now, turn, led };
        self.workers.insert(id, worker);
        Ok(registered)
    }

    pub(crate) fn heartbeat(
        &mut self,
        now: Duration,
        id: WorkerId,
        incarnation: Incarnation,
        report: Report,
    ) -> Renewal {
        let known = self.workers.get_mut(&id);
        let Some(worker) = known.filter(|worker| worker.incarnation == incarnation && worker.is_believed()) else {
            return Renewal::RegisterAgain;
        };
        let (before, after) = (worker.state, standing(&report));
        worker.renewed_at = now;
        worker.memory = report.memory;
        worker.disks = report.disks;
        worker.state = after;
        if before == after { Renewal::Renewed } else { Renewal::Moved(after) }
    }

    /// Declares lost whose lease is over, and forgets whom nobody can be waiting for any more. Answers with those that
    /// are newly lost, and with those that are forgotten.
    pub(crate) fn expire(
        &mut self,
        now: Duration,
        lease: Duration,
        keep_lost: Duration,
    ) -> (Vec<WorkerId>, Vec<WorkerId>) {
        let mut lost = Vec::new();
        for (id, worker) in &mut self.workers {
            let since = worker.renewed_at + lease;
            if worker.is_believed() && now >= since {
                worker.state = WorkerState::Lost { since };
                lost.push(*id);
            }
        }
        for id in &lost {
            self.give_up_name(*id);
        }
        let is_kept = |worker: &Worker| match worker.state {
            WorkerState::Live | WorkerState::Draining => true,
            WorkerState::Lost { since } => now.saturating_sub(since) < keep_lost,
        };
        let forgotten: Vec<_> = self.iter().filter(|(_, worker)| !is_kept(worker)).map(|(id, _)| id).collect();
        forgotten.iter().for_each(|id| drop(self.workers.remove(id)));
        (lost, forgotten)
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    /// Frees the name that the worker has, if it is not lost.
    fn give_up_name(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id)
            && self.names.get(&worker.address.name) == Some(&id)
        {
            self.names.remove(&worker.address.name);
        }
    }

    /// Makes sure that one more worker fits; of the lost ones the one that is lost longest is forgotten for it.
    fn make_room(&mut self) -> Result<(), RegisterWorkerError> {
        if self.workers.len() < WORKERS_MAX {
            return Ok(());
        }
        let lost = self.iter().filter_map(|(id, worker)| match worker.state {
            WorkerState::Live | WorkerState::Draining => None,
            WorkerState::Lost { since } => Some((since, id)),
        });
        let (_, longest) = lost.min().ok_or(RegisterWorkerError::TooManyWorkers)?;
        self.workers.remove(&longest);
        Ok(())
    }
}

/// Where a worker that reports this stands.
fn standing(report: &Report) -> WorkerState {
    if report.draining { WorkerState::Draining } else { WorkerState::Live }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const KEEP: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn registration(worker: u128, incarnation: u64, name: &str) -> Registration {
        Registration {
            worker: WorkerId(worker),
            incarnation: Incarnation(incarnation),
            address: Address {
                name: name.to_owned(),
                control: "host:1".to_owned(),
                data: "host:2".to_owned(),
                rack: String::new(),
            },
            report: Report::default(),
        }
    }

    fn heartbeat(workers: &mut Workers, now: Duration, worker: u128, incarnation: u64) -> Renewal {
        workers.heartbeat(now, WorkerId(worker), Incarnation(incarnation), Report::default())
    }

    #[test]
    fn a_lost_worker_comes_back_only_with_a_fresh_incarnation() {
        let mut workers = Workers::default();
        assert_eq!(workers.register(at(0), registration(1, 7, "a")), Ok(Registered::New));
        assert_eq!(workers.register(at(1), registration(1, 7, "a")), Ok(Registered::Repeated));
        assert!(workers.expire(at(10), LEASE, KEEP).0.is_empty());
        assert_eq!(workers.expire(at(11), LEASE, KEEP).0, [WorkerId(1)]);
        assert_eq!(heartbeat(&mut workers, at(11), 1, 7), Renewal::RegisterAgain);
        let over = RegisterWorkerError::IncarnationOver { worker: WorkerId(1), incarnation: Incarnation(7) };
        assert_eq!(workers.register(at(11), registration(1, 7, "a")), Err(over.clone()));
        assert_eq!(workers.register(at(12), registration(1, 8, "a")), Ok(Registered::Returned));
        assert_eq!(workers.register(at(13), registration(1, 7, "a")), Err(over));
        assert_eq!(heartbeat(&mut workers, at(13), 1, 8), Renewal::Renewed);
    }

    #[test]
    fn a_replaced_incarnation_is_not_believed() {
        let mut workers = Workers::default();
        workers.register(at(0), registration(1, 7, "a")).unwrap();
        assert_eq!(workers.register(at(1), registration(1, 8, "a")), Ok(Registered::Restarted));
        assert_eq!(workers.register(at(2), registration(1, 8, "a")), Ok(Registered::Repeated));
        assert_eq!(heartbeat(&mut workers, at(2), 1, 7), Renewal::RegisterAgain);
        assert!(workers.register(at(2), registration(1, 7, "a")).is_err());
    }

    #[test]
    fn a_call_of_any_of_the_last_incarnations_is_over() {
        let mut workers = Workers::default();
        for incarnation in [7, 8, 9] {
            workers.register(at(0), registration(1, incarnation, "a")).unwrap();
        }
        let over = |incarnation| RegisterWorkerError::IncarnationOver {
            worker: WorkerId(1),
            incarnation: Incarnation(incarnation),
        };
        for incarnation in [7, 8] {
            assert_eq!(workers.register(at(1), registration(1, incarnation, "a")), Err(over(incarnation)));
        }
        assert_eq!(workers.register(at(1), registration(1, 9, "a")), Ok(Registered::Repeated));
        let last = 9 + REPLACED_MAX as u64;
        for incarnation in 10..=last {
            workers.register(at(2), registration(1, incarnation, "a")).unwrap();
        }
        assert_eq!(workers.register(at(3), registration(1, 9, "a")), Err(over(9)));
        assert_eq!(workers.workers[&WorkerId(1)].replaced.len(), REPLACED_MAX, "what is remembered is bounded");
    }

    #[test]
    fn a_name_belongs_to_one_worker_until_that_is_lost_or_takes_another() {
        let mut workers = Workers::default();
        workers.register(at(0), registration(1, 7, "a")).unwrap();
        let taken = RegisterWorkerError::NameTaken { name: "a".to_owned(), holder: WorkerId(1) };
        assert_eq!(workers.register(at(5), registration(2, 9, "a")), Err(taken));
        workers.register(at(5), registration(1, 8, "b")).unwrap();
        workers.register(at(6), registration(2, 9, "a")).unwrap();
        workers.expire(at(15), LEASE, KEEP);
        workers.register(at(15), registration(3, 4, "b")).unwrap();
        let taken = RegisterWorkerError::NameTaken { name: "b".to_owned(), holder: WorkerId(3) };
        assert_eq!(workers.register(at(15), registration(1, 5, "b")), Err(taken));
        workers.register(at(15), registration(1, 5, "c")).unwrap();
        assert!(workers.register(at(15), registration(4, 1, "b")).is_err(), "the name stays with its new holder");
    }

    #[test]
    fn a_full_table_forgets_the_longest_lost_or_refuses() {
        let mut workers = Workers::default();
        let count = u128::try_from(WORKERS_MAX).unwrap();
        for id in 1..=count {
            let at = at(if id <= 2 { u64::try_from(id).unwrap() } else { 9 });
            workers.register(at, registration(id, 1, &format!("w{id}"))).unwrap();
        }
        assert_eq!(workers.register(at(9), registration(0, 1, "x")), Err(RegisterWorkerError::TooManyWorkers));
        assert_eq!(workers.expire(at(12), LEASE, KEEP).0, [WorkerId(1), WorkerId(2)]);
        workers.register(at(12), registration(0, 1, "x")).unwrap();
        assert!(workers.get(WorkerId(1)).is_none());
        assert!(workers.get(WorkerId(2)).is_some());
    }

    #[test]
    fn a_worker_that_stays_lost_is_forgotten() {
        let mut workers = Workers::default();
        workers.register(at(0), registration(1, 7, "a")).unwrap();
        workers.expire(at(10), LEASE, KEEP);
        assert!(workers.expire(at(109), LEASE, KEEP).1.is_empty());
        assert_eq!(workers.get(WorkerId(1)).map(|worker| worker.state), Some(WorkerState::Lost { since: at(10) }));
        assert_eq!(workers.expire(at(110), LEASE, KEEP).1, [WorkerId(1)]);
        assert!(workers.get(WorkerId(1)).is_none());
    }
}
