//! The side that takes over: keeps the records of what another worker has sent.

use std::sync::Arc;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, LocationId, WorkerId};
use mallorn_runtime::clock;
use mallorn_runtime::telemetry::quiet::Line;
use mallorn_worker_core::handover::Told;
use mallorn_worker_core::push::Life;

use crate::memory::location::Location;
use crate::memory::store::Store;

impl Store {
    /// Takes over what `from` has sent; tells of each whether it is kept here now, so that `from` may delete its own. What
    /// is not, is dropped, so that it can be sent again.
    pub(crate) async fn settle(
        &self,
        application: &Application,
        from: WorkerId,
        durability: Durability,
        told: &[(LocationId, Told)],
    ) -> Vec<bool> {
        let ids: Vec<_> = told.iter().map(|(id, _)| *id).collect();
        let found = self.by_names(application, &ids);
        let settle = |(location, (_, told)): (Option<Arc<Location>>, &(LocationId, Told))| {
            location
                .filter(|location| location.origins.from() == Some(from) && self.settle_one(location, durability, told))
        };
        let settled: Vec<_> = found.into_iter().zip(told).map(settle).collect();
        let wanted: Vec<_> = settled.iter().flatten().cloned().collect();
        let mut kept = self.keep_settled(&wanted, durability).await.into_iter();
        let answer = |location: Option<Arc<Location>>| {
            let Some(location) = location else { return false };
            let is_kept = kept.next().unwrap_or(false);
            if is_kept && self.note_taken(&location) {
                return true;
            }
            if self.taken.lock().has(application, location.id) {
                // Another call of the same kind was answered that it is kept: whoever had it may have deleted it.
                return true;
            }
            if let Some(Line { repeats }) = self.quiet.line(("not_kept", from.0), clock::now()) {
                tracing::warn!(event = "not_taken_over", location = %location.id, %from, repeats, "no disk keeps its record");
            }
            self.drop_one(&location);
            false
        };
        let answers: Vec<_> = settled.into_iter().map(answer).collect();
        if answers.contains(&true) {
            self.news.notify_one();
        }
        answers
    }

    /// Notes what is kept here now; `false` where it was released meanwhile.
    fn note_taken(&self, location: &Location) -> bool {
        // Under its lock: a release clears locations first, and forgets what was noted of them after that.
        let state = location.lock();
        let is_here = state.log.life() != Life::Gone;
        if is_here && self.taken.lock().note(&location.application, location.id, location.origins.clone()) {
            self.metrics.handover.taken_over.inc();
            self.metrics.handover.taken_over_bytes.inc_by(state.log.length());
        }
        is_here
    }

    fn settle_one(&self, location: &Arc<Location>, durability: Durability, told: &Told) -> bool {
        let mut state = location.lock();
        let before = state.log.life();
        let (held, settled) = (state.log.length(), state.log.settle(told));
        let after = state.log.life();
        if settled && before == Life::Open {
            state.durability = state.durability.max(durability);
            state.trim();
            self.metrics.location_moved(before, after);
        }
        if !settled && before == Life::Open {
            // Still under its lock: what arrives in the middle may complete it, and be answered.
            self.clear_one(&mut state);
            drop(state);
            self.forget(location);
            self.pressure.freed();
            let key = ("dropped_part", u128::from(location.application.instance.0));
            if let Some(Line { repeats }) = self.quiet.line(key, clock::now()) {
                let (event, sent) = ("not_taken_over", told.length);
                tracing::info!(event, location = %location.id, held, sent, repeats, "drop a part");
            }
        }
        settled
    }

    /// Where `memory` is durable enough a record is written only so that a restart finds it.
    async fn keep_settled(&self, locations: &[Arc<Location>], durability: Durability) -> Vec<bool> {
        if self.spill.folders().is_empty() {
            return vec![durability == Durability::Memory; locations.len()];
        }
        let mut kept = self.spill.keep(locations, durability.max(Durability::Written)).await;
        kept.iter_mut().for_each(|kept| *kept |= durability == Durability::Memory);
        kept
    }
}
