//! Attempts: opened before their first push, alive by lease, and ended once; the first to end wins its map.
//!
//! | state | becomes | by |
//! |---|---|---|
//! | Live | Ended | the last page of its end |
//! | Live | Dead | lease over, or declared failed |
//!
//! A dead attempt can't end any more, and an ended one can't die: being declared failed has no effect on it.
//!
//! Memory: about 120 bytes for a live attempt and 50 for one that is over; 130 more for one whose data may be read, with 8
//! for each further run of the partitions that it touched, or a bit for each partition; 24 for a partition's sum. There is
//! nothing else per (map, partition) pair. Time: a call costs what it names, not what the shuffle holds; an expiry looks at
//! live attempts only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mallorn_proto::id::{Attempt, MapId, Partition, Token};
use mallorn_proto::limits::MAPS_MAX;
use mallorn_sabotage::{self as sabotage, Sabotage};

use super::error::{AttemptError, TokenError};
use super::touched::Touched;
use super::{GenerationState, Stage};
use crate::push::BatchSum;

/// Most attempts that one generation keeps: each map may be tried twice, whatever the number of maps.
pub(super) const ATTEMPTS_MAX: usize = 2 * MAPS_MAX as usize;

/// One try at a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptName {
    /// The map.
    pub map: MapId,
    /// The attempt.
    pub attempt: Attempt,
}

/// An attempt as its caller names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptKey {
    /// Which one.
    pub name: AttemptName,
    /// Drawn by whoever started it.
    pub nonce: u64,
}

/// An attempt whose data may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Winner {
    /// Which one.
    pub name: AttemptName,
    /// Its token.
    pub token: Token,
    /// Partitions it pushed to.
    pub touched: Touched,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its token.
    pub token: Token,
    /// Whether its data counts.
    pub won: bool,
    /// Whether the stage ended with this very call; a repeat answers `false`.
    pub stage_ended: bool,
}

/// A try that goes on.
#[derive(Debug)]
struct Live {
    nonce: u64,
    until: Duration,
    pages: u32,
    staged: Vec<(Partition, BatchSum)>,
}

/// A try that is over.
#[derive(Clone, Copy, Debug)]
struct Past {
    nonce: u64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Dead,
    Ended { token: Token, won: bool },
}

/// An attempt that its caller has named rightly.
enum Found<'a> {
    Live(&'a mut Live),
    Dead,
    Ended { token: Token, won: bool },
}

/// The attempts of one generation.
#[derive(Debug)]
pub(super) struct Attempts {
    /// Each attempt is in one of these two.
    live: BTreeMap<AttemptName, Live>,
    past: BTreeMap<AttemptName, Past>,
    /// By map where a map count is known: the winners. Otherwise empty.
    winners: BTreeMap<MapId, Token>,
    /// Every attempt whose data may be read.
    readable: BTreeMap<Token, Winner>,
    sums: Vec<BatchSum>,
}

impl Attempts {
    pub(super) fn new(partitions: u32, maps: Option<u32>) -> Self {
        let sums = if maps.is_some() { vec![BatchSum::default(); partitions as usize] } else { Vec::new() };
        let (live, past) = (BTreeMap::new(), BTreeMap::new());
        Self { live, past, winners: BTreeMap::new(), readable: BTreeMap::new(), sums }
    }

    /// Lets those die whose lease is over, after every lease was extended by `late_by`.
    pub(super) fn expire(&mut self, now: Duration, late_by: Duration) -> usize {
        let mut died = Vec::new();
        for (name, live) in &mut self.live {
            live.until = live.until.saturating_add(late_by);
            if live.until <= now {
                died.push(*name);
            }
        }
        died.iter().for_each(|name| self.die(*name));
        died.len()
    }

    /// Whether another attempt has won the map.
    pub(super) fn lost(&self, name: AttemptName) -> bool {
        let winner = self.winners.get(&name.map).and_then(|token| self.readable.get(token));
        winner.is_some_and(|winner| winner.name != name)
    }

    pub(super) fn sum(&self, partition: Partition) -> Option<BatchSum> {
        self.sums.get(partition.0 as usize).copied()
    }

