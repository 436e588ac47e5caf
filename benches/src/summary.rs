//! What was measured as figures: medians, ratios to the floor, budgets.

use mallorn_client::{Compression, Durability};

use crate::bench::Measured;
use crate::load::Load;
use crate::meter::Cost;
use crate::outcome::{
    AgainstFloor, AgainstOneCopy, Budget, Cpu, Outcome, PerShuffle, Phase, Sample, Settings, Verdict,
};
use crate::scenario::{Figure, Kind, Limit, PEAK_MEMORY, Scenario, Shape};
use crate::statistics::{Estimate, median};
use crate::times::Times;

const GIB: f64 = (1 << 30) as f64;
const MIB: f64 = (1 << 20) as f64;
/// What a worker's process may take beside its arena (G14).
const PROCESS_BYTES: f64 = 48.0 * MIB;
/// Payload of one of many small shuffles.
const SMALL_SHUFFLE_BYTES: u64 = 1 << 20;

/// What one shuffle of a scenario shuffles.
pub(crate) fn one_shuffle(scenario: &Scenario) -> Shape {
    match scenario.kind {
        Kind::SmallShuffles | Kind::KeptShuffles => Shape { total_bytes: SMALL_SHUFFLE_BYTES, ..scenario.shape },
        Kind::Shuffle | Kind::Mixed | Kind::Clients | Kind::ManyClients => scenario.shape,
    }
}

/// How many shuffles one run makes, where they are small.
pub(crate) fn shuffles(scenario: &Scenario) -> u32 {
    (scenario.shape.total_bytes / SMALL_SHUFFLE_BYTES).clamp(1, 1 << 20) as u32
}

/// The figures of a scenario.
pub(crate) fn outcome(
    scenario: &Scenario,
    runs: u32,
    load: &Load,
    measured: &Measured,
    series: Vec<Sample>,
) -> Outcome {
    let shape = &scenario.shape;
    let per_run = measured.pushed_bytes as f64 / f64::from(runs.max(1));
    // A run of two shuffles at once counts both for each direction's CPU: it can't be told apart.
    let bytes = if scenario.kind == Kind::Mixed { load.total_bytes() as f64 } else { per_run };
    let shared = if scenario.kind == Kind::Mixed { 2.0 } else { 1.0 };
    let batches = bytes / load.batch_bytes() as f64;
    let of = |costs: &[Cost], times: &Times| phase(costs, times, (bytes, shared, batches));
    let floor = against_floor(measured, bytes / GIB);
    let ratios = measured.push.iter().zip(&measured.one_copy).map(|(two, one)| two.cpu_s() / one.cpu_s());
    let ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
    let one_copy = (!ratios.is_empty()).then(|| AgainstOneCopy { push: Estimate::of(&ratios) });
    let arena = shape.memory_bytes() as f64;
    let peak = measured.peak_rss_bytes.iter().map(|bytes| *bytes as f64 / (arena + PROCESS_BYTES)).reduce(f64::max);
    let faults = median(measured.push.iter().map(|cost| cost.faults() as f64 / (bytes / GIB)));
    let mut outcome = Outcome {
        name: scenario.name.to_owned(),
        shows: scenario.shows.to_owned(),
        settings: settings(shape),
        push: of(&measured.push, &measured.push_times),
        fetch: of(&measured.fetch, &measured.fetch_times),
        floor,
        one_copy,
        per_shuffle: per_shuffle(measured),
        peak_rss_ratio: peak,
        peak_rss_bytes: measured.peak_rss_bytes.clone(),
        minor_faults_per_gib: faults,
        disk: measured.disk,
        verified: true,
        budgets: Vec::new(),
        series,
    };
    let ack_writes = measured.ack_writes / (measured.pushed_bytes as f64 / MIB);
    let limits = scenario.limits.iter().chain(std::iter::once(&PEAK_MEMORY));
    outcome.budgets = limits.filter_map(|limit| budget(*limit, &outcome, ack_writes)).collect();
    outcome
}

