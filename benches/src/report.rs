//! The figures, as a table for people and one object for programs.

use std::fmt;

use mallorn_runtime::config::ByteSize;
use serde::Serialize;

use crate::floor::FloorRun;
use crate::load::{CONNECTIONS, PARTITIONS};
use crate::machine::Machine;
use crate::meter::Cost;
use crate::shuffle::ShuffleRun;
use crate::statistics::{Estimate, median};

const GIB: f64 = (1 << 30) as f64;
const MIB: f64 = (1 << 20) as f64;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    machine: Machine,
    runs: usize,
    partitions: u32,
    connections: u32,
    paths: Vec<PathFigures>,
}

/// The figures of one path.
#[derive(Debug, Serialize)]
struct PathFigures {
    /// The budget's name; empty for a path without one.
    budget_name: &'static str,
    /// What the path is.
    path: &'static str,
    batch_bytes: usize,
    total_bytes: u64,
    /// Medians.
    mallorn: Medians,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_floor: Option<AgainstFloor>,
    /// Each run as it was measured.
    runs: Vec<Cost>,
}

/// Medians over the runs; CPU in seconds per GiB, faults per GiB.
#[derive(Clone, Copy, Debug, Serialize)]
struct Medians {
    cpu_s_per_gib: f64,
    client_cpu_s_per_gib: f64,
    worker_cpu_s_per_gib: f64,
    client_faults_per_gib: f64,
    worker_faults_per_gib: f64,
    mib_per_s: f64,
}

/// Our CPU over that of the floor, run by run.
#[derive(Clone, Debug, Serialize)]
struct AgainstFloor {
    floor_cpu_s_per_gib: f64,
    floor_client_cpu_s_per_gib: f64,
    floor_server_cpu_s_per_gib: f64,
    ratio: Estimate,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    /// The floor's CPU seconds per GiB in each run.
    floor_runs: Vec<f64>,
}

/// Whether a budget is met: by the median, and by an interval narrower than the margin over the floor that is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Met,
    Missed,
    /// The interval is too wide to say.
    Unclear,
}

/// The runs of one batch size.
#[derive(Default)]
pub(crate) struct Runs {
    /// Ours, in order.
    pub(crate) mallorn: Vec<ShuffleRun>,
    /// The floor's, each before ours of the same place; empty where there is no floor.
    pub(crate) floor: Vec<FloorRun>,
}

