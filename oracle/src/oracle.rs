//! The oracle: sees what every client pushed and was told, and what every reader got, and says whether that was right.
//!
//! Owns the rules of exactly once, as an engine sees them:
//! - a map has one winner in a generation, for all who hear of it and for all who read;
//! - a read that ends has delivered every unit of every winner in its range once, and nothing else, each unit whole;
//! - a read that fails says why, and what it delivered before is a part of that;
//! - an attempt that could not end, lost, or failed is never read.
//!
//! Does not own how the processes reach that, nor does it look into them. Where a client was not told how its attempt
//! ended, both are allowed until the first reader settles it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::workload::{AttemptName, Unit, read_units};

/// Most violations that are kept; the first one says most.
const VIOLATIONS_MAX: usize = 20;

/// How far an attempt came, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has not asked for its end.
    Pushing,
    /// It has asked for its end, and was not told how it ended.
    Asked,
    Won,
    Lost,
    /// It never can have ended.
    Failed,
}

#[derive(Debug)]
struct Attempt {
    fate: Fate,
    /// It was declared dead before it asked for its end.
    dead: bool,
    /// By partition.
    units: BTreeMap<u32, BTreeSet<Unit>>,
    bytes: BTreeMap<u32, u64>,
}

/// Which attempts a read must return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The winner of each of so many maps.
    Winners {
        /// How many.
        maps: u32,
    },
    /// Exactly those of these tokens.
    Tokens(Vec<u64>),
}

/// What was asked of a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The shuffle.
    pub shuffle: u32,
    /// The generation that the reader was opened in.
    pub generation: u32,
    /// These partitions.
    pub partitions: Range<u32>,
    /// Only these maps, where it says so.
    pub maps: Option<Range<u32>>,
    /// Which attempts.
    pub wanted: Wanted,
}

/// A batch as a reader got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// As the batch says.
    pub partition: u32,
    /// As the batch says.
    pub map: u32,
    /// Whole units.
    pub data: Vec<u8>,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With the end of its stream.
    Whole,
    /// With an error.
    Failed,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Units that were about to be pushed, by whatever attempt.
    pub units_pushed: u64,
    /// Units that readers were delivered.
    pub units_read: u64,
    /// Reads that came to the end.
    pub reads_whole: u64,
    /// Reads that came to an error.
    pub reads_failed: u64,
    /// Attempts that were told that they count.
    pub winners: u64,
    /// Attempts that were told that they do not.
    pub losers: u64,
}

/// The oracle; clones share what it knows.
#[derive(Clone)]
pub struct Oracle {
    state: Arc<Mutex<State>>,
    say: Arc<Say>,
}

/// Takes a line for people: what an attempt or a read came to, or `VIOLATION` and what it is.
type Say = dyn Fn(&dyn fmt::Display) + Send + Sync;

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oracle").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    attempts: BTreeMap<AttemptName, Attempt>,
    /// By shuffle, generation and map: the attempt that somebody was told has won, or that a reader returned.
    winners: BTreeMap<(u32, u32, u32), u32>,
    tokens: BTreeMap<(u32, u64), AttemptName>,
    declared_dead: BTreeSet<AttemptName>,
    violations: Vec<String>,
    checked: Checked,
}

impl Oracle {
    /// Knows nothing yet. `say` is told each attempt's and read's end, and each violation at once.
    pub fn new(say: impl Fn(&dyn fmt::Display) + Send + Sync + 'static) -> Self {
        Self { state: Arc::default(), say: Arc::new(say) }
    }

    /// What was wrong so far.
    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// What was checked so far.
    pub fn checked(&self) -> Checked {
        self.state.lock().checked
    }

    /// Notes something that must not be.
    pub fn violated(&self, what: impl fmt::Display) {
        (self.say)(&format_args!("VIOLATION {what}"));
        self.state.lock().violate(what.to_string());
    }

    /// An attempt was opened.
    pub fn started(&self, name: AttemptName) {
        let attempt = Attempt { fate: Fate::Pushing, dead: false, units: BTreeMap::new(), bytes: BTreeMap::new() };
        if self.state.lock().attempts.insert(name, attempt).is_some() {
            self.violated(format_args!("attempt {name} was opened twice"));
        }
    }

    /// A client is about to push a unit of so many bytes.
    pub fn pushing(&self, unit: Unit, bytes: usize) {
        let mut state = self.state.lock();
        state.checked.units_pushed += 1;
        if let Some(attempt) = state.attempts.get_mut(&unit.of) {
            attempt.units.entry(unit.partition).or_default().insert(unit);
            *attempt.bytes.entry(unit.partition).or_default() += bytes as u64;
        }
    }

    /// An attempt's client is about to ask for its end: all its pushes have succeeded.
    pub fn asks_end(&self, name: AttemptName) {
        self.state.lock().set_fate(name, Fate::Asked);
    }

