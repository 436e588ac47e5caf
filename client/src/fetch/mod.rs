//! Reading: sealed locations are fetched in whole batches, checked, and delivered exactly once.
//!
//! | step | file |
//! |---|---|
//! | the stream that the engine sees | here |
//! | what to read, and which attempts count | `plan` |
//! | one location, until it is read or lost | `cursor` |
//! | which of its copies is read | `copies` |
//! | fetching ahead while the engine works | `ahead` |
//!
//! The end of a partition is only passed when every batch of every attempt that counts was delivered once
//! (`mallorn_client_core::fetch`); otherwise the read fails as `PartitionLost`.

mod ahead;
mod copies;
mod cursor;
mod plan;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mallorn_client_core::fetch::{Incomplete, Offered, PartitionRead};
use mallorn_client_core::memory::Share;
use mallorn_proto::batch::{self, BatchError, BatchHeader, Envelope, HEADER_BYTES, OVERHEAD_BYTES, Place};
use mallorn_proto::id::{Generation, LocationId, MapId, Partition, Token};
use mallorn_runtime::clock;
use mallorn_sabotage::{self as sabotage, Sabotage};

use crate::client::{Inner, ReadRequest};
use crate::codec;
use crate::error::ReadError;
use crate::memory::Permit;
use ahead::Ahead;
pub(crate) use copies::Shunned;
use cursor::{Chunk, Cursor, Failed};
use plan::{Plan, PlannedPartition};

/// How long opening a reader waits for memory that other readers hold.
const ROOM_WITHIN: Duration = Duration::from_secs(30);
/// Reads of the same bytes of one copy whose checksums do not match, before they are lost.
const CHECKSUM_TRIES: u32 = 3;

/// A batch of whole units, in no particular order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The partition.
    pub partition: Partition,
    /// The map task that pushed it.
    pub map: MapId,
    /// The units, one after the other, as they were pushed.
    pub data: Bytes,
}

/// A stream of batches. Dropping it, or a future of it, harms nothing.
#[derive(Debug)]
pub struct Reader {
    client: Arc<Inner>,
    plan: Plan,
    partition: Option<Reading>,
    /// Room for one maximal batch, owned for life, so that a reader can always go on.
    _room: Permit,
    failed: Option<ReadError>,
}

/// The partition being read.
#[derive(Debug)]
struct Reading {
    partition: Partition,
    read: PartitionRead,
    locations: VecDeque<cursor::Source>,
    at: At,
    /// Where bytes were broken last, and how often on end.
    broken: Option<(LocationId, u64, u32)>,
    /// Locations found gone, in a read by tokens: it goes on to find out what is missing.
    lost: Vec<(LocationId, String)>,
}

/// Where in the partition.
#[derive(Debug)]
enum At {
    /// Before the first, or between two locations.
    Between,
    /// In a location, whose next bytes are being fetched.
    Fetching(Ahead),
    /// In a location, with bytes at hand.
    /// `offset` is where the bytes began when they were fetched.
    Chunk { rest: Bytes, offset: u64, next: Next, location: LocationId },
}

/// What follows a chunk.
#[derive(Debug)]
enum Next {
    /// Its location goes on, and is being fetched.
    Ahead(Ahead),
    /// Its location goes on, and there was no memory to fetch ahead.
    Later(Cursor),
    /// It was the location's last.
    End(Cursor),
}

impl Next {
    fn into_cursor(self) -> Cursor {
        match self {
            Self::Ahead(ahead) => ahead.into_cursor(),
            Self::Later(cursor) | Self::End(cursor) => cursor,
        }
    }
}

impl Reader {
    pub(crate) async fn open(client: &Arc<Inner>, request: ReadRequest) -> Result<Self, ReadError> {
        // Room last: whoever waits for a stage to end holds nothing that the stage's own tasks may need to read.
        let plan = Plan::make(client, request).await?;
        let body = u64::from(client.body_limit);
        let room = clock::timeout(ROOM_WITHIN, client.memory.take(Share::Read, body)).await;
        let room = room.map_err(|_| ReadError::NoRoom)?;
        Ok(Self { client: Arc::clone(client), plan, partition: None, _room: room, failed: None })
    }