/// What one batch size is measured for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Bytes of a batch.
    pub(crate) batch_bytes: usize,
    /// Name of the budget for pushing, and the ratio allowed.
    pub(crate) push: Option<(&'static str, f64)>,
    /// The same for fetching.
    pub(crate) fetch: Option<(&'static str, f64)>,
}

impl Report {
    /// Of measurements that all have at least one run.
    pub(crate) fn new(machine: Machine, measured: &[(Case, u64, Runs)]) -> Self {
        let paths = measured.iter().flat_map(|(case, total_bytes, runs)| {
            let push = PathFigures::new(
                "push",
                case.push,
                (*case, *total_bytes),
                Phase {
                    ours: runs.mallorn.iter().map(|run| run.push).collect(),
                    floor: runs.floor.iter().map(|run| (run.push_cpu_gib, run.push_cli, run.push_srv)).collect(),
                },
            );
            let fetch = PathFigures::new(
                "fetch",
                case.fetch,
                (*case, *total_bytes),
                Phase {
                    ours: runs.mallorn.iter().map(|run| run.fetch).collect(),
                    floor: runs.floor.iter().map(|run| (run.fetch_cpu_gib, run.fetch_cli, run.fetch_srv)).collect(),
                },
            );
            [push, fetch]
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            machine,
            runs: measured.first().map_or(0, |(_, _, runs)| runs.mallorn.len()),
            partitions: PARTITIONS,
            connections: CONNECTIONS,
            paths: paths.collect(),
        }
    }
}

/// The runs of one phase; the floor's as both processes, client, server.
struct Phase {
    ours: Vec<Cost>,
    floor: Vec<(f64, f64, f64)>,
}

impl PathFigures {
    fn new(
        path: &'static str,
        budget: Option<(&'static str, f64)>,
        (case, total_bytes): (Case, u64),
        phase: Phase,
    ) -> Self {
        let gib = total_bytes as f64 / GIB;
        let of = |figure: &dyn Fn(&Cost) -> f64| median(phase.ours.iter().map(figure));
        let mallorn = Medians {
            cpu_s_per_gib: of(&|cost| cost.cpu_s() / gib),
            client_cpu_s_per_gib: of(&|cost| cost.client_cpu_s / gib),
            worker_cpu_s_per_gib: of(&|cost| cost.worker_cpu_s / gib),
            client_faults_per_gib: of(&|cost| cost.client_faults as f64 / gib),
            worker_faults_per_gib: of(&|cost| cost.worker_faults as f64 / gib),
            mib_per_s: of(&|cost| total_bytes as f64 / MIB / cost.wall_s),
        };
        let ratios: Vec<f64> =
            phase.ours.iter().zip(&phase.floor).map(|(ours, floor)| ours.cpu_s() / gib / floor.0).collect();
        let against_floor = (!ratios.is_empty()).then(|| {
            let (ratio, budget) = (Estimate::of(&ratios), budget.map(|(_, budget)| budget));
            AgainstFloor {
                floor_cpu_s_per_gib: median(phase.floor.iter().map(|floor| floor.0)),
                floor_client_cpu_s_per_gib: median(phase.floor.iter().map(|floor| floor.1)),
                floor_server_cpu_s_per_gib: median(phase.floor.iter().map(|floor| floor.2)),
                ratio,
                budget,
                verdict: budget.map(|budget| verdict(ratio, budget)),
                floor_runs: phase.floor.iter().map(|floor| floor.0).collect(),
            }
        });
        let budget_name = budget.map_or("", |(name, _)| name);
        let batch_bytes = case.batch_bytes;
        Self { budget_name, path, batch_bytes, total_bytes, mallorn, against_floor, runs: phase.ours }
    }
}

fn verdict(ratio: Estimate, budget: f64) -> Verdict {
    if ratio.high - ratio.low >= budget - 1.0 {
        Verdict::Unclear
    } else if ratio.median <= budget {
        Verdict::Met
    } else {
        Verdict::Missed
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Unclear => "unclear",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, load } = &self.machine;
        writeln!(
            f,
            "mallorn-bench {} on {cpu}, {cores} cores, Linux {kernel}, load {load:.1} at the start",
            self.version
        )?;
        let (partitions, connections, runs) = (self.partitions, self.connections, self.runs);
        writeln!(
            f,
            "{partitions} partitions, {connections} connections, medians of {runs} runs; CPU-s/GiB of both processes (client + worker)"
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<3} {:<5} {:>7} {:>22} {:>22} {:>6} {:>13} {:>7} {:>8} {:>13} {:>7}",
            "", "path", "batch", "floor", "mallorn", "ratio", "90 % interval", "budget", "", "faults/GiB", "MiB/s"
        )?;
        self.paths.iter().try_for_each(|path| writeln!(f, "{path}"))
    }
}

impl fmt::Display for PathFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = |both: f64, client: f64, server: f64| format!("{both:.3} ({client:.3} + {server:.3})");
        let ours = &self.mallorn;
        let mallorn = cpu(ours.cpu_s_per_gib, ours.client_cpu_s_per_gib, ours.worker_cpu_s_per_gib);
        let (mut floor, mut ratio, mut interval, mut budget, mut verdict) = Default::default();
        if let Some(against) = &self.against_floor {
            floor = cpu(
                against.floor_cpu_s_per_gib,
                against.floor_client_cpu_s_per_gib,
                against.floor_server_cpu_s_per_gib,
            );
            let Estimate { median, low, high } = against.ratio;
            (ratio, interval) = (format!("{median:.3}"), format!("{low:.3}-{high:.3}"));
            budget = against.budget.map_or_else(String::new, |budget| format!("{budget:.2}"));
            verdict = against.verdict.map_or_else(String::new, |verdict| verdict.to_string());
        }
        let faults = format!("{:.0} + {:.0}", ours.client_faults_per_gib, ours.worker_faults_per_gib);
        write!(
            f,
            "{:<3} {:<5} {:>7} {floor:>22} {mallorn:>22} {ratio:>6} {interval:>13} {budget:>7} {verdict:>8} {faults:>13} {:>7.0}",
            self.budget_name,
            self.path,
            ByteSize(self.batch_bytes as u64).to_string(),
            ours.mib_per_s
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(cpu_s: f64) -> Cost {
        Cost { wall_s: 1.0, client_cpu_s: cpu_s / 2.0, worker_cpu_s: cpu_s / 2.0, client_faults: 3, worker_faults: 4 }
    }

    fn report(cpu_s: &[f64]) -> Report {
        let machine = Machine { cpu: "test".to_owned(), cores: 2, kernel: "6".to_owned(), load: 0.0 };
        let floor = FloorRun {
            push_cpu_gib: 0.5,
            push_cli: 0.2,
            push_srv: 0.3,
            fetch_cpu_gib: 0.4,
            fetch_cli: 0.2,
            fetch_srv: 0.2,
        };
        let runs = Runs {
            mallorn: cpu_s.iter().map(|cpu_s| ShuffleRun { push: cost(*cpu_s), fetch: cost(0.8) }).collect(),
            floor: vec![floor; cpu_s.len()],
        };
        let case = Case { batch_bytes: 64 * 1024, push: Some(("G1", 1.3)), fetch: None };
        Report::new(machine, &[(case, 2 << 30, runs)])
    }

    fn push_verdict(cpu_s: &[f64]) -> Option<Verdict> {
        report(cpu_s).paths[0].against_floor.as_ref().and_then(|against| against.verdict)
    }

    #[test]
    fn ratios_are_per_gib_and_per_pair() {
        let report = report(&[1.2, 1.2, 1.2]);
        let against = report.paths[0].against_floor.as_ref().unwrap();
        assert!((against.ratio.median - 1.2).abs() < 1e-9);
        assert!((report.paths[0].mallorn.cpu_s_per_gib - 0.6).abs() < 1e-9);
        assert!((report.paths[1].against_floor.as_ref().unwrap().ratio.median - 1.0).abs() < 1e-9);
        let table = report.to_string();
        assert!(table.contains("0.600 (0.300 + 0.300)") && table.contains("met"), "{table}");
    }

    #[test]
    fn a_budget_is_met_missed_or_out_of_sight() {
        assert_eq!(push_verdict(&[1.2; 9]), Some(Verdict::Met));
        assert_eq!(push_verdict(&[1.4; 9]), Some(Verdict::Missed));
        assert_eq!(push_verdict(&[0.8, 1.0, 1.2, 1.4, 1.6]), Some(Verdict::Unclear));
    }

    #[test]
    fn without_a_floor_there_is_no_ratio() {
        let machine = Machine { cpu: "test".to_owned(), cores: 2, kernel: "6".to_owned(), load: 0.0 };
        let runs = Runs { mallorn: vec![ShuffleRun { push: cost(1.0), fetch: cost(1.0) }], floor: Vec::new() };
        let case = Case { batch_bytes: 1024, push: Some(("G1", 1.3)), fetch: None };
        let report = Report::new(machine, &[(case, 1 << 30, runs)]);
        assert!(report.paths.iter().all(|path| path.against_floor.is_none()));
        assert!(!serde_json::to_string(&report).unwrap().contains("ratio"));
    }
}
