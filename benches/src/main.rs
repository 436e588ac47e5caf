//! Holds the data path against the floor: pushes to memory in batches of 64 KiB and of 1 MiB, and fetches of whole
//! partitions from memory.
//!
//! Client and worker are separate processes, as they are in use: this one is the client. The floor and Mallorn run in
//! turn, so that both meet the same machine, and what counts is their CPU time: on a busy machine nothing else holds.

mod cluster;
mod floor;
mod load;
mod machine;
mod meter;
mod report;
mod shuffle;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use mallorn_client::{Durability, LifecycleConfig, LifecycleManager, StartError};
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::disk::{Disk, ReplaceError};
use mallorn_runtime::random::Random;
use mallorn_runtime::task;

use cluster::{Cluster, ClusterError};
use floor::FloorError;
use load::{Load, Source};
use machine::Machine;
use meter::Meter;
use report::{Case, Report, Runs};
use shuffle::{ShuffleError, Shuffler};

/// What is measured, with the budgets of the project.
const CASES: [Case; 2] = [
    Case { batch_bytes: 64 * 1024, push: Some(("G1", 1.3)), fetch: Some(("G5", 1.2)) },
    Case { batch_bytes: 1024 * 1024, push: Some(("G2", 1.25)), fetch: None },
];

/// Measures pushes to memory and fetches from memory, in CPU seconds per GiB, against a floor
#[derive(Parser, Debug)]
#[command(name = "mallorn-bench", version)]
struct CommandLine {
    /// The floor's program; without it there are figures, and no ratios
    #[arg(long, value_name = "PATH")]
    floor: Option<PathBuf>,

    /// The `mallorn` to measure; without this the one beside this program
    #[arg(long, value_name = "PATH")]
    mallorn: Option<PathBuf>,

    /// Runs of each case, floor and Mallorn in turn
    #[arg(long, value_name = "N", default_value = "9", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    runs: u32,

    /// Bytes shuffled in each run
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    total: ByteSize,

    /// Writes everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("can't start threads: {0}")]
    Threads(#[source] std::io::Error),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the worker has ended; its log is above")]
    WorkerEnded,
    #[error(transparent)]
    Manager(#[from] StartError),
    #[error(transparent)]
    Floor(#[from] FloorError),
    #[error("batches of {batch}: {source}")]
    Shuffle { batch: ByteSize, source: ShuffleError },
    #[error("--total {total} is too little: each connection needs a batch of {batch}")]
    Total { total: ByteSize, batch: ByteSize },
    #[error(transparent)]
    Write(#[from] ReplaceError),
}

fn main() -> ExitCode {
    let command = CommandLine::parse();
    match task::run(run(command)).map_err(BenchError::Threads).flatten() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: CommandLine) -> Result<(), BenchError> {
    let machine = Machine::this();
    let mallorn = cluster::find_mallorn(command.mallorn.clone())?;
    let source = Source::new();
    // Room for what is shuffled, slots that are not full, and what connections receive.
    let memory = ByteSize(command.total.0 / 4 * 5 + ByteSize::mib(256).0);
    let cluster = Cluster::start(&mallorn, memory).await?;
    // These are the figures of memory; the worker has no disk.
    let (master, durability) = (cluster.master().to_string(), Durability::Memory);
    let config = LifecycleConfig { master, durability, ..LifecycleConfig::default() };
    let manager = LifecycleManager::start("bench", config, Random::from_system()).await?;
    let mut bench = Bench { command: &command, cluster: &cluster, manager: &manager, next_shuffle: 0 };
    let measured = bench.measure(&source).await?;
    drop(manager);
    drop(cluster);
    let report = Report::new(machine, &measured);
    print!("{report}");
    if let Some(path) = &command.json {
        let json = serde_json::to_vec_pretty(&report).expect("numbers and names are JSON");
        Disk::real().replace(path, &json)?;
    }
    Ok(())
}

struct Bench<'a> {
    command: &'a CommandLine,
    cluster: &'a Cluster,
    manager: &'a LifecycleManager,
    next_shuffle: u32,
}

impl Bench<'_> {
    /// Runs all cases in turn, again and again, so that each meets the machine in every mood.
    async fn measure(&mut self, source: &Source) -> Result<Vec<(Case, u64, Runs)>, BenchError> {
        let mut measured = Vec::new();
        for case in CASES {
            let (total, batch) = (self.command.total, ByteSize(case.batch_bytes as u64));
            let load = Load::new(source, case.batch_bytes, total.0).ok_or(BenchError::Total { total, batch })?;
            let meter = Meter::new(self.cluster.worker_pid().ok_or(BenchError::WorkerEnded)?);
            let shuffler = Shuffler::connect(self.manager, meter, load.clone()).await;
            let shuffler = shuffler.map_err(|source| BenchError::Shuffle { batch, source })?;
            // Discarded: it touches the memory of both sides.
            self.shuffle(&shuffler, case).await?;
            measured.push((case, load, shuffler, Runs::default()));
        }
        for run in 1..=self.command.runs {
            for (case, load, shuffler, runs) in &mut measured {
                if let Some(path) = &self.command.floor {
                    runs.floor.push(floor::run(path, load).await?);
                }
                runs.mallorn.push(self.shuffle(shuffler, *case).await?);
            }
            eprintln!("run {run} of {}", self.command.runs);
        }
        Ok(measured.into_iter().map(|(case, load, _, runs)| (case, load.total_bytes(), runs)).collect())
    }

    async fn shuffle(&mut self, shuffler: &Shuffler<'_>, case: Case) -> Result<shuffle::ShuffleRun, BenchError> {
        self.next_shuffle += 1;
        let batch = ByteSize(case.batch_bytes as u64);
        shuffler.run(self.next_shuffle).await.map_err(|source| BenchError::Shuffle { batch, source })
    }
}
