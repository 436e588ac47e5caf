//! Takes pushes: verifies each batch where it lies, appends it under its location's lock, answers one status per
//! location.
//!
//! Owns the push connection's loop and the choice between copying a batch and reading it straight into slots. Does not
//! own who may append (`mallorn_worker_core::push`) nor where (`memory`). Full is answered, not waited for: a connection
//! is left unread for memory only while flushing makes progress (`memory::pressure`), and its answers go out meanwhile.

pub(crate) mod answers;
pub(crate) mod receive;
mod replies;

use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::batch::{self, BatchHeader};
use mallorn_proto::id::{Handle, Instance};
use mallorn_proto::message::{Kind, MergedPart, Push, PushMerged, PushReply};
use mallorn_proto::status::Status;
use mallorn_runtime::clock;
use mallorn_runtime::connection::{Inbound, Incoming, Outbound};
use mallorn_runtime::task::Shutdown;
use mallorn_sabotage::{self as sabotage, Sabotage};
use mallorn_worker_core::memory::Pool;

use self::answers::{Answers, Asking, UNDECIDED};
use self::receive::{fill, refused, verify_pieces};
use self::replies::Replies;
use crate::memory::arena::ReceiveBuffers;
use crate::memory::location::Location;
use crate::memory::location::append::{Appended, Body, NotAppended};
use crate::memory::pressure::{Waited, Who};
use crate::memory::store::Store;
use crate::server::Ended;

/// Parts of a large merged push are gathered up to this size and copied from there; larger ones get slots of their own.
const GATHER_BYTES: usize = 256 * 1024;

/// How long one push may wait for memory in all.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Reads whose pushes are answered together, beside the first one.
const READS_PER_ANSWER: u32 = 3;

/// A connection that pushes.
pub(crate) struct PushConnection<'a> {
    appender: Appender<'a>,
    answers: Arc<Answers>,
    inbound: Inbound<ReceiveBuffers>,
    replies: Replies<'a>,
}

/// What a connection goes on with.
enum Next {
    /// Something was read, or answers were completed.
    Serve,
    /// The peer sends no more.
    Ended,
    /// This side ends.
    Shutdown,
}

impl<'a> PushConnection<'a> {
    pub(crate) fn new(appender: Appender<'a>, inbound: Inbound<ReceiveBuffers>, outbound: &'a mut Outbound) -> Self {
        let answers = Answers::new(appender.store.metrics.clone());
        let replies = Replies::new(outbound, Arc::clone(&answers));
        Self { appender, answers, inbound, replies }
    }

    /// Serves until the peer is done, and has all its answers, or the shutdown is triggered. Answers go out once nothing
    /// more has arrived, after a few reads, or when they are completed.
    pub(crate) async fn serve(&mut self, shutdown: &Shutdown) -> Result<(), Ended> {
        let (mut ended, mut reads) = (false, 0);
        loop {
            let drained = ended || self.take_buffered().await?;
            // What has arrived already is answered together with this.
            if drained && !ended && reads < READS_PER_ANSWER && self.inbound.try_fill()? {
                reads += 1;
                continue;
            }
            reads = 0;
            self.replies.flush().await?;
            if ended && !self.replies.waits() {
                return Ok(());
            }
            match self.next(shutdown, drained && !ended).await? {
                Next::Serve => {}
                Next::Ended => ended = true,
                // What waited was frozen before, and is answered.
                Next::Shutdown => return self.replies.flush().await,
            }
        }
    }

    /// Gives what was read back to whoever reads on after a failure.
    pub(crate) fn into_inbound(self) -> Inbound<ReceiveBuffers> {
        self.inbound
    }

