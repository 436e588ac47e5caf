//! The model: what a master must do, as plainly as it can be said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mallorn_proto::id::Application;

pub(crate) const TICK: Duration = Duration::from_secs(1);
pub(crate) const WORKER_LEASE: Duration = Duration::from_secs(10);
pub(crate) const APPLICATION_LEASE: Duration = Duration::from_secs(25);
pub(crate) const ROOM_BYTES: u64 = 1000;
const KEEP: Duration = Duration::from_secs(250);

/// A lease in real time.
#[derive(Clone, Copy, Debug)]
struct Lease {
    renewed: Duration,
    end: Duration,
}

impl Lease {
    fn new(now: Duration, length: Duration) -> Self {
        Self { renewed: now, end: now + length }
    }

    /// The master did not run from `due` until `now`: whatever of that came after the renewal does not count.
    fn extend(&mut self, due: Duration, now: Duration) {
        self.end += now.saturating_sub(due.max(self.renewed));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Live,
    Draining,
    Lost,
}

#[derive(Clone, Debug)]
struct ModelWorker {
    standing: Standing,
    incarnation: u64,
    before: u64,
    name: u8,
    free_bytes: u64,
    /// Of a lost worker: until when it is remembered.
    lease: Lease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Active,
    Fenced,
    Ended,
}

#[derive(Clone, Debug)]
struct ModelApplication {
    life: Life,
    registered: bool,
    /// Of an ended one: until when it is remembered.
    lease: Lease,
    released: BTreeSet<u32>,
}

#[derive(Debug)]
pub(crate) struct Model {
    /// When the next tick is due.
    due: Duration,
    /// While it runs nothing is deleted.
    first: Lease,
    workers: BTreeMap<u8, ModelWorker>,
    applications: BTreeMap<Application, ModelApplication>,
}

impl Model {
    pub(crate) fn new(now: Duration) -> Self {
        let first = Lease::new(now, APPLICATION_LEASE);
        Self { due: now + TICK, first, workers: BTreeMap::new(), applications: BTreeMap::new() }
    }

    pub(crate) fn tick(&mut self, now: Duration) -> (Vec<u8>, Vec<Application>) {
        let of_workers = self.workers.values_mut().map(|worker| &mut worker.lease);
        let of_applications = self.applications.values_mut().map(|application| &mut application.lease);
        for lease in of_workers.chain(of_applications).chain([&mut self.first]) {
            lease.extend(self.due, now);
        }
        self.due = now + TICK;
        let mut lost = Vec::new();
        for (id, worker) in self.workers.iter_mut().filter(|(_, worker)| now >= worker.lease.end) {
            if worker.standing != Standing::Lost {
                worker.standing = Standing::Lost;
                worker.lease.end += KEEP;
                lost.push(*id);
            }
        }
        self.workers.retain(|_, worker| now < worker.lease.end);
        let mut ended = Vec::new();
        for (id, application) in self.applications.iter_mut().filter(|(_, known)| now >= known.lease.end) {
            if application.life != Life::Ended {
                application.life = Life::Ended;
                application.lease = Lease::new(now, KEEP);
                ended.push(id.clone());
            }
        }
        self.applications.retain(|_, application| now < application.lease.end);
        (lost, ended)
    }

    pub(crate) fn register_worker(&mut self, now: Duration, id: u8, incarnation: u64, name: u8) -> bool {
        let is_taken = |(other, worker): (&u8, &ModelWorker)| {
            *other != id && worker.name == name && worker.standing != Standing::Lost
        };
        if self.workers.iter().any(is_taken) {
            return false;
        }
        let mut before = 0;
        if let Some(known) = self.workers.get(&id) {
            let is_same = known.incarnation == incarnation;
            if known.before == incarnation || (is_same && known.standing == Standing::Lost) {
                return false;
            }
            before = if is_same { known.before } else { known.incarnation };
        }
        let (standing, lease) = (Standing::Live, Lease::new(now, WORKER_LEASE));
        self.workers.insert(id, ModelWorker { standing, incarnation, before, name, free_bytes: 0, lease });
        true
    }

