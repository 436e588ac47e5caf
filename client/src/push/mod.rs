//! Pushing: an attempt's units gather per partition, are cut into batches, and go to workers until each is acked.
//!
//! | step | file |
//! |---|---|
//! | the attempt as its task sees it | here |
//! | gathering and cutting | `buffers` |
//! | compressing and checksumming, once | `encode` |
//! | sending, and again where refused | `send` |
//! | moving on where a location is full | `split` |
//! | where partitions are now | `table` |
//! | the end of the attempt | `end` |
//!
//! A unit is never cut over batches. A batch pushed again is the same bytes under the same id, so that a reader can
//! leave repeats out.

mod buffers;
mod encode;
mod end;
mod send;
mod split;
mod table;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mallorn_client_core::memory::Share;
use mallorn_proto::batch::{OVERHEAD_BYTES, Place};
use mallorn_proto::id::{Generation, MapId, Partition, ShuffleId};
use mallorn_proto::limits::PARTITIONS_MAX;
use mallorn_proto::reason::Reason;
use mallorn_proto::v1;
use mallorn_runtime::{clock, task};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

pub use end::MapperEnd;
pub(crate) use table::Tables;

use crate::client::Inner;
use crate::error::{LifecycleError, PushError};
use buffers::{Buffers, Cut, SPARE_BYTES};
use table::Table;

/// Batches of at least this size go out on their own at once; smaller ones are gathered into one request.
const ALONE_BYTES: usize = 32 * 1024;
/// Small batches gathered before they go out as one request.
const GATHERED_BYTES: usize = 224 * 1024;

/// One try at a map task. Its task pushes units and ends it; dropping it without an end declares it failed.
#[derive(Debug)]
pub struct MapAttempt {
    pub(crate) shared: Arc<AttemptShared>,
    ended: Option<MapperEnd>,
    /// The lifecycle manager was told that it failed.
    declared: bool,
}

/// What the attempt's task, its batches in flight and a client short of memory share.
#[derive(Debug)]
pub(crate) struct AttemptShared {
    client: Arc<Inner>,
    id: v1::AttemptId,
    wire: ShuffleId,
    partitions: u32,
    table: Arc<Table>,
    state: Mutex<State>,
    /// Requests in flight; the attempt can end at zero.
    in_flight: watch::Sender<usize>,
    /// When the renewal of its lease that was answered last was asked for.
    renewed: Mutex<clock::Instant>,
}

#[derive(Debug)]
struct State {
    buffers: Buffers,
    /// The last batches are cut: nothing may follow them.
    ended: bool,
    /// Why nothing more is pushed.
    over: Option<PushError>,
}

impl MapAttempt {
    pub(crate) async fn start(
        client: &Arc<Inner>,
        shuffle: u32,
        map: u32,
        attempt: u32,
    ) -> Result<Self, LifecycleError> {
        let nonce = client.random.id();
        let instance = client.application.instance.0;
        let request = v1::StartAttemptRequest { instance, shuffle, map, attempt, nonce };
        let asked = clock::now();
        let started = client.link.call(|mut door| async move { door.start_attempt(request).await }).await?;
        if !(1..=PARTITIONS_MAX).contains(&started.partitions) {
            return Err(LifecycleError::senseless("a shuffle has not so many partitions"));
        }
        let generation = Generation(started.generation);
        let wire = ShuffleId(started.wire_shuffle);
        let table = client.tables.load(client, (shuffle, generation), (wire, started.partitions)).await?;
        let shared = Arc::new(AttemptShared {
            client: Arc::clone(client),
            id: v1::AttemptId { shuffle, generation: generation.0, map, attempt, nonce },
            wire,
            partitions: started.partitions,
            table,
            state: Mutex::new(State {
                buffers: Buffers::new(MapId(map), client.config.batch.0 as usize, ALONE_BYTES),
                ended: false,
                over: None,
            }),
            in_flight: watch::Sender::new(0),
            renewed: Mutex::new(asked),
        });
        client.attempts.lock().insert(nonce, Arc::downgrade(&shared));
        Ok(Self { shared, ended: None, declared: false })
    }