    /// Takes the frames that were read; `false` when so much waits for replicas that no more may be taken.
    async fn take_buffered(&mut self) -> Result<bool, Ended> {
        while self.replies.has_room() {
            if !self.take_one().await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn next(&mut self, shutdown: &Shutdown, reads: bool) -> Result<Next, Ended> {
        let waits = self.replies.waits();
        let next = shutdown.or(async {
            tokio::select! {
                biased;
                more = self.inbound.fill(), if reads => more.map(|more| if more { Next::Serve } else { Next::Ended }),
                () = self.replies.told(), if waits => Ok(Next::Serve),
            }
        });
        Ok(next.await.unwrap_or(Ok(Next::Shutdown))?)
    }

    /// Takes the next frame of what was read; `false` when more must be read first.
    async fn take_one(&mut self) -> Result<bool, Ended> {
        let (appender, replies) = (&self.appender, &mut self.replies);
        match self.inbound.buffered()? {
            None => return Ok(false),
            Some(Incoming::Whole { kind, header, body }) => match Kind::from_wire(kind)? {
                Kind::Push => {
                    let push = Push::decode(header)?;
                    appender.store.metrics.push_single.inc();
                    let mut ask = Asking::new(&self.answers, push.request, 1);
                    let status = appender.append(replies, &mut ask, push.handle, body).await?;
                    replies.settle(ask, &[status]);
                }
                Kind::PushMerged => {
                    let merged = PushMerged::decode(header, body.len())?;
                    appender.store.metrics.push_merged.inc();
                    let mut ask = Asking::new(&self.answers, merged.request, merged.parts().len());
                    let statuses = appender.append_each(replies, &mut ask, merged.parts(), body).await?;
                    replies.settle(ask, &statuses);
                }
                kind => return Err(Ended::Unexpected { kind }),
            },
            // Boxed: these are rare, and their state would make every connection at rest larger.
            Some(Incoming::Large { kind, header, body_length }) => match Kind::from_wire(kind)? {
                Kind::Push => {
                    let Push { request, handle } = Push::decode(header)?;
                    appender.store.metrics.push_single.inc();
                    let parts = vec![MergedPart { handle, length: body_length as u32 }];
                    Box::pin(self.take_large(request, parts)).await?;
                }
                Kind::PushMerged => {
                    let merged = PushMerged::decode(header, body_length)?;
                    appender.store.metrics.push_merged.inc();
                    let (request, parts) = (merged.request, merged.parts().collect());
                    Box::pin(self.take_large(request, parts)).await?;
                }
                kind => return Err(Ended::Unexpected { kind }),
            },
        }
        Ok(true)
    }

    async fn take_large(&mut self, request: u64, parts: Vec<MergedPart>) -> Result<(), Ended> {
        let answers = Arc::clone(&self.answers);
        let mut ask = Asking::new(&answers, request, parts.len());
        let mut statuses = Vec::with_capacity(parts.len());
        let mut rest = &parts[..];
        while let Some(first) = rest.first() {
            // A push of one batch that no buffer held gains nothing from one.
            let gathered = if parts.len() == 1 { 0 } else { gather(rest) };
            if gathered == 0 {
                statuses.push(self.receive_apart(&mut ask, first.handle, first.length as usize).await?);
                ask.advance();
            } else {
                statuses.extend(self.receive_together(&mut ask, &rest[..gathered]).await?);
            }
            rest = &rest[gathered.max(1)..];
        }
        self.replies.settle(ask, &statuses);
        Ok(())
    }

    /// Receives parts that fit one buffer, and appends each by copying it.
    async fn receive_together(&mut self, ask: &mut Asking<'_>, parts: &[MergedPart]) -> Result<Vec<Status>, Ended> {
        let (appender, inbound) = (&self.appender, &mut self.inbound);
        let length: usize = parts.iter().map(|part| part.length as usize).sum();
        let Some(mut buffer) = appender.store.arena.take(Pool::Receive, length as u64, length as u64) else {
            fill(inbound, &mut [], length).await?;
            let refuse = |part: &MergedPart| {
                ask.advance();
                appender.counted(Status::HardSplit, part.length as usize)
            };
            return Ok(parts.iter().map(refuse).collect());
        };
        let body = &mut buffer.as_mut()[..length];
        inbound.body_into(body).await?;
        appender.append_each(&mut self.replies, ask, parts.iter().copied(), body).await
    }

    /// Receives one large batch straight into slots, which become pieces of its location.
    async fn receive_apart(&mut self, ask: &mut Asking<'_>, handle: Handle, length: usize) -> Result<Status, Ended> {
        let (appender, inbound) = (&self.appender, &mut self.inbound);
        let mut slots = Vec::new();
        let location = appender.find(handle).filter(|location| location.is_pushed_to());
        if let Some(location) = &location {
            // The body stays unread meanwhile.
            slots = loop {
                match appender.store.arena.take_all(location.pool(), length as u64) {
                    Some(slots) => break slots,
                    None if appender.room(&mut self.replies, ask).await? == Waited::Room => {}
                    None => break Vec::new(),
                }
            };
        }
        fill(inbound, &mut slots, length).await?;
        let Some(location) = location.filter(|_| !slots.is_empty()) else {
            return Ok(appender.counted(Status::HardSplit, length));
        };
        match verify_pieces(&location.place, &slots, length) {
            Ok(header) => {
                let pushed = location.push(&appender.store.arena, header, Body::Apart(slots, length), ask);
                Ok(appender.decided(pushed, length))
            }
            Err(error) => Ok(appender.counted(refused(&error), length)),
        }
    }
}

/// Appends the batches of one connection.
pub(crate) struct Appender<'a> {
    pub(crate) store: &'a Store,
    /// The application that the connection's hello named; it pushes to no other's locations.
    pub(crate) instance: Instance,
}

impl Appender<'_> {
    async fn append_each(
        &self,
        replies: &mut Replies<'_>,
        ask: &mut Asking<'_>,
        parts: impl ExactSizeIterator<Item = MergedPart>,
        mut body: &[u8],
    ) -> Result<Vec<Status>, Ended> {
        let mut statuses = Vec::with_capacity(parts.len());
        for part in parts {
            let (batch, rest) = body.split_at(part.length as usize);
            body = rest;
            statuses.push(self.append(replies, ask, part.handle, batch).await?);
            ask.advance();
        }
        Ok(statuses)
    }

