//! Sends batches and sends them again: to the same location where a checksum did not match, to the next epoch where a
//! worker refused or is out of reach. A batch leaves only when a worker has taken it, or the attempt is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::id::{Epoch, Generation, Partition, WorkerId};
use mallorn_proto::message::{Kind, MergedPart, Push, PushMerged, PushReply, Role};
use mallorn_proto::status::{Advice, Status};
use mallorn_proto::v1;
use mallorn_proto::v1::revive_request::Cause;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::clock;
use mallorn_runtime::connection::{CallError, Connection, Frame};
use mallorn_sabotage::{self as sabotage, Sabotage};

use super::buffers::Cut;
use super::encode::{Encoded, body_of_many, body_of_one};
use super::table::Open;
use super::{AttemptShared, split};
use crate::error::{LifecycleError, PushError};
use crate::metrics::SPLIT_HARD;
use crate::watch::Waited;

/// Batches gathered into one request at most.
pub(super) const GATHERED_MAX: usize = 1024;
/// How often a wait looks whether the attempt is over.
pub(super) const CHECK: Duration = Duration::from_secs(1);
/// Pushes of one batch whose checksum did not match, before it is taken for broken memory here.
const CHECKSUM_TRIES: u32 = 4;
/// New places in a row that took nothing of a request, before it has none to go to.
const REFUSALS_MAX: u32 = 16;
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A batch that no worker has taken yet.
struct Pending {
    batch: Encoded,
    /// The location that did not take it, and why.
    refused: Option<(Epoch, Cause)>,
}

/// Sends batches until all are taken.
pub(super) async fn run(shared: &Arc<AttemptShared>, cut: Vec<Cut>) -> Result<(), PushError> {
    let batches = shared.encode(cut).into_iter();
    let mut pending: Vec<_> = batches.map(|batch| Pending { batch, refused: None }).collect();
    let backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    let mut rounds = Rounds { backoff, checksum_tries: 0, refusals: 0, stuck_since: None };
    loop {
        if let Some(error) = shared.over() {
            return Err(error);
        }
        let before = pending.len();
        pending = push_round(shared, pending, &mut rounds).await?;
        if pending.is_empty() {
            return Ok(());
        }
        if pending.len() < before {
            (rounds.refusals, rounds.stuck_since) = (0, None);
        }
        revive(shared, &mut pending, &mut rounds).await?;
    }
}

/// What the rounds of one request have come to.
struct Rounds {
    backoff: Backoff,
    checksum_tries: u32,
    /// Answers in a row that named new places, of which none has taken anything.
    refusals: u32,
    /// Since when nothing was taken.
    stuck_since: Option<clock::Instant>,
}

impl Rounds {
    /// Whether nothing was taken for as long as a push looks for room.
    fn is_stuck(&mut self, shared: &AttemptShared) -> bool {
        clock::since(*self.stuck_since.get_or_insert_with(clock::now)) >= shared.client.config.no_space_within.0
    }
}

/// Batches for one incarnation of a worker.
type Group = (Arc<v1::WorkerAddress>, Vec<(Pending, Open)>);

/// Pushes each batch to its partition's location; returns those that were not taken.
async fn push_round(
    shared: &Arc<AttemptShared>,
    pending: Vec<Pending>,
    rounds: &mut Rounds,
) -> Result<Vec<Pending>, PushError> {
    let mut homeless = Vec::new();
    let mut by_worker: BTreeMap<(WorkerId, u64), Group> = BTreeMap::new();
    for one in pending {
        match shared.table.get(one.batch.partition) {
            Some(open) if one.refused.is_none_or(|(epoch, _)| epoch < open.location.epoch) => {
                let worker = Arc::clone(&open.worker);
                let key = (worker.worker.map(WorkerId::from).unwrap_or_default(), worker.incarnation);
                by_worker.entry(key).or_insert_with(|| (worker, Vec::new())).1.push((one, open));
            }
            _ => homeless.push(one),
        }
    }
    let groups = by_worker.into_values().map(|(worker, batches)| push_to(shared, worker, batches));
    let mut unreadable = false;
    for refused in crate::concurrently(groups).await {
        for (one, status) in refused? {
            unreadable |= status == Status::BadChecksum;
            homeless.push(one);
        }
    }
    if unreadable {
        rounds.checksum_tries += 1;
        if rounds.checksum_tries >= CHECKSUM_TRIES {
            let text = "its checksum does not match at the worker, again and again".to_owned();
            return Err(PushError::Refused { text });
        }
    }
    Ok(homeless)
}

