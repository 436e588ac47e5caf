//! A nemesis for real processes: a cluster of the real binary, a job on it, one fault at a time, and the oracle that the
//! simulation has, too. Each fault proves that it struck.
//!
//! | part | file |
//! |---|---|
//! | the faults | `fault` |
//! | the processes under test, and their network | `cluster` |
//! | the engine: driver, map attempts, readers | `job` |
//! | a driver to be killed | `driver` |
//! | disks that fail | `disk` |
//! | bytes that nobody should send | `hostile` |
//! | what stands between a client and a worker | `proxy` |
//! | what the machine allows, and what was left behind | `privilege`, `tool` |
//! | what came out | `table`, `failure` |

mod cluster;
mod disk;
mod driver;
mod failure;
mod fault;
mod hostile;
mod job;
mod privilege;
mod proxy;
mod suite;
mod table;
mod tool;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Strikes real Mallorn processes with real faults, one at a time, and checks what readers get
#[derive(Debug, Parser)]
#[command(name = "mallorn-nemesis", version)]
pub(crate) struct Arguments {
    /// Only faults whose name has this in it; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Shows the faults and what each needs
    #[arg(long)]
    list: bool,

    /// How often everything runs, each time with another seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u64,

    /// Runs rounds for so long, whatever their number
    #[arg(long, value_name = "MINUTES", conflicts_with = "rounds")]
    minutes: Option<u64>,

    /// What jobs are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// A fault that can't be made here counts as wrong
    #[arg(long)]
    strict: bool,

    /// Writes the table to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Is a driver of this master until it is killed: for the suite's own use
    #[arg(long, value_name = "MASTER", hide = true)]
    drive: Option<String>,

    /// The program under test; by default the one beside this one
    #[arg(long, value_name = "FILE")]
    mallorn: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ran = mallorn_runtime::task::run(async {
        match arguments.drive.clone() {
            Some(master) => driver::run(master).await.map_err(|error| error.to_string()),
            None if suite::run(arguments).await => Ok(()),
            None => Err(String::new()),
        }
    });
    match ran {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(text)) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("can't start threads: {error}");
            ExitCode::FAILURE
        }
    }
}