    /// Verifies and appends one batch; a handle that is unknown, fenced or released belongs to an epoch that is over.
    async fn append(
        &self,
        replies: &mut Replies<'_>,
        ask: &mut Asking<'_>,
        handle: Handle,
        batch: &[u8],
    ) -> Result<Status, Ended> {
        let (location, header) = match self.verify(handle, batch) {
            Ok(verified) => verified,
            Err(status) => return Ok(self.counted(status, batch.len())),
        };
        let mut pushed = location.push(&self.store.arena, header, Body::Copied(batch), ask);
        while pushed == Err(NotAppended::NoMemory) && Box::pin(self.room(replies, ask)).await? == Waited::Room {
            pushed = location.push(&self.store.arena, header, Body::Copied(batch), ask);
        }
        Ok(self.decided(pushed, batch.len()))
    }

    fn verify(&self, handle: Handle, batch: &[u8]) -> Result<(Arc<Location>, BatchHeader), Status> {
        let location = self.find(handle).ok_or(Status::HardSplit)?;
        match batch::verify(&location.place, batch) {
            Ok((header, _)) => Ok((location, header)),
            Err(error) => Err(refused(&error)),
        }
    }

    fn find(&self, handle: Handle) -> Option<Arc<Location>> {
        self.store.by_handle(handle).filter(|location| location.place.instance == self.instance)
    }

    /// Waits for memory, while that has sense.
    async fn room(&self, replies: &mut Replies<'_>, ask: &mut Asking<'_>) -> Result<Waited, Ended> {
        if ask.pause.is_none() {
            ask.pause = self.store.pressure.pause(Who::Pusher, PAUSE_MAX);
        }
        let Some(pause) = &mut ask.pause else { return Ok(Waited::NoHope) };
        let since = clock::now();
        let waited = replies.wait_for_room(pause).await;
        self.store.metrics.replicate.paused(clock::since(since));
        waited
    }

    /// The status of a push; of one that waits, what stands for it.
    fn decided(&self, pushed: Result<Appended, NotAppended>, length: usize) -> Status {
        match pushed {
            Ok(Appended::Stored(status)) => self.counted(status, length),
            Ok(Appended::Waits) => {
                self.store.shed_waiting();
                UNDECIDED
            }
            Err(_) if sabotage::is(Sabotage::AckBeforeAppend) => self.counted(Status::Success, length),
            Err(NotAppended::Closed | NotAppended::NoMemory) => self.counted(Status::HardSplit, length),
        }
    }

    fn counted(&self, status: Status, length: usize) -> Status {
        self.store.metrics.decided(status, length);
        status
    }
}

/// How many of the next parts go into one buffer together; none when the first is too large for that.
fn gather(parts: &[MergedPart]) -> usize {
    let mut bytes = 0;
    let fits = |part: &&MergedPart| {
        bytes += part.length as usize;
        bytes <= GATHER_BYTES
    };
    parts.iter().take_while(fits).count()
}

/// Queues the answer to a push.
pub(crate) fn reply(outbound: &mut Outbound, request: u64, statuses: &[Status]) {
    outbound.push(Kind::PushReply as u8, |header| {
        PushReply::encode(request, statuses, header).expect("a push names at most so many locations as its answer may");
    });
}

#[cfg(test)]
mod tests;