fn settings(shape: &Shape) -> Settings {
    Settings {
        total_bytes: shape.total_bytes,
        batch_bytes: shape.batch_bytes,
        partitions: shape.partitions,
        connections: shape.connections,
        workers: shape.workers,
        copies: shape.copies,
        memory_bytes: shape.memory_bytes(),
        durability: durability_name(shape.durability).to_owned(),
        codec: codec_name(shape.codec).to_owned(),
    }
}

/// As settings name it.
pub(crate) fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Memory => "memory",
        Durability::Written => "written",
        Durability::Synced => "synced",
    }
}

/// As settings name it.
pub(crate) fn codec_name(codec: Compression) -> &'static str {
    match codec {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    }
}

/// Medians of a direction, of runs that moved so many bytes in so many batches; CPU that two directions share is divided
/// by how many there are.
fn phase(costs: &[Cost], times: &Times, (bytes, shared, batches): (f64, f64, f64)) -> Phase {
    let of = |figure: &dyn Fn(&Cost) -> f64| median(costs.iter().map(figure));
    let gib = bytes / GIB * shared;
    Phase {
        mib_s: of(&|cost| bytes / MIB / cost.wall_s),
        cpu_s_per_gib: Cpu {
            client: of(&|cost| cost.client_cpu_s / gib),
            worker: of(&|cost| cost.worker_cpu_s / gib),
            sum: of(&|cost| cost.cpu_s() / gib),
        },
        cpu_us_per_batch: of(&|cost| cost.cpu_s() / shared / batches * 1e6),
        p50_ms: times.quantile_ms(0.5),
        p99_ms: times.quantile_ms(0.99),
        max_ms: times.max_ms(),
    }
}

fn against_floor(measured: &Measured, gib: f64) -> Option<AgainstFloor> {
    if measured.floor.is_empty() {
        return None;
    }
    let pairs = |costs: &[Cost], floor: &dyn Fn(usize) -> f64| {
        let ratios: Vec<f64> =
            costs.iter().enumerate().map(|(run, cost)| cost.cpu_s() / gib / floor(run).max(1e-9)).collect();
        Estimate::of(&ratios)
    };
    let push = pairs(&measured.push, &|run| measured.floor[run].push_cpu_gib);
    let fetch = pairs(&measured.fetch, &|run| measured.floor[run].fetch_cpu_gib);
    Some(AgainstFloor {
        push_ratio: push.median,
        push_interval: [push.low, push.high],
        fetch_ratio: fetch.median,
        fetch_interval: [fetch.low, fetch.high],
        push_cpu_s_per_gib: median(measured.floor.iter().map(|floor| floor.push_cpu_gib)),
        fetch_cpu_s_per_gib: median(measured.floor.iter().map(|floor| floor.fetch_cpu_gib)),
    })
}

fn per_shuffle(measured: &Measured) -> Option<PerShuffle> {
    if measured.shuffles_s.is_empty() {
        return None;
    }
    let mut sorted = measured.shuffles_s.clone();
    sorted.sort_by(f64::total_cmp);
    Some(PerShuffle {
        median_ms: median(sorted.iter().copied()) * 1000.0,
        p99_ms: sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)] * 1000.0,
        calls: measured.calls_per_shuffle,
    })
}

/// A budget, where there is the figure that it is about.
fn budget((name, figure, limit): Limit, outcome: &Outcome, ack_writes: f64) -> Option<Budget> {
    let (value, interval) = match figure {
        Figure::Push => outcome.floor.map(|floor| (floor.push_ratio, Some(floor.push_interval)))?,
        Figure::Fetch => outcome.floor.map(|floor| (floor.fetch_ratio, Some(floor.fetch_interval)))?,
        Figure::TwoCopies => outcome.one_copy.map(|one| (one.push.median, Some([one.push.low, one.push.high])))?,
        Figure::AckWrites => (ack_writes, None),
        Figure::Faults => (outcome.minor_faults_per_gib, None),
        Figure::PeakMemory => (outcome.peak_rss_ratio?, None),
    };
    let verdict = verdict(value, interval, limit);
    Some(Budget { name: name.to_owned(), what: figure.what().to_owned(), limit, value, interval, verdict })
}