    /// An attempt cannot have ended, and never will.
    pub fn failed(&self, name: AttemptName, why: &str) {
        (self.say)(&format_args!("attempt {name} failed: {why}"));
        self.state.lock().set_fate(name, Fate::Failed);
    }

    /// The driver has declared an attempt dead. One that had not asked for its end before can't have won, and never may.
    pub fn declared_dead(&self, name: AttemptName) {
        let mut state = self.state.lock();
        state.declared_dead.insert(name);
        if let Some(attempt) = state.attempts.get_mut(&name) {
            attempt.dead |= attempt.fate == Fate::Pushing;
        }
    }

    /// A client was told that its attempt is dead, while it held the lease: what ends a lease early.
    pub fn told_dead(&self, name: AttemptName, generation_is_over: bool) {
        if !generation_is_over && !self.state.lock().declared_dead.contains(&name) {
            self.violated(format_args!("{name} was told that it is dead while it held its lease"));
        }
    }

    /// An attempt of a shuffle with a map count was told how it ended.
    pub fn ended(&self, name: AttemptName, won: bool, bytes: &[(u32, u64)]) {
        (self.say)(&format_args!("attempt {name} {}", if won { "won" } else { "lost" }));
        let mut state = self.state.lock();
        state.check_bytes(name, bytes);
        if won {
            state.settle(name, "was told that it won");
            state.set_fate(name, Fate::Won);
            state.checked.winners += 1;
        } else {
            state.lost(name);
            state.checked.losers += 1;
        }
    }

    /// An attempt of a shuffle without a map count has ended.
    pub fn ended_with_token(&self, name: AttemptName, token: u64, bytes: &[(u32, u64)]) {
        (self.say)(&format_args!("attempt {name} ended with a token"));
        let mut state = self.state.lock();
        state.check_bytes(name, bytes);
        state.set_fate(name, Fate::Won);
        state.checked.winners += 1;
        if let Some(other) = state.tokens.insert((name.shuffle, token), name) {
            state.violate(format!("{name} and {other} have the same token"));
        }
    }

    /// Some unit of an attempt that has lost or failed: for the oracle's own tests.
    pub fn unit_of_a_loser(&self, asked: &Asked) -> Option<Unit> {
        let state = self.state.lock();
        let lost = state.attempts.iter().filter(|(name, attempt)| {
            let current = (name.shuffle, name.generation) == (asked.shuffle, asked.generation);
            current && attempt.fate == Fate::Lost
        });
        let mut units = lost.flat_map(|(_, attempt)| attempt.units.values().flatten());
        units.find(|unit| asked.partitions.contains(&unit.partition)).copied()
    }

    /// A read has ended.
    pub fn read(&self, asked: &Asked, delivered: &[Delivered], ended: Ended) {
        let Asked { shuffle, generation, partitions, .. } = asked;
        let batches = delivered.len();
        (self.say)(&format_args!("read s{shuffle}.g{generation} p{partitions:?}: {batches} batches, {ended:?}"));
        let mut state = self.state.lock();
        match ended {
            Ended::Whole => state.checked.reads_whole += 1,
            Ended::Failed => state.checked.reads_failed += 1,
        }
        let before = state.violations.len();
        if let Err(why) = state.check_read(asked, delivered, ended) {
            state.violate(format!("read of {asked:?}: {why}"));
        }
        state.violations[before..].iter().for_each(|violation| (self.say)(&format_args!("VIOLATION {violation}")));
    }
}