/// Pushes batches to one worker; returns those not taken, with why.
async fn push_to(
    shared: &Arc<AttemptShared>,
    worker: Arc<v1::WorkerAddress>,
    batches: Vec<(Pending, Open)>,
) -> Result<Vec<(Pending, Status)>, PushError> {
    let connection = match shared.client.connections.to(&worker, Role::Push).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(worker = %worker.name, %error, "connect for a push");
            return Ok(refuse_all(shared, batches));
        }
    };
    let mut refused = Vec::new();
    let mut rest = batches;
    while !rest.is_empty() {
        let limit = shared.client.body_limit as usize;
        let mut bytes = 0;
        let fits = rest.iter().take(GATHERED_MAX).take_while(|(one, _)| {
            bytes += one.batch.length();
            bytes <= limit
        });
        let count = fits.count().max(1);
        let after = rest.split_off(count);
        let request = push_request(shared, (&worker, &connection), std::mem::replace(&mut rest, after));
        refused.extend(request.await?);
    }
    Ok(refused)
}

async fn push_request(
    shared: &Arc<AttemptShared>,
    (worker, connection): (&v1::WorkerAddress, &Connection),
    batches: Vec<(Pending, Open)>,
) -> Result<Vec<(Pending, Status)>, PushError> {
    let request = connection.next_request();
    let since = clock::now();
    let (shuffle, generation) = (shared.id.shuffle, Generation(shared.id.generation));
    let waited = Waited { client: &shared.client, worker, shuffle, generation };
    let answer = waited.answer(connection.call(request, frame(request, &batches), None)).await;
    shared.client.metrics.push_seconds.observe(clock::since(since).as_secs_f64());
    let statuses = match answer {
        Ok(answer) if answer.kind == Kind::PushReply as u8 => PushReply::decode(&answer.header).ok(),
        Ok(_) => None,
        Err(CallError::Failed { status, text }) if matches!(status.advice(), Some(Advice::Mend)) => {
            return Err(PushError::Refused { text: format!("{status}: {text}") });
        }
        Err(_) if sabotage::is(Sabotage::SilenceTakenForAnAck) => return Ok(Vec::new()),
        Err(error) => {
            tracing::debug!(%error, batches = batches.len(), "push");
            return Ok(refuse_all(shared, batches));
        }
    };
    let Some(PushReply { statuses, .. }) = statuses.filter(|reply| reply.statuses.len() == batches.len()) else {
        return Err(PushError::Refused { text: "the worker's answer to a push cannot be read".to_owned() });
    };
    let statuses = if sabotage::is(Sabotage::CountBasedInFlight) { counted(statuses) } else { statuses };
    let is_full = |((_, open), status): (&(Pending, Open), &Status)| {
        (*status == Status::SoftSplit).then_some((open.location.partition, open.location.epoch))
    };
    split::ask(shared, batches.iter().zip(&statuses).filter_map(is_full));
    let mut refused = Vec::new();
    for ((mut one, open), status) in batches.into_iter().zip(statuses) {
        if status.is_stored() {
            let metrics = &shared.client.metrics;
            metrics.batches.inc();
            metrics.sent_bytes.inc_by(one.batch.length() as u64);
            drop(one.batch.permit.take());
            continue;
        }
        match status.advice() {
            Some(Advice::Mend) => return Err(PushError::Refused { text: status.to_string() }),
            _ if status == Status::BadChecksum => shared.repushed("bad_checksum"),
            _ => {
                shared.repushed("hard_split");
                one.refused = Some((open.location.epoch, Cause::HardSplit));
            }
        }
        refused.push((one, status));
    }
    Ok(refused)
}

fn frame(request: u64, batches: &[(Pending, Open)]) -> Frame {
    if let [(one, open)] = batches {
        let push = Push { request, handle: open.handle };
        let (overhead, body) = (&one.batch.overhead, body_of_one(&one.batch));
        return Frame::with_inline(Kind::Push as u8, overhead, body, |header| push.encode(header));
    }
    let part = |(one, open): &(Pending, Open)| MergedPart { handle: open.handle, length: one.batch.length() as u32 };
    let parts: Vec<_> = batches.iter().map(part).collect();
    let all: Vec<_> = batches.iter().map(|(one, _)| &one.batch).collect();
    Frame::new(Kind::PushMerged as u8, body_of_many(&all), |header| {
        PushMerged::encode(request, &parts, header).expect("GATHERED_MAX is below the protocol's bound");
    })
}

/// Those that were taken first, whichever they are.
fn counted(mut statuses: Vec<Status>) -> Vec<Status> {
    statuses.sort_by_key(|status| !status.is_stored());
    statuses
}

/// The fate of these is not known: they go to the next epoch, and a reader leaves repeats out.
fn refuse_all(shared: &AttemptShared, batches: Vec<(Pending, Open)>) -> Vec<(Pending, Status)> {
    let refuse = |(one, open): (Pending, Open)| {
        shared.repushed("unreachable");
        let refused = Some((open.location.epoch, Cause::Unreachable));
        (Pending { refused, ..one }, Status::HardSplit)
    };
    batches.into_iter().map(refuse).collect()
}