    /// The generation that is read.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.plan.generation()
    }

    /// The next batch; `None` when everything was delivered. A dropped future has lost nothing.
    ///
    /// # Errors
    /// Why the rest cannot be read; the reader repeats it from then on. What was delivered before an error may be
    /// incomplete, and must not be used.
    pub async fn next(&mut self) -> Result<Option<Batch>, ReadError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.advance().await;
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.partition = None;
        }
        result
    }

    async fn advance(&mut self) -> Result<Option<Batch>, ReadError> {
        loop {
            let Some(reading) = &mut self.partition else {
                let Some(planned) = self.plan.next_partition(&self.client).await? else { return Ok(None) };
                self.partition = Some(Reading::begin(planned));
                continue;
            };
            if let Some(batch) = reading.next_at_hand(&self.client, &self.plan)? {
                return Ok(Some(batch));
            }
            if !reading.fetch(&self.client, &self.plan).await? {
                reading.finish(&self.client, &self.plan).await?;
                self.partition = None;
            }
        }
    }
}

impl Reading {
    fn begin(planned: PlannedPartition) -> Self {
        let PlannedPartition { partition, expected, locations } = planned;
        let (read, locations) = (PartitionRead::new(expected), locations.into());
        Self { partition, read, locations, at: At::Between, broken: None, lost: Vec::new() }
    }