    /// The generation that the attempt belongs to.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.shared.id.generation)
    }

    /// Pushes one unit (a row, a record batch) to a partition: a reader gets it whole, in some batch of whole units.
    /// Waits while the client's memory is full.
    ///
    /// A dropped future has pushed nothing.
    ///
    /// # Errors
    /// `TooLarge`, `Partition` and `Ended` leave the attempt as it was. After any other error it is over; see
    /// [`PushError::is_overtaken`].
    pub async fn push(&mut self, partition: u32, unit: &[u8]) -> Result<(), PushError> {
        self.check(partition, unit.len())?;
        // Room that was made can be flushed away by another attempt that waits, so it may have to be made again.
        while !self.shared.append(Partition(partition), unit)? {
            self.shared.make_room(Partition(partition), unit.len()).await?;
        }
        Ok(())
    }

    /// Pushes one unit without copying it, where it is large enough to be a batch of its own; else as [`Self::push`].
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn push_owned(&mut self, partition: u32, unit: Bytes) -> Result<(), PushError> {
        if (unit.len() as u64) < self.shared.client.config.batch.0 {
            return self.push(partition, &unit).await;
        }
        self.check(partition, unit.len())?;
        let permit = self.shared.room(unit.len() as u64).await?;
        let bytes = unit.len() as u64;
        let is_due = {
            let mut state = self.shared.going_on()?;
            state.buffers.cut_unit(Partition(partition), unit, permit);
            state.buffers.is_due(GATHERED_BYTES)
        };
        self.shared.client.metrics.pushed_bytes.inc_by(bytes);
        if is_due {
            self.shared.flush(GATHERED_BYTES);
        }
        Ok(())
    }

    /// Ends the attempt: pushes what is left, waits until every batch is acked, and reports it. The first attempt of a
    /// map to end wins; a loser is told so, which is no error. Calling it again repeats the answer.
    ///
    /// A dropped future has not ended the attempt; call it again. Nothing can be pushed after the first call.
    ///
    /// # Errors
    /// Why the attempt cannot end any more.
    pub async fn mapper_end(&mut self) -> Result<MapperEnd, PushError> {
        if let Some(ended) = &self.ended {
            return Ok(ended.clone());
        }
        let ended = end::run(&self.shared).await?;
        self.shared.client.attempts.lock().remove(&self.shared.id.nonce);
        Ok(self.ended.insert(ended).clone())
    }

    /// Declares the attempt failed and waits until the lifecycle manager knows. Dropping it does the same without the
    /// wait.
    pub async fn failed(mut self) {
        if self.ended.is_none() {
            self.shared.give_up("it was declared failed");
            declare_failed(&self.shared).await;
            self.declared = true;
        }
    }

    fn check(&self, partition: u32, bytes: usize) -> Result<(), PushError> {
        let partitions = self.shared.partitions;
        if partition >= partitions {
            return Err(PushError::Partition { partition, partitions });
        }
        let limit = self.shared.client.body_limit as usize - OVERHEAD_BYTES;
        if bytes > limit {
            return Err(PushError::TooLarge { bytes: bytes as u64, limit: limit as u64 });
        }
        Ok(())
    }
}

impl Drop for MapAttempt {
    fn drop(&mut self) {
        if self.ended.is_some() || self.declared {
            return;
        }
        let told = self.shared.over().is_some_and(|error| is_known_there(&error));
        self.shared.give_up("it was dropped");
        if !told {
            let shared = Arc::clone(&self.shared);
            self.shared.client.spawner.spawn(async move { declare_failed(&shared).await });
        }
    }
}

/// Whether the lifecycle manager itself has said that the attempt is over.
fn is_known_there(error: &PushError) -> bool {
    match error {
        PushError::MapEnded | PushError::StageEnded => true,
        PushError::Lifecycle(error) => error.reason().is_some(),
        PushError::TooLarge { .. }
        | PushError::Partition { .. }
        | PushError::NoSpace { .. }
        | PushError::Ended
        | PushError::Refused { .. } => false,
    }
}

