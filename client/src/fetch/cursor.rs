//! One sealed location, read in whole batches from where it was left. A worker that is away is waited for and found
//! again; sealed bytes never change, so the cursor goes on where it was.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mallorn_proto::id::{Generation, LocationId, SealId, WorkerId};
use mallorn_proto::message::{CloseStream, Fetch, Fetched, Kind, Open, Opened, Role};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::clock;
use mallorn_runtime::connection::{Buffer, CallError, Connection, Frame};
use mallorn_runtime::task::{self, Spawner};

use crate::client::Inner;
use crate::error::ReadError;

const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Answers of a live worker that make no sense, before the location is lost.
const SENSELESS_TRIES: u32 = 3;

/// What to read, and where.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) shuffle: u32,
    pub(super) generation: Generation,
    pub(super) location: LocationId,
    pub(super) seal: SealId,
    pub(super) length: u64,
    pub(super) worker: Arc<v1::WorkerAddress>,
    pub(super) maps: Range<u32>,
}

/// A place in a location.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    source: Source,
    offset: u64,
    stream: Option<Arc<OpenStream>>,
    /// Senseless answers on end.
    senseless: u32,
    /// The bytes read were broken too often.
    given_up: Option<String>,
}

/// A stream at a worker, which is told when nobody reads on; there may only be so many of them.
#[derive(Debug)]
struct OpenStream {
    connection: Connection,
    id: u64,
    spawner: Spawner,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let close = CloseStream { stream: self.id };
        let frame = Frame::new(Kind::CloseStream as u8, Vec::new(), |header| close.encode(header));
        let connection = self.connection.clone();
        // Where it does not arrive, the stream ends with its connection.
        self.spawner.spawn(async move { drop(connection.tell(frame).await) });
    }
}

/// Whole batches of a location.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// A location that cannot be read on.
#[derive(Debug)]
pub(super) enum Failed {
    /// It is gone.
    Lost { why: String },
    /// The read as a whole is over.
    Read(ReadError),
}

/// What one try came to.
enum Trouble {
    /// The worker is not reached; it may come back.
    Away(String),
    /// The worker answers, and does not have the location.
    NotHere(String),
    /// The worker answers something that makes no sense.
    Senseless(String),
}

impl Cursor {
    pub(super) fn new(source: Source) -> Self {
        Self { source, offset: 0, stream: None, senseless: 0, given_up: None }
    }

    pub(super) fn location(&self) -> LocationId {
        self.source.location
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.offset >= self.source.length
    }

    /// Takes the location for lost: its bytes were broken too often.
    pub(super) fn give_up(&mut self, why: &str) {
        self.given_up = Some(format!("its bytes are broken: {why}"));
    }

    /// Goes to an offset that an earlier answer named.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Fetches the next whole batches, however often it takes.
    pub(super) async fn fetch(&mut self, client: &Inner) -> Result<(Fetched, Option<Buffer>), Failed> {
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let since = clock::now();
        loop {
            if let Some(why) = &self.given_up {
                return Err(Failed::Lost { why: why.clone() });
            }
            let trouble = match self.try_fetch(client).await {
                Ok(fetched) => return Ok(fetched),
                Err(trouble) => trouble,
            };
            self.stream = None;
            let why = match trouble {
                Trouble::NotHere(why) => {
                    // Whether it was released, or lost, the lifecycle manager knows.
                    self.find(client, &why).await?;
                    return Err(Failed::Lost { why });
                }
                Trouble::Senseless(why) => {
                    self.senseless += 1;
                    if self.senseless >= SENSELESS_TRIES {
                        return Err(Failed::Lost { why });
                    }
                    why
                }
                Trouble::Away(why) => why,
            };
            tracing::debug!(location = %self.source.location, %why, "read a location");
            self.find(client, &why).await?;
            if since.elapsed() >= client.config.read_within.0 {
                let waiting_for = format!("location {}: {why}", self.source.location);
                return Err(Failed::Read(ReadError::TimedOut { waiting_for }));
            }
            backoff.wait(&client.random).await;
        }
    }

    /// Tries once to fetch the next whole batches, into memory that must not be held for as long as a worker is away.
    pub(super) async fn fetch_ahead(&mut self, client: &Inner) -> Option<(Fetched, Option<Buffer>)> {
        let fetched = self.try_fetch(client).await;
        if fetched.is_err() {
            self.stream = None;
        }
        fetched.ok()
    }

