//! Freezes, seals and releases locations.
//!
//! Owns carrying the steps out on the tables and giving memory back. Does not own what the steps mean
//! (`mallorn_worker_core::commit`) nor who may ask for them (`service`).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, Incarnation, LocationId, SealId};
use mallorn_runtime::clock;
use mallorn_runtime::telemetry::quiet::Line;
use mallorn_sabotage::{self as sabotage, Sabotage};
use mallorn_worker_core::commit::{Freezing, Sealing};
use mallorn_worker_core::push::Life;

use crate::memory::location::{Location, State};
use crate::memory::store::Store;

impl Store {
    /// Ends acks of locations for good; tells the acked length of each.
    pub(crate) fn freeze(&self, application: &Application, ids: &[LocationId]) -> Vec<Freezing> {
        let locations = self.by_names(application, ids);
        let freeze = |location: &Option<Arc<Location>>| match location {
            Some(location) => self.freeze_one(location),
            None if sabotage::is(Sabotage::UnknownLocationAnsweredAsEmpty) => Freezing::Acked(0),
            None => Freezing::Unknown,
        };
        locations.iter().map(freeze).collect()
    }

    fn freeze_one(&self, location: &Location) -> Freezing {
        let mut state = location.lock();
        if state.leaving.is_moved() {
            return Freezing::Moved;
        }
        self.freeze_locked(&mut state).map_or(Freezing::Unknown, Freezing::Acked)
    }

    /// Freezes a location that is open; `false` where it is not.
    pub(crate) fn freeze_open(&self, location: &Location) -> bool {
        let mut state = location.lock();
        let is_open = state.log.life() == Life::Open;
        if is_open {
            self.freeze_locked(&mut state);
        }
        is_open
    }

    fn freeze_locked(&self, state: &mut State) -> Option<u64> {
        let before = state.log.life();
        let acked = state.log.freeze();
        let after = state.log.life();
        if before != after {
            state.trim();
            self.metrics.location_moved(before, after);
        }
        acked
    }

    /// Cuts locations at their length and makes them readable; answers once they have the durability asked for.
    pub(crate) async fn seal(
        &self,
        application: &Application,
        durability: Durability,
        seals: &[(LocationId, SealId, u64)],
    ) -> Vec<Sealing> {
        let ids: Vec<_> = seals.iter().map(|(id, _, _)| *id).collect();
        let locations = self.by_names(application, &ids);
        let seal = |(location, (_, seal, length)): (&Option<Arc<Location>>, &(LocationId, SealId, u64))| match location
        {
            Some(location) => self.seal_one(location, durability, *seal, *length),
            None if sabotage::is(Sabotage::UnknownLocationAnsweredAsEmpty) => Sealing::Sealed { batches: 0 },
            None => Sealing::Unknown,
        };
        let mut sealings: Vec<_> = locations.iter().zip(seals).map(seal).collect();
        if durability == Durability::Memory {
            return sealings;
        }
        let sealed = |(sealing, location): (&Sealing, Option<Arc<Location>>)| {
            matches!(sealing, Sealing::Sealed { .. }).then_some(location).flatten()
        };
        let wanted: Vec<_> = sealings.iter().zip(locations).map(sealed).collect();
        let present: Vec<_> = wanted.iter().flatten().cloned().collect();
        let mut written = self.spill.keep(&present, durability).await.into_iter();
        for (sealing, _) in sealings.iter_mut().zip(&wanted).filter(|(_, wanted)| wanted.is_some()) {
            if !written.next().unwrap_or(false) {
                *sealing = Sealing::NotDurable;
            }
        }
        sealings
    }

