//! Randomness, passed in by whoever starts a role: from the operating system in production, from a seed in simulation.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A source of randomness; clones share it.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_system() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// Seeded by a number: the same numbers every time.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A random number of 64 bits; zero is never drawn, because zero means "none" on the wire.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.lock().random_range(1..=u64::MAX)
    }

    /// A random number of 128 bits; zero is never drawn.
    #[must_use]
    pub fn wide_id(&self) -> u128 {
        self.0.lock().random_range(1..=u128::MAX)
    }

    /// A number below `bound`; zero where the bound is zero.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.lock().random_range(0..bound) }
    }

    /// A time between half of the duration and the whole, so that many callers do not retry in step.
    #[must_use]
    pub fn jitter(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.0.lock().random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_numbers_every_time_and_clones_share_them() {
        let draw = |random: &Random| (random.id(), random.wide_id(), random.below(1000));
        let (one, two) = (Random::seeded(7), Random::seeded(7));
        let (first, clone) = (draw(&one), one.clone());
        let second = draw(&clone);
        assert_ne!(first, second);
        assert_eq!([first, second], [draw(&two), draw(&two)]);
        assert_ne!(draw(&Random::seeded(8)), first);
        assert_ne!(Random::from_system().id(), Random::from_system().id());
    }

    #[test]
    fn numbers_stay_below_their_bound_and_jitter_between_half_and_whole() {
        let random = Random::seeded(1);
        assert!((0..100).all(|_| random.below(3) < 3));
        assert_eq!((random.below(0), random.below(1)), (0, 0));
        let whole = Duration::from_secs(2);
        assert!((0..100).map(|_| random.jitter(whole)).all(|drawn| (whole / 2..whole).contains(&drawn)));
        assert_eq!(random.jitter(Duration::ZERO), Duration::ZERO);
    }
}