    fn find(&mut self, key: AttemptKey) -> Result<Found<'_>, AttemptError> {
        if let Some(live) = self.live.get_mut(&key.name).filter(|live| live.nonce == key.nonce) {
            return Ok(Found::Live(live));
        }
        let past = self.past.get(&key.name).filter(|past| past.nonce == key.nonce);
        let AttemptName { map, attempt } = key.name;
        match past.ok_or(AttemptError::NotStarted { map: map.0, attempt: attempt.0 })?.fate {
            Fate::Dead => Ok(Found::Dead),
            Fate::Ended { token, won } => Ok(Found::Ended { token, won }),
        }
    }

    fn nonce(&self, name: AttemptName) -> Option<u64> {
        let live = self.live.get(&name).map(|live| live.nonce);
        live.or_else(|| self.past.get(&name).map(|past| past.nonce))
    }

    /// No effect on one that is over.
    fn die(&mut self, name: AttemptName) {
        if sabotage::is(Sabotage::SkipTheFence) {
            return;
        }
        if let Some(Live { nonce, .. }) = self.live.remove(&name) {
            self.past.insert(name, Past { nonce, fate: Fate::Dead });
        }
    }

    pub(super) fn check_live(&mut self, key: AttemptKey) -> Result<(), AttemptError> {
        match self.find(key)? {
            Found::Live(_) | Found::Ended { .. } => Ok(()),
            Found::Dead => Err(dead(key.name)),
        }
    }

    /// Two attempts that may be read never share a token, even if the same one is drawn twice.
    fn unused(&self, mut token: Token) -> Token {
        while self.readable.contains_key(&token) {
            token = Token(token.0.wrapping_add(1));
        }
        token
    }
}

fn dead(name: AttemptName) -> AttemptError {
    AttemptError::Dead { map: name.map.0, attempt: name.attempt.0 }
}

impl GenerationState {
    /// Opens an attempt. The same call again, with the same nonce, renews it.
    ///
    /// # Errors
    /// `MapOutOfRange`, `Taken` when another nonce has it, `Dead`, `StageEnded`, `TooMany`.
    pub fn start_attempt(&mut self, key: AttemptKey, now: Duration) -> Result<(), AttemptError> {
        let AttemptName { map, attempt } = key.name;
        let maps = self.maps.unwrap_or(MAPS_MAX);
        if map.0 >= maps {
            return Err(AttemptError::MapOutOfRange { map: map.0, maps });
        }
        let until = now.saturating_add(self.attempt_lease);
        if self.attempts.nonce(key.name).is_some_and(|nonce| nonce != key.nonce) {
            return Err(AttemptError::Taken { map: map.0, attempt: attempt.0 });
        }
        match self.attempts.find(key) {
            Ok(Found::Live(live)) => {
                live.until = until;
                return Ok(());
            }
            Ok(Found::Ended { .. }) => return Ok(()),
            Ok(Found::Dead) => return Err(dead(key.name)),
            Err(_) => {}
        }
        if self.stage == Stage::Ended {
            return Err(AttemptError::StageEnded);
        }
        if self.attempts.live.len() + self.attempts.past.len() >= ATTEMPTS_MAX {
            return Err(AttemptError::TooMany);
        }
        self.attempts.live.insert(key.name, Live { nonce: key.nonce, until, pages: 0, staged: Vec::new() });
        Ok(())
    }

    /// Renews an attempt's lease; `false` when it is dead or unknown.
    pub fn renew_attempt(&mut self, key: AttemptKey, now: Duration) -> bool {
        let until = now.saturating_add(self.attempt_lease);
        match self.attempts.find(key) {
            Ok(Found::Live(live)) => {
                live.until = until;
                true
            }
            Ok(Found::Ended { .. }) => true,
            Ok(Found::Dead) | Err(_) => false,
        }
    }

    /// Declares an attempt dead. It has no effect on one that has ended.
    ///
    /// # Errors
    /// `NotStarted`.
    pub fn attempt_failed(&mut self, key: AttemptKey) -> Result<(), AttemptError> {
        self.attempts.find(key)?;
        self.attempts.die(key.name);
        Ok(())
    }

