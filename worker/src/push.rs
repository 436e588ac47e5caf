//! Takes pushes: verifies each batch where it lies, appends it under its location's lock, answers one status per
//! location.
//!
//! Owns the push connection's loop and the choice between copying a batch and reading it straight into slots. Does not
//! own who may append (`mallorn_worker_core::push`) nor where (`memory`). Nothing here waits for memory: full is
//! answered, and the body is read away.

use std::sync::Arc;

use mallorn_proto::batch::{self, BatchError, BatchHeader, Envelope, HEADER_BYTES, OVERHEAD_BYTES, Place, Verifier};
use mallorn_proto::id::{Handle, Instance};
use mallorn_proto::message::{Kind, MergedPart, Push, PushMerged, PushReply};
use mallorn_proto::status::Status;
use mallorn_runtime::connection::{Inbound, Incoming, Outbound};
use mallorn_runtime::task::Shutdown;
use mallorn_worker_core::memory::Pool;
use mallorn_worker_core::push::Life;

use crate::memory::arena::{ReceiveBuffers, Slot};
use crate::memory::location::Location;
use crate::memory::store::Store;
use crate::server::Ended;

/// What is read away of a large body goes through a buffer of this size.
const SKIP_BYTES: usize = 64 * 1024;

/// Parts of a large merged push are gathered up to this size and copied from there; larger ones get slots of their own.
const GATHER_BYTES: usize = 256 * 1024;

/// A connection that pushes.
pub(crate) struct PushConnection<'a> {
    pub(crate) appender: Appender<'a>,
    pub(crate) inbound: Inbound<ReceiveBuffers>,
    pub(crate) outbound: &'a mut Outbound,
}

impl PushConnection<'_> {
    /// Serves until the peer is done or the shutdown is triggered. Answers go out once per read.
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
        match self.inbound.buffered()? {
            None => return Ok(false),
            Some(Incoming::Whole { kind, header, body }) => match Kind::from_wire(kind)? {
                Kind::Push => {
                    let push = Push::decode(header)?;
                    let status = self.appender.push(push.handle, body);
                    reply(self.outbound, push.request, &[status]);
                }
                Kind::PushMerged => {
                    let merged = PushMerged::decode(header, body.len())?;
                    let statuses = self.appender.push_merged(merged.parts(), body);
                    reply(self.outbound, merged.request, &statuses);
                }
                kind => return Err(Ended::Unexpected { kind }),
            },
            // Boxed: these are rare, and their state would make every connection at rest larger.
            Some(Incoming::Large { kind, header, body_length }) => match Kind::from_wire(kind)? {
                Kind::Push => {
                    let push = Push::decode(header)?;
                    Box::pin(self.take_large(push, body_length)).await?;
                }
                Kind::PushMerged => {
                    let merged = PushMerged::decode(header, body_length)?;
                    let (request, parts) = (merged.request, merged.parts().collect());
                    Box::pin(self.take_large_merged(request, parts)).await?;
                }
                kind => return Err(Ended::Unexpected { kind }),
            },
        }
        Ok(true)
    }

    async fn take_large(&mut self, push: Push, length: usize) -> Result<(), Ended> {
        let status = self.receive_apart(push.handle, length).await?;
        self.appender.store.metrics.push_single.inc();
        reply(self.outbound, push.request, &[status]);
        Ok(())
    }

    async fn take_large_merged(&mut self, request: u64, parts: Vec<MergedPart>) -> Result<(), Ended> {
        let mut statuses = Vec::with_capacity(parts.len());
        let mut rest = &parts[..];
        while let Some(first) = rest.first() {
            let gathered = gather(rest);
            if gathered == 0 {
                statuses.push(self.receive_apart(first.handle, first.length as usize).await?);
            } else {
                statuses.extend(self.receive_together(&rest[..gathered]).await?);
            }
            rest = &rest[gathered.max(1)..];
        }
        self.appender.store.metrics.push_merged.inc();
        reply(self.outbound, request, &statuses);
        Ok(())
    }

    /// Receives parts that fit one buffer, and appends each by copying it.
    async fn receive_together(&mut self, parts: &[MergedPart]) -> Result<Vec<Status>, Ended> {
        let length: usize = parts.iter().map(|part| part.length as usize).sum();
        let Some(mut buffer) = self.appender.store.arena.take(Pool::Receive, length as u64, length as u64) else {
            self.skip(length).await?;
            return Ok(parts
                .iter()
                .map(|part| self.appender.counted(Status::HardSplit, part.length as usize))
                .collect());
        };
        let body = &mut buffer.as_mut()[..length];
        self.inbound.body_into(body).await?;
        Ok(self.appender.append_each(parts.iter().copied(), body))
    }

    /// Receives one large batch straight into slots, which become pieces of its location.
    async fn receive_apart(&mut self, handle: Handle, length: usize) -> Result<Status, Ended> {
        let location = self.appender.open(handle);
        let taken = location.and_then(|location| Some((location, self.appender.take(length)?)));
        let Some((location, mut slots)) = taken else {
            self.skip(length).await?;
            return Ok(self.appender.counted(Status::HardSplit, length));
        };
        let mut left = length;
        for slot in &mut slots {
            let part = left.min(slot.length());
            self.inbound.body_into(&mut slot.as_mut()[..part]).await?;
            left -= part;
        }
        let status = match verify_pieces(&location.place, &slots, length) {
            Ok(header) => location.attach(header, slots, length),
            Err(error) => refused(&error),
        };
        Ok(self.appender.counted(status, length))
    }

    /// Reads bytes of a large body away.
    async fn skip(&mut self, length: usize) -> Result<(), Ended> {
        let mut away = vec![0; length.min(SKIP_BYTES)];
        let mut left = length;
        while left > 0 {
            let part = left.min(away.len());
            self.inbound.body_into(&mut away[..part]).await?;
            left -= part;
        }
        Ok(())
    }
}