/// Asks for the next epochs of what was refused, and waits where there is none.
async fn revive(shared: &AttemptShared, pending: &mut [Pending], rounds: &mut Rounds) -> Result<(), PushError> {
    locate(shared, pending).await?;
    for cause in [Cause::HardSplit, Cause::Unreachable] {
        let asked: BTreeMap<Partition, Option<Epoch>> = pending
            .iter()
            .filter_map(|one| match (one.refused, shared.table.get(one.batch.partition)) {
                (Some((epoch, why)), known) => {
                    let known_newer = known.is_some_and(|open| open.location.epoch > epoch);
                    (why == cause && !known_newer).then_some((one.batch.partition, Some(epoch)))
                }
                (None, None) => (cause == Cause::HardSplit).then_some((one.batch.partition, None)),
                (None, Some(_)) => None,
            })
            .collect();
        if !asked.is_empty() {
            ask(shared, asked, cause, rounds, pending).await?;
        }
    }
    Ok(())
}

/// Asks for places that were not told yet: one that others have found meanwhile must not be given up as a revive would.
async fn locate(shared: &AttemptShared, pending: &[Pending]) -> Result<(), PushError> {
    let untold = |one: &&Pending| one.refused.is_none() && shared.table.get(one.batch.partition).is_none();
    let asked: BTreeSet<_> = pending.iter().filter(untold).map(|one| one.batch.partition).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let asked: Vec<_> = asked.into_iter().collect();
    let open = shared.table.ask(&shared.client, &asked).await?;
    open.into_iter().flatten().for_each(|open| shared.table.learn(open));
    Ok(())
}

async fn ask(
    shared: &AttemptShared,
    asked: BTreeMap<Partition, Option<Epoch>>,
    cause: Cause,
    rounds: &mut Rounds,
    pending: &[Pending],
) -> Result<(), PushError> {
    let one = |(partition, epoch): (&Partition, &Option<Epoch>)| v1::ReviveOne {
        partition: partition.0,
        epoch: epoch.unwrap_or_default().0,
    };
    let request = v1::ReviveRequest {
        instance: shared.client.application.instance.0,
        attempt: Some(shared.id),
        partitions: asked.iter().map(one).collect(),
        cause: cause.into(),
    };
    shared.client.metrics.revives.inc();
    let split = asked.values().flatten().count() as u64;
    shared.client.metrics.splits.with_label_values(&[SPLIT_HARD]).inc_by(split);
    let call = shared.client.link.call(|mut door| {
        let request = request.clone();
        async move { door.revive(request).await }
    });
    let reply = call.await?;
    let placed = learn(shared, &asked, &reply)?;
    let no_space = || PushError::NoSpace {
        arena_bytes: reply.arena_bytes,
        held_bytes: reply.held_bytes,
        refused_bytes: pending.iter().map(|one| one.batch.length() as u64).sum(),
        missing: reply.missing.clone(),
    };
    let stuck = rounds.is_stuck(shared);
    if !placed {
        if stuck {
            return Err(no_space());
        }
        rounds.backoff.wait(&shared.client.random).await;
        return Ok(());
    }
    rounds.refusals += 1;
    if stuck && rounds.refusals > REFUSALS_MAX {
        let unreachable = || PushError::Refused { text: "none of the workers that were tried is reached".to_owned() };
        return Err(if cause == Cause::Unreachable { unreachable() } else { no_space() });
    }
    // A second refusal in a row is worth a pause: the cluster is moving, or filling up.
    if rounds.refusals > 1 {
        rounds.backoff.wait(&shared.client.random).await;
    }
    Ok(())
}

/// Takes an answer in; `false` where some of it has no place.
fn learn(
    shared: &AttemptShared,
    asked: &BTreeMap<Partition, Option<Epoch>>,
    reply: &v1::ReviveReply,
) -> Result<bool, PushError> {
    use v1::revived::Outcome;
    if reply.partitions.len() != asked.len() {
        return Err(LifecycleError::senseless("it speaks of other partitions than asked").into());
    }
    let workers: Vec<_> = reply.workers.iter().cloned().map(Arc::new).collect();
    let mut placed = true;
    for (revived, (partition, refused)) in reply.partitions.iter().zip(asked) {
        match revived.outcome() {
            Outcome::Revived => {
                let location = revived.location.unwrap_or_default();
                let open = shared.table.opened(&location, *partition, &workers)?;
                if refused.is_some_and(|refused| open.location.epoch <= refused) {
                    return Err(LifecycleError::senseless("the next epoch is not a later one").into());
                }
                shared.table.learn(open);
            }
            Outcome::MapEnded => return Err(PushError::MapEnded),
            Outcome::StageEnded => return Err(PushError::StageEnded),
            Outcome::NoSpace => placed = false,
        }
    }
    Ok(placed)
}

impl AttemptShared {
    fn repushed(&self, cause: &'static str) {
        self.client.metrics.repushed_batches.with_label_values(&[cause]).inc();
    }
}
