//! Whole-cluster simulation: the real master, workers, lifecycle manager and clients on a simulated network, with faults
//! drawn from a seed, and an oracle that knows what every reader must get. A seed replays byte for byte.
//!
//! | part | file |
//! |---|---|
//! | one run, from its seed to its verdict | `run` |
//! | what a seed draws | `scenario`, `setup`, `faults` |
//! | the machines and what runs on them | `cluster` |
//! | the engine: driver, map attempts, readers | `job`, `engine` |
//! | the verdict | `mallorn-oracle`, `promise` |
//! | many runs together | `tally`, `children` |
//! | the same seed twice, the same bytes | `check`, `trace`, `entropy` |

mod board;
mod check;
mod children;
mod cluster;
mod engine;
mod entropy;
mod faults;
mod job;
mod promise;
mod run;
mod scenario;
mod setup;
mod tally;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::children::Child;
use crate::run::Report;
use crate::scenario::Scenario;
use crate::tally::Tally;

/// Simulates whole Mallorn clusters, with faults drawn from a seed
#[derive(Debug, Parser)]
#[command(name = "mallorn-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs many seeds, several at once; prints what to replay where one went wrong
    Run {
        /// How many seeds, each in each scenario
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// The first of them
        #[arg(long, default_value_t = 1)]
        first_seed: u64,
        /// Only this scenario
        #[arg(long)]
        scenario: Option<Scenario>,
    },
    /// Runs one seed again
    Replay {
        /// The seed
        seed: u64,
        /// Only this scenario
        #[arg(long)]
        scenario: Option<Scenario>,
        /// Writes the trace to this file
        #[arg(long, value_name = "FILE", requires = "scenario")]
        trace: Option<PathBuf>,
    },
    /// Runs a few seeds twice and compares the traces byte for byte; then sees whether the oracle notices what is made
    /// wrong on purpose
    Check {
        /// How many seeds, each in each scenario
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        /// The first of them
        #[arg(long, default_value_t = 1)]
        first_seed: u64,
    },
    /// Shows the scenarios
    List,
}

fn main() -> ExitCode {
    trace::catch_panics();
    let good = match Arguments::parse().command {
        Command::Run { seeds, first_seed, scenario } => run_seeds(seeds, first_seed, scenario),
        Command::Replay { seed, scenario: Some(scenario), trace } => replay(seed, scenario, trace.as_deref()),
        Command::Replay { seed, scenario: None, .. } => run_seeds(1, seed, None),
        Command::Check { seeds, first_seed } => check::all(seeds, first_seed),
        Command::List => {
            Scenario::ALL.iter().for_each(|scenario| println!("{:<8} {}", scenario.name(), scenario.about()));
            true
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chosen(scenario: Option<Scenario>) -> Vec<Scenario> {
    scenario.map_or_else(|| Scenario::ALL.to_vec(), |scenario| vec![scenario])
}

/// Each run has a process of its own: they share nothing, and as many run at once as there are processors.
fn run_seeds(seeds: u64, first_seed: u64, scenario: Option<Scenario>) -> bool {
    let scenarios = chosen(scenario);
    let runs =
        (first_seed..first_seed + seeds).flat_map(|seed| scenarios.iter().map(move |scenario| (*scenario, seed)));
    let (mut count, mut wrong, mut tally) = (0, Vec::new(), Tally::default());
    children::each(
        runs,
        |(scenario, seed)| Child::replay(*scenario, *seed, &[]),
        |(scenario, seed), output| {
            count += 1;
            print!("{}", output.text);
            tally.add(*scenario, *seed, &output.text);
            if !output.good {
                wrong.push(format!("{scenario} {seed}"));
            }
        },
    );
    println!("in all: {}", tally.totals());
    let never_struck = tally.never_struck();
    never_struck.iter().for_each(|line| println!("WRONG: {line}"));
    println!("{count} runs, {} wrong{}{}", wrong.len(), if wrong.is_empty() { "" } else { ": " }, wrong.join(", "));
    wrong.is_empty() && never_struck.is_empty()
}

/// The one run of this process.
fn replay(seed: u64, scenario: Scenario, trace: Option<&Path>) -> bool {
    let report = run::run(scenario, seed, None, trace.is_some());
    let good = print(&report);
    let Some(path) = trace else { return good };
    match mallorn_runtime::disk::Disk::real().replace(path, report.trace.as_bytes()) {
        Ok(()) => good,
        Err(error) => {
            println!("the trace is not written: {error}");
            false
        }
    }
}

/// Prints what a run came to; with everything needed to look into it where it is wrong.
fn print(report: &Report) -> bool {
    println!("{report}");
    if report.wrong.is_empty() {
        return true;
    }
    report.wrong.iter().for_each(|wrong| println!("  {wrong}"));
    println!("{}", report.setup);
    println!(
        "replay it with: cargo run --release --manifest-path sim/Cargo.toml -- replay {} --scenario {} --trace trace.txt",
        report.seed, report.scenario
    );
    false
}