    /// The next batch of the bytes at hand that counts and was not delivered before.
    fn next_at_hand(&mut self, client: &Inner, plan: &Plan) -> Result<Option<Batch>, ReadError> {
        while let At::Chunk { rest, .. } = &mut self.at {
            if rest.is_empty() {
                return Ok(None);
            }
            let whole = BatchHeader::decode(rest).ok().filter(|header| header.stored_bytes() <= rest.len() as u64);
            let Some(header) = whole else {
                self.again("its batches do not add up");
                return Ok(None);
            };
            let stored = rest.slice(..header.stored_bytes() as usize);
            if !plan.counts(&header) || self.read.is_repeat(header.map, header.batch) {
                client.metrics.skipped_batches.inc();
                self.step(stored.len());
                continue;
            }
            let place =
                Place { instance: client.application.instance, shuffle: plan.wire(), partition: self.partition };
            match verify(&place, header, &stored) {
                Err(error) => {
                    self.again(&error.to_string());
                    return Ok(None);
                }
                Ok((header, envelope)) => {
                    self.step(stored.len());
                    if let Some(batch) = self.deliver(client, &header, &envelope, &stored)? {
                        return Ok(Some(batch));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Counts a verified batch; `None` where it is only the mark of an attempt's end.
    fn deliver(
        &mut self,
        client: &Inner,
        header: &BatchHeader,
        envelope: &Envelope,
        stored: &Bytes,
    ) -> Result<Option<Batch>, ReadError> {
        let offered = Offered {
            map: header.map,
            batch: header.batch,
            last: envelope.last,
            raw_bytes: envelope.raw_length,
            crc: envelope.crc,
        };
        let new = self.read.take(&offered);
        let payload = stored.slice(OVERHEAD_BYTES.min(stored.len())..);
        if !new || (envelope.last && payload.is_empty()) {
            return Ok(None);
        }
        let data = codec::decompress(envelope.codec, payload, envelope.raw_length, &client.buffers);
        let data = data.map_err(|text| ReadError::Decompress {
            partition: self.partition,
            epoch: self.location().map(|location| location.epoch).unwrap_or_default(),
            text,
        })?;
        client.metrics.delivered_batches.inc();
        Ok(Some(Batch { partition: self.partition, map: header.map, data }))
    }

    fn location(&self) -> Option<LocationId> {
        match &self.at {
            At::Chunk { location, .. } => Some(*location),
            At::Between | At::Fetching(_) => None,
        }
    }

    fn step(&mut self, bytes: usize) {
        if let At::Chunk { rest, .. } = &mut self.at {
            *rest = rest.slice(bytes..);
        }
    }

    /// Drops the bytes at hand, so that they are fetched again; what of them was delivered is left out then.
    fn again(&mut self, why: &str) {
        let At::Chunk { offset, next, location, .. } = std::mem::replace(&mut self.at, At::Between) else { return };
        let before = self.broken.filter(|(at, from, _)| (*at, *from) == (location, offset));
        let tries = before.map_or(0, |(_, _, tries)| tries) + 1;
        self.broken = Some((location, offset, tries));
        tracing::warn!(event = "bad_chunk", %location, offset, why, tries);
        let mut cursor = next.into_cursor();
        cursor.seek(offset);
        cursor.broken();
        if tries >= CHECKSUM_TRIES * cursor.copies() as u32 {
            cursor.give_up(why);
        }
        self.at = At::Chunk { rest: Bytes::new(), offset, next: Next::Later(cursor), location };
    }

    /// Gets the next bytes; `false` when the partition has no more.
    async fn fetch(&mut self, client: &Arc<Inner>, plan: &Plan) -> Result<bool, ReadError> {
        self.begin_fetch(client);
        let At::Fetching(ahead) = &mut self.at else { return Ok(false) };
        let since = clock::now();
        let arrived = ahead.arrived().await;
        client.metrics.read_wait_seconds.inc_by(clock::since(since).as_secs_f64());
        // From here on nothing waits, so a dropped future cannot fall between two states.
        let location = ahead.location();
        match arrived {
            Ok((cursor, Some(chunk))) => self.arrived(client, cursor, chunk),
            // Read-ahead that gave its memory back: the bytes are fetched again.
            Ok((cursor, None)) => self.at = At::Fetching(Ahead::start(client, cursor, None)),
            Err(Failed::Lost { why }) if plan.by_tokens() => {
                self.at = At::Between;
                self.lost.push((location, why));
            }
            Err(Failed::Lost { why }) => return Err(plan.lost(self.partition, why, Vec::new())),
            Err(Failed::Read(error)) => return Err(error),
        }
        Ok(true)
    }

    fn begin_fetch(&mut self, client: &Arc<Inner>) {
        self.at = match std::mem::replace(&mut self.at, At::Between) {
            At::Fetching(ahead) => At::Fetching(ahead),
            At::Chunk { next: Next::Ahead(ahead), .. } => At::Fetching(ahead),
            At::Chunk { next: Next::Later(cursor), .. } => At::Fetching(Ahead::start(client, cursor, None)),
            At::Chunk { next: Next::End(_), .. } | At::Between => self.next_location(client),
        };
    }

    fn next_location(&mut self, client: &Arc<Inner>) -> At {
        match self.locations.pop_front() {
            Some(source) => At::Fetching(Ahead::start(client, Cursor::new(client, source), None)),
            None => At::Between,
        }
    }

    fn arrived(&mut self, client: &Arc<Inner>, cursor: Cursor, chunk: Chunk) {
        let location = cursor.location();
        let next = if cursor.is_at_end() {
            Next::End(cursor)
        } else {
            // Only what nobody else needs is used to fetch ahead.
            match client.memory.try_take_ahead(u64::from(client.body_limit)) {
                Some(permit) => Next::Ahead(Ahead::start(client, cursor, Some(permit))),
                None => Next::Later(cursor),
            }
        };
        self.at = At::Chunk { rest: chunk.bytes, offset: chunk.offset, next, location };
    }

    async fn finish(&mut self, client: &Inner, plan: &Plan) -> Result<(), ReadError> {
        let incomplete = match self.read.finish() {
            Ok(()) => {
                // Everything was elsewhere too; nobody needs to look at what was lost again.
                return self.strike(client, plan).await;
            }
            Err(incomplete) => incomplete,
        };
        self.strike(client, plan).await?;
        let tokens: Vec<Token> = match &incomplete {
            Incomplete::Maps { maps } => plan.tokens_of(maps),
            Incomplete::Sum { .. } => Vec::new(),
        };
        let whys = self.lost.iter().map(|(location, why)| format!("{location}: {why}; "));
        Err(plan.lost(self.partition, format!("{}{incomplete}", whys.collect::<String>()), tokens))
    }

    async fn strike(&self, client: &Inner, plan: &Plan) -> Result<(), ReadError> {
        if self.lost.is_empty() {
            return Ok(());
        }
        let lost = self.lost.iter().map(|(location, _)| *location).collect();
        plan.strike(client, lost).await
    }
}

fn verify(place: &Place, header: BatchHeader, stored: &[u8]) -> Result<(BatchHeader, Envelope), BatchError> {
    if sabotage::is(Sabotage::ChecksumNotLookedAt) {
        return Ok((header, Envelope::decode(&stored[HEADER_BYTES..])?));
    }
    batch::verify(place, stored)
}
