//! The rules said again, over a list of everything that has happened: nothing is kept but that list, and every answer is
//! found by looking through it. It shares no code with what it checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mallorn_proto::id::{Handle, LocationId, Partition, SealId, Token, WorkerId};

use super::*;
use crate::lifecycle::{AttemptError, NoSpace};

/// Something that has happened in one generation.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A sign of life of an attempt; the first one starts it.
    Heard(AttemptKey, Duration),
    Died(AttemptName),
    Page(AttemptName, Vec<(Partition, BatchSum)>),
    Ended(AttemptName, Token),
    /// An expiry at this time.
    Expired(Duration),
    Wanted(Partition),
    NoSpace(Partition, NoSpace),
    Placed(LocationId, WorkerId, Handle, Option<WorkerId>),
    Abandoned(LocationId),
    /// A soft split has sent everybody to the next epoch.
    Replaced(LocationId),
    /// The first time that somebody looked whether it has rested.
    Resting(LocationId, Duration),
    Committed(LocationId),
    /// A freeze was answered with this length.
    Answered(LocationId, u64),
    Fixed(LocationId, SealId, u64),
    /// What has become of a copy.
    Copy(LocationId, WorkerId, Copy),
    Moved(LocationId, WorkerId, WorkerId),
    /// Every map has a winner.
    StageEnded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Live,
    Dead,
    Ended(Token),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    Replaced,
    Freezing,
    Fixed,
}

/// Where in its life a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    Asked,
    Missed,
    Held,
    InMemory,
    Sealed,
    Again,
    Failed(CopyFailure),
}

impl Copy {
    pub(super) fn is_good(self) -> bool {
        matches!(self, Self::Sealed | Self::Again)
    }

    pub(super) fn is_failed(self) -> bool {
        matches!(self, Self::Failed(_))
    }

    pub(super) fn is_missing(self) -> bool {
        matches!(self, Self::Missed | Self::InMemory | Self::Failed(_))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) maps: Option<u32>,
    pub(super) durability: Durability,
    pub(super) partitions: u32,
    pub(super) log: Vec<Event>,
}

impl Model {
    /// A generation whose partitions are all wanted. The lifecycle manager was last awake at `expired`.
    pub(super) fn new(maps: Option<u32>, durability: Durability, partitions: u32, expired: Option<Duration>) -> Self {
        let wanted = (0..partitions).map(|partition| Event::Wanted(Partition(partition)));
        let log = expired.into_iter().map(Event::Expired).chain(wanted).collect();
        Self { maps, durability, partitions, log }
    }

    pub(super) fn nonce(&self, name: AttemptName) -> Option<u64> {
        self.log.iter().find_map(|event| match event {
            Event::Heard(key, _) if key.name == name => Some(key.nonce),
            _ => None,
        })
    }

    pub(super) fn fate(&self, name: AttemptName) -> Fate {
        let over = self.log.iter().find_map(|event| match event {
            Event::Died(died) if *died == name => Some(Fate::Dead),
            Event::Ended(ended, token) if *ended == name => Some(Fate::Ended(*token)),
            _ => None,
        });
        over.unwrap_or(Fate::Live)
    }

    pub(super) fn names(&self) -> BTreeSet<AttemptName> {
        let heard = self.log.iter().filter_map(|event| match event {
            Event::Heard(key, _) => Some(key.name),
            _ => None,
        });
        heard.collect()
    }

    /// What a call by this key finds.
    pub(super) fn find(&self, key: AttemptKey) -> Result<Fate, AttemptError> {
        let (map, attempt) = (key.name.map.0, key.name.attempt.0);
        if self.nonce(key.name) == Some(key.nonce) {
            return Ok(self.fate(key.name));
        }
        Err(AttemptError::NotStarted { map, attempt })
    }

    pub(super) fn stage_ended(&self) -> bool {
        self.log.iter().any(|event| matches!(event, Event::StageEnded))
    }