    /// The engine's driver declares an attempt dead, whoever started it. It has no effect on one that has ended, or was
    /// never started.
    pub fn fail_attempt(&mut self, name: AttemptName) {
        self.attempts.die(name);
    }

    /// Stages one page of an attempt's end; a page that came before is ignored.
    ///
    /// # Errors
    /// `NotStarted`, `Dead`, `PageOrder`, `Partition`.
    pub fn stage_page(
        &mut self,
        key: AttemptKey,
        page: u32,
        sums: &[(Partition, BatchSum)],
    ) -> Result<(), AttemptError> {
        let partitions = self.partitions;
        let Live { pages, staged, .. } = match self.attempts.find(key)? {
            Found::Live(live) => live,
            Found::Dead => return Err(dead(key.name)),
            Found::Ended { .. } => return Ok(()),
        };
        if page < *pages {
            return Ok(());
        }
        if page > *pages {
            return Err(AttemptError::PageOrder { page, expected: *pages });
        }
        let mut last = staged.last().map(|(partition, _)| *partition);
        for (partition, _) in sums {
            if partition.0 >= partitions || last.is_some_and(|last| last >= *partition) {
                return Err(AttemptError::Partition { partition: partition.0 });
            }
            last = Some(*partition);
        }
        staged.extend_from_slice(sums);
        *pages = pages.saturating_add(1);
        Ok(())
    }

    /// Ends an attempt with the pages staged: the first of its map to end wins. Without a map count none is a loser. A
    /// repeated call repeats its answer. `token` is the token to give it, drawn at random. When the last map gets its
    /// winner, the commit of all locations starts with this call, and nothing is placed any more.
    ///
    /// # Errors
    /// `NotStarted` or `Dead`.
    pub fn finish_attempt(&mut self, key: AttemptKey, token: Token) -> Result<Ended, AttemptError> {
        let staged = match self.attempts.find(key)? {
            Found::Live(live) => std::mem::take(&mut live.staged),
            Found::Dead => return Err(dead(key.name)),
            Found::Ended { token, won } => return Ok(Ended { token, won, stage_ended: false }),
        };
        let map = key.name.map;
        let counted = self.maps.is_some();
        let has_won = self.attempts.winners.contains_key(&map) && !sabotage::is(Sabotage::LastAttemptWins);
        let won = !(counted && has_won);
        let token = self.attempts.unused(token);
        self.attempts.live.remove(&key.name);
        self.attempts.past.insert(key.name, Past { nonce: key.nonce, fate: Fate::Ended { token, won } });
        if won {
            self.attempts.readable.insert(
                token,
                Winner { name: key.name, token, touched: staged.iter().map(|(partition, _)| partition.0).collect() },
            );
        }
        if won && counted {
            self.attempts.winners.insert(map, token);
            for (partition, sum) in &staged {
                self.attempts.sums[partition.0 as usize].merge(sum);
            }
        }
        let all = self.maps.is_some_and(|maps| self.attempts.winners.len() == maps as usize);
        let stage_ended = all && self.stage == Stage::Running;
        if stage_ended {
            self.stage = Stage::Ended;
            self.place_no_more();
            self.commit(0..self.partitions);
        }
        Ok(Ended { token, won, stage_ended })
    }

    /// The winners of a range of maps, rising.
    pub fn winners(&self, maps: std::ops::Range<u32>) -> impl Iterator<Item = &Winner> + '_ {
        let range = MapId(maps.start)..MapId(maps.end.max(maps.start));
        self.attempts.winners.range(range).filter_map(|(_, token)| self.attempts.readable.get(token))
    }

    /// The attempts of a set of tokens, in its order.
    ///
    /// # Errors
    /// `Unknown` for a token that is not one of this shuffle's, `SameMap` when two name one map.
    pub fn by_tokens(&self, tokens: &[Token]) -> Result<Vec<&Winner>, TokenError> {
        let mut maps = BTreeSet::new();
        let mut named = Vec::with_capacity(tokens.len());
        for token in tokens {
            let winner = self.attempts.readable.get(token).ok_or(TokenError::Unknown { token: *token })?;
            if !maps.insert(winner.name.map) {
                return Err(TokenError::SameMap { map: winner.name.map.0 });
            }
            named.push(winner);
        }
        Ok(named)
    }
}
