//! The tables by which locations are found: by handle on the byte path, by name everywhere else.
//!
//! Owns reservations, handles, the incarnation that they live in, and draining. Does not own what a location does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use dashmap::DashMap;
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, Epoch, Handle, Incarnation, LocationId, Partition, ShuffleId};
use mallorn_runtime::hash::BuildHasher;
use mallorn_runtime::random::Random;
use mallorn_runtime::telemetry::quiet::Quiet;
use mallorn_worker_core::handover::{Leaving, Origins, Taken};
use mallorn_worker_core::master_link::{Held, reported};
use mallorn_worker_core::memory::{Pool, Usage};
use mallorn_worker_core::push::{Life, Log, Present, Reservation, SplitLimits, reserve};
use mallorn_worker_core::replicate::Copy;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::arena::Arena;
use super::location::{LOCATION_HEAP_BYTES, Location, Made, Terms};
use super::pressure::Pressure;
use crate::metrics::Metrics;
use crate::replicate::Links;
use crate::replicate::link::{Peer, Replica};
use crate::spill::Spill;

type Shuffle = BTreeMap<(Partition, Epoch), Arc<Location>>;
type Shuffles = BTreeMap<ShuffleId, Shuffle>;

/// Every location of this worker.
pub(crate) struct Store {
    pub(crate) arena: Arc<Arena>,
    pub(crate) metrics: Metrics,
    pub(crate) spill: Arc<Spill>,
    /// Where pushes wait for memory.
    pub(crate) pressure: Arc<Pressure>,
    /// Where primaries forward to.
    pub(crate) links: Links,
    /// What was taken over from workers that leave.
    pub(crate) taken: Mutex<Taken>,
    /// Woken where the master should hear from this worker soon.
    pub(crate) news: Notify,
    /// Log lines that callers can cause: by what happened, and the number of the worker or instance that it happened to.
    pub(crate) quiet: Quiet<(&'static str, u128)>,
    bounds: Bounds,
    random: Random,
    handles: DashMap<Handle, Arc<Location>, BuildHasher>,
    names: RwLock<Names>,
}

/// The worker's bounds on locations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The largest batch that any of them is given at once.
    pub(crate) body_bytes_max: u32,
    pub(crate) split: SplitLimits,
}

/// What a reservation asks for, for all of its locations.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) copies: Copies,
    pub(crate) durability: Durability,
}

/// Which copy, and where a primary's other ones are.
#[derive(Clone, Debug)]
pub(crate) enum Copies {
    Lone,
    /// The handles are in the order of the locations.
    Primary {
        replicas: Peer,
        handles: Vec<Handle>,
    },
    Replica,
    HandedOver {
        origins: Origins,
    },
}

impl Copies {
    fn copy(&self) -> Copy {
        match self {
            Self::Lone => Copy::Lone,
            Self::Primary { .. } => Copy::Primary,
            Self::Replica => Copy::Replica,
            Self::HandedOver { .. } => Copy::HandedOver,
        }
    }
}

/// What lies behind the one lock over names. The incarnation is here because a handle belongs to it.
struct Names {
    incarnation: Incarnation,
    draining: bool,
    applications: BTreeMap<Application, Shuffles>,
}

/// What becomes of one location of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// It takes batches under this handle.
    Handle(Handle),
    /// It is frozen or sealed.
    Closed,
    /// Pushes have no memory left.
    Full,
    /// No new locations are taken.
    Draining,
    /// No disk can take what the durability asks for.
    NoDisk,
}

/// What all locations of one reservation have in common.
struct Asked {
    application: Arc<Application>,
    draining: bool,
    /// Some disk can take what the durability asks for.
    can_write: bool,
    /// The application holds more than its share of memory that is short. What is handed over is made all the same: it has
    /// no place any more where it is.
    crowds: bool,
}

