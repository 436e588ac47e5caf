//! How long requests took, from the histograms that clients keep.

use prometheus::Registry;

/// Counts of requests by how long they took.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Times {
    /// Upper bounds of the buckets, in seconds, and how many requests took no longer than each.
    buckets: Vec<(f64, u64)>,
    count: u64,
    sum_s: f64,
}

impl Times {
    /// Of a histogram of that name, summed over registries.
    pub(crate) fn of(registries: &[Registry], name: &str) -> Self {
        let mut times = Self::default();
        for family in registries.iter().flat_map(Registry::gather).filter(|family| family.name() == name) {
            for histogram in family.get_metric().iter().map(|metric| metric.get_histogram()) {
                times.count += histogram.get_sample_count();
                times.sum_s += histogram.get_sample_sum();
                for (at, bucket) in histogram.get_bucket().iter().enumerate() {
                    match times.buckets.get_mut(at) {
                        Some((_, count)) => *count += bucket.cumulative_count(),
                        None => times.buckets.push((bucket.upper_bound(), bucket.cumulative_count())),
                    }
                }
            }
        }
        times
    }

    /// Those that came after.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let count_before = |at: usize| before.buckets.get(at).map_or(0, |(_, count)| *count);
        let left = |(at, (bound, count)): (usize, &(f64, u64))| (*bound, count.saturating_sub(count_before(at)));
        Self {
            buckets: self.buckets.iter().enumerate().map(left).collect(),
            count: self.count.saturating_sub(before.count),
            sum_s: self.sum_s - before.sum_s,
        }
    }

    /// The mean, in milliseconds; 0 of none.
    pub(crate) fn mean_ms(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_s / self.count as f64 * 1000.0 }
    }

    /// The time that this share of requests did not exceed, in milliseconds, as exactly as the buckets tell; 0 of none.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let wanted = share * self.count as f64;
        let (mut low, mut below) = (0.0, 0);
        for (bound, count) in &self.buckets {
            if *count > 0 && *count as f64 >= wanted {
                let inside = (wanted - below as f64) / (count - below).max(1) as f64;
                return (low + (bound - low) * inside.clamp(0.0, 1.0)) * 1000.0;
            }
            (low, below) = (*bound, *count);
        }
        low * 1000.0
    }

    /// The longest, as the upper bound of its bucket, in milliseconds.
    pub(crate) fn max_ms(&self) -> f64 {
        self.quantile_ms(1.0)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts};

    use super::*;

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_request_and_differences_forget_what_was_before() {
        let registry = Registry::new();
        let options = HistogramOpts::new("x_seconds", "x").buckets(vec![0.001, 0.01, 0.1]);
        let histogram = Histogram::with_opts(options).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        histogram.observe(0.09);
        let registries = [registry];
        let before = Times::of(&registries, "x_seconds");
        for _ in 0..99 {
            histogram.observe(0.0005);
        }
        histogram.observe(0.005);
        let times = Times::of(&registries, "x_seconds").since(&before);
        assert!(times.quantile_ms(0.5) < 1.0 && times.quantile_ms(0.99) <= 1.0);
        assert!((times.max_ms() - 10.0).abs() < 1e-9, "{}", times.max_ms());
        assert!((times.mean_ms() - (99.0 * 0.5 + 5.0) / 100.0).abs() < 1e-9);
        assert_eq!(Times::default().quantile_ms(0.5), 0.0);
    }
}
