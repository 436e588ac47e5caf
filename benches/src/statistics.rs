//! Medians, and how far they are to be trusted.

use mallorn_runtime::random::Random;
use serde::{Deserialize, Serialize};

/// Resamplings of one bootstrap.
const RESAMPLINGS: usize = 10_000;
/// Seed of the resampling: the same figures give the same interval.
const SEED: u64 = 1;
/// Share of the resampled medians that lie below the interval, and as many above it.
const TAIL: f64 = 0.05;

/// A median with its 90 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    /// The median of the samples.
    pub(crate) median: f64,
    /// The interval's lower end.
    pub(crate) low: f64,
    /// The interval's upper end.
    pub(crate) high: f64,
}

impl Estimate {
    /// Of at least one sample, by resampling with replacement.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let random = Random::seeded(SEED);
        let draw = |_| samples[random.below(samples.len() as u64) as usize];
        let resampled = (0..RESAMPLINGS).map(|_| median((0..samples.len()).map(draw)));
        let medians = sorted(resampled);
        let tail = (TAIL * RESAMPLINGS as f64) as usize;
        Self { median: median(samples.iter().copied()), low: medians[tail], high: medians[RESAMPLINGS - 1 - tail] }
    }
}

/// The middle sample, or the mean of the two in the middle; of at least one.
pub(crate) fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let sorted = sorted(samples);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

fn sorted(samples: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = samples.collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn an_interval_holds_its_median_repeats_itself_and_ignores_one_outlier() {
        let samples = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 100.0];
        let estimate = Estimate::of(&samples);
        assert_eq!(estimate.median, 1.4);
        assert!(estimate.low < 1.4 && estimate.high > 1.4 && estimate.high <= 1.7, "{estimate:?}");
        assert_eq!(estimate, Estimate::of(&samples));
        assert_eq!(Estimate::of(&[2.0]), Estimate { median: 2.0, low: 2.0, high: 2.0 });
    }
}