    pub(super) fn start(&mut self, key: AttemptKey, now: Duration) -> Result<(), AttemptError> {
        let (map, attempt) = (key.name.map.0, key.name.attempt.0);
        match (self.nonce(key.name), self.fate(key.name)) {
            (Some(nonce), _) if nonce != key.nonce => return Err(AttemptError::Taken { map, attempt }),
            (Some(_), Fate::Dead) => return Err(AttemptError::Dead { map, attempt }),
            (Some(_), Fate::Ended(_)) => return Ok(()),
            (None, _) if self.stage_ended() => return Err(AttemptError::StageEnded),
            (Some(_), Fate::Live) | (None, _) => {}
        }
        self.log.push(Event::Heard(key, now));
        Ok(())
    }

    pub(super) fn renew(&mut self, key: AttemptKey, now: Duration) -> bool {
        match self.find(key) {
            Ok(Fate::Live) => {
                self.log.push(Event::Heard(key, now));
                true
            }
            Ok(Fate::Ended(_)) => true,
            Ok(Fate::Dead) | Err(_) => false,
        }
    }

    pub(super) fn kill(&mut self, name: AttemptName) {
        if self.nonce(name).is_some() && self.fate(name) == Fate::Live {
            self.log.push(Event::Died(name));
        }
    }

    /// Those whose last sign of life is a lease and all delays of expiries since then ago.
    pub(super) fn expire(&mut self, now: Duration) -> usize {
        self.log.push(Event::Expired(now));
        let live: Vec<_> = self.names().into_iter().filter(|name| self.fate(*name) == Fate::Live).collect();
        let over: Vec<_> = live.into_iter().filter(|name| self.heard_at(*name) + LEASE <= now).collect();
        over.iter().for_each(|name| self.log.push(Event::Died(*name)));
        over.len()
    }

    fn heard_at(&self, name: AttemptName) -> Duration {
        let (mut heard, mut last) = (Duration::ZERO, START);
        for event in &self.log {
            match event {
                Event::Heard(key, at) if key.name == name => heard = *at,
                Event::Expired(at) => {
                    heard += (*at - last).saturating_sub(LEASE / 10);
                    last = *at;
                }
                _ => {}
            }
        }
        heard
    }

    pub(super) fn pages(&self, name: AttemptName) -> Vec<&Vec<(Partition, BatchSum)>> {
        let pages = self.log.iter().filter_map(|event| match event {
            Event::Page(of, sums) if *of == name => Some(sums),
            _ => None,
        });
        pages.collect()
    }

    pub(super) fn page(
        &mut self,
        key: AttemptKey,
        page: u32,
        sums: &[(Partition, BatchSum)],
    ) -> Result<(), AttemptError> {
        let (map, attempt) = (key.name.map.0, key.name.attempt.0);
        match self.find(key)? {
            Fate::Live => {}
            Fate::Dead => return Err(AttemptError::Dead { map, attempt }),
            Fate::Ended(_) => return Ok(()),
        }
        let pages = self.pages(key.name);
        let expected = pages.len() as u32;
        if page < expected {
            return Ok(());
        }
        if page > expected {
            return Err(AttemptError::PageOrder { page, expected });
        }
        let mut named: BTreeSet<_> = pages.into_iter().flatten().map(|(partition, _)| *partition).collect();
        for (partition, _) in sums {
            if partition.0 >= self.partitions || named.range(*partition..).next().is_some() {
                return Err(AttemptError::Partition { partition: partition.0 });
            }
            named.insert(*partition);
        }
        self.log.push(Event::Page(key.name, sums.to_vec()));
        Ok(())
    }

