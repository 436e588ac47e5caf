//! Serves a worker that forwards batches: verifies each where it lies, and appends it at its location's own length.
//!
//! Owns the replicate connection's loop. Every frame is answered, in order, with a status per batch; answers go out once
//! per read. Does not own what may be appended (`mallorn_worker_core::replicate`).

use std::time::Duration;

use mallorn_proto::batch;
use mallorn_proto::message::{Kind, Replicate, ReplicatedPart};
use mallorn_proto::status::Status;
use mallorn_runtime::connection::{Inbound, Incoming, Outbound};
use mallorn_runtime::task::Shutdown;

use crate::memory::arena::ReceiveBuffers;
use crate::memory::location::append::{Body, NotAppended};
use crate::memory::pressure::{Pause, Waited, Who};
use crate::memory::store::Store;
use crate::push::receive::{fill, refused, verify_pieces};
use crate::push::reply;
use crate::server::Ended;

/// How long one frame may wait for memory: its sender gives the link up after twice as long.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A connection that another worker forwards on.
pub(crate) struct ReplicateConnection<'a> {
    pub(crate) store: &'a Store,
    pub(crate) inbound: Inbound<ReceiveBuffers>,
    pub(crate) outbound: &'a mut Outbound,
}

impl ReplicateConnection<'_> {
    /// Serves until the peer is done or the shutdown is triggered.
    pub(crate) async fn serve(&mut self, shutdown: &Shutdown) -> Result<(), Ended> {
        loop {
            while self.take_one().await? {}
            if self.outbound.queued_bytes() > 0 {
                self.outbound.flush().await?;
            }
            let Some(more) = shutdown.or(self.inbound.fill()).await else { return Ok(()) };
            if !more? {
                return Ok(());
            }
        }
    }

    /// Takes the next frame of what was read; `false` when more must be read first.
    async fn take_one(&mut self) -> Result<bool, Ended> {
        let mut taking = Taking { store: self.store, pause: None };
        match self.inbound.buffered()? {
            None => return Ok(false),
            Some(Incoming::Whole { kind, header, body }) => {
                let replicate = decode(kind, header, body.len())?;
                let (mut rest, mut statuses) = (body, Vec::with_capacity(replicate.parts().len()));
                for part in replicate.parts() {
                    let (batch, after) = rest.split_at(part.length as usize);
                    rest = after;
                    statuses.push(taking.copy(part, batch).await);
                }
                reply(self.outbound, replicate.request, &statuses);
            }
            Some(Incoming::Large { kind, header, body_length }) => {
                let replicate = decode(kind, header, body_length)?;
                let (request, parts) = (replicate.request, replicate.parts().collect::<Vec<_>>());
                let mut statuses = Vec::with_capacity(parts.len());
                for part in parts {
                    statuses.push(Box::pin(taking.receive(&mut self.inbound, part)).await?);
                }
                reply(self.outbound, request, &statuses);
            }
        }
        Ok(true)
    }
}

fn decode(kind: u8, header: &[u8], body_length: usize) -> Result<Replicate<'_>, Ended> {
    match Kind::from_wire(kind)? {
        Kind::Replicate => Ok(Replicate::decode(header, body_length)?),
        kind => Err(Ended::Unexpected { kind }),
    }
}

/// Takes the batches of one frame.
struct Taking<'a> {
    store: &'a Store,
    pause: Option<Pause>,
}

impl Taking<'_> {
    /// Appends a batch by copying it.
    async fn copy(&mut self, part: ReplicatedPart, batch: &[u8]) -> Status {
        let Some(location) = self.store.by_handle(part.handle) else { return Status::HardSplit };
        let header = match batch::verify(&location.place, batch) {
            Ok((header, _)) => header,
            Err(error) => return self.counted(refused(&error)),
        };
        loop {
            match location.accept(&self.store.arena, header, Body::Copied(batch), part.offset) {
                Ok(()) => return Status::Success,
                Err(NotAppended::Closed) => return Status::HardSplit,
                Err(NotAppended::NoMemory) if self.room().await == Waited::Room => {}
                Err(NotAppended::NoMemory) => return Status::HardSplit,
            }
        }
    }

    /// Receives a batch of a large frame straight into slots.
    async fn receive(&mut self, inbound: &mut Inbound<ReceiveBuffers>, part: ReplicatedPart) -> Result<Status, Ended> {
        let length = part.length as usize;
        let location = self.store.by_handle(part.handle);
        let Some(location) = location.filter(|location| location.follows_at(part.offset)) else {
            fill(inbound, &mut [], length).await?;
            return Ok(Status::HardSplit);
        };
        let mut slots = loop {
            match self.store.arena.take_all(location.pool(), length as u64) {
                Some(slots) => break slots,
                None if self.room().await == Waited::Room => {}
                None => break Vec::new(),
            }
        };
        fill(inbound, &mut slots, length).await?;
        if slots.is_empty() {
            return Ok(Status::HardSplit);
        }
        let header = match verify_pieces(&location.place, &slots, length) {
            Ok(header) => header,
            Err(error) => return Ok(self.counted(refused(&error))),
        };
        let accepted = location.accept(&self.store.arena, header, Body::Apart(slots, length), part.offset);
        Ok(accepted.map_or(Status::HardSplit, |()| Status::Success))
    }

    /// Waits for memory, while that has sense.
    async fn room(&mut self) -> Waited {
        if self.pause.is_none() {
            self.pause = self.store.pressure.pause(Who::Primary, PAUSE_MAX);
        }
        match &mut self.pause {
            Some(pause) => Box::pin(pause.room()).await,
            None => Waited::NoHope,
        }
    }

    fn counted(&self, status: Status) -> Status {
        if status == Status::BadChecksum {
            self.store.metrics.checksum_failures.inc();
        }
        status
    }
}
