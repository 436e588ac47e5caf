//! How far a job is, for those who strike at a moment of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What a job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Nothing yet.
    Start,
    /// Maps push.
    Push,
    /// All maps have a winner, and workers freeze and seal.
    Commit,
    /// The stage has ended, and nobody reads yet.
    Committed,
    /// Readers read.
    Read,
    /// Everything was read.
    Over,
}

/// How far a job is.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: Mutex<Phase>,
    units: u64,
    pushed: AtomicU64,
    read: AtomicU64,
    /// Maps that have a winner.
    won: AtomicU64,
}

impl Progress {
    /// Of a job that pushes so many units.
    pub(crate) fn new(units: u64) -> Self {
        Self {
            phase: Mutex::new(Phase::Start),
            units,
            pushed: AtomicU64::new(0),
            read: AtomicU64::new(0),
            won: AtomicU64::new(0),
        }
    }

    /// A phase begins, with nothing done of it.
    pub(crate) fn enter(&self, phase: Phase) {
        *self.phase.lock() = phase;
        self.pushed.store(0, Ordering::Relaxed);
        self.read.store(0, Ordering::Relaxed);
        self.won.store(0, Ordering::Relaxed);
    }

    pub(crate) fn pushed(&self) {
        self.pushed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn won(&self) {
        self.won.fetch_add(1, Ordering::Relaxed);
    }

    /// How many maps have a winner, while maps push.
    pub(crate) fn winners(&self) -> u64 {
        self.won.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self, units: u64) {
        self.read.fetch_add(units, Ordering::Relaxed);
    }

    /// Whether it is that far, or further: so many units in a hundred of what the phase pushes or reads.
    pub(crate) fn is_at(&self, phase: Phase, percent: u64) -> bool {
        let now = *self.phase.lock();
        let done = match now {
            Phase::Push => self.pushed.load(Ordering::Relaxed),
            Phase::Read => self.read.load(Ordering::Relaxed),
            Phase::Start | Phase::Commit | Phase::Committed | Phase::Over => self.units,
        };
        now > phase || now == phase && done * 100 >= self.units * percent
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = [&self.pushed, &self.read].map(|count| count.load(Ordering::Relaxed));
        write!(f, "{:?}, {} pushed and {} read of {}", *self.phase.lock(), done[0], done[1], self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_reached_when_enough_of_it_is_done_or_a_later_one_begins() {
        let progress = Progress::new(10);
        assert!(!progress.is_at(Phase::Push, 0));
        progress.enter(Phase::Push);
        assert!(progress.is_at(Phase::Push, 0) && !progress.is_at(Phase::Push, 10));
        progress.pushed();
        assert!(progress.is_at(Phase::Push, 10) && !progress.is_at(Phase::Commit, 0));
        progress.enter(Phase::Read);
        assert!(progress.is_at(Phase::Commit, 100) && !progress.is_at(Phase::Read, 50));
        progress.read(5);
        assert!(progress.is_at(Phase::Read, 50));
    }
}
