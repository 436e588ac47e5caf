//! What a reader reads: asked of the lifecycle manager once for the attempts that count, and page by page for partitions.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::fetch::{Chosen, Expected};
use mallorn_client_core::push::BatchSum;
use mallorn_proto::batch::BatchHeader;
use mallorn_proto::id::{Attempt, Generation, LocationId, MapId, Partition, SealId, ShuffleId, Token};
use mallorn_proto::limits::READ_TOKENS_MAX;
use mallorn_proto::range_set::RangeSet;
use mallorn_proto::reason::Reason;
use mallorn_proto::v1;
use mallorn_runtime::clock;

use super::cursor::Source as Location;
use crate::client::{Inner, ReadRequest, Source};
use crate::error::{LifecycleError, ReadError};
use crate::lifecycle::LIFECYCLE_WAIT_MAX;

/// Between two calls that were answered before what is waited for has come.
const PAUSE: Duration = Duration::from_millis(10);

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
            ..Default::default()
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
            // A generation that starts while nothing was read yet is no reason to fail.
            generation: generation.map(|generation| generation.0),
            partitions: Some(self.rest.clone().into()),
            tokens,
            by_tokens: self.by_tokens(),
            wait_ms: 0,
        };
        let deadline = clock::now() + client.config.read_within.0;
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            request.wait_ms = clock::millis(left.min(LIFECYCLE_WAIT_MAX));
            let call = client.link.call(|mut door| {
                let request = request.clone();
                async move { door.plan_read(request).await }
            });
            let reply = call.await.map_err(|error| match generation {
                Some(_) => ReadError::from(error),
                // Nothing was pinned: what is fenced is the client's whole application.
                None => ReadError::Lifecycle(error),
            })?;
            if !reply.pending {
                return Ok(reply);
            }
            if self.by_tokens() {
                // The first call has started the commit; naming the generation keeps the next ones from doing it again.
                request.generation = Some(reply.generation);
            }
            if left.is_zero() {
                let waiting_for = format!("the end of shuffle {}'s stage", self.request.shuffle);
                return Err(ReadError::TimedOut { waiting_for });
            }
            clock::sleep(client.random.jitter(PAUSE)).await;
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
            if winners.is_empty() && tokens.is_empty() {
                return Ok(());
            }
            let done = if self.by_tokens() {
                let asked = winners.len().min(tokens.len());
                let named = tokens.drain(..asked).eq(winners.iter().map(|winner| winner.token));
                if winners.is_empty() || !named {
                    return Err(senseless("it names other attempts than those of the tokens"));
                }
                tokens.is_empty()
            } else {
                let rising = winners.windows(2).all(|pair| pair[0].map < pair[1].map);
                let within = winners.iter().all(|winner| (from..maps.end).contains(&winner.map));
                if !rising || !within {
                    return Err(senseless("its winners are out of order"));
                }
                from = winners.last().map_or(maps.end, |last| last.map + 1);
                from >= maps.end
            };
            for winner in winners {
                self.take_winner(&winner, &maps)?;
            }
            if done {
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

    fn take_winner(&mut self, winner: &v1::Winner, maps: &Range<u32>) -> Result<(), ReadError> {
        if !maps.contains(&winner.map) {
            return Ok(());
        }
        if !self.chosen.insert(MapId(winner.map), Attempt(winner.attempt)) {
            return Err(senseless("it names two attempts of one map"));
        }
        self.tokens.insert(winner.map, Token(winner.token));
        for run in &winner.touched {
            let within = run.first.max(self.request.partitions.start)..run.end.min(self.request.partitions.end);
            for partition in within {
                self.touched.entry(partition).or_default().insert(winner.map);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, page: v1::PlanReadReply) -> Result<(), ReadError> {
        if page.partitions.is_empty() || (page.generation, page.wire_shuffle) != (self.generation.0, self.wire.0) {
            return Err(senseless("it plans nothing of what was asked"));
        }
        let workers: Vec<_> = page.workers.into_iter().map(Arc::new).collect();
        for planned in page.partitions {
            let partition = Partition(planned.partition);
            if planned.partition != self.rest.start || self.rest.is_empty() {
                return Err(senseless("it plans other partitions than asked"));
            }
            self.rest.start += 1;
            if !planned.lost.is_empty() {
                return Err(self.lost(partition, planned.lost, Vec::new()));
            }
            let locations: Option<Vec<_>> =
                planned.locations.iter().map(|sealed| self.location(sealed, partition, &workers)).collect();
            let Some(locations) = locations else {
                return Err(senseless("a location is not one of the partition, or its worker is not named"));
            };
            let expected = match &planned.sum {
                _ if self.by_tokens() || self.request.maps.is_some() => {
                    Expected::Maps(self.touched.remove(&planned.partition).unwrap_or_default())
                }
                Some(sum) => Expected::Sum(BatchSum { batches: sum.batches, bytes: sum.bytes, hash: sum.hash }),
                None => return Err(senseless("it does not say what the winners have pushed")),
            };
            self.planned.push_back(PlannedPartition { partition, expected, locations });
        }
        Ok(())
    }

    fn location(
        &self,
        sealed: &v1::SealedLocation,
        partition: Partition,
        workers: &[Arc<v1::WorkerAddress>],
    ) -> Option<Location> {
        let location = sealed.location.map(LocationId::from)?;
        let own = location.shuffle == self.wire && location.partition == partition;
        own.then_some(())?;
        let mut copies = vec![Arc::clone(workers.get(sealed.worker as usize)?)];
        if let Some(other) = sealed.other.checked_sub(1) {
            let other = workers.get(other as usize)?;
            (other.worker != copies[0].worker).then(|| copies.push(Arc::clone(other)));
        }
        Some(Location {
            shuffle: self.request.shuffle,
            generation: self.generation,
            location,
            seal: SealId(sealed.seal),
            length: sealed.length,
            workers: copies,
            maps: self.request.maps.clone().unwrap_or(0..u32::MAX),
        })
    }
}

fn senseless(what: &str) -> ReadError {
    ReadError::Lifecycle(LifecycleError::senseless(what))
}