impl State {
    fn violate(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    fn set_fate(&mut self, name: AttemptName, fate: Fate) {
        if let Some(attempt) = self.attempts.get_mut(&name) {
            attempt.fate = fate;
        }
    }

    /// There is proof that this attempt is its map's winner.
    fn settle(&mut self, name: AttemptName, proof: &str) {
        if self.attempts.get(&name).is_some_and(|attempt| attempt.dead) {
            self.violate(format!("{name} {proof}, but it was declared dead before it asked for its end"));
        }
        let key = (name.shuffle, name.generation, name.map);
        let first = *self.winners.entry(key).or_insert(name.attempt);
        if first != name.attempt {
            self.violate(format!("{name} {proof}, but attempt {first} of the map has won"));
        }
    }

    fn lost(&mut self, name: AttemptName) {
        self.set_fate(name, Fate::Lost);
        if self.winners.get(&(name.shuffle, name.generation, name.map)) == Some(&name.attempt) {
            self.violate(format!("{name} was told that it lost, but it has won"));
        }
    }

    /// The sizes that an attempt's end reports are those pushed.
    fn check_bytes(&mut self, name: AttemptName, reported: &[(u32, u64)]) {
        let Some(attempt) = self.attempts.get(&name) else { return };
        let reported: BTreeMap<_, _> = reported.iter().copied().filter(|(_, bytes)| *bytes > 0).collect();
        if reported != attempt.bytes {
            let pushed = attempt.bytes.clone();
            self.violate(format!("{name} pushed {pushed:?} bytes, its end reports {reported:?}"));
        }
    }

    fn check_read(&mut self, asked: &Asked, delivered: &[Delivered], ended: Ended) -> Result<(), String> {
        let mut got: BTreeMap<(u32, u32), BTreeSet<Unit>> = BTreeMap::new();
        for batch in delivered {
            for unit in units_of(asked, batch)? {
                self.checked.units_read += 1;
                if !got.entry((unit.of.map, unit.partition)).or_default().insert(unit) {
                    return Err(format!("{unit} was delivered twice"));
                }
            }
        }
        let expected = self.expected(asked, got.values().flatten(), ended)?;
        for (key, units) in &got {
            let of = expected.get(&key.0).ok_or_else(|| format!("map {} was not asked for", key.0))?;
            let pushed = self.attempts.get(of).and_then(|attempt| attempt.units.get(&key.1));
            if let Some(stray) = units.iter().find(|unit| pushed.is_none_or(|pushed| !pushed.contains(unit))) {
                return Err(format!("{stray} was delivered, but {of} counts"));
            }
        }
        if ended == Ended::Failed {
            return Ok(());
        }
        for (map, of) in &expected {
            for partition in asked.partitions.clone() {
                let pushed = self.attempts.get(of).and_then(|attempt| attempt.units.get(&partition));
                let got = got.get(&(*map, partition));
                let missing = pushed.into_iter().flatten().find(|unit| got.is_none_or(|got| !got.contains(unit)));
                if let Some(missing) = missing {
                    return Err(format!("the read ended without {missing}"));
                }
            }
        }
        Ok(())
    }

    /// The attempt that counts of each map. One that was delivered settles whose outcome is not known.
    fn expected<'a>(
        &mut self,
        asked: &Asked,
        delivered: impl Iterator<Item = &'a Unit>,
        ended: Ended,
    ) -> Result<BTreeMap<u32, AttemptName>, String> {
        let Asked { shuffle, generation, .. } = *asked;
        let maps = match &asked.wanted {
            Wanted::Tokens(tokens) => return self.of_tokens(asked, tokens),
            Wanted::Winners { maps } => *maps,
        };
        for unit in delivered {
            let fate = self.attempts.get(&unit.of).map(|attempt| attempt.fate);
            match fate {
                Some(Fate::Asked | Fate::Won) => self.settle(unit.of, "was delivered"),
                _ => return Err(format!("{unit} was delivered, whose attempt is {fate:?}")),
            }
        }
        let range = asked.maps.clone().unwrap_or(0..maps);
        let mut expected = BTreeMap::new();
        for map in range.start..range.end.min(maps) {
            if let Some(attempt) = self.winners.get(&(shuffle, generation, map)) {
                expected.insert(map, AttemptName { shuffle, generation, map, attempt: *attempt });
            } else if ended == Ended::Whole && !self.may_have_won_with_nothing(asked, map) {
                return Err(format!("nothing of map {map} was delivered, and none of its attempts can have won"));
            }
        }
        Ok(expected)
    }

    fn of_tokens(&self, asked: &Asked, tokens: &[u64]) -> Result<BTreeMap<u32, AttemptName>, String> {
        let mut expected = BTreeMap::new();
        for token in tokens {
            let name = self.tokens.get(&(asked.shuffle, *token)).copied();
            let name = name.ok_or_else(|| format!("nobody was given the token {token:016x}"))?;
            if asked.maps.as_ref().is_none_or(|maps| maps.contains(&name.map)) {
                expected.insert(name.map, name);
            }
        }
        Ok(expected)
    }

    /// Whether an attempt whose outcome nobody was told may have won, and has nothing in these partitions.
    fn may_have_won_with_nothing(&self, asked: &Asked, map: u32) -> bool {
        let Asked { shuffle, generation, .. } = *asked;
        let first = AttemptName { shuffle, generation, map, attempt: 0 };
        let attempts = self.attempts.range(first..=AttemptName { attempt: u32::MAX, ..first });
        let mut asked_for_end = attempts.filter(|(_, attempt)| attempt.fate == Fate::Asked);
        asked_for_end.any(|(_, attempt)| attempt.units.range(asked.partitions.clone()).next().is_none())
    }
}

/// The units of a batch, if they are what was asked for and what the batch says.
fn units_of(asked: &Asked, batch: &Delivered) -> Result<Vec<Unit>, String> {
    let Delivered { partition, map, data } = batch;
    let units =
        read_units(data).map_err(|broken| format!("a batch of map {map}, partition {partition}: {broken:?}"))?;
    for unit in &units {
        let right = (unit.of.shuffle, unit.of.generation) == (asked.shuffle, asked.generation)
            && (unit.of.map, unit.partition) == (*map, *partition)
            && asked.partitions.contains(partition)
            && asked.maps.as_ref().is_none_or(|maps| maps.contains(map));
        if !right {
            return Err(format!("{unit} was delivered as map {map}, partition {partition}"));
        }
    }
    Ok(units)
}
