//! What a reader reads: asked of the lifecycle manager once for the attempts that count, and page by page for partitions.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use mallorn_client_core::fetch::{Chosen, Expected};
use mallorn_client_core::push::BatchSum;
use mallorn_proto::batch::BatchHeader;
use mallorn_proto::id::{Attempt, Generation, LocationId, MapId, Partition, SealId, ShuffleId, Token};
use mallorn_proto::limits::READ_TOKENS_MAX;
use mallorn_proto::range_set::RangeSet;
use mallorn_proto::reason::Reason;
use mallorn_proto::v1;
use mallorn_runtime::clock::{self, Instant};

use super::cursor::Source as Location;
use crate::client::{Inner, ReadRequest, Source};
use crate::error::{LifecycleError, ReadError};

/// How long one call waits for the stage's end before it is made again.
const WAIT_MS: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Plan {
    request: ReadRequest,
    generation: Generation,
    wire: ShuffleId,
    chosen: Chosen,
    tokens: BTreeMap<u32, Token>,
    /// Maps that touched each partition, where completeness is judged by them.
    touched: BTreeMap<u32, RangeSet>,
    planned: VecDeque<PlannedPartition>,
    /// The partitions that were not planned yet.
    rest: Range<u32>,
    deadline: Instant,
}

/// A partition to read.
#[derive(Debug)]
pub(super) struct PlannedPartition {
    pub(super) partition: Partition,
    pub(super) expected: Expected,
    pub(super) locations: Vec<Location>,
}

