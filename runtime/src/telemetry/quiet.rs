//! Log lines that somebody else can cause at will: the first is written, repeats are counted.
//!
//! Owns the count. Does not own what a line says, nor which lines are alike: that is the key's business. Whoever logs
//! holds one.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Instant;

/// A key's line is written once in this long.
const EVERY: Duration = Duration::from_secs(10);
/// Keys that are told apart; the rest share one.
const KEYS_MAX: usize = 256;

/// Lets one line per key through in ten seconds, and counts the others.
#[derive(Debug)]
pub struct Quiet<K> {
    keys_max: usize,
    keys: Mutex<Keys<K>>,
}

#[derive(Debug)]
struct Keys<K> {
    own: BTreeMap<K, Spoken>,
    /// Of all that have no room of their own.
    shared: Option<Spoken>,
}

/// When a line was last written, and how many were not since.
#[derive(Clone, Copy, Debug)]
struct Spoken {
    at: Instant,
    repeats: u64,
}

/// A line that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Line {
    /// How many like it were not written before it; `None` where there were none.
    pub repeats: Option<u64>,
}

impl<K: Ord> Default for Quiet<K> {
    fn default() -> Self {
        Self::of(KEYS_MAX)
    }
}

impl<K: Ord> Quiet<K> {
    /// Tells so many keys apart.
    #[must_use]
    pub fn of(keys_max: usize) -> Self {
        Self { keys_max, keys: Mutex::new(Keys { own: BTreeMap::new(), shared: None }) }
    }

    /// Whether the line is to be written; it is counted where not.
    pub fn line(&self, key: K, now: Instant) -> Option<Line> {
        let mut keys = self.keys.lock();
        if let Some(spoken) = keys.own.get_mut(&key) {
            return spoken.again(now);
        }
        if keys.own.len() >= self.keys_max {
            keys.forget_old(now);
        }
        if keys.own.len() < self.keys_max {
            keys.own.insert(key, Spoken { at: now, repeats: 0 });
            return Some(Line { repeats: None });
        }
        match &mut keys.shared {
            Some(spoken) => spoken.again(now),
            None => {
                keys.shared = Some(Spoken { at: now, repeats: 0 });
                Some(Line { repeats: None })
            }
        }
    }
}

impl<K: Ord> Keys<K> {
    /// Makes room; what the old ones have counted goes over to the shared line.
    fn forget_old(&mut self, now: Instant) {
        let mut untold = 0;
        self.own.retain(|_, spoken| {
            let is_recent = spoken.is_recent(now);
            untold += if is_recent { 0 } else { spoken.repeats };
            is_recent
        });
        if untold > 0 {
            // One that was never written is due at once.
            let due = now.checked_sub(EVERY).unwrap_or(now);
            self.shared.get_or_insert(Spoken { at: due, repeats: 0 }).repeats += untold;
        }
    }
}

impl Spoken {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < EVERY
    }

    fn again(&mut self, now: Instant) -> Option<Line> {
        if self.is_recent(now) {
            self.repeats += 1;
            return None;
        }
        let repeats = (self.repeats > 0).then_some(self.repeats);
        *self = Self { at: now, repeats: 0 };
        Some(Line { repeats })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn repeats(line: Option<Line>) -> Option<u64> {
        line.and_then(|line| line.repeats)
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_one_line_and_one_with_their_count_later() {
        let (quiet, start) = (Quiet::default(), clock::now());
        let lines = (0..10_000).filter(|_| quiet.line("broken", start).is_some()).count();
        assert_eq!(lines, 1);
        assert_eq!(quiet.line("other", start), Some(Line { repeats: None }));
        assert_eq!(quiet.line("broken", start + EVERY / 2), None);
        assert_eq!(repeats(quiet.line("broken", start + EVERY)), Some(10_000));
        assert_eq!(quiet.line("broken", start + 2 * EVERY), Some(Line { repeats: None }));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_bounded_and_the_rest_share_a_line() {
        let (quiet, start) = (Quiet::of(4), clock::now());
        let lines = (0..10_000).filter(|key| quiet.line(*key, start).is_some()).count();
        assert_eq!((lines, quiet.keys.lock().own.len()), (5, 4));
        let later = start + EVERY;
        assert_eq!(quiet.line(9_999, later), Some(Line { repeats: None }), "old ones make room");
        assert_eq!(quiet.keys.lock().own.len(), 1);
        for key in 0..3 {
            assert!(quiet.line(key, later).is_some());
        }
        assert_eq!(repeats(quiet.line(7, later)), Some(9_995), "nothing is left uncounted");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_forgotten_key_has_counted_is_told_with_the_shared_line() {
        let (quiet, start) = (Quiet::of(1), clock::now());
        assert!(quiet.line(0, start).is_some());
        assert!(quiet.line(0, start).is_none());
        assert!(quiet.line(1, start + EVERY).is_some());
        assert_eq!(repeats(quiet.line(2, start + EVERY)), Some(1));
    }
}
