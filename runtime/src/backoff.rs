//! Waits between tries of one thing.
//!
//! Owns how they grow. Does not own when trying ends.

use std::time::Duration;

use crate::clock;
use crate::random::Random;

/// Doublings after which even a first wait of a microsecond has become an hour.
const DOUBLINGS_MAX: u32 = 31;

/// Waits that double from the first up to the longest; each is drawn between half of itself and the whole, so that many
/// callers do not try in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    waits: u32,
}

impl Backoff {
    /// Nothing was tried yet.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, waits: 0 }
    }

    /// The most that the next wait takes.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.first.saturating_mul(1 << self.waits).min(self.longest)
    }

    /// Whether it has not waited since the start, or since the last reset.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.waits == 0
    }

    /// Waits. Cancel-safe: the next wait is longer also where this one was dropped.
    pub async fn wait(&mut self, random: &Random) {
        let wait = random.jitter(self.next());
        self.waits = (self.waits + 1).min(DOUBLINGS_MAX);
        clock::sleep(wait).await;
    }

    /// It worked: the next wait is the first again.
    pub fn reset(&mut self) {
        self.waits = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_a_bound_and_start_again_after_a_success() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(700));
        let (random, mut backoff) = (Random::seeded(1), Backoff::new(first, longest));
        for wanted in [100, 200, 400].into_iter().chain([700; 40]).map(Duration::from_millis) {
            assert_eq!((backoff.next(), backoff.is_fresh()), (wanted, wanted == first));
            let began = clock::now();
            backoff.wait(&random).await;
            // The timer counts whole milliseconds.
            assert!((wanted / 2..=wanted + Duration::from_millis(1)).contains(&began.elapsed()));
        }
        backoff.reset();
        assert_eq!(backoff.next(), first);
    }
}