impl Plan {
    /// Waits until the read can begin.
    pub(super) async fn make(client: &Arc<Inner>, request: ReadRequest) -> Result<Self, ReadError> {
        if let Source::Tokens(tokens) = &request.source
            && tokens.len() > READ_TOKENS_MAX
        {
            let text = format!("{} tokens in one read, at most {READ_TOKENS_MAX} are allowed", tokens.len());
            return Err(LifecycleError::refused(Reason::Invalid, text).into());
        }
        let rest = request.partitions.clone();
        let mut plan = Self {
            generation: Generation(0),
            wire: ShuffleId(0),
            chosen: Chosen::default(),
            tokens: BTreeMap::new(),
            touched: BTreeMap::new(),
            planned: VecDeque::new(),
            rest,
            deadline: clock::now() + client.config.read_within.0,
            request,
        };
        let first = plan.ask(client, None).await?;
        (plan.generation, plan.wire) = (Generation(first.generation), ShuffleId(first.wire_shuffle));
        plan.choose(client).await?;
        plan.take_in(first)?;
        Ok(plan)
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn wire(&self) -> ShuffleId {
        self.wire
    }

    pub(super) fn by_tokens(&self) -> bool {
        matches!(self.request.source, Source::Tokens(_))
    }

    /// Whether a batch is of an attempt that counts.
    pub(super) fn counts(&self, header: &BatchHeader) -> bool {
        self.chosen.counts(header.map, header.attempt)
    }

    pub(super) fn tokens_of(&self, maps: &RangeSet) -> Vec<Token> {
        maps.iter().filter_map(|map| self.tokens.get(&map).copied()).collect()
    }

    pub(super) fn lost(&self, partition: Partition, why: String, tokens: Vec<Token>) -> ReadError {
        let incomplete = if self.by_tokens() { tokens } else { Vec::new() };
        let (shuffle, generation) = (self.request.shuffle, self.generation);
        ReadError::PartitionLost { shuffle, generation, partition, why, incomplete }
    }

    /// The next partition to read.
    pub(super) async fn next_partition(&mut self, client: &Arc<Inner>) -> Result<Option<PlannedPartition>, ReadError> {
        while self.planned.is_empty() && !self.rest.is_empty() {
            let page = self.ask(client, Some(self.generation)).await?;
            self.take_in(page)?;
        }
        Ok(self.planned.pop_front())
    }

    /// Tells the lifecycle manager of locations that are gone.
    pub(super) async fn strike(&self, client: &Inner, lost: Vec<LocationId>) -> Result<(), ReadError> {
        let request = v1::ResolveRequest {
            instance: client.application.instance.0,
            workers: Vec::new(),
            shuffle: self.request.shuffle,
            generation: self.generation.0,
            lost: lost.into_iter().map(Into::into).collect(),
        };
        let call = client.link.call(|mut door| {
            let request = request.clone();
            async move { door.resolve(request).await }
        });
        call.await?;
        Ok(())
    }

    async fn ask(&self, client: &Inner, generation: Option<Generation>) -> Result<v1::PlanReadReply, ReadError> {
        let tokens = match &self.request.source {
            Source::Winners => Vec::new(),
            Source::Tokens(tokens) => tokens.iter().map(|token| token.0).collect(),
        };
        let mut request = v1::PlanReadRequest {
            instance: client.application.instance.0,
            shuffle: self.request.shuffle,
            generation: generation.map(|generation| generation.0),
            partitions: Some(self.rest.clone().into()),
            tokens,
            by_tokens: self.by_tokens(),
            wait_ms: WAIT_MS,
        };
        loop {
            let call = client.link.call(|mut door| {
                let request = request.clone();
                async move { door.plan_read(request).await }
            });
            let reply = call.await?;
            if !reply.pending {
                return Ok(reply);
            }
            if clock::now() >= self.deadline {
                let waiting_for = format!("the end of shuffle {}'s stage", self.request.shuffle);
                return Err(ReadError::TimedOut { waiting_for });
            }
            // A generation that starts while nothing was read yet is no reason to fail.
            request.generation = generation.map(|generation| generation.0);
        }
    }

    /// Learns which attempts count, and what they touched where that is needed.
    async fn choose(&mut self, client: &Inner) -> Result<(), ReadError> {
        let by_maps = self.by_tokens() || self.request.maps.is_some();
        let maps = self.request.maps.clone().unwrap_or(0..u32::MAX);
        let (mut from, mut tokens) = (maps.start, self.tokens_asked());
        loop {
            let partitions = if by_maps { self.request.partitions.clone() } else { 0..0 };
            let request = v1::ListWinnersRequest {
                instance: client.application.instance.0,
                shuffle: self.request.shuffle,
                generation: self.generation.0,
                maps: Some((from..maps.end).into()),
                tokens: tokens.clone(),
                by_tokens: self.by_tokens(),
                partitions: Some(partitions.into()),
            };
            let call = client.link.call(|mut door| {
                let request = request.clone();
                async move { door.list_winners(request).await }
            });
            let winners = call.await?.winners;
            let Some(last) = winners.last() else { return Ok(()) };
            from = last.map + 1;
            let count = winners.len().min(tokens.len());
            tokens.drain(..count);
            for winner in winners {
                self.take_winner(&winner, &maps);
            }
            if self.by_tokens() && tokens.is_empty() || from >= maps.end && !self.by_tokens() {
                return Ok(());
            }
        }
    }

    fn tokens_asked(&self) -> Vec<u64> {
        match &self.request.source {
            Source::Winners => Vec::new(),
            Source::Tokens(tokens) => tokens.iter().map(|token| token.0).collect(),
        }
    }

    fn take_winner(&mut self, winner: &v1::Winner, maps: &Range<u32>) {
        if !maps.contains(&winner.map) {
            return;
        }
        self.chosen.insert(MapId(winner.map), Attempt(winner.attempt));
        self.tokens.insert(winner.map, Token(winner.token));
        for run in &winner.touched {
            let within = run.first.max(self.request.partitions.start)..run.end.min(self.request.partitions.end);
            for partition in within {
                self.touched.entry(partition).or_default().insert(winner.map);
            }
        }
    }

    fn take_in(&mut self, page: v1::PlanReadReply) -> Result<(), ReadError> {
        let workers: Vec<_> = page.workers.into_iter().map(Arc::new).collect();
        for planned in page.partitions {
            let partition = Partition(planned.partition);
            if planned.partition != self.rest.start {
                let text = "the lifecycle manager answers for other partitions than asked".to_owned();
                return Err(LifecycleError::Unreachable { text }.into());
            }
            self.rest.start += 1;
            if !planned.lost.is_empty() {
                return Err(self.lost(partition, planned.lost, Vec::new()));
            }
            let location = |sealed: &v1::SealedLocation| {
                Some(Location {
                    shuffle: self.request.shuffle,
                    generation: self.generation,
                    location: sealed.location?.into(),
                    seal: SealId(sealed.seal),
                    length: sealed.length,
                    worker: Arc::clone(workers.get(sealed.worker as usize)?),
                    maps: self.request.maps.clone().unwrap_or(0..u32::MAX),
                    deadline: self.deadline,
                })
            };
            let locations: Vec<_> = planned.locations.iter().filter_map(location).collect();
            let expected = match &planned.sum {
                Some(sum) if !self.by_tokens() && self.request.maps.is_none() => {
                    Expected::Sum(BatchSum { batches: sum.batches, bytes: sum.bytes, hash: sum.hash })
                }
                _ => Expected::Maps(self.touched.remove(&planned.partition).unwrap_or_default()),
            };
            self.planned.push_back(PlannedPartition { partition, expected, locations });
        }
        Ok(())
    }
}