    async fn try_fetch(&mut self, client: &Inner) -> Result<(Fetched, Option<Buffer>), Trouble> {
        let stream = match &self.stream {
            Some(stream) => Arc::clone(stream),
            None => self.open(client).await?,
        };
        let (connection, stream) = (&stream.connection, stream.id);
        let request = connection.next_request();
        let (offset, limit) = (self.offset, client.body_limit);
        let fetch = Fetch { request, stream, offset, limit };
        let frame = Frame::new(Kind::Fetch as u8, Vec::new(), |header| fetch.encode(header));
        let left = self.source.length.saturating_sub(offset).min(u64::from(limit));
        let room = client.buffers.take(left as usize);
        let answer = connection.call(request, frame, Some(room)).await.map_err(trouble)?;
        let senseless = |what: &str| Trouble::Senseless(format!("its worker's answer to a fetch {what}"));
        if answer.kind != Kind::Fetched as u8 {
            return Err(senseless("is of another kind"));
        }
        let fetched = Fetched::decode(&answer.header).map_err(|error| senseless(&error.to_string()))?;
        let length = answer.body.as_ref().map_or(0, |body| body.as_ref().len() as u64);
        let sound = fetched.stream == stream
            && fetched.offset == offset
            && fetched.next > offset
            && fetched.next <= self.source.length
            && length <= fetched.next - offset;
        if !sound {
            return Err(senseless("does not fit the question"));
        }
        (self.offset, self.senseless) = (fetched.next, 0);
        client.metrics.fetched_bytes.inc_by(length);
        Ok((fetched, answer.body))
    }

    async fn open(&mut self, client: &Inner) -> Result<Arc<OpenStream>, Trouble> {
        let Source { location, seal, length, maps, .. } = &self.source;
        let connection = client.connections.to(&self.source.worker, Role::Fetch).await;
        let connection = connection.map_err(|error| Trouble::Away(error.to_string()))?;
        let request = connection.next_request();
        let open = Open { request, location: *location, seal: *seal, map_start: maps.start, map_end: maps.end };
        // A task of its own: what is opened for a reader that is gone meanwhile must be closed again.
        let opening = task::spawn(open_stream(connection, open, *length, client.spawner.clone()));
        let stream = opening.await.unwrap_or_else(|error| Err(Trouble::Senseless(error.to_string())))?;
        self.stream = Some(Arc::clone(&stream));
        Ok(stream)
    }

    /// Asks where the worker is now.
    async fn find(&mut self, client: &Inner, why: &str) -> Result<(), Failed> {
        let worker = self.source.worker.worker.map(WorkerId::from).unwrap_or_default();
        let request = v1::ResolveRequest {
            instance: client.application.instance.0,
            workers: vec![worker.into()],
            shuffle: self.source.shuffle,
            generation: self.source.generation.0,
            lost: Vec::new(),
            ..Default::default()
        };
        let call = client.link.call(|mut door| {
            let request = request.clone();
            async move { door.resolve(request).await }
        });
        let reply = call.await.map_err(|error| Failed::Read(error.into()))?;
        match reply.workers.into_iter().next() {
            Some(v1::ResolvedLocation { gone: true, .. }) => {
                Err(Failed::Lost { why: format!("worker {} is gone ({why})", self.source.worker.name) })
            }
            Some(v1::ResolvedLocation { address: Some(address), .. }) if address.worker == Some(worker.into()) => {
                self.source.worker = Arc::new(address);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

async fn open_stream(
    connection: Connection,
    open: Open,
    length: u64,
    spawner: Spawner,
) -> Result<Arc<OpenStream>, Trouble> {
    let frame = Frame::new(Kind::Open as u8, Vec::new(), |header| open.encode(header));
    let answer = connection.call(open.request, frame, None).await.map_err(trouble)?;
    if answer.kind != Kind::Opened as u8 {
        return Err(Trouble::Senseless("its worker's answer to an open is of another kind".to_owned()));
    }
    let opened = Opened::decode(&answer.header).map_err(|error| Trouble::Senseless(error.to_string()))?;
    let stream = Arc::new(OpenStream { connection, id: opened.stream, spawner });
    if opened.length != length {
        let text = format!("its worker has {} bytes of it, {length} were sealed", opened.length);
        return Err(Trouble::Senseless(text));
    }
    Ok(stream)
}

fn trouble(error: CallError) -> Trouble {
    let text = error.to_string();
    match error {
        CallError::Closed { .. } | CallError::TimedOut => Trouble::Away(text),
        CallError::Failed { status: Status::NotHere | Status::Fenced, .. } => Trouble::NotHere(text),
        CallError::Failed { status: Status::Busy | Status::ShuttingDown | Status::Internal, .. } => Trouble::Away(text),
        CallError::Failed { .. } => Trouble::Senseless(text),
    }
}
