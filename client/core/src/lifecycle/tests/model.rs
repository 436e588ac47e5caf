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
    Placed(LocationId, WorkerId, Handle),
    Replaced(LocationId),
    Committed(LocationId),
    Fixed(LocationId, SealId, u64),
    Sealed(LocationId),
    Failed(LocationId),
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
    Sealed,
    Failed,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) maps: Option<u32>,
    pub(super) partitions: u32,
    pub(super) log: Vec<Event>,
}

impl Model {
    /// A generation whose partitions are all wanted. The lifecycle manager was last awake at `expired`.
    pub(super) fn new(maps: Option<u32>, partitions: u32, expired: Option<Duration>) -> Self {
        let wanted = (0..partitions).map(|partition| Event::Wanted(Partition(partition)));
        let log = expired.into_iter().map(Event::Expired).chain(wanted).collect();
        Self { maps, partitions, log }
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
        let (mut heard, mut last) = (Duration::ZERO, None);
        for event in &self.log {
            match event {
                Event::Heard(key, at) if key.name == name => heard = *at,
                Event::Expired(at) => {
                    heard += last.map_or(Duration::ZERO, |last: Duration| (*at - last).saturating_sub(LEASE / 10));
                    last = Some(*at);
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
            Event::Placed(location, worker, handle) => {
                Some(OpenAt { location: *location, worker: *worker, handle: *handle })
            }
            _ => None,
        });
        placed.collect()
    }

    pub(super) fn of(&self, partition: Partition) -> Vec<OpenAt> {
        self.locations().into_iter().filter(|open| open.location.partition == partition).collect()
    }

    /// Where in its life a location is: what happened to it last.
    pub(super) fn life(&self, location: LocationId) -> Option<Life> {
        self.log.iter().rev().find_map(|event| match event {
            Event::Placed(of, ..) if *of == location => Some(Life::Open),
            Event::Replaced(of) if *of == location => Some(Life::Replaced),
            Event::Committed(of) if *of == location => Some(Life::Freezing),
            Event::Fixed(of, ..) if *of == location => Some(Life::Fixed),
            Event::Sealed(of) if *of == location => Some(Life::Sealed),
            Event::Failed(of) if *of == location => Some(Life::Failed),
            _ => None,
        })
    }

    pub(super) fn pair(&self, location: LocationId) -> Option<(SealId, u64)> {
        self.log.iter().find_map(|event| match event {
            Event::Fixed(of, seal, length) if *of == location => Some((*seal, *length)),
            _ => None,
        })
    }

    /// The answer to somebody who waits.
    pub(super) fn answer(&self, partition: Partition) -> Revived {
        let open = self.of(partition).pop().filter(|open| self.life(open.location) == Some(Life::Open));
        if let Some(open) = open {
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
        if matches!(self.answer(partition), Revived::NoSpace(_)) && partition.0 < self.partitions {
            self.log.push(Event::Wanted(partition));
        }
        self.answer(partition)
    }

    pub(super) fn revive(
        &mut self,
        key: AttemptKey,
        partition: Partition,
        epoch: u32,
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
        let epochs = self.of(partition);
        let named = epochs.get(epoch as usize).map(|open| open.location);
        if partition.0 >= self.partitions || (named.is_none() && (epoch, epochs.len()) != (0, 0)) {
            return Err(AttemptError::Partition { partition: partition.0 });
        }
        if let Some(named) = named.filter(|named| self.life(*named) == Some(Life::Open)) {
            self.log.push(Event::Replaced(named));
        }
        Ok(self.locate(partition))
    }

    pub(super) fn wanted(&self) -> Vec<Partition> {
        let partitions = (0..self.partitions).map(Partition);
        partitions.filter(|partition| self.answer(*partition) == Revived::Wanted).collect()
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
