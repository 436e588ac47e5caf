//! One sealed location, read in whole batches from where it was left. Where a copy cannot be read the cursor goes on at
//! the other one, at the same offset. Workers that are away are waited for and found again; sealed bytes never change.

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

use super::copies::{Copies, id};
use crate::client::Inner;
use crate::error::ReadError;
use crate::watch::Waited;

const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What to read, and where.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) shuffle: u32,
    pub(super) generation: Generation,
    pub(super) location: LocationId,
    pub(super) seal: SealId,
    pub(super) length: u64,
    /// The workers of its copies: one or two.
    pub(super) workers: Vec<Arc<v1::WorkerAddress>>,
    pub(super) maps: Range<u32>,
}

/// A place in a location.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    source: Source,
    copies: Copies,
    offset: u64,
    stream: Option<Arc<OpenStream>>,
    /// The bytes read were broken too often.
    given_up: Option<String>,
    /// It was asked once whether another copy can be read than those that the plan named.
    has_looked: bool,
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

impl Trouble {
    fn text(&self) -> String {
        let (Self::Away(text) | Self::NotHere(text) | Self::Senseless(text)) = self;
        text.clone()
    }
}

impl Cursor {
    pub(super) fn new(client: &Inner, source: Source) -> Self {
        let LocationId { partition, epoch, .. } = source.location;
        let copies = Copies::new(&source.workers, partition.0.wrapping_add(epoch.0), &client.shunned);
        Self { source, copies, offset: 0, stream: None, given_up: None, has_looked: false }
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

    /// How many copies may be read.
    pub(super) fn copies(&self) -> usize {
        self.copies.count()
    }

    /// The bytes read were broken: the other copy's may be sound.
    pub(super) fn broken(&mut self) {
        self.stream = None;
        self.copies.switch();
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
    pub(super) async fn fetch(&mut self, client: &Arc<Inner>) -> Result<(Fetched, Option<Buffer>), Failed> {
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let since = clock::now();
        loop {
            if let Some(why) = self.given_up.take()
                && !self.finds_another(client, &why).await?
            {
                return Err(Failed::Lost { why });
            }
            let trouble = match self.try_fetch(client).await {
                Ok(fetched) => return Ok(fetched),
                Err(trouble) => trouble,
            };
            let why = trouble.text();
            tracing::debug!(location = %self.source.location, %why, worker = %self.copies.worker().name, "read a location");
            if matches!(trouble, Trouble::Senseless(_)) && !self.copies.tries_left() {
                return Err(Failed::Lost { why });
            }
            if self.goes_on(client) {
                continue;
            }
            self.find(client, &why).await?;
            if clock::since(since) >= client.config.read_within.0 {
                let waiting_for = format!("location {}: {why}", self.source.location);
                return Err(Failed::Read(ReadError::TimedOut { waiting_for }));
            }
            backoff.wait(&client.random).await;
        }
    }

    /// Whether there is a copy now that the plan did not name: the other one may have been sealed after it was made.
    async fn finds_another(&mut self, client: &Inner, why: &str) -> Result<bool, Failed> {
        if std::mem::replace(&mut self.has_looked, true) {
            return Ok(false);
        }
        let known: Vec<_> = self.copies.workers().collect();
        self.find(client, why).await?;
        Ok(self.copies.workers().any(|worker| !known.contains(&worker)))
    }

    /// Tries once to fetch the next whole batches, into memory that must not be held for as long as a worker is away.
    pub(super) async fn fetch_ahead(&mut self, client: &Arc<Inner>) -> Option<(Fetched, Option<Buffer>)> {
        let fetched = self.try_fetch(client).await;
        if fetched.is_err() {
            self.goes_on(client);
        }
        fetched.ok()
    }

    /// The copy that was read does not work; `true` when there is another one to go on at. The lifecycle manager is told,
    /// so that it finds out what is the matter, and sees to it that the other copy is sealed.
    fn goes_on(&mut self, client: &Arc<Inner>) -> bool {
        self.stream = None;
        let failed = id(self.copies.worker());
        if !self.copies.fails(&client.shunned) {
            return false;
        }
        client.metrics.read_failovers.inc();
        let request = self.question(client, std::iter::once(failed));
        let link = client.link.clone();
        client.spawner.spawn(async move {
            let call = link.call(|mut door| {
                let request = request.clone();
                async move { door.resolve(request).await }
            });
            if let Err(error) = call.await {
                tracing::debug!(%error, "report a copy that cannot be read");
            }
        });
        true
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
        let since = clock::now();
        let call = connection.call(request, frame, Some(room));
        let answer = self.waited(client).answer(call).await.map_err(trouble)?;
        client.metrics.fetch_seconds.observe(clock::since(since).as_secs_f64());
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
        self.offset = fetched.next;
        self.copies.works();
        client.metrics.fetched_bytes.inc_by(length);
        Ok((fetched, answer.body))
    }

    async fn open(&mut self, client: &Inner) -> Result<Arc<OpenStream>, Trouble> {
        let Source { location, seal, length, maps, .. } = &self.source;
        let connection = client.connections.to(self.copies.worker(), Role::Fetch).await;
        let connection = connection.map_err(|error| Trouble::Away(error.to_string()))?;
        let request = connection.next_request();
        let open = Open { request, location: *location, seal: *seal, map_start: maps.start, map_end: maps.end };
        // A task of its own: what is opened for a reader that is gone meanwhile must be closed again.
        let opening = task::spawn(open_stream(connection, open, *length, client.spawner.clone()));
        let opened = self.waited(client).answer(opening).await;
        let stream = opened.unwrap_or_else(|error| Err(Trouble::Senseless(error.to_string())))?;
        self.stream = Some(Arc::clone(&stream));
        Ok(stream)
    }

    fn waited<'a>(&'a self, client: &'a Inner) -> Waited<'a> {
        let Source { shuffle, generation, .. } = self.source;
        Waited { client, worker: self.copies.worker(), shuffle, generation }
    }

    /// Asks where the copies are now.
    async fn find(&mut self, client: &Inner, why: &str) -> Result<(), Failed> {
        let request = self.question(client, self.copies.workers());
        let call = client.link.call(|mut door| {
            let request = request.clone();
            async move { door.resolve(request).await }
        });
        let reply = call.await.map_err(|error| Failed::Read(error.into()))?;
        let name = self.copies.worker().name.clone();
        if self.copies.resolved(reply.workers) {
            return Ok(());
        }
        Err(Failed::Lost { why: format!("worker {name} is gone ({why})") })
    }

    /// Where the location is now that was read at these workers.
    fn question(&self, client: &Inner, workers: impl Iterator<Item = WorkerId>) -> v1::ResolveRequest {
        let workers: Vec<_> = workers.map(Into::into).collect();
        v1::ResolveRequest {
            instance: client.application.instance.0,
            shuffle: self.source.shuffle,
            generation: self.source.generation.0,
            lost: Vec::new(),
            read: vec![self.source.location.into(); workers.len()],
            workers,
            broken: self.has_looked,
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
