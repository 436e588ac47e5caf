//! Hand-over: what is frozen or sealed here is moved to other workers, with its records.
//!
//! | part | file |
//! |---|---|
//! | which locations go where, and what becomes of each here | here |
//! | calls to the master and to the workers that take over | `doors` |
//! | the bytes of locations, over a replicate connection | `send` |
//! | those bytes, from memory or disk | `read` |
//! | the side that takes over | `take` |
//!
//! Owns the way of a location from here to another worker, and the bounds on what is on its way. Does not own how a
//! location stands in between (`mallorn_worker_core::handover`), nor when hand-over begins (`drain`). Whatever fails is
//! held here again and tried anew in the next round.

mod doors;
mod read;
mod send;
mod take;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, Handle, LocationId, WorkerId};
use mallorn_proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::grpc::{self, Channel};
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Tasks;
use mallorn_sabotage::{self as sabotage, Sabotage};
use mallorn_worker_core::handover::{Origins, Told, groups};
use mallorn_worker_core::push::Life;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::doors::{Asked, Settled, Target};
use crate::identity::Identity;
use crate::memory::location::Location;
use crate::memory::store::Store;

/// Groups that are on their way at once; each has a few MiB in flight.
const TRANSFERS_MAX: usize = 4;
/// Longer than any round, whose every step has a deadline.
const ROUND_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a worker is told to keep locations before it is given up.
const SETTLE_TRIES: u32 = 8;
/// The first and the longest wait between those.
const SETTLE_BETWEEN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What is told of a location whose sending was given up: nobody holds so much, so what there is of it is dropped.
const NOTHING: Told = Told { acked: 0, seal: None, length: u64::MAX };

/// Moves locations to other workers.
pub(crate) struct HandOver {
    store: Arc<Store>,
    identity: Arc<Identity>,
    master: MasterClient<Channel>,
    random: Random,
    transfers: Arc<Semaphore>,
}

/// What locations have in common that are handed over together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    application: Arc<Application>,
    durability: Durability,
    /// Workers that have the other copy, or may have it; rising.
    holders: Vec<WorkerId>,
    /// Who had them before this worker.
    origins: Origins,
}

/// One try for everything that is held.
struct Round {
    of: Arc<HandOver>,
    /// Workers that took nothing in this round.
    busy: Mutex<BTreeSet<WorkerId>>,
    moved: AtomicUsize,
    /// It was said that there is no place.
    is_told: AtomicBool,
}

impl HandOver {
    /// Asks the master at `master` (host:port) for workers that take over.
    ///
    /// # Errors
    /// `InvalidInput` when that is not an address.
    pub(crate) fn new(
        master: &str,
        identity: Arc<Identity>,
        store: Arc<Store>,
        random: Random,
    ) -> io::Result<Arc<Self>> {
        let master = MasterClient::new(grpc::channel(master, doors::CALL_WITHIN)?)
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        let transfers = Arc::new(Semaphore::new(TRANSFERS_MAX));
        Ok(Arc::new(Self { store, identity, master, random, transfers }))
    }

    /// Tries to move everything that is frozen or sealed; returns how many locations were moved.
    pub(crate) async fn round(self: &Arc<Self>) -> usize {
        let all: Vec<_> = self.store.all().into_iter().filter(|location| location.life() != Life::Gone).collect();
        let kinds = all.iter().map(|location| {
            let state = location.lock();
            let other = location.replica.as_ref().map(|replica| replica.link.worker());
            let holders: BTreeSet<_> = state.leaving.holders().iter().copied().chain(other).collect();
            let (application, holders) = (Arc::clone(&location.application), holders.into_iter().collect());
            let origins = location.origins.clone();
            (Kind { application, durability: state.durability, holders, origins }, state.log.length())
        });
        let groups = groups(kinds);
        let round = Arc::new(Round {
            of: Arc::clone(self),
            busy: Mutex::default(),
            moved: AtomicUsize::new(0),
            is_told: AtomicBool::new(false),
        });
        let mut tasks = Tasks::new();
        for (kind, group) in groups {
            let Ok(turn) = Arc::clone(&self.transfers).acquire_owned().await else { break };
            let group: Vec<_> = group.into_iter().map(|index| Arc::clone(&all[index])).collect();
            let round = Arc::clone(&round);
            tasks.reap();
            tasks.spawn(async move {
                round.hand_over(&kind, &group).await;
                drop(turn);
            });
        }
        tasks.join(ROUND_WITHIN).await;
        round.moved.load(Ordering::Relaxed)
    }
}