/// Best effort: an attempt of which nothing is heard dies by its lease.
async fn declare_failed(shared: &AttemptShared) {
    let instance = shared.client.application.instance.0;
    let request = v1::AttemptFailedRequest { instance, attempt: Some(shared.id) };
    if let Err(error) = shared.client.link.call(|mut door| async move { door.attempt_failed(request).await }).await {
        tracing::debug!(%error, "declare an attempt failed");
    }
}

impl AttemptShared {
    pub(crate) fn id(&self) -> v1::AttemptId {
        self.id
    }

    pub(crate) fn renewed(&self, asked: clock::Instant) {
        *self.renewed.lock() = asked;
    }

    /// When it must stop, unless its lease is renewed before: a fifth of the lease early, so that it has stopped for
    /// sure when the lifecycle manager lets another one win.
    pub(crate) fn stops_at(&self, lease: Duration) -> clock::Instant {
        *self.renewed.lock() + lease.mul_f64(0.8)
    }

    pub(crate) fn lease_over(&self, why: &str) {
        let (map, attempt) = (self.id.map, self.id.attempt);
        let text = format!("attempt {attempt} of map {map} must stop: {why}");
        self.stop(PushError::Lifecycle(LifecycleError::refused(Reason::Dead, text)));
    }

    /// Stops everything without an error to anybody; `false` when it was over before.
    fn give_up(&self, why: &str) -> bool {
        self.client.attempts.lock().remove(&self.id.nonce);
        let text = format!("attempt {} of map {} is over: {why}", self.id.attempt, self.id.map);
        self.stop(PushError::Lifecycle(LifecycleError::refused(Reason::Dead, text)))
    }

    /// The first error is what the attempt's task is told; what was buffered is dropped. A client that gives up tells
    /// the lifecycle manager when the attempt is dropped.
    pub(crate) fn stop(&self, error: PushError) -> bool {
        let dropped = {
            let mut state = self.state.lock();
            if state.over.is_some() {
                return false;
            }
            state.over = Some(error);
            state.buffers.clear()
        };
        drop(dropped);
        // Wakes whoever waits for the attempt's end.
        self.in_flight.send_modify(|_| {});
        true
    }

    fn over(&self) -> Option<PushError> {
        self.state.lock().over.clone()
    }