/// Appends the batches of one connection.
pub(crate) struct Appender<'a> {
    pub(crate) store: &'a Store,
    /// The application that the connection's hello named; it pushes to no other's locations.
    pub(crate) instance: Instance,
}

impl Appender<'_> {
    fn push(&self, handle: Handle, batch: &[u8]) -> Status {
        self.store.metrics.push_single.inc();
        self.append(handle, batch)
    }

    fn push_merged(&self, parts: impl ExactSizeIterator<Item = MergedPart>, body: &[u8]) -> Vec<Status> {
        self.store.metrics.push_merged.inc();
        self.append_each(parts, body)
    }

    fn append_each(&self, parts: impl ExactSizeIterator<Item = MergedPart>, mut body: &[u8]) -> Vec<Status> {
        let append = |part: MergedPart| {
            let (batch, rest) = body.split_at(part.length as usize);
            body = rest;
            self.append(part.handle, batch)
        };
        parts.map(append).collect()
    }

    /// Verifies and appends one batch; a handle that is unknown, fenced or released belongs to an epoch that is over.
    fn append(&self, handle: Handle, batch: &[u8]) -> Status {
        let Some(location) = self.find(handle) else { return self.counted(Status::HardSplit, batch.len()) };
        let status = match batch::verify(&location.place, batch) {
            Ok((header, _)) => location.append(&self.store.arena, header, batch),
            Err(error) => refused(&error),
        };
        self.counted(status, batch.len())
    }

    fn find(&self, handle: Handle) -> Option<Arc<Location>> {
        self.store.by_handle(handle).filter(|location| location.place.instance == self.instance)
    }

    fn open(&self, handle: Handle) -> Option<Arc<Location>> {
        self.find(handle).filter(|location| location.life() == Life::Open)
    }

    fn take(&self, length: usize) -> Option<Vec<Slot>> {
        self.store.arena.take_all(Pool::Push, length as u64)
    }

    fn counted(&self, status: Status, length: usize) -> Status {
        let metrics = &self.store.metrics;
        metrics.batch(status);
        if status.is_stored() {
            metrics.push_bytes.inc_by(length as u64);
        }
        if status == Status::BadChecksum {
            metrics.checksum_failures.inc();
        }
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

/// Checks a batch that lies in slots, `length` bytes from the start of the first.
fn verify_pieces(place: &Place, slots: &[Slot], length: usize) -> Result<BatchHeader, BatchError> {
    let first = slots.first().map_or(&[][..], |slot| &slot.as_ref()[..length.min(slot.length())]);
    let header = BatchHeader::decode(first)?;
    if header.stored_bytes() != length as u64 {
        return Err(BatchError::Length { claimed: header.stored_bytes(), have: length as u64 });
    }
    let envelope = Envelope::decode(&first[HEADER_BYTES..])?;
    let mut verifier = Verifier::new(place);
    verifier.update(&first[..OVERHEAD_BYTES - size_of_val(&envelope.crc)]);
    verifier.update(&first[OVERHEAD_BYTES..]);
    let mut left = length - first.len();
    for slot in &slots[1..] {
        let part = left.min(slot.length());
        verifier.update(&slot.as_ref()[..part]);
        left -= part;
    }
    verifier.finish(&envelope)?;
    Ok(header)
}

/// The status of a batch that is not what it claims to be.
fn refused(error: &BatchError) -> Status {
    match error {
        BatchError::Checksum { .. } => Status::BadChecksum,
        BatchError::Short { .. }
        | BatchError::Length { .. }
        | BatchError::Version { .. }
        | BatchError::Codec { .. }
        | BatchError::Flags { .. }
        | BatchError::RawLength { .. } => Status::Malformed,
    }
}

fn reply(outbound: &mut Outbound, request: u64, statuses: &[Status]) {
    outbound.push(Kind::PushReply as u8, |header| {
        PushReply::encode(request, statuses, header).expect("a push names at most so many locations as its answer may");
    });
}

#[cfg(test)]
mod tests;
