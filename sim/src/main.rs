//! Whole-cluster simulation: the real master, workers, lifecycle manager and clients on a simulated network, with faults
//! drawn from a seed, and an oracle that knows what every reader must get. A seed replays byte for byte.
//!
//! | part | file |
//! |---|---|
//! | one run, from its seed to its verdict | `run` |
//! | what a seed draws | `scenario`, `setup`, `faults` |
//! | the machines and what runs on them | `cluster` |
//! | the engine: driver, map attempts, readers | `job`, `engine` |
//! | the verdict | `mallorn_oracle`, `promise` |
//! | many runs together, also over days | `many`, `tally`, `progress`, `children` |
//! | from a run that is wrong to the shortest one that is, kept for good | `shrink`, `regressions` |
//! | the same seed twice, the same bytes | `check`, `trace`, `entropy` |

mod board;
mod check;
mod children;
mod cluster;
mod engine;
mod entropy;
mod faults;
mod job;
mod many;
mod progress;
mod promise;
mod regressions;
mod run;
#[cfg(test)]
mod sabotages;
mod scenario;
mod setup;
mod shrink;
mod tally;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mallorn_runtime::disk::Disk;
use mallorn_sabotage::Sabotage;

use crate::many::Many;
use crate::run::{Case, How, Report};
use crate::scenario::Scenario;

/// Simulates whole Mallorn clusters, with faults drawn from a seed
#[derive(Debug, Parser)]
#[command(name = "mallorn-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs many seeds, several at once; prints what to replay where one went wrong, and the shortest run that is
    Run(Many),
    /// Runs one seed again, or one run that was kept in a file
    Replay(Replay),
    /// Finds the shortest run that is still wrong, beginning with a seed's
    Shrink {
        /// The seed
        seed: u64,
        /// Its scenario
        #[arg(long)]
        scenario: Scenario,
        /// Where to keep what is found
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// A rule that the processes do not keep
        #[arg(long, value_name = "NAME")]
        sabotage: Option<Sabotage>,
    },
    /// Runs everything that was wrong once and is kept in `sim/regressions/`
    Regressions,
    /// Runs a few seeds three times and compares them byte for byte; then sees whether the oracle notices what is made
    /// wrong on purpose in what readers get, and in what it takes for granted
    Check {
        /// How many seeds, each in each scenario
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        /// The first of them
        #[arg(long, default_value_t = 1)]
        first_seed: u64,
    },
    /// Shows the scenarios, and the sabotages
    List,
}

#[derive(Args, Debug)]
struct Replay {
    /// The seed
    #[arg(required_unless_present = "file")]
    seed: Option<u64>,
    /// Only this scenario
    #[arg(long)]
    scenario: Option<Scenario>,
    /// A run that was kept
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "scenario"])]
    file: Option<PathBuf>,
    /// Writes the trace to this file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// A rule that the processes do not keep
    #[arg(long, value_name = "NAME")]
    sabotage: Option<Sabotage>,
}

fn main() -> ExitCode {
    trace::catch_panics();
    let good = match Arguments::parse().command {
        Command::Run(many) => many.run(),
        Command::Replay(replay) => replay.run(),
        Command::Shrink { seed, scenario, out, sabotage } => {
            shrink::and_tell(Case::draw(scenario, seed), sabotage, out.as_deref())
        }
        Command::Regressions => regressions::all(),
        Command::Check { seeds, first_seed } => check::all(seeds, first_seed),
        Command::List => {
            Scenario::ALL.iter().for_each(|scenario| println!("{:<8} {}", scenario.name(), scenario.about()));
            Sabotage::ALL.iter().for_each(|sabotage| println!("--sabotage {sabotage}"));
            true
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Replay {
    fn run(self) -> bool {
        let how = How { spoil: None, sabotage: self.sabotage, keeps_trace: self.trace.is_some() };
        let case = match (self.file, self.seed, self.scenario) {
            (Some(file), _, _) => regressions::read(&file),
            (None, Some(seed), Some(scenario)) => Ok(Case::draw(scenario, seed)),
            (None, Some(first_seed), None) if self.trace.is_none() => {
                return Many { seeds: 1, first_seed, scenario: None, resume: None, sabotage: self.sabotage }.run();
            }
            (None, _, _) => Err("a trace is of one run: name its scenario".to_owned()),
        };
        match case {
            Ok(case) => replay(case, how, self.trace.as_deref()),
            Err(why) => {
                println!("{why}");
                false
            }
        }
    }
}

/// The one run of this process.
fn replay(case: Case, how: How, trace: Option<&Path>) -> bool {
    let report = run::run(case, how);
    let good = print(&report);
    let Some(path) = trace else { return good };
    match Disk::real().replace(path, report.trace.as_bytes()) {
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
    let Case { scenario, seed, ref setup, .. } = report.case;
    report.wrong.iter().for_each(|wrong| println!("  {wrong}"));
    println!("{setup}");
    println!(
        "replay it with: cargo run --release --manifest-path sim/Cargo.toml -- replay {seed} --scenario {scenario} \
         --trace trace.txt"
    );
    false
}