    /// Attempts that have ended, in the order in which they did.
    fn ended(&self) -> impl Iterator<Item = (AttemptName, Token)> + '_ {
        self.log.iter().filter_map(|event| match event {
            Event::Ended(name, token) => Some((*name, *token)),
            _ => None,
        })
    }

    /// Attempts whose data may be read.
    pub(super) fn readable(&self) -> BTreeMap<AttemptName, Token> {
        let mut maps = BTreeSet::new();
        self.ended().filter(|(name, _)| self.maps.is_none() || maps.insert(name.map)).collect()
    }

    pub(super) fn finish(&mut self, key: AttemptKey, token: Token) -> Result<Ended, AttemptError> {
        let (map, attempt) = (key.name.map.0, key.name.attempt.0);
        let before = self.stage_ended();
        match self.find(key)? {
            Fate::Live => {
                let taken: BTreeSet<_> = self.readable().into_values().collect();
                let free = (token.0..).map(Token).find(|token| !taken.contains(token)).unwrap();
                self.log.push(Event::Ended(key.name, free));
            }
            Fate::Dead => return Err(AttemptError::Dead { map, attempt }),
            Fate::Ended(_) => {}
        }
        if !before && self.maps.is_some_and(|maps| self.readable().len() == maps as usize) {
            self.commit(&(0..self.partitions));
            self.log.push(Event::StageEnded);
        }
        let Fate::Ended(token) = self.fate(key.name) else { unreachable!() };
        let won = self.readable().contains_key(&key.name);
        Ok(Ended { token, won, stage_ended: before != self.stage_ended() })
    }

    pub(super) fn sum(&self, partition: Partition) -> BatchSum {
        let mut total = BatchSum::default();
        for name in self.readable().into_keys() {
            let sums = self.pages(name).into_iter().flatten().filter(|(of, _)| *of == partition);
            sums.for_each(|(_, sum)| {
                total.batches += sum.batches;
                total.bytes += sum.bytes;
                total.hash = total.hash.wrapping_add(sum.hash);
            });
        }
        total
    }

    /// Every location that was ever open, in the order in which they were.
    pub(super) fn locations(&self) -> Vec<OpenAt> {
        let placed = self.log.iter().filter_map(|event| match event {
            Event::Placed(location, worker, handle, _) => {
                Some(OpenAt { location: *location, worker: *worker, handle: *handle })
            }
            _ => None,
        });
        placed.collect()
    }

    pub(super) fn of(&self, partition: Partition) -> Vec<OpenAt> {
        self.locations().into_iter().filter(|open| open.location.partition == partition).collect()
    }

    /// How many names of locations a partition has used.
    pub(super) fn names_used(&self, partition: Partition) -> usize {
        let used = |event: &&Event| match event {
            Event::Placed(of, ..) | Event::Abandoned(of) => of.partition == partition,
            _ => false,
        };
        self.log.iter().filter(used).count()
    }

    /// Where in its life a location is: what happened to it last.
    pub(super) fn life(&self, location: LocationId) -> Option<Life> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Placed(of, ..) if *of == location => Some(Life::Open),
            Event::Replaced(of) if *of == location => Some(Life::Replaced),
            Event::Committed(of) if *of == location => Some(Life::Freezing),
            Event::Fixed(of, ..) if *of == location => Some(Life::Fixed),
            _ => None,
        })
    }

    /// The copies of a location, and what became of them last.
    pub(super) fn copies(&self, location: LocationId) -> Vec<(WorkerId, Copy)> {
        let mut copies = Vec::new();
        for event in &self.log {
            match event {
                Event::Placed(of, worker, _, replica) if *of == location => {
                    copies = [Some(*worker), *replica].into_iter().flatten().map(|of| (of, Copy::Asked)).collect();
                }
                Event::Copy(of, worker, became) if *of == location => {
                    copies.iter_mut().filter(|(of, _)| of == worker).for_each(|(_, copy)| *copy = *became);
                }
                Event::Moved(of, from, to) if *of == location => {
                    copies.iter_mut().filter(|(of, _)| of == from).for_each(|(of, _)| *of = *to);
                }
                _ => {}
            }
        }
        copies
    }

    pub(super) fn copy(&self, location: LocationId, worker: WorkerId) -> Option<Copy> {
        self.copies(location).into_iter().find(|(of, _)| *of == worker).map(|(_, copy)| copy)
    }

    fn other(&self, location: LocationId, worker: WorkerId) -> Option<(WorkerId, Copy)> {
        self.copies(location).into_iter().find(|(of, _)| *of != worker)
    }

    pub(super) fn is_good(&self, location: LocationId) -> bool {
        self.copies(location).into_iter().any(|(_, copy)| copy.is_good())
    }

    pub(super) fn is_lost(&self, location: LocationId) -> bool {
        let is_committing = matches!(self.life(location), Some(Life::Freezing | Life::Fixed));
        is_committing && self.copies(location).into_iter().all(|(_, copy)| copy.is_failed())
    }

    /// What a worker is to be asked: the freezes, and the seals with what they must survive.
    pub(super) fn due(&self, worker: WorkerId) -> (Vec<LocationId>, Vec<(LocationId, Durability)>) {
        let (mut freeze, mut seal) = (Vec::new(), Vec::new());
        let mut all: Vec<_> = self.locations().into_iter().map(|open| open.location).collect();
        all.sort();
        for location in all {
            match (self.life(location), self.copy(location, worker)) {
                (Some(Life::Freezing), Some(Copy::Asked | Copy::Missed)) => freeze.push(location),
                (Some(Life::Fixed), Some(copy)) if copy != Copy::Sealed && !copy.is_failed() => {
                    seal.push((location, self.needed(location, worker)));
                }
                _ => {}
            }
        }
        (freeze, seal)
    }

    /// A memory that is alone is no safety.
    fn needed(&self, location: LocationId, worker: WorkerId) -> Durability {
        let is_alone = self.other(location, worker).is_some_and(|(_, copy)| copy.is_failed());
        let given_up = self.copy(location, worker) == Some(Copy::InMemory);
        if self.durability == Durability::Memory && is_alone && !given_up {
            return Durability::Written;
        }
        self.durability
    }

    pub(super) fn ask(&mut self, worker: WorkerId) {
        for location in self.due(worker).0 {
            self.log.push(Event::Copy(location, worker, Copy::Asked));
        }
    }

    pub(super) fn frozen(&mut self, location: LocationId, worker: WorkerId, length: u64) {
        let copy = self.copy(location, worker);
        if self.life(location) == Some(Life::Freezing) && matches!(copy, Some(Copy::Asked | Copy::Missed)) {
            self.log.push(Event::Answered(location, length));
            self.log.push(Event::Copy(location, worker, Copy::Held));
        }
    }

    pub(super) fn missed(&mut self, location: LocationId, worker: WorkerId) {
        let waits_for = match self.life(location) {
            Some(Life::Freezing) => Copy::Asked,
            Some(Life::Fixed) => Copy::Held,
            _ => return,
        };
        if self.copy(location, worker) == Some(waits_for) {
            self.log.push(Event::Copy(location, worker, Copy::Missed));
        }
    }

    pub(super) fn fix(&mut self, location: LocationId, seal: SealId) {
        let copies: Vec<_> = self.copies(location).into_iter().map(|(_, copy)| copy).collect();
        let is_decided = !copies.contains(&Copy::Asked) && copies.contains(&Copy::Held);
        if self.life(location) == Some(Life::Freezing) && is_decided {
            let least = self.least_answer(location).unwrap();
            self.log.push(Event::Fixed(location, seal, least));
        }
    }

    pub(super) fn least_answer(&self, location: LocationId) -> Option<u64> {
        let answers = self.log.iter().filter_map(|event| match event {
            Event::Answered(of, length) if *of == location => Some(*length),
            _ => None,
        });
        answers.min()
    }

    pub(super) fn sealed(&mut self, location: LocationId, worker: WorkerId, durability: Durability) {
        let copy = self.copy(location, worker);
        if self.life(location) == Some(Life::Fixed) && copy.is_some_and(|copy| !copy.is_failed()) {
            let is_enough = self.needed(location, worker) <= durability;
            let became = if is_enough { Copy::Sealed } else { Copy::Again };
            self.log.push(Event::Copy(location, worker, became));
        }
    }

    pub(super) fn failed(&mut self, location: LocationId, worker: WorkerId, why: CopyFailure) {
        let is_committing = matches!(self.life(location), Some(Life::Freezing | Life::Fixed));
        let Some(copy) = self.copy(location, worker).filter(|_| is_committing) else { return };
        if copy == Copy::Sealed || copy.is_failed() {
            return;
        }
        let other = self.other(location, worker);
        let is_last = other.is_none_or(|(_, copy)| copy.is_failed());
        if why == CopyFailure::Gone && copy == Copy::Again && is_last {
            self.log.push(Event::Copy(location, worker, Copy::Sealed));
            return;
        }
        self.log.push(Event::Copy(location, worker, Copy::Failed(why)));
        if let Some((other, Copy::Sealed)) = other
            && self.durability == Durability::Memory
        {
            self.log.push(Event::Copy(location, other, Copy::Again));
        }
    }

    pub(super) fn not_durable(&mut self, location: LocationId, worker: WorkerId) {
        if self.durability != Durability::Memory || self.copy(location, worker) == Some(Copy::InMemory) {
            return self.failed(location, worker, CopyFailure::NotDurable);
        }
        if self.life(location) != Some(Life::Fixed) {
            return;
        }
        match self.copy(location, worker) {
            Some(Copy::Again) => self.log.push(Event::Copy(location, worker, Copy::Sealed)),
            Some(Copy::Asked | Copy::Missed | Copy::Held) => {
                self.log.push(Event::Copy(location, worker, Copy::InMemory));
            }
            _ => {}
        }
    }

    pub(super) fn moved(&mut self, location: LocationId, from: WorkerId, to: WorkerId) {
        let is_committing = matches!(self.life(location), Some(Life::Freezing | Life::Fixed));
        let is_there = self.copy(location, from).is_some_and(|copy| !copy.is_failed());
        if !is_committing || !is_there || from == to {
            return;
        }
        match (self.copy(location, to), self.copy(location, from)) {
            (None, _) => self.log.push(Event::Moved(location, from, to)),
            (Some(Copy::Failed(_)), Some(copy)) => {
                self.log.push(Event::Copy(location, to, copy));
                self.log.push(Event::Copy(location, from, Copy::Failed(CopyFailure::Unknown)));
            }
            _ => self.failed(location, from, CopyFailure::Unknown),
        }
    }

    pub(super) fn reported(&mut self, location: LocationId, worker: WorkerId) {
        if (self.life(location), self.copy(location, worker)) == (Some(Life::Fixed), Some(Copy::Sealed)) {
            self.log.push(Event::Copy(location, worker, Copy::Again));
        }
    }

    pub(super) fn strike(&mut self, location: LocationId) {
        if self.maps.is_none() && self.is_good(location) {
            for (worker, copy) in self.copies(location) {
                if !copy.is_failed() {
                    self.log.push(Event::Copy(location, worker, Copy::Failed(CopyFailure::Struck)));
                }
            }
        }
    }

    /// Those that were replaced two seconds after they were first looked at.
    pub(super) fn rest(&mut self, now: Duration) {
        let replaced: Vec<_> = self.in_life(Life::Replaced).into_iter().map(|open| open.location).collect();
        for location in replaced {
            let since = self.log.iter().find_map(|event| match event {
                Event::Resting(of, since) if *of == location => Some(*since),
                _ => None,
            });
            match since {
                None => self.log.push(Event::Resting(location, now)),
                Some(since) if now >= since + Duration::from_secs(2) => self.log.push(Event::Committed(location)),
                Some(_) => {}
            }
        }
    }

    pub(super) fn placed(&mut self, open: OpenAt, replica: Option<WorkerId>) {
        let current = self.of(open.location.partition).pop();
        if let Some(current) = current.filter(|current| self.life(current.location) == Some(Life::Open)) {
            self.log.push(Event::Replaced(current.location));
        }
        self.log.push(Event::Placed(open.location, open.worker, open.handle, replica));
    }

    pub(super) fn pair(&self, location: LocationId) -> Option<(SealId, u64)> {
        self.log.iter().find_map(|event| match event {
            Event::Fixed(of, seal, length) if *of == location => Some((*seal, *length)),
            _ => None,
        })
    }

    /// The answer to somebody who waits, and who may not be told this epoch or an earlier one.
    pub(super) fn answer(&self, partition: Partition, replaced: Option<u32>) -> Revived {
        let open = self.of(partition).pop().filter(|open| self.life(open.location) == Some(Life::Open));
        if let Some(open) = open.filter(|open| replaced.is_none_or(|replaced| open.location.epoch.0 > replaced)) {
            return Revived::Open(open);
        }
        if self.stage_ended() {
            return Revived::StageEnded;
        }
        let last = self.log.iter().rev().find_map(|event| match event {
            Event::Wanted(of) if *of == partition => Some(Revived::Wanted),
            Event::NoSpace(of, full) if *of == partition => Some(Revived::NoSpace(*full)),
            Event::Placed(of, ..) if of.partition == partition => Some(Revived::NoSpace(NoSpace::default())),
            _ => None,
        });
        last.unwrap_or(Revived::NoSpace(NoSpace::default()))
    }

    pub(super) fn locate(&mut self, partition: Partition) -> Revived {
        self.want(partition, None)
    }

    fn want(&mut self, partition: Partition, replaced: Option<u32>) -> Revived {
        if matches!(self.answer(partition, replaced), Revived::NoSpace(_)) && partition.0 < self.partitions {
            self.log.push(Event::Wanted(partition));
        }
        self.answer(partition, replaced)
    }

    pub(super) fn revive(
        &mut self,
        key: AttemptKey,
        partition: Partition,
        epoch: u32,
        why: Replacing,
    ) -> Result<Revived, AttemptError> {
        let AttemptName { map, attempt } = key.name;
        if self.find(key)? == Fate::Dead {
            return Err(AttemptError::Dead { map: map.0, attempt: attempt.0 });
        }
        if self.stage_ended() {
            return Ok(Revived::StageEnded);
        }
        let winner = self.readable().into_keys().find(|name| name.map == map);
        if self.maps.is_some() && winner.is_some_and(|winner| winner != key.name) {
            return Ok(Revived::MapEnded);
        }
        let used = self.names_used(partition) as u32;
        if partition.0 >= self.partitions || epoch >= used.max(1) {
            return Err(AttemptError::Partition { partition: partition.0 });
        }
        let named = self.of(partition).into_iter().find(|open| open.location.epoch.0 == epoch);
        if let Some(named) = named
            && why == Replacing::Refused
            && matches!(self.life(named.location), Some(Life::Open | Life::Replaced))
        {
            self.log.push(Event::Committed(named.location));
        }
        Ok(self.want(partition, Some(epoch)))
    }

    pub(super) fn wanted(&self) -> Vec<Partition> {
        let partitions = (0..self.partitions).map(Partition);
        let is_wanted = |partition: &Partition| self.answer(*partition, Some(u32::MAX)) == Revived::Wanted;
        partitions.filter(is_wanted).collect()
    }

    pub(super) fn commit(&mut self, partitions: &std::ops::Range<u32>) {
        for open in self.locations() {
            let open_still = matches!(self.life(open.location), Some(Life::Open | Life::Replaced));
            if partitions.contains(&open.location.partition.0) && open_still {
                self.log.push(Event::Committed(open.location));
            }
        }
    }

    /// Locations that are there now in their lives, by partition and epoch.
    pub(super) fn in_life(&self, life: Life) -> Vec<OpenAt> {
        let mut found: Vec<_> = self.locations();
        found.retain(|open| self.life(open.location) == Some(life));
        found.sort_by_key(|open| open.location);
        found
    }
}