/// The caller's incarnation is not this worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this worker's incarnation is {present}, not {asked}: ask the master where the worker is now")]
pub(crate) struct WrongIncarnation {
    pub(crate) asked: Incarnation,
    pub(crate) present: Incarnation,
}

impl Store {
    /// Empty, in a fresh incarnation.
    pub(crate) fn new(spill: Arc<Spill>, bounds: Bounds, random: Random, metrics: Metrics) -> Self {
        let incarnation = Incarnation(random.id());
        let names = RwLock::new(Names { incarnation, draining: false, applications: BTreeMap::new() });
        let arena = Arc::clone(spill.arena());
        let links = Links::new(arena.limit_bytes(Pool::Push), metrics.replicate.clone());
        let pressure = Arc::clone(spill.pressure());
        let (taken, news, quiet, handles) = (Mutex::default(), Notify::new(), Quiet::default(), DashMap::default());
        Self { arena, metrics, spill, pressure, links, taken, news, quiet, bounds, random, handles, names }
    }

    /// The incarnation that handles are good in now.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.names.read().incarnation
    }

    /// Whether new locations are refused.
    pub(crate) fn is_draining(&self) -> bool {
        self.names.read().draining
    }

    /// The memory as callers and heartbeats are told of it: where disks take what memory holds, there is room.
    pub(crate) fn usage(&self) -> Usage {
        let usage = self.arena.usage();
        if !self.spill.can_take(Durability::Written) {
            return usage;
        }
        let (_, limit) = self.arena.held_by_locations();
        let push_free_bytes = usage.push_free_bytes.max(limit / 4);
        let replicate_free_bytes = usage.replicate_free_bytes.max(limit / 8);
        Usage { push_free_bytes, replicate_free_bytes, ..usage }
    }

    /// Makes room for locations, in the caller's order. Repeating it answers with the same handles.
    pub(crate) fn reserve(
        &self,
        application: &Application,
        incarnation: Incarnation,
        locations: &[LocationId],
        wanted: &Wanted,
    ) -> Result<Vec<Reserved>, WrongIncarnation> {
        let mut names = self.names.write();
        if names.incarnation != incarnation {
            return Err(WrongIncarnation { asked: incarnation, present: names.incarnation });
        }
        let asked = Asked {
            application: Arc::new(application.clone()),
            draining: names.draining,
            can_write: self.spill.can_take(wanted.durability),
            crowds: wanted.copies.copy() != Copy::HandedOver && self.spill.crowds(application.instance),
        };
        let shuffles = names.applications.entry(application.clone()).or_default();
        let terms = self.terms(wanted, locations.len());
        let reserve = |(id, terms): (&LocationId, Option<Terms>)| match terms {
            Some(terms) => self.reserve_one(&asked, shuffles, *id, terms),
            None => Reserved::Full,
        };
        let answers = locations.iter().zip(terms).map(reserve).collect();
        names.forget_empty(application);
        Ok(answers)
    }

    /// The terms of each of `count` locations; `None` where no link to its replica can be had.
    fn terms(&self, wanted: &Wanted, count: usize) -> impl Iterator<Item = Option<Terms>> {
        let terms = Terms {
            copy: wanted.copies.copy(),
            replica: None,
            origins: match &wanted.copies {
                Copies::HandedOver { origins } => origins.clone(),
                Copies::Lone | Copies::Primary { .. } | Copies::Replica => Origins::default(),
            },
            limits: self.bounds.split,
            durability: wanted.durability,
        };
        let replicas = match &wanted.copies {
            Copies::Primary { replicas, handles } => Some((self.links.to(replicas), handles.clone())),
            Copies::Lone | Copies::Replica | Copies::HandedOver { .. } => None,
        };
        (0..count).map(move |index| match &replicas {
            None => Some(terms.clone()),
            Some((link, handles)) => {
                let replica = Replica { link: link.clone()?, handle: *handles.get(index)? };
                Some(Terms { replica: Some(replica), ..terms.clone() })
            }
        })
    }

    fn reserve_one(&self, asked: &Asked, shuffles: &mut Shuffles, id: LocationId, terms: Terms) -> Reserved {
        let key = (id.partition, id.epoch);
        let location = shuffles.get(&id.shuffle).and_then(|shuffle| shuffle.get(&key));
        let present = location.map(|location| Present { life: location.life(), same_copies: location.is(&terms) });
        let free_bytes = match self.usage() {
            _ if asked.crowds => 0,
            usage if Terms::pool(terms.copy) == Pool::Replicate => usage.replicate_free_bytes,
            usage => usage.push_free_bytes,
        };
        match (reserve(present, asked.draining, free_bytes, self.bounds.body_bytes_max), location) {
            (Reservation::Repeat, Some(location)) => Reserved::Handle(location.handle),
            (Reservation::Make | Reservation::Repeat, Some(_) | None) if !asked.can_write => Reserved::NoDisk,
            (Reservation::Make | Reservation::Repeat, Some(_) | None) => self.make(asked, shuffles, id, terms),
            (Reservation::Closed, Some(_) | None) => Reserved::Closed,
            (Reservation::Full, Some(_) | None) => Reserved::Full,
            (Reservation::Draining, Some(_) | None) => Reserved::Draining,
        }
    }

    fn make(&self, asked: &Asked, shuffles: &mut Shuffles, id: LocationId, terms: Terms) -> Reserved {
        let Some(heap) = self.arena.charge(Terms::pool(terms.copy), LOCATION_HEAP_BYTES) else { return Reserved::Full };
        let handle = Handle(self.random.id());
        let log = Log::of(terms.copy, terms.limits);
        let made = Made { id, application: Arc::clone(&asked.application), terms, log };
        let location = Arc::new(Location::new(made, handle, heap, Arc::clone(&self.spill)));
        self.handles.insert(handle, Arc::clone(&location));
        shuffles.entry(id.shuffle).or_default().insert((id.partition, id.epoch), location);
        self.metrics.location_moved(Life::Gone, Life::Open);
        Reserved::Handle(handle)
    }

    /// Takes a location in that was found on disk, or of which is known there that it was handed over; it takes no batches. `None` when there is no memory to know it by.
    pub(crate) fn restore(&self, made: Made) -> Option<Arc<Location>> {
        let heap = self.arena.charge(Pool::Push, LOCATION_HEAP_BYTES)?;
        let (application, id, life) = (Arc::clone(&made.application), made.id, made.log.life());
        let origins = made.terms.origins.clone();
        let location = Arc::new(Location::new(made, Handle(self.random.id()), heap, Arc::clone(&self.spill)));
        if origins.from().is_some() {
            self.taken.lock().note(&application, id, origins);
        } else if life == Life::Gone {
            location.lock().leaving = Leaving::gone();
        }
        let mut names = self.names.write();
        let shuffles = names.applications.entry(Application::clone(&application)).or_default();
        shuffles.entry(id.shuffle).or_default().insert((id.partition, id.epoch), Arc::clone(&location));
        self.metrics.location_moved(Life::Gone, life);
        Some(location)
    }

    /// The location of a handle, if it is one of this incarnation.
    pub(crate) fn by_handle(&self, handle: Handle) -> Option<Arc<Location>> {
        self.handles.get(&handle).map(|location| Arc::clone(&location))
    }

    /// The location of a name.
    pub(crate) fn by_name(&self, application: &Application, id: LocationId) -> Option<Arc<Location>> {
        self.names.read().find(application, id)
    }

    /// The locations of names, in the caller's order.
    pub(crate) fn by_names(&self, application: &Application, ids: &[LocationId]) -> Vec<Option<Arc<Location>>> {
        let names = self.names.read();
        ids.iter().map(|id| names.find(application, *id)).collect()
    }

    /// Forgets one location, which has dropped what it held; another one of the same name stays.
    pub(crate) fn forget(&self, location: &Arc<Location>) {
        let application = &*location.application;
        self.handles.remove(&location.handle);
        if location.origins.from().is_some() {
            self.taken.lock().forget(application, location.id);
        }
        let mut names = self.names.write();
        let Some(shuffles) = names.applications.get_mut(application) else { return };
        let Some(shuffle) = shuffles.get_mut(&location.id.shuffle) else { return };
        let key = (location.id.partition, location.id.epoch);
        if shuffle.get(&key).is_some_and(|present| Arc::ptr_eq(present, location)) {
            shuffle.remove(&key);
        }
        names.forget_empty(application);
    }

    /// Takes a range of an application's shuffles out of the tables.
    pub(crate) fn remove(&self, application: &Application, range: Range<u32>) -> Vec<Arc<Location>> {
        let mut removed = Vec::new();
        let mut names = self.names.write();
        if let Some(shuffles) = names.applications.get_mut(application)
            && !range.is_empty()
        {
            let mut rest = shuffles.split_off(&ShuffleId(range.start));
            let mut beyond = rest.split_off(&ShuffleId(range.end));
            shuffles.append(&mut beyond);
            removed.extend(rest.into_values().flat_map(BTreeMap::into_values));
        }
        names.forget_empty(application);
        drop(names);
        self.forget_handles(&removed);
        removed
    }

    /// Takes everything of an application out of the tables.
    pub(crate) fn remove_all(&self, application: &Application) -> Vec<Arc<Location>> {
        let shuffles = self.names.write().applications.remove(application).unwrap_or_default();
        let removed: Vec<_> = shuffles.into_values().flat_map(BTreeMap::into_values).collect();
        self.forget_handles(&removed);
        removed
    }

    /// From here on no new locations are taken. Returns all locations.
    pub(crate) fn begin_draining(&self) -> Vec<Arc<Location>> {
        let mut names = self.names.write();
        names.draining = true;
        names.all()
    }

    /// Draws a fresh incarnation, in which no handle is good. Returns all locations: the open ones among them can't be
    /// pushed to any more.
    pub(crate) fn begin_incarnation(&self) -> (Incarnation, Vec<Arc<Location>>) {
        let mut names = self.names.write();
        names.incarnation = Incarnation(self.random.id());
        self.handles.clear();
        (names.incarnation, names.all())
    }

    /// Every location, in the order of applications, shuffles, partitions and epochs.
    pub(crate) fn all(&self) -> Vec<Arc<Location>> {
        self.names.read().all()
    }

    /// What is held, by application.
    pub(crate) fn held(&self) -> Vec<Held> {
        let names = self.names.read();
        let held = names.applications.iter().map(|(application, shuffles)| Held {
            application: application.clone(),
            shuffles: reported(shuffles.keys().copied()),
        });
        held.collect()
    }

    /// A location was handed over: its handle is good for nothing, its name stays, for those who ask for it.
    pub(crate) fn forget_handle(&self, location: &Location) {
        self.handles.remove(&location.handle);
    }

    fn forget_handles(&self, locations: &[Arc<Location>]) {
        for location in locations {
            self.handles.remove(&location.handle);
        }
    }
}

impl Names {
    fn find(&self, application: &Application, id: LocationId) -> Option<Arc<Location>> {
        let shuffle = self.applications.get(application)?.get(&id.shuffle)?;
        shuffle.get(&(id.partition, id.epoch)).map(Arc::clone)
    }

    fn all(&self) -> Vec<Arc<Location>> {
        self.applications.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values).map(Arc::clone).collect()
    }

    fn forget_empty(&mut self, application: &Application) {
        if let Some(shuffles) = self.applications.get_mut(application) {
            shuffles.retain(|_, shuffle| !shuffle.is_empty());
            if shuffles.is_empty() {
                self.applications.remove(application);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
