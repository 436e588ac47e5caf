//! How costs grow: with partitions, connections, shuffles and maps, each alone, by factors of ten.
//!
//! Owns the points. Does not own how one of them is measured (`bench`).

use std::fmt;

use mallorn_client::Durability;
use serde::Serialize;

use crate::bench::{self, BenchError, Setup};
use crate::outcome::Outcome;
use crate::plot;
use crate::progress::Progress;
use crate::scenario::{Floor, Kind, Memory, SCENARIOS, Scenario, Shape};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What grows, and what is measured with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dimension {
    /// Partitions of a shuffle.
    Partitions,
    /// Connections to a worker, and as many tasks.
    Connections,
    /// Shuffles that are there at once.
    Shuffles,
    /// Map tasks of a shuffle.
    Maps,
}

impl Dimension {
    /// All of them.
    const ALL: [Self; 4] = [Self::Partitions, Self::Connections, Self::Shuffles, Self::Maps];

    /// As in file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Partitions => "partitions",
            Self::Connections => "connections",
            Self::Shuffles => "shuffles",
            Self::Maps => "maps",
        }
    }

    fn points(self) -> &'static [u32] {
        match self {
            Self::Partitions => &[100, 1000, 10_000, 100_000],
            Self::Connections => &[4, 20, 100, 500],
            Self::Shuffles => &[1, 10, 100, 1000],
            Self::Maps => &[10, 100, 1000, 10_000],
        }
    }

    fn scenario(self, x: u32) -> Scenario {
        let shape = Shape { durability: Durability::Memory, memory: Memory::Bytes(2048 * MIB), ..SCENARIOS[0].shape };
        let (kind, shape) = match self {
            Self::Partitions => {
                let few = Shape { total_bytes: 512 * MIB, batch_bytes: 4 * KIB, ..shape };
                (Kind::Shuffle, Shape { partitions: x, ..few })
            }
            // A client has 64 at most.
            Self::Connections => (Kind::Clients, Shape { total_bytes: 1024 * MIB, connections: x, ..shape }),
            Self::Shuffles => {
                let small = Shape { total_bytes: u64::from(x) * MIB, partitions: 4, connections: 2, ..shape };
                (Kind::KeptShuffles, small)
            }
            Self::Maps => (Kind::Shuffle, Shape { total_bytes: 640 * MIB, maps: Some(x), ..shape }),
        };
        Scenario { name: self.name(), shows: "growth", kind, shape, floor: Floor::None, limits: &[] }
    }
}

/// What was measured at one point.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Point {
    /// How many there are of what grows.
    pub(crate) x: u32,
    /// CPU of both sides per batch pushed, in microseconds; of shuffles, per shuffle.
    pub(crate) push_us: f64,
    /// The same of fetching.
    pub(crate) fetch_us: f64,
    /// How long a shuffle takes, in milliseconds, where shuffles grow.
    pub(crate) shuffle_ms: Option<f64>,
    /// Most memory that the worker held.
    pub(crate) worker_peak_bytes: u64,
}

/// How costs grow with one thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Growth {
    /// What grows.
    pub(crate) dimension: Dimension,
    /// Rising.
    pub(crate) points: Vec<Point>,
}

/// Measures all dimensions.
pub(crate) async fn run(setup: &Setup) -> Result<Vec<Growth>, BenchError> {
    let count: usize = Dimension::ALL.iter().map(|dimension| dimension.points().len()).sum();
    let progress = Progress::new(count as u64 * u64::from(setup.runs));
    let mut all = Vec::new();
    for dimension in Dimension::ALL {
        let mut points = Vec::new();
        for x in dimension.points() {
            let scenario = dimension.scenario(*x);
            points.push(point(*x, &Box::pin(bench::run(&scenario, setup, &progress)).await?));
        }
        all.push(Growth { dimension, points });
    }
    Ok(all)
}

fn point(x: u32, outcome: &Outcome) -> Point {
    // Of small shuffles one batch is as good as a sixteenth of one.
    let per = if outcome.per_shuffle.is_some() { (MIB / outcome.settings.batch_bytes) as f64 } else { 1.0 };
    Point {
        x,
        push_us: outcome.push.cpu_us_per_batch * per,
        fetch_us: outcome.fetch.cpu_us_per_batch * per,
        shuffle_ms: outcome.per_shuffle.map(|shuffle| shuffle.median_ms),
        worker_peak_bytes: outcome.peak_rss_bytes.iter().copied().max().unwrap_or(0),
    }
}

impl Growth {
    /// As a chart.
    pub(crate) fn plot(&self) -> String {
        let line = |name: &str, y: &dyn Fn(&Point) -> f64| {
            (name.to_owned(), self.points.iter().map(|point| (f64::from(point.x), y(point))).collect())
        };
        let series = [line("push", &|point| point.push_us), line("fetch", &|point| point.fetch_us)];
        let name = self.dimension.name();
        let unit = if self.dimension == Dimension::Shuffles { "CPU us per shuffle" } else { "CPU us per batch" };
        plot::lines(&format!("Cost by {name}"), name, unit, &series, true)
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = if self.dimension == Dimension::Shuffles { "shuffle" } else { "batch" };
        writeln!(
            f,
            "{:<12} {:>16} {:>16} {:>12} {:>14}",
            self.dimension.name(),
            "push us",
            "fetch us",
            "ms",
            "worker's peak"
        )?;
        for Point { x, push_us, fetch_us, shuffle_ms, worker_peak_bytes } in &self.points {
            let ms = shuffle_ms.map_or_else(String::new, |ms| format!("{ms:.2}"));
            writeln!(
                f,
                "{x:<12} {push_us:>9.1}/{per} {fetch_us:>9.1}/{per} {ms:>12} {:>10} MiB",
                worker_peak_bytes >> 20
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_batch_for_each_task() {
        for dimension in Dimension::ALL {
            for x in dimension.points() {
                let shape = dimension.scenario(*x).shape;
                assert!(shape.total_bytes / shape.batch_bytes >= u64::from(shape.map_tasks()), "{dimension:?} {x}");
            }
        }
    }

    #[test]
    fn a_chart_and_a_table_name_what_grows() {
        let point = |x| Point { x, push_us: 3.0, fetch_us: 1.0, shuffle_ms: None, worker_peak_bytes: 1 << 30 };
        let growth = Growth { dimension: Dimension::Maps, points: vec![point(10), point(100)] };
        assert!(growth.plot().contains("Cost by maps") && growth.to_string().contains("3.0/batch"));
    }
}