    fn seal_one(&self, location: &Arc<Location>, durability: Durability, seal: SealId, length: u64) -> Sealing {
        let mut state = location.lock();
        if state.leaving.is_moved() {
            return Sealing::Moved;
        }
        let before = state.log.life();
        let sealing = state.log.seal(seal, length);
        self.metrics.location_moved(before, state.log.life());
        match sealing {
            Sealing::Sealed { .. } => {
                state.durability = state.durability.max(durability);
                state.trim();
            }
            Sealing::Short { held } => {
                state.clear();
                drop(state);
                self.forget(location);
                let key = ("short", u128::from(location.application.instance.0));
                if let Some(Line { repeats }) = self.quiet.line(key, clock::now()) {
                    let text = "drop a location that is shorter than its seal";
                    tracing::warn!(location = %location.id, held, length, repeats, "{text}");
                }
            }
            Sealing::Unknown | Sealing::Conflict | Sealing::NotDurable | Sealing::Moved => {}
        }
        sealing
    }

    /// Forgets a range of shuffles; returns the bytes of memory given back.
    pub(crate) fn release(&self, application: &Application, shuffles: Range<u32>) -> u64 {
        let bytes = self.clear(&self.remove(application, shuffles.clone()));
        self.taken.lock().release(application, shuffles);
        bytes
    }

    /// Forgets everything of an application; returns the bytes of memory given back.
    pub(crate) fn release_all(&self, application: &Application) -> u64 {
        let bytes = self.clear(&self.remove_all(application));
        self.taken.lock().release_all(application);
        bytes
    }

    /// Readers finish on what they hold; its memory follows with the last of them.
    fn clear(&self, locations: &[Arc<Location>]) -> u64 {
        let bytes = locations.iter().map(|location| self.clear_one(&mut location.lock())).sum();
        let shuffles: BTreeSet<_> = locations.iter().map(|location| location.shuffle()).collect();
        shuffles.into_iter().for_each(|shuffle| self.spill.release(shuffle));
        self.metrics.released_bytes.inc_by(bytes);
        self.pressure.freed();
        bytes
    }

    /// Ends acks of everything, and takes no new locations from here on.
    pub(crate) fn drain(&self) {
        self.freeze_all(&self.begin_draining());
        self.news.notify_one();
        // Nothing takes a push any more, so none has to wait for memory.
        self.pressure.set_hope(false);
    }

    /// Writes down everything that is frozen or sealed, with its bytes, so that it is found again after a restart; returns
    /// what could not be.
    pub(crate) async fn keep_all(&self) -> Vec<Arc<Location>> {
        let all = self.all();
        let kept = self.spill.keep(&all, Durability::Written).await;
        let left = all.into_iter().zip(kept).filter(|(location, kept)| !kept && location.life() != Life::Gone);
        left.map(|(location, _)| location).collect()
    }

    /// Draws a fresh incarnation, as a worker does that was declared lost: what was open is frozen, handles are void.
    pub(crate) fn start_again(&self) -> Incarnation {
        let (incarnation, locations) = self.begin_incarnation();
        self.freeze_all(&locations);
        incarnation
    }

    fn freeze_all(&self, locations: &[Arc<Location>]) {
        for location in locations {
            // Whoever hands it over still has all of it: a part of it must never look like the whole.
            if !self.drop_if(location, |state| state.log.is_arriving()) {
                self.freeze_one(location);
            }
        }
    }

    /// Drops a location, and its name with it, where that is so under its lock.
    pub(crate) fn drop_if(&self, location: &Arc<Location>, is_so: impl FnOnce(&State) -> bool) -> bool {
        let mut state = location.lock();
        if !is_so(&state) {
            return false;
        }
        self.clear_one(&mut state);
        drop(state);
        self.forget(location);
        self.pressure.freed();
        true
    }

    /// Drops a location that is of no use, and its name with it.
    pub(crate) fn drop_one(&self, location: &Arc<Location>) {
        self.drop_if(location, |_| true);
    }

    /// Gives back what a location holds; returns the bytes of memory.
    pub(crate) fn clear_one(&self, state: &mut State) -> u64 {
        let before = state.log.life();
        let bytes = state.clear();
        self.metrics.location_moved(before, state.log.life());
        bytes
    }
}

#[cfg(test)]
mod tests;