    pub(crate) fn heartbeat(&mut self, now: Duration, id: u8, incarnation: u64) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        if worker.incarnation != incarnation || worker.standing == Standing::Lost {
            return false;
        }
        worker.lease = Lease::new(now, WORKER_LEASE);
        true
    }

    /// What a worker that is believed says of itself.
    pub(crate) fn report(&mut self, id: u8, draining: bool, free_bytes: u64) {
        let worker = self.workers.get_mut(&id).expect("a worker that is believed is known");
        worker.standing = if draining { Standing::Draining } else { Standing::Live };
        worker.free_bytes = free_bytes;
    }

    pub(crate) fn register_application(&mut self, now: Duration, id: &Application) -> bool {
        if let Some(known) = self.applications.get_mut(id) {
            if known.life == Life::Active {
                known.lease = Lease::new(now, APPLICATION_LEASE);
            }
            return known.life == Life::Active;
        }
        for (_, other) in self.applications.iter_mut().filter(|(other, _)| other.name == id.name) {
            if other.life == Life::Active {
                other.life = Life::Fenced;
            }
        }
        self.insert(now, id, Life::Active, true);
        true
    }

    pub(crate) fn admit(&mut self, now: Duration, id: &Application) -> bool {
        if let Some(known) = self.applications.get(id) {
            return known.life == Life::Active;
        }
        if self.applications.iter().any(|(other, known)| other.name == id.name && known.registered) {
            return false;
        }
        self.insert(now, id, Life::Active, false);
        true
    }

    pub(crate) fn renew(&mut self, now: Duration, id: &Application, released: BTreeSet<u32>) -> bool {
        if !self.admit(now, id) {
            return false;
        }
        let known = self.applications.get_mut(id).expect("an admitted application is known");
        known.lease = Lease::new(now, APPLICATION_LEASE);
        known.released = released;
        true
    }

    pub(crate) fn end(&mut self, now: Duration, id: &Application) -> bool {
        match self.applications.get_mut(id) {
            Some(known) if known.life == Life::Ended => false,
            Some(known) => {
                known.life = Life::Ended;
                known.lease = Lease::new(now, KEEP);
                true
            }
            None => {
                self.insert(now, id, Life::Ended, false);
                true
            }
        }
    }

    /// A worker holds this: what of it is to be deleted, `None` for everything.
    pub(crate) fn delete(&mut self, now: Duration, id: &Application, held: &BTreeSet<u32>) -> Option<BTreeSet<u32>> {
        let is_young = now.min(self.due) < self.first.end;
        let known = self.applications.get_mut(id);
        if let Some(ended) = known.filter(|known| known.life == Life::Ended) {
            ended.lease = Lease::new(now, KEEP);
        }
        match self.applications.get(id) {
            _ if is_young => Some(BTreeSet::new()),
            Some(known) if known.life != Life::Ended => Some(held.intersection(&known.released).copied().collect()),
            _ => None,
        }
    }

    /// The workers that may be given something.
    pub(crate) fn usable(&self, exclude: &BTreeSet<u8>) -> Vec<u8> {
        let live = self.workers.iter().filter(|(id, worker)| {
            worker.standing == Standing::Live && worker.free_bytes >= ROOM_BYTES && !exclude.contains(id)
        });
        live.map(|(id, _)| *id).collect()
    }

    pub(crate) fn worker(&self, now: Duration, id: u8) -> Option<(Standing, u64, Option<Duration>)> {
        self.workers.get(&id).map(|worker| {
            let ended = worker.lease.end.checked_sub(KEEP).filter(|_| worker.standing == Standing::Lost);
            (worker.standing, worker.incarnation, ended.map(|ended| now.min(self.due).saturating_sub(ended)))
        })
    }

    /// Active, fenced and ended applications.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let count = |life| self.applications.values().filter(|known| known.life == life).count();
        (count(Life::Active), count(Life::Fenced), count(Life::Ended))
    }

    fn insert(&mut self, now: Duration, id: &Application, life: Life, registered: bool) {
        let length = if life == Life::Ended { KEEP } else { APPLICATION_LEASE };
        let application =
            ModelApplication { life, registered, lease: Lease::new(now, length), released: BTreeSet::new() };
        self.applications.insert(id.clone(), application);
    }
}