fn verdict(value: f64, interval: Option<[f64; 2]>, limit: f64) -> Verdict {
    if interval.is_some_and(|[low, high]| high - low >= limit - 1.0) {
        Verdict::Unclear
    } else if value <= limit {
        Verdict::Met
    } else {
        Verdict::Missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floor::FloorRun;
    use crate::load::Source;
    use crate::scenario::SCENARIOS;

    fn cost(cpu_s: f64) -> Cost {
        Cost { wall_s: 1.0, client_cpu_s: cpu_s / 2.0, worker_cpu_s: cpu_s / 2.0, client_faults: 3, worker_faults: 4 }
    }

    fn outcome_of(scenario: &Scenario, cpu_s: &[f64], is_floor: bool) -> Outcome {
        let shape = Shape { total_bytes: 1 << 30, ..scenario.shape };
        let load = Load::new(&Source::new(false), &shape, 4).unwrap();
        let floor = FloorRun { push_cpu_gib: 0.5, fetch_cpu_gib: 0.4 };
        let measured = Measured {
            push: cpu_s.iter().map(|cpu_s| cost(*cpu_s)).collect(),
            fetch: vec![cost(0.4); cpu_s.len()],
            floor: if is_floor { vec![floor; cpu_s.len()] } else { Vec::new() },
            pushed_bytes: cpu_s.len() as u64 * (1 << 30),
            peak_rss_bytes: vec![64 << 20],
            ..Measured::default()
        };
        outcome(&Scenario { shape, ..*scenario }, cpu_s.len() as u32, &load, &measured, Vec::new())
    }

    #[test]
    fn ratios_are_per_gib_and_per_pair() {
        let outcome = outcome_of(&SCENARIOS[0], &[0.6; 3], true);
        let floor = outcome.floor.unwrap();
        assert!((floor.push_ratio - 1.2).abs() < 1e-9 && (floor.fetch_ratio - 1.0).abs() < 1e-9);
        assert!((outcome.push.cpu_s_per_gib.sum - 0.6).abs() < 1e-9 && (outcome.push.mib_s - 1024.0).abs() < 1e-9);
        assert_eq!(outcome.minor_faults_per_gib, 7.0);
        let names: Vec<_> = outcome.budgets.iter().map(|budget| budget.name.as_str()).collect();
        assert_eq!(names, ["G1", "G5", "G10", "G11", "G14"]);
        assert!(outcome.budgets.iter().all(|budget| budget.verdict == Verdict::Met));
    }

    #[test]
    fn a_budget_is_met_missed_or_out_of_sight() {
        let verdict = |cpu_s: &[f64]| outcome_of(&SCENARIOS[0], cpu_s, true).budgets[0].verdict;
        assert_eq!(verdict(&[0.6; 9]), Verdict::Met);
        assert_eq!(verdict(&[0.7; 9]), Verdict::Missed);
        assert_eq!(verdict(&[0.4, 0.5, 0.6, 0.7, 0.8]), Verdict::Unclear);
    }

    #[test]
    fn without_a_floor_there_is_no_ratio() {
        let outcome = outcome_of(&SCENARIOS[0], &[0.6; 3], false);
        assert!(outcome.floor.is_none());
        assert!(!serde_json::to_string(&outcome).unwrap().contains("push_ratio"));
    }

    #[test]
    fn what_two_directions_share_is_divided() {
        let mixed = SCENARIOS.iter().find(|scenario| scenario.kind == Kind::Mixed).unwrap();
        let outcome = outcome_of(mixed, &[0.6; 3], false);
        assert!((outcome.push.cpu_s_per_gib.sum - 0.3).abs() < 1e-9);
    }
}
