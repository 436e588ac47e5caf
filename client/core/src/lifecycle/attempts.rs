//! Attempts: opened before their first push, alive by lease, and ended once; the first to end wins its map.
//!
//! | state | becomes | by |
//! |---|---|---|
//! | Live | Ended | the last page of its end |
//! | Live | Dead | lease over, or declared failed |
//!
//! A dead attempt can't end any more, and an ended one can't die: being declared failed has no effect on it.
//! Memory: a map's winner and the run-length set of partitions it touched, and one sum per partition; nothing per
//! (map, partition) pair.

use std::collections::BTreeMap;
use std::time::Duration;

use mallorn_proto::id::{Attempt, MapId, Partition, Token};

use super::error::{AttemptError, TokenError};
use super::{GenerationState, Stage};
use crate::push::BatchSum;
use mallorn_proto::range_set::RangeSet;

/// Most attempts that one generation keeps.
pub(super) const ATTEMPTS_MAX: usize = 1 << 22;

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
    pub touched: RangeSet,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its token.
    pub token: Token,
    /// Whether its data counts.
    pub won: bool,
    /// Whether the stage ended with it.
    pub stage_ended: bool,
}

#[derive(Debug)]
struct Kept {
    nonce: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Live { until: Duration, pages: u32, staged: Vec<(Partition, BatchSum)> },
    Dead,
    Ended { token: Token, won: bool },
}

/// The attempts of one generation.
#[derive(Debug)]
pub(super) struct Attempts {
    maps: Option<u32>,
    kept: BTreeMap<AttemptName, Kept>,
    /// By map where a map count is known: the winners. Otherwise empty.
    winners: BTreeMap<MapId, Token>,
    /// Every attempt whose data may be read.
    readable: BTreeMap<Token, Winner>,
    sums: Vec<BatchSum>,
}

impl Attempts {
    pub(super) fn new(partitions: u32, maps: Option<u32>) -> Self {
        let sums = if maps.is_some() { vec![BatchSum::default(); partitions as usize] } else { Vec::new() };
        Self { maps, kept: BTreeMap::new(), winners: BTreeMap::new(), readable: BTreeMap::new(), sums }
    }

    pub(super) fn expire(&mut self, now: Duration) -> usize {
        let mut died = 0;
        for kept in self.kept.values_mut() {
            if matches!(kept.state, State::Live { until, .. } if until <= now) {
                kept.state = State::Dead;
                died += 1;
            }
        }
        died
    }

    /// Whether another attempt has won the map.
    pub(super) fn lost(&self, name: AttemptName) -> bool {
        let winner = self.winners.get(&name.map).and_then(|token| self.readable.get(token));
        winner.is_some_and(|winner| winner.name != name)
    }

    pub(super) fn sum(&self, partition: Partition) -> Option<BatchSum> {
        self.sums.get(partition.0 as usize).copied()
    }

    fn find(&mut self, key: AttemptKey) -> Result<&mut Kept, AttemptError> {
        let AttemptName { map, attempt } = key.name;
        let known = self.kept.get_mut(&key.name).filter(|kept| kept.nonce == key.nonce);
        known.ok_or(AttemptError::NotStarted { map: map.0, attempt: attempt.0 })
    }

    pub(super) fn check_live(&mut self, key: AttemptKey) -> Result<(), AttemptError> {
        match self.find(key)?.state {
            State::Live { .. } | State::Ended { .. } => Ok(()),
            State::Dead => Err(dead(key.name)),
        }
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
        if let Some(maps) = self.maps.filter(|maps| map.0 >= *maps) {
            return Err(AttemptError::MapOutOfRange { map: map.0, maps });
        }
        let until = now + self.attempt_lease;
        if let Some(kept) = self.attempts.kept.get_mut(&key.name) {
            if kept.nonce != key.nonce {
                return Err(AttemptError::Taken { map: map.0, attempt: attempt.0 });
            }
            return match &mut kept.state {
                State::Live { until: old, .. } => {
                    *old = until;
                    Ok(())
                }
                State::Dead => Err(dead(key.name)),
                State::Ended { .. } => Ok(()),
            };
        }
        if self.stage == Stage::Ended {
            return Err(AttemptError::StageEnded);
        }
        if self.attempts.kept.len() >= ATTEMPTS_MAX {
            return Err(AttemptError::TooMany);
        }
        let state = State::Live { until, pages: 0, staged: Vec::new() };
        self.attempts.kept.insert(key.name, Kept { nonce: key.nonce, state });
        Ok(())
    }

    /// Renews an attempt's lease; `false` when it is dead or unknown.
    pub fn renew_attempt(&mut self, key: AttemptKey, now: Duration) -> bool {
        let until_next = now + self.attempt_lease;
        match self.attempts.find(key) {
            Ok(Kept { state: State::Live { until, .. }, .. }) => {
                *until = until_next;
                true
            }
            Ok(Kept { state: State::Ended { .. }, .. }) => true,
            Ok(Kept { state: State::Dead, .. }) | Err(_) => false,
        }
    }

    /// Declares an attempt dead. It has no effect on one that has ended.
    ///
    /// # Errors
    /// `NotStarted`.
    pub fn attempt_failed(&mut self, key: AttemptKey) -> Result<(), AttemptError> {
        let kept = self.attempts.find(key)?;
        match kept.state {
            State::Live { .. } => kept.state = State::Dead,
            State::Dead | State::Ended { .. } => {}
        }
        Ok(())
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
        let (pages, staged) = match &mut self.attempts.find(key)?.state {
            State::Live { pages, staged, .. } => (pages, staged),
            State::Dead => return Err(dead(key.name)),
            State::Ended { .. } => return Ok(()),
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
        *pages += 1;
        Ok(())
    }

    /// Ends an attempt with the pages staged: the first of its map to end wins. Without a map count none is a loser. A
    /// repeated call repeats its answer. `token` is the token to give it, drawn at random.
    ///
    /// # Errors
    /// `NotStarted` or `Dead`.
    pub fn finish_attempt(&mut self, key: AttemptKey, token: Token) -> Result<Ended, AttemptError> {
        let map = key.name.map;
        let counted = self.attempts.maps.is_some();
        let won = !(counted && self.attempts.winners.contains_key(&map));
        let kept = self.attempts.find(key)?;
        let staged = match &mut kept.state {
            State::Live { staged, .. } => std::mem::take(staged),
            State::Dead => return Err(dead(key.name)),
            State::Ended { token, won } => return Ok(Ended { token: *token, won: *won, stage_ended: false }),
        };
        kept.state = State::Ended { token, won };
        if won {
            let touched = staged.iter().map(|(partition, _)| partition.0).collect();
            self.attempts.readable.insert(token, Winner { name: key.name, token, touched });
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
        let mut maps = RangeSet::new();
        let mut named = Vec::with_capacity(tokens.len());
        for token in tokens {
            let winner = self.attempts.readable.get(token).ok_or(TokenError::Unknown { token: *token })?;
            if !maps.insert(winner.name.map.0) {
                return Err(TokenError::SameMap { map: winner.name.map.0 });
            }
            named.push(winner);
        }
        Ok(named)
    }
}
