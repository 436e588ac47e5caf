//! The command line, and what each command does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use mallorn_client::{ClientConfig, Compression, ConnectError, Durability, LifecycleConfig, ShuffleClient, StartError};
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::disk::{Disk, FileError, ReadError, ReplaceError};
use mallorn_runtime::random::Random;
use mallorn_runtime::task;
use prometheus::Registry;
use tokio::task::JoinError;

use crate::bench::{self, BenchError, Setup};
use crate::cluster::{self, Cluster, ClusterError, Workers};
use crate::compare;
use crate::disk::{self, DiskBenchError};
use crate::growth;
use crate::load::SEED;
use crate::machine::Machine;
use crate::micro;
use crate::outcome::Results;
use crate::page;
use crate::plot;
use crate::progress::Progress;
use crate::scenario::{self, Memory, Scenario};
use crate::terasort::{self, Stage, TerasortError};

/// What one map task of a sort generates, and what one partition holds of it.
const TERASORT_MAP_BYTES: u64 = 128 * 1024 * 1024;
const TERASORT_PARTITION_BYTES: u64 = 32 * 1024 * 1024;
const FIRST_SHUFFLE: u32 = 1;

/// Longest file of results.
const RESULTS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Measures Mallorn: CPU, memory, speed and latency of pushes and fetches, every byte verified
#[derive(Parser, Debug)]
#[command(name = "mallorn-bench", version)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Runs scenarios on a cluster of real processes
    #[command(after_long_help = scenario::listing())]
    Cluster(Box<ClusterArgs>),
    /// Measures how costs grow with partitions, connections, shuffles and maps
    Growth(GrowthArgs),
    /// Sorts generated records through the shuffle, and validates order, count and checksum
    Terasort(TerasortArgs),
    /// Measures single calls of the pure parts: codecs, ledger, placement, extents
    Micro,
    /// Measures how extents may lie on a disk: segments or a file per partition, through the system's cache or past it
    Disk(DiskArgs),
    /// Shows two results side by side; fails where the second is worse
    Compare(CompareArgs),
    /// Writes one page with plots and tables of all results in a folder
    Report(ReportArgs),
}

#[derive(Args, Debug)]
struct GrowthArgs {
    /// Where growth.json and a chart of each are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Runs of each point
    #[arg(long, value_name = "N", default_value = "3", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    runs: u32,

    /// The `mallorn` to measure; without this the one beside this program
    #[arg(long, value_name = "PATH")]
    mallorn: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct TerasortArgs {
    /// Bytes of all records
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    size: ByteSize,

    /// Worker processes
    #[arg(long, value_name = "N", default_value = "2", value_parser = RangedU64ValueParser::<u32>::new().range(1..=64))]
    workers: u32,

    /// Copies of everything
    #[arg(long, value_name = "N", default_value = "1", value_parser = RangedU64ValueParser::<u32>::new().range(1..=2))]
    copies: u32,

    /// Each worker's memory for shuffle data
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    memory: ByteSize,

    /// Tasks that run at once
    #[arg(long, value_name = "N", default_value = "2", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1024))]
    slots: u32,

    /// Where workers write [default: the folder for temporary files]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,

    /// Uses the running cluster of this master
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<String>,

    /// The `mallorn` to use; without this the one beside this program
    #[arg(long, value_name = "PATH")]
    mallorn: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct DiskArgs {
    /// Where files are written [default: the folder for temporary files]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,

    /// Bytes of each case
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    total: ByteSize,
}

#[derive(Args, Debug)]
struct CompareArgs {
    /// Results of `cluster --json` from before
    #[arg(value_name = "A.json")]
    before: PathBuf,

    /// And from after
    #[arg(value_name = "B.json")]
    after: PathBuf,

    /// By how much the CPU time of a path may rise, in per cent
    #[arg(long, value_name = "PERCENT", default_value = "5")]
    threshold: f64,
}

#[derive(Args, Debug)]
struct ReportArgs {
    /// The folder that holds results as .json; the page is written there, as report.html
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Args, Debug)]
struct ClusterArgs {
    /// A scenario's name, or "all"; see below
    #[arg(long, value_name = "NAME", default_value = "all")]
    scenario: String,

    /// Payload that each run shuffles, instead of the scenario's
    #[arg(long, value_name = "SIZE")]
    total: Option<ByteSize>,

