//! The workers as a lifecycle manager knows them: addresses, doors, who is out of reach and who is gone.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use mallorn_proto::id::{Application, LocationId, ShuffleId, WorkerId};
use mallorn_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, PAGE_LOCATIONS_MAX};
use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::v1::worker_client::WorkerClient;
use mallorn_runtime::clock::Clock;
use mallorn_runtime::grpc::{self, Channel};
use mallorn_runtime::random::Random;
use parking_lot::Mutex;

use super::MASTER_WITHIN;
use crate::config::LifecycleConfig;

/// How long a call to a worker may take.
const WORKER_WITHIN: Duration = Duration::from_secs(10);
/// Workers known by address; more than any cluster has, so that the map is bounded.
const BOOK_MAX: usize = 16_384;
/// A worker of which nobody has noted for so long that it is missing is not known to have been missing all the while:
/// whoever misses it notes that more often.
const MISSED_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// A worker, asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// There.
    Here(v1::WorkerAddress),
    /// Not there; it may come back.
    Away {
        /// The master says that it is lost.
        lost: bool,
    },
    /// Not there, and not waited for any longer.
    Gone,
}

#[derive(Debug)]
pub(super) struct Workers {
    pub(super) cluster: String,
    master: MasterClient<Channel>,
    wait_for_return: Duration,
    state: Mutex<State>,
    pub(super) random: Random,
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    book: BTreeMap<WorkerId, v1::WorkerAddress>,
    /// By worker, with the address that it leads to.
    doors: BTreeMap<WorkerId, (String, WorkerClient<Channel>)>,
    /// Not to be given new locations for a while.
    excluded: BTreeMap<WorkerId, Excluded>,
    /// Workers of which nobody can say where they are.
    unknown: BTreeMap<WorkerId, Missed>,
    /// Workers at which a commit does not get on.
    stalled: BTreeMap<(Stall, WorkerId), Missed>,
}

#[derive(Clone, Copy, Debug)]
struct Excluded {
    until: Duration,
    /// It had no disk for what was to be kept.
    without_disk: bool,
}

/// Why a commit does not get on at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stall {
    /// It does not answer.
    Unreached,
    /// It has no disk for what is to be kept.
    NotDurable,
    /// It has handed something over, and nobody has said that he took it.
    Moved,
}

/// When a worker was missed first, and last.
#[derive(Clone, Copy, Debug)]
struct Missed {
    first: Duration,
    last: Duration,
}

/// Notes that a worker is missed; returns for how long it has been.
fn miss<K: Ord + Copy>(missed: &mut BTreeMap<K, Missed>, worker: K, now: Duration) -> Duration {
    let is_over = |missed: &Missed| now.saturating_sub(missed.last) > MISSED_AGAIN_WITHIN;
    if missed.get(&worker).is_none_or(is_over) {
        missed.retain(|_, missed| !is_over(missed));
        if missed.len() >= BOOK_MAX {
            return Duration::ZERO;
        }
    }
    let entry = missed.entry(worker).or_insert(Missed { first: now, last: now });
    entry.last = now;
    now.saturating_sub(entry.first)
}

impl Workers {
    pub(super) fn new(config: &LifecycleConfig, random: Random, clock: Clock) -> io::Result<Self> {
        let master = MasterClient::new(grpc::channel(&config.master, MASTER_WITHIN)?)
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        let (cluster, wait_for_return) = (config.cluster.clone(), config.wait_for_return.0);
        Ok(Self { cluster, master, wait_for_return, state: Mutex::new(State::default()), random, clock })
    }

    pub(super) fn master(&self) -> MasterClient<Channel> {
        self.master.clone()
    }

    /// Notes where workers are.
    pub(super) fn learn(&self, addresses: &[v1::WorkerAddress]) {
        let mut state = self.state.lock();
        for address in addresses {
            let Some(id) = address.worker.map(WorkerId::from) else { continue };
            if state.book.len() < BOOK_MAX || state.book.contains_key(&id) {
                state.book.insert(id, address.clone());
            }
        }
    }

    pub(super) fn address(&self, worker: WorkerId) -> Option<v1::WorkerAddress> {
        self.state.lock().book.get(&worker).cloned()
    }

    /// A worker's gRPC door, by the address last heard of.
    pub(super) fn door(&self, worker: WorkerId) -> Option<WorkerClient<Channel>> {
        let mut state = self.state.lock();
        let control = state.book.get(&worker)?.control.clone();
        if let Some((address, door)) = state.doors.get(&worker)
            && *address == control
        {
            return Some(door.clone());
        }
        let channel = grpc::channel(&control, WORKER_WITHIN).ok()?;
        let door = WorkerClient::new(channel).max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        state.doors.insert(worker, (control, door.clone()));
        Some(door)
    }

    /// Gives a worker no new locations for a while.
    pub(super) fn exclude(&self, worker: WorkerId, how_long: Duration) {
        let until = self.clock.now() + how_long;
        self.state.lock().excluded.insert(worker, Excluded { until, without_disk: false });
    }

    /// The same, because it has no disk for what is to be kept.
    pub(super) fn exclude_without_disk(&self, worker: WorkerId, how_long: Duration) {
        let until = self.clock.now() + how_long;
        self.state.lock().excluded.insert(worker, Excluded { until, without_disk: true });
    }

