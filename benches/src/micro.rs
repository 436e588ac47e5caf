//! Micro-benchmarks: what one call of the pure parts costs, without sockets, disks or other threads.
//!
//! Owns the timing and the table. Does not own what is called (`wire`, `rules`).

mod rules;
mod wire;

use std::fmt;
use std::hint::black_box;
use std::time::Duration;

use mallorn_runtime::clock;
use serde::Serialize;

use crate::statistics::median;

/// Samples of one benchmark.
const SAMPLES: usize = 11;
/// About how long one sample takes, and what comes before the first one to warm up.
const SAMPLE: Duration = Duration::from_millis(8);

/// What one operation costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Micro {
    /// Short, and unique.
    pub(crate) name: &'static str,
    /// What one operation is.
    pub(crate) what: &'static str,
    /// Nanoseconds per operation: the median of the samples.
    pub(crate) ns_per_op: f64,
    /// How far samples are apart: (90th - 10th percentile) / median.
    pub(crate) spread: f64,
}

/// Runs all of them, in about 3 seconds of a release build. It blocks its thread.
pub(crate) fn run() -> Vec<Micro> {
    let mut bench = Bench::default();
    wire::run(&mut bench);
    rules::run(&mut bench);
    bench.micros
}

/// Figures as a table for people.
pub(crate) struct Table<'a>(pub(crate) &'a [Micro]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<24} {:>12} {:>8}  one operation", "", "ns/op", "spread")?;
        for Micro { name, what, ns_per_op, spread } in self.0 {
            writeln!(f, "{name:<24} {ns_per_op:>12.1} {:>6.1} %  {what}", spread * 100.0)?;
        }
        Ok(())
    }
}

/// Times one benchmark after the other.
#[derive(Debug, Default)]
struct Bench {
    micros: Vec<Micro>,
}

impl Bench {
    /// Times a call that does `operations` of what is measured.
    fn time<T>(&mut self, name: &'static str, what: &'static str, operations: usize, mut call: impl FnMut() -> T) {
        let mut sample = |calls: u32| {
            let start = clock::now();
            for _ in 0..calls {
                black_box(call());
            }
            start.elapsed()
        };
        // Finding out how many calls fill a sample is the warming up.
        let mut calls = 1_u32;
        let mut took = sample(calls);
        while took < SAMPLE / 2 {
            calls = calls.saturating_mul(2);
            took = sample(calls);
        }
        let fill = SAMPLE.as_secs_f64() / took.as_secs_f64() * f64::from(calls);
        let calls = fill.max(1.0) as u32;
        let per_operation = |took: Duration| took.as_secs_f64() * 1e9 / f64::from(calls) / operations as f64;
        let samples = std::array::from_fn(|_| per_operation(sample(calls)));
        self.micros.push(Micro::of(name, what, samples));
    }
}

impl Micro {
    /// Of samples in nanoseconds per operation.
    fn of(name: &'static str, what: &'static str, mut samples: [f64; SAMPLES]) -> Self {
        samples.sort_by(f64::total_cmp);
        let ns_per_op = median(samples.iter().copied());
        let percentile = |percent: usize| samples[(SAMPLES - 1) * percent / 100];
        Self { name, what, ns_per_op, spread: (percentile(90) - percentile(10)) / ns_per_op }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_counts_and_one_outlier_at_each_end_does_not() {
        let micro = Micro::of("", "", [1000.0, 90.0, 100.0, 100.0, 0.0, 110.0, 100.0, 100.0, 100.0, 100.0, 100.0]);
        assert_eq!((micro.ns_per_op, micro.spread), (100.0, 0.2));
    }

    #[test]
    fn whatever_is_called_takes_some_time() {
        let mut bench = Bench::default();
        bench.time("sum", "", 2, || (0..1000_u64).fold(0, |sum, number| sum ^ black_box(number)));
        assert!(bench.micros[0].ns_per_op > 0.0 && bench.micros[0].spread >= 0.0, "{bench:?}");
    }

    #[test]
    fn a_table_has_a_line_for_each() {
        let micro = Micro { name: "push encode", what: "a head", ns_per_op: 12.34, spread: 0.05 };
        let table = Table(&[micro.clone(), micro]).to_string();
        assert_eq!(table.lines().count(), 3);
        assert!(table.contains("push encode") && table.contains("12.3") && table.contains("5.0 %"), "{table}");
    }
}