impl Round {
    async fn hand_over(&self, kind: &Kind, group: &[Arc<Location>]) {
        let begins = |location: &&Arc<Location>| {
            let mut state = location.lock();
            let life = state.log.life();
            state.leaving.begin(life)
        };
        let begun: Vec<_> = group.iter().filter(begins).cloned().collect();
        let mut exclude = self.busy.lock().clone();
        exclude.extend(&kind.holders);
        exclude.insert(self.of.identity.worker);
        let placed = match self.of.place(kind, begun.len(), &exclude).await {
            Ok(placed) => placed,
            Err(error) => {
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(event = "handover_not_placed", %error, "nobody takes over now; trying on");
                }
                return self.failed(&begun);
            }
        };
        let mut by_target: BTreeMap<usize, Vec<Arc<Location>>> = BTreeMap::new();
        for (pick, location) in placed.picks.iter().zip(&begun) {
            by_target.entry(*pick).or_default().push(Arc::clone(location));
        }
        self.failed(begun.get(placed.picks.len()..).unwrap_or_default());
        for (target, locations) in by_target {
            self.to(&placed.targets[target], kind, &locations).await;
        }
    }

    /// Hands locations over to one worker.
    async fn to(&self, target: &Target, kind: &Kind, locations: &[Arc<Location>]) {
        let reserved = match self.of.reserve(target, kind, locations).await {
            Ok(reserved) => reserved,
            Err(error) => {
                tracing::warn!(event = "handover_refused", worker = target.name, %error);
                self.busy.lock().insert(target.peer.worker);
                return self.failed(locations);
            }
        };
        let mut taken: Vec<(Arc<Location>, Handle)> = Vec::with_capacity(locations.len());
        for (location, asked) in locations.iter().zip(reserved) {
            match asked {
                Asked::Reserved(handle) => {
                    taken.push((Arc::clone(location), handle));
                    continue;
                }
                Asked::Holds => location.lock().leaving.avoid(target.peer.worker),
                Asked::Busy => drop(self.busy.lock().insert(target.peer.worker)),
            }
            self.failed(std::slice::from_ref(location));
        }
        if taken.is_empty() {
            return;
        }
        let sent = send::send(&self.of.store, &self.of.identity, target, &taken).await;
        let (mut told, mut given_up, mut kind) = (Vec::new(), Vec::new(), kind.clone());
        for ((location, _), is_sent) in taken.into_iter().zip(sent) {
            let mut tell = |location: &Arc<Location>| {
                let state = &mut *location.lock();
                // A seal may have asked for more meanwhile.
                kind.durability = kind.durability.max(state.durability);
                state.leaving.tell(&state.log)
            };
            match is_sent.then(|| tell(&location)).flatten() {
                Some(what) => told.push((location, what)),
                None => given_up.push(location),
            }
        }
        self.settle(target, &kind, told).await;
        self.give_up(target, &kind, &given_up).await;
    }

    /// Tells the target to keep what it was sent, until it is known what it does about that.
    async fn settle(&self, target: &Target, kind: &Kind, told: Vec<(Arc<Location>, Told)>) {
        if told.is_empty() {
            return;
        }
        let wire: Vec<_> = told.iter().map(|(location, told)| (location.id, *told)).collect();
        let locations: Vec<_> = told.into_iter().map(|(location, _)| location).collect();
        let (first, longest) = SETTLE_BETWEEN;
        let mut backoff = Backoff::new(first, longest);
        if sabotage::is(Sabotage::HandOverDeletedBeforeItIsKept) {
            return self.settled(target, &locations, vec![true; locations.len()]).await;
        }
        for _ in 0..SETTLE_TRIES {
            match self.of.settle(target, kind, &wire).await {
                Settled::Known(kept) => return self.settled(target, &locations, kept).await,
                Settled::Unknown(error) => {
                    tracing::warn!(event = "handover_in_doubt", worker = target.name, locations = wire.len(), %error);
                }
            }
            backoff.wait(&self.of.random).await;
        }
        // It may keep them all the same: two equal copies harm nobody, one that nobody speaks for would.
        self.failed(&locations);
    }

    async fn settled(&self, target: &Target, locations: &[Arc<Location>], kept: Vec<bool>) {
        let (mut moved, mut bytes, mut failed) = (Vec::new(), 0, Vec::new());
        for (location, is_kept) in locations.iter().zip(kept.into_iter().chain(std::iter::repeat(false))) {
            if is_kept {
                bytes += self.of.store.delete_moved(location);
                moved.push(Arc::clone(location));
            } else {
                failed.push(Arc::clone(location));
            }
        }
        self.failed(&failed);
        if moved.is_empty() {
            return;
        }
        self.of.store.spill.record_dropped(&moved).await;
        let metrics = &self.of.store.metrics.handover;
        metrics.bytes.inc_by(bytes);
        metrics.locations.inc_by(moved.len() as u64);
        self.moved.fetch_add(moved.len(), Ordering::Relaxed);
        tracing::info!(event = "handed_over", worker = target.name, locations = moved.len(), bytes);
    }

    /// The target drops what it was sent of locations, if it hears of it: they are sent again, from their start.
    async fn give_up(&self, target: &Target, kind: &Kind, locations: &[Arc<Location>]) {
        if locations.is_empty() {
            return;
        }
        self.busy.lock().insert(target.peer.worker);
        let wire: Vec<(LocationId, Told)> = locations.iter().map(|location| (location.id, NOTHING)).collect();
        if let Settled::Unknown(error) = self.of.settle(target, kind, &wire).await {
            tracing::debug!(worker = target.name, %error, "leave a part of a location behind");
        }
        self.failed(locations);
    }

    /// Locations are held here as before.
    fn failed(&self, locations: &[Arc<Location>]) {
        for location in locations {
            location.lock().leaving.hold();
        }
        self.of.store.metrics.handover.failures.inc_by(locations.len() as u64);
    }
}

impl Store {
    /// Another worker keeps a location now: this copy is deleted, its name stays for those who ask. Readers finish on what
    /// they hold. Returns the bytes moved.
    fn delete_moved(&self, location: &Arc<Location>) -> u64 {
        let mut state = location.lock();
        let bytes = state.log.length();
        if state.leaving.taken() {
            self.clear_one(&mut state);
        }
        drop(state);
        self.forget_handle(location);
        if location.origins.from().is_some() {
            self.taken.lock().forget(&location.application, location.id);
        }
        bytes
    }
}