    /// The state, if units may still be pushed.
    fn going_on(&self) -> Result<MutexGuard<'_, State>, PushError> {
        let state = self.state.lock();
        match &state.over {
            Some(error) => Err(error.clone()),
            None if state.ended => Err(PushError::Ended),
            None => Ok(state),
        }
    }

    fn place(&self, partition: Partition) -> Place {
        Place { instance: self.client.application.instance, shuffle: self.wire, partition }
    }

    /// Appends a unit where the memory held for its partition allows; `false` when room must be made first.
    fn append(self: &Arc<Self>, partition: Partition, unit: &[u8]) -> Result<bool, PushError> {
        let (appended, is_due) = {
            let mut state = self.going_on()?;
            let memory = &self.client.memory;
            let appended = state.buffers.append(partition, unit, |bytes| memory.try_take(Share::Push, bytes));
            (appended, state.buffers.is_due(GATHERED_BYTES))
        };
        if appended {
            self.client.metrics.pushed_bytes.inc_by(unit.len() as u64);
        }
        if is_due {
            self.flush(GATHERED_BYTES);
        }
        Ok(appended)
    }

    /// Waits for memory that the partition's buffer needs to take so many bytes more.
    async fn make_room(&self, partition: Partition, bytes: usize) -> Result<(), PushError> {
        let needed = self.going_on()?.buffers.needed(partition, bytes);
        // Who has to wait at all takes enough to go on for a while.
        let permit = self.room(needed.max(SPARE_BYTES)).await?;
        self.going_on()?.buffers.keep_spare(permit);
        Ok(())
    }

    /// Takes bytes of the push share, flushing the fullest buffers of this client while there are none.
    async fn room(&self, bytes: u64) -> Result<crate::memory::Permit, PushError> {
        let memory = &self.client.memory;
        if bytes > memory.largest() {
            return Err(PushError::TooLarge { bytes, limit: memory.largest() });
        }
        if let Some(permit) = memory.try_take(Share::Push, bytes) {
            return Ok(permit);
        }
        let since = clock::now();
        // What is on its way will be enough, if it is as much as all that is waited for: to flush more would only make
        // small batches.
        if in_flight(&self.client) < memory.waited_for(Share::Push) + bytes {
            flush_fullest(&self.client, bytes);
        }
        let mut taking = pin!(memory.take(Share::Push, bytes));
        let permit = loop {
            drop(self.going_on()?);
            // Whoever fails meanwhile gives its bytes back, too; the check above is made again every so often.
            if let Ok(permit) = clock::timeout(send::CHECK, taking.as_mut()).await {
                break permit;
            }
            flush_fullest(&self.client, bytes);
        };
        self.client.metrics.push_wait_seconds.inc_by(clock::since(since).as_secs_f64());
        Ok(permit)
    }

    /// Sends the batches that are cut, if they amount to `at_least` bytes together.
    fn flush(self: &Arc<Self>, at_least: usize) {
        let requests = {
            let mut state = self.state.lock();
            let requests = state.buffers.take_cut(at_least, GATHERED_BYTES);
            // Counted before the lock is let go: this may be the task of another attempt that needs memory, and an end
            // that finds nothing left to cut and nothing in flight must not come between the two.
            if !requests.is_empty() {
                self.in_flight.send_modify(|count| *count += requests.len());
            }
            requests
        };
        for batches in requests {
            let sending = Sending { shared: Arc::clone(self), result: None };
            task::spawn(sending.run(batches));
        }
    }

    /// Cuts and sends the fullest buffers, at least so many bytes if there are; returns how many it was.
    fn flush_fullest_of(self: &Arc<Self>, bytes: u64) -> u64 {
        let before = {
            let mut state = self.state.lock();
            let before = state.buffers.held();
            state.buffers.cut_fullest(bytes);
            before
        };
        self.flush(0);
        before.saturating_sub(self.held())
    }

    fn held(&self) -> u64 {
        self.state.lock().buffers.held()
    }
}

/// A request on its way. However its task ends, it is in flight no longer; where it has ended without a result its batches
/// are gone, and so is the attempt.
struct Sending {
    shared: Arc<AttemptShared>,
    result: Option<Result<(), PushError>>,
}

impl Sending {
    async fn run(mut self, batches: Vec<Cut>) {
        self.result = Some(send::run(&self.shared, batches).await);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let broken = || PushError::Refused { text: "the task that pushes it has broken off".to_owned() };
        if let Err(error) = self.result.take().unwrap_or_else(|| Err(broken())) {
            self.shared.stop(error);
        }
        self.shared.in_flight.send_modify(|count| *count -= 1);
    }
}

/// Bytes of the push share that attempts have given to their tasks that send.
fn in_flight(client: &Inner) -> u64 {
    let attempts: Vec<_> = client.attempts.lock().values().filter_map(std::sync::Weak::upgrade).collect();
    let buffered: u64 = attempts.iter().map(|attempt| attempt.held()).sum();
    client.memory.held(Share::Push).saturating_sub(buffered)
}

/// The attempts that have buffered most send their fullest partitions, until the bytes needed are on their way, and of
/// the first one at least a quarter of what it holds, so that the next push does not wait again at once.
fn flush_fullest(client: &Inner, bytes: u64) {
    let attempts: Vec<_> = client.attempts.lock().values().filter_map(std::sync::Weak::upgrade).collect();
    let mut by_held: Vec<_> = attempts.into_iter().map(|attempt| (attempt.held(), attempt)).collect();
    by_held.sort_unstable_by_key(|(held, attempt)| (std::cmp::Reverse(*held), attempt.id.nonce));
    let mut missing = bytes;
    for (held, attempt) in by_held {
        missing = missing.saturating_sub(attempt.flush_fullest_of(missing.max(held / 4)));
        if missing == 0 {
            return;
        }
    }
}