    pub(super) fn excluded(&self) -> Vec<WorkerId> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.excluded.retain(|_, excluded| excluded.until > now);
        state.excluded.keys().copied().collect()
    }

    /// How many workers are left out for want of a disk.
    pub(super) fn without_disk(&self) -> u32 {
        let state = self.state.lock();
        state.excluded.values().filter(|excluded| excluded.without_disk).count() as u32
    }

    /// Workers to try when the master cannot be asked: all known ones that are not excluded.
    pub(super) fn known(&self) -> Vec<v1::WorkerAddress> {
        let excluded = self.excluded();
        let state = self.state.lock();
        state.book.iter().filter(|(id, _)| !excluded.contains(id)).map(|(_, address)| address.clone()).collect()
    }

    /// Asks the master where a worker is. A worker that vanished is gone `wait_for_return` after its lease ended; where
    /// nobody can say when that was, it is counted from the first time that it was not found.
    pub(super) async fn find(&self, worker: WorkerId, worker_lease: Duration) -> Found {
        let request = v1::ResolveWorkersRequest { cluster: self.cluster.clone(), workers: vec![worker.into()] };
        let resolved = match self.master().resolve_workers(request).await {
            Ok(reply) => reply.into_inner().workers.pop(),
            Err(error) => {
                tracing::debug!(%worker, %error, "resolve a worker");
                None
            }
        };
        use v1::resolved_worker::State as Resolved;
        let state = resolved.as_ref().map_or(Resolved::Unknown, v1::ResolvedWorker::state);
        match (state, resolved) {
            (Resolved::Live | Resolved::Draining, Some(v1::ResolvedWorker { address: Some(address), .. })) => {
                self.learn(std::slice::from_ref(&address));
                self.state.lock().unknown.remove(&worker);
                Found::Here(address)
            }
            (Resolved::Lost, Some(resolved)) => {
                let lost_for = Duration::from_millis(resolved.lost_for_ms);
                if lost_for >= self.wait_for_return { Found::Gone } else { Found::Away { lost: true } }
            }
            _ => {
                let unknown_for = miss(&mut self.state.lock().unknown, worker, self.clock.now());
                if unknown_for >= worker_lease + self.wait_for_return {
                    Found::Gone
                } else {
                    Found::Away { lost: false }
                }
            }
        }
    }

    /// Where locations of a worker are now that it has handed them over, as far as the master knows.
    pub(super) async fn moved(
        &self,
        application: &Application,
        from: WorkerId,
        locations: &[LocationId],
    ) -> Vec<(LocationId, WorkerId)> {
        let mut moved = Vec::new();
        for page in locations.chunks(PAGE_LOCATIONS_MAX) {
            let request = v1::ResolveMovedRequest {
                cluster: self.cluster.clone(),
                application: Some(application.clone().into()),
                from: Some(from.into()),
                locations: page.iter().copied().map(Into::into).collect(),
            };
            let reply = match self.master().resolve_moved(request).await {
                Ok(reply) => reply.into_inner(),
                Err(error) => {
                    tracing::debug!(worker = %from, %error, "ask where locations are that were handed over");
                    break;
                }
            };
            self.learn(&reply.workers);
            let taker = |index: u32| {
                let address = reply.workers.get((index as usize).checked_sub(1)?)?;
                address.worker.map(WorkerId::from).filter(|taker| *taker != from)
            };
            let takers = reply.taken_by.iter().map(|index| taker(*index));
            moved.extend(page.iter().zip(takers).filter_map(|(location, taker)| Some((*location, taker?))));
        }
        moved
    }

    /// Notes that a commit does not get on at a worker; returns for how long it has not.
    pub(super) fn stalled(&self, why: Stall, worker: WorkerId) -> Duration {
        miss(&mut self.state.lock().stalled, (why, worker), self.clock.now())
    }

    /// It gets on again.
    pub(super) fn goes_on(&self, why: Stall, worker: WorkerId) {
        self.state.lock().stalled.remove(&(why, worker));
    }

    /// A worker answered.
    pub(super) fn reached(&self, worker: WorkerId) {
        let mut state = self.state.lock();
        state.stalled.remove(&(Stall::Unreached, worker));
        state.unknown.remove(&worker);
    }

    /// A worker's name for people.
    pub(super) fn name(&self, worker: WorkerId) -> String {
        let name = self.address(worker).map(|address| address.name).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| worker.to_string())
    }

    /// Tells workers to forget a shuffle; who cannot be reached is left to the master.
    pub(super) async fn release(&self, application: &Application, wire: ShuffleId, workers: &[WorkerId]) {
        let calls = workers.iter().filter_map(|worker| {
            let mut door = self.door(*worker)?;
            let request = v1::ReleaseRequest {
                cluster: self.cluster.clone(),
                application: Some(application.clone().into()),
                worker: Some((*worker).into()),
                shuffles: vec![(wire.0..wire.0 + 1).into()],
            };
            Some(async move {
                if let Err(error) = door.release(request).await {
                    tracing::debug!(%worker, %error, "release a shuffle");
                }
            })
        });
        crate::concurrently(calls).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_worker_missed_long_ago_was_not_missing_all_the_while() {
        let (mut missed, worker) = (BTreeMap::new(), WorkerId(1));
        assert_eq!(miss(&mut missed, worker, 10 * SECOND), Duration::ZERO);
        assert_eq!(miss(&mut missed, worker, 70 * SECOND), 60 * SECOND);
        assert_eq!(miss(&mut missed, worker, 131 * SECOND), Duration::ZERO, "nobody has missed it for a minute");
        assert_eq!(miss(&mut missed, worker, 132 * SECOND), SECOND);
        let full = Missed { first: Duration::ZERO, last: 132 * SECOND };
        missed.extend((2..=BOOK_MAX as u128).map(|other| (WorkerId(other), full)));
        assert_eq!(miss(&mut missed, WorkerId(0), 140 * SECOND), Duration::ZERO);
        assert_eq!(missed.len(), BOOK_MAX);
        assert_eq!(miss(&mut missed, WorkerId(0), 193 * SECOND), Duration::ZERO);
        assert_eq!(missed.len(), 1);
    }
}