    /// Worker processes, instead of the scenario's
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=64))]
    workers: Option<u32>,

    /// Connections to each worker and as many tasks, instead of the scenario's
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=2000))]
    connections: Option<u32>,

    /// Payload of a batch, instead of the scenario's
    #[arg(long, value_name = "SIZE")]
    batch: Option<ByteSize>,

    /// Partitions of each shuffle, instead of the scenario's
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    partitions: Option<u32>,

    /// Copies of everything, instead of the scenario's
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=2))]
    copies: Option<u32>,

    /// Each worker's memory for shuffle data, instead of the scenario's
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,

    /// What data survives once it is committed, instead of the scenario's: memory, written or synced
    #[arg(long, value_name = "LEVEL")]
    durability: Option<Durability>,

    /// How payloads are compressed, instead of the scenario's: none, lz4 or zstd
    #[arg(long, value_name = "CODEC")]
    codec: Option<Compression>,

    /// Where workers and the floor write [default: the folder for temporary files]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,

    /// Runs of each scenario, floor and Mallorn in turn
    #[arg(long, value_name = "N", default_value = "9", value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    runs: u32,

    /// The floor's program; without it there are figures, and no ratios
    #[arg(long, value_name = "PATH")]
    floor: Option<PathBuf>,

    /// Uses the running cluster of this master; what its workers take is not measured then
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<String>,

    /// The `mallorn` to measure; without this the one beside this program
    #[arg(long, value_name = "PATH")]
    mallorn: Option<PathBuf>,

    /// Writes everything that was measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draws the figures to this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("can't start threads: {0}")]
    Threads(#[source] std::io::Error),
    #[error("there is no scenario {name:?}: `mallorn-bench cluster --help` names them")]
    NoScenario { name: String },
    #[error("there is no .json in {folder}: write some there with `mallorn-bench cluster --json`", folder = folder.display())]
    NoResults { folder: PathBuf },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    Manager(#[from] StartError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Terasort(#[from] TerasortError),
    #[error(transparent)]
    Disk(#[from] DiskBenchError),
    #[error("a task failed: {0}")]
    Task(#[from] JoinError),
    #[error(transparent)]
    Write(#[from] ReplaceError),
    #[error(transparent)]
    List(#[from] FileError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{path} does not hold what `mallorn-bench cluster --json` writes: {source}", path = path.display())]
    Form { path: PathBuf, source: serde_json::Error },
}

/// Does what is asked; the exit code where it came to an end.
pub(crate) async fn run(line: CommandLine) -> Result<ExitCode, CommandError> {
    match line.command {
        Command::Cluster(args) => run_cluster(*args).await,
        Command::Growth(args) => run_growth(args).await,
        Command::Terasort(args) => run_terasort(args).await,
        Command::Micro => {
            print!("{}", micro::Table(&task::blocking(micro::run).await?));
            Ok(ExitCode::SUCCESS)
        }
        Command::Disk(args) => {
            let folder = args.dir.unwrap_or_else(std::env::temp_dir);
            let measured = task::blocking(move || disk::run(&folder, args.total.0)).await??;
            print!("{}", disk::Table(&measured));
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare(args) => run_compare(&args),
        Command::Report(args) => run_report(&args),
    }
}

async fn run_cluster(args: ClusterArgs) -> Result<ExitCode, CommandError> {
    let Some(scenarios) = scenario::find(&args.scenario) else {
        return Err(CommandError::NoScenario { name: args.scenario });
    };
    let mallorn = match args.endpoint {
        Some(_) => PathBuf::new(),
        None => cluster::find_mallorn(args.mallorn.clone())?,
    };
    let setup = Setup {
        mallorn,
        floor: args.floor.clone(),
        endpoint: args.endpoint.clone(),
        folder: args.dir.clone().unwrap_or_else(std::env::temp_dir),
        runs: args.runs,
    };
    let machine = Machine::this();
    let progress = Progress::new(scenarios.len() as u64 * u64::from(args.runs));
    let mut results = Results {
        machine,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seed: SEED,
        runs: args.runs,
        scenarios: Vec::new(),
    };
    for scenario in &scenarios {
        results.scenarios.push(Box::pin(bench::run(&args.changed(scenario), &setup, &progress)).await?);
        // What was measured is kept, whatever comes after.
        if let Some(path) = &args.json {
            write_results(path, &results)?;
        }
        if let Some(path) = &args.plot {
            Disk::real().replace(path, plot::overview(&results).as_bytes())?;
        }
    }
    drop(progress);
    print!("{results}");
    Ok(ExitCode::SUCCESS)
}

async fn run_growth(args: GrowthArgs) -> Result<ExitCode, CommandError> {
    let setup = Setup {
        mallorn: cluster::find_mallorn(args.mallorn)?,
        floor: None,
        endpoint: None,
        folder: args.out.clone(),
        runs: args.runs,
    };
    Disk::real().make_dir(&args.out)?;
    let all = growth::run(&setup).await?;
    let json = serde_json::to_vec_pretty(&all).expect("numbers and names are JSON");
    Disk::real().replace(&args.out.join("growth.json"), &json)?;
    for growth in &all {
        let name = format!("growth-{}.svg", growth.dimension.name());
        Disk::real().replace(&args.out.join(name), growth.plot().as_bytes())?;
        println!("{growth}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_terasort(args: TerasortArgs) -> Result<ExitCode, CommandError> {
    let folder = args.dir.unwrap_or_else(std::env::temp_dir);
    let cluster = match &args.endpoint {
        Some(_) => None,
        None => {
            let workers = Workers { count: args.workers, memory: args.memory, folder: Some(&folder) };
            Some(Cluster::start(&cluster::find_mallorn(args.mallorn)?, &workers).await?)
        }
    };
    let master = bench::master(cluster.as_ref(), args.endpoint.as_deref());
    let config = LifecycleConfig { master, copies: args.copies, ..LifecycleConfig::default() };
    let random = Random::from_system();
    let manager = bench::start_application("terasort", config, &random).await?;
    let client = ShuffleClient::connect(manager.address(), ClientConfig::default(), random, &Registry::new()).await?;
    let options = terasort::Options {
        size_bytes: args.size.0,
        maps: (args.size.0 / TERASORT_MAP_BYTES).clamp(1, 10_000) as u32,
        partitions: (args.size.0 / TERASORT_PARTITION_BYTES).clamp(1, 100_000) as u32,
        slots: args.slots as usize,
        seed: SEED,
    };
    let progress = Progress::new(2 * args.size.0);
    let told = |stage: Stage, bytes: u64| progress.at(stage.name(), stage.before(args.size.0) + bytes);
    let sorted = terasort::run(&manager, &client, FIRST_SHUFFLE, options, &told).await;
    drop(progress);
    bench::end_application(manager).await;
    println!("{}", sorted?);
    Ok(ExitCode::SUCCESS)
}

impl ClusterArgs {
    /// A scenario with what is asked for instead of its own.
    fn changed(&self, scenario: &Scenario) -> Scenario {
        let mut changed = *scenario;
        let shape = &mut changed.shape;
        let size = |wanted: Option<ByteSize>, own: u64| wanted.map_or(own, |size| size.0);
        shape.total_bytes = size(self.total, shape.total_bytes);
        shape.batch_bytes = size(self.batch, shape.batch_bytes);
        shape.workers = self.workers.unwrap_or(shape.workers);
        shape.connections = self.connections.unwrap_or(shape.connections);
        shape.partitions = self.partitions.unwrap_or(shape.partitions);
        shape.copies = self.copies.unwrap_or(shape.copies);
        shape.memory = self.memory.map_or(shape.memory, |size| Memory::Bytes(size.0));
        shape.durability = self.durability.unwrap_or(shape.durability);
        shape.codec = self.codec.unwrap_or(shape.codec);
        changed
    }
}

fn run_compare(args: &CompareArgs) -> Result<ExitCode, CommandError> {
    let comparison = compare::compare(&read_results(&args.before)?, &read_results(&args.after)?, args.threshold);
    print!("{comparison}");
    Ok(if comparison.is_worse() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run_report(args: &ReportArgs) -> Result<ExitCode, CommandError> {
    let mut files = Vec::new();
    for entry in Disk::real().list(&args.folder)? {
        if !entry.is_folder && entry.name.ends_with(".json") {
            let results = read_results(&args.folder.join(&entry.name))?;
            files.push((entry.name, results));
        }
    }
    if files.is_empty() {
        return Err(CommandError::NoResults { folder: args.folder.clone() });
    }
    let path = args.folder.join("report.html");
    Disk::real().replace(&path, page::page(&files).as_bytes())?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn read_results(path: &Path) -> Result<Results, CommandError> {
    let bytes = Disk::real().read(path, RESULTS_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|source| CommandError::Form { path: path.to_owned(), source })
}

fn write_results(path: &Path, results: &Results) -> Result<(), CommandError> {
    let json = serde_json::to_vec_pretty(results).expect("numbers and names are JSON");
    Ok(Disk::real().replace(path, &json)?)
}
