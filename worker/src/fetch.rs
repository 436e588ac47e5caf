//! Serves readers: streams over sealed locations, whole batches straight out of the arena, or from disk (`disk`).
//!
//! Owns the fetch connection's loop, its streams and their bound. Does not own what an answer holds
//! (`mallorn_worker_core::fetch`). Bodies are never copied; what an answer holds of the arena is given back when it has
//! been written. Reads from disk run beside each other, and what is in memory does not wait for them.

mod disk;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mallorn_proto::id::Application;
use mallorn_proto::message::{CloseStream, Failure, Fetch, Fetched, Kind, Open, Opened};
use mallorn_proto::status::Status;
use mallorn_runtime::connection::{Inbound, Incoming, Outbound};
use mallorn_runtime::disk::{Trouble, trouble};
use mallorn_runtime::task::{self, Shutdown};
use mallorn_worker_core::fetch::{Cursor, DiskPlan, FetchError, MapRange, OpenError, Planned};
use mallorn_worker_core::memory::Pool;

use disk::DiskRead;
use tokio::sync::mpsc;

use crate::memory::arena::{Charge, ReceiveBuffers, View};
use crate::memory::location::Location;
use crate::memory::store::Store;
use crate::metrics::Counted;
use crate::server::Ended;
use crate::spill::read::DiskError;

/// Most streams that one connection may have open.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Answers queued are written out once they have this many bytes.
const FLUSH_BYTES: usize = 1024 * 1024;

/// Reads from disk that one connection may have at once; beyond them it is left unread.
const DISK_READS_MAX: usize = 8;

/// Heap of one stream.
const STREAM_HEAP_BYTES: u64 = 256;

/// Heap of one piece of an answer.
const PIECE_HEAP_BYTES: u64 = 128;

/// A connection that reads.
pub(crate) struct FetchConnection<'a> {
    pub(crate) streams: Streams<'a>,
    pub(crate) inbound: Inbound<ReceiveBuffers>,
    pub(crate) outbound: &'a mut Outbound,
}

impl FetchConnection<'_> {
    /// Serves until the peer is done or the shutdown is triggered.
    pub(crate) async fn serve(&mut self, shutdown: &Shutdown) -> Result<(), Ended> {
        let (done, mut read) = mpsc::channel(DISK_READS_MAX);
        let mut reading = 0;
        loop {
            // What the queued answers hold is counted until they are written.
            let mut held = Vec::new();
            while let Ok(answer) = read.try_recv() {
                reading -= 1;
                self.streams.answer_from_disk(answer, self.outbound);
            }
            while reading < DISK_READS_MAX
                && let Some(incoming) = self.inbound.buffered()?
            {
                match self.streams.answer(&incoming, self.outbound)? {
                    Answered::Queued(heap) => held.extend(heap),
                    Answered::FromDisk(job) => {
                        reading += 1;
                        let done = done.clone();
                        // Whoever asked may be gone.
                        task::spawn(async move { drop(done.send(job.run().await).await) });
                    }
                }
                if self.outbound.queued_bytes() >= FLUSH_BYTES {
                    self.outbound.flush().await?;
                    held.clear();
                }
            }
            if self.outbound.queued_bytes() > 0 {
                self.outbound.flush().await?;
            }
            drop(held);
            let more = async {
                tokio::select! {
                    biased;
                    Some(answer) = read.recv(), if reading > 0 => Ok::<_, Ended>(Some(Some(answer))),
                    more = self.inbound.fill(), if reading < DISK_READS_MAX => Ok(more?.then_some(None)),
                }
            };
            match shutdown.or(more).await {
                None => return Ok(()),
                Some(Err(error)) => return Err(error),
                Some(Ok(None)) => return Ok(()),
                Some(Ok(Some(None))) => {}
                Some(Ok(Some(Some(answer)))) => {
                    reading -= 1;
                    self.streams.answer_from_disk(answer, self.outbound);
                }
            }
        }
    }
}

/// What came of a frame.
enum Answered {
    /// The answer is queued, and holds this beside the arena's pieces.
    Queued(Option<Charge>),
    /// The answer is to be read from disk.
    FromDisk(DiskRead),
}

/// The streams of one connection.
pub(crate) struct Streams<'a> {
    store: &'a Store,
    application: Application,
    open: BTreeMap<u64, Stream>,
    next: u64,
}

struct Stream {
    location: Arc<Location>,
    maps: MapRange,
    cursor: Cursor,
    _heap: Charge,
    _counted: Counted,
}

/// Why a request on a fetch connection failed; the connection goes on.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("no stream {stream} is open on this connection; open the location again")]
    NoStream { stream: u64 },
    #[error("{STREAMS_MAX} streams are open on this connection; close some, or use another one")]
    TooManyStreams,
    #[error("the worker has no memory left for readers; try again later")]
    NoMemory,
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl RequestError {
    fn status(&self) -> Status {
        match self {
            Self::Open(OpenError::NotHere) | Self::Fetch(FetchError::NotHere) | Self::NoStream { .. } => {
                Status::NotHere
            }
            Self::Fetch(FetchError::NotABorder { .. }) => Status::Malformed,
            Self::Fetch(FetchError::TooLarge { .. }) => Status::TooLarge,
            Self::TooManyStreams
            | Self::NoMemory
            | Self::Disk(DiskError::NoMemory | DiskError::Hangs | DiskError::Ended) => Status::Busy,
            // The data is not to blame, so a reader that asks again is served.
            Self::Disk(DiskError::Read { error }) if trouble(error) == Trouble::Process => Status::Busy,
            Self::Disk(DiskError::Folder { .. } | DiskError::Read { .. } | DiskError::List) => Status::BadChecksum,
        }
    }
}

impl<'a> Streams<'a> {
    /// None open; they read locations of `application`.
    pub(crate) fn new(store: &'a Store, application: Application) -> Self {
        Self { store, application, open: BTreeMap::new(), next: 1 }
    }

    /// Queues the answer to one frame; returns what it holds beside the arena's pieces.
    fn answer(&mut self, incoming: &Incoming<'_>, outbound: &mut Outbound) -> Result<Answered, Ended> {
        let (kind, header) = match incoming {
            Incoming::Whole { kind, header, body: [] } => (Kind::from_wire(*kind)?, *header),
            Incoming::Whole { kind, .. } | Incoming::Large { kind, .. } => {
                return Err(Ended::Unexpected { kind: Kind::from_wire(*kind)? });
            }
        };
        match kind {
            Kind::Open => {
                let open = Open::decode(header)?;
                match self.open(&open) {
                    Ok(opened) => {
                        let encode = |header: &mut BytesMut| opened.encode(header).expect("admission bounds chunks");
                        outbound.push(Kind::Opened as u8, encode);
                    }
                    Err(error) => fail(outbound, open.request, &error),
                }
                Ok(Answered::Queued(None))
            }
            Kind::Fetch => {
                let fetch = Fetch::decode(header)?;
                match self.fetch(&fetch) {
                    Ok(Found::Memory(batches, heap)) => {
                        self.queue_body(&fetch, batches, outbound);
                        Ok(Answered::Queued(Some(heap)))
                    }
                    Ok(Found::Disk(job)) => Ok(Answered::FromDisk(job)),
                    Err(error) => {
                        fail(outbound, fetch.request, &error);
                        Ok(Answered::Queued(None))
                    }
                }
            }
            Kind::CloseStream => {
                self.open.remove(&CloseStream::decode(header)?.stream);
                Ok(Answered::Queued(None))
            }
            kind => Err(Ended::Unexpected { kind }),
        }
    }

    fn open(&mut self, open: &Open) -> Result<Opened, RequestError> {
        if self.open.len() >= STREAMS_MAX {
            return Err(RequestError::TooManyStreams);
        }
        let location = self.store.by_name(&self.application, open.location).ok_or(OpenError::NotHere)?;
        let (length, chunk_ends) = {
            let state = location.lock();
            if state.leaving.is_moved() {
                return Err(OpenError::NotHere.into());
            }
            (state.log.open(open.seal)?, state.log.chunk_ends().collect())
        };
        let heap = self.store.arena.charge(Pool::Read, STREAM_HEAP_BYTES).ok_or(RequestError::NoMemory)?;
        let counted = Counted::begin(self.store.metrics.streams.clone());
        let maps = MapRange { start: open.map_start, end: open.map_end };
        let stream = self.next;
        self.next += 1;
        let cursor = Cursor::default();
        self.open.insert(stream, Stream { location, maps, cursor, _heap: heap, _counted: counted });
        Ok(Opened { request: open.request, stream, length, chunk_ends })
    }

    fn fetch(&mut self, fetch: &Fetch) -> Result<Found, RequestError> {
        let stream = self.open.get_mut(&fetch.stream).ok_or(RequestError::NoStream { stream: fetch.stream })?;
        let state = stream.location.lock();
        let plan = match state.log.plan(stream.cursor, fetch.offset, fetch.limit, stream.maps)? {
            Planned::Memory(plan) => plan,
            Planned::Disk(plan) => {
                drop(state);
                return Ok(Found::Disk(self.disk_read(fetch, plan)?));
            }
        };
        let mut views = Vec::new();
        for run in &plan.runs {
            state.views(run.clone(), &mut views);
        }
        drop(state);
        let heap = views.len() as u64 * PIECE_HEAP_BYTES;
        let heap = self.store.arena.charge(Pool::Read, heap).ok_or(RequestError::NoMemory)?;
        stream.cursor = plan.next;
        Ok(Found::Memory(Batches { views, bytes: plan.bytes, next: plan.next.offset }, heap))
    }

    fn disk_read(&self, fetch: &Fetch, plan: DiskPlan) -> Result<DiskRead, RequestError> {
        let stream = self.open.get(&fetch.stream).ok_or(RequestError::NoStream { stream: fetch.stream })?;
        Ok(DiskRead {
            fetch: *fetch,
            plan,
            maps: stream.maps,
            location: Arc::clone(&stream.location),
            spill: Arc::clone(&self.store.spill),
        })
    }

    /// Queues what was read from disk.
    fn answer_from_disk(&self, answer: disk::Answer, outbound: &mut Outbound) {
        let disk::Answer { fetch, read } = answer;
        match read {
            Ok(read) => {
                self.store.metrics.spill.read_bytes.inc_by(read.bytes);
                self.queue_body(&fetch, read, outbound);
            }
            Err(error) => fail(outbound, fetch.request, &error),
        }
    }

    fn queue_body(&self, fetch: &Fetch, batches: Batches, outbound: &mut Outbound) {
        let Batches { views, bytes, next } = batches;
        self.store.metrics.fetch_requests.inc();
        self.store.metrics.fetch_bytes.inc_by(bytes);
        let (request, stream, offset) = (fetch.request, fetch.stream, fetch.offset);
        let fetched = Fetched { request, stream, offset, next };
        let body = views.into_iter().map(Bytes::from_owner).collect();
        outbound.push_with_body(Kind::Fetched as u8, body, |header| fetched.encode(header));
    }
}

/// Where an answer is.
enum Found {
    /// In memory; it holds this beside the arena's pieces.
    Memory(Batches, Charge),
    /// To be read.
    Disk(DiskRead),
}

/// Whole batches that answer a fetch.
#[derive(Default)]
struct Batches {
    views: Vec<View>,
    bytes: u64,
    /// Where the reader goes on.
    next: u64,
}

fn fail(outbound: &mut Outbound, request: u64, error: &RequestError) {
    let failure = Failure { request, status: error.status(), text: error.to_string() };
    outbound.push(Kind::Failure as u8, |header| failure.encode(header));
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_worker_out_of_descriptors_or_memory_is_busy_and_its_data_not_broken() {
        let status = |error: Error| RequestError::Disk(error.into()).status();
        let (too_many_in_process, too_many_in_system) = (Error::from_raw_os_error(24), Error::from_raw_os_error(23));
        for error in [too_many_in_process, too_many_in_system, ErrorKind::OutOfMemory.into()] {
            assert_eq!(status(error), Status::Busy);
        }
        for error in [Error::from_raw_os_error(5), ErrorKind::UnexpectedEof.into(), ErrorKind::NotFound.into()] {
            assert_eq!(status(error), Status::BadChecksum);
        }
    }
}
