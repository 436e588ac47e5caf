//! `mallorn demo`: shuffles real data through real processes and checks the answer.
//!
//! Owns the order of things, here and in the list of modules, and that nothing is left behind. It is also the client's
//! first user: all that it does with the cluster goes through the public API of `mallorn_client`.

mod options;
mod error;
mod cluster;
mod progress;
mod driver;
mod map;
mod reduce;
mod verify;
mod report;
pub(crate) mod workload;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client::{ClientStats, LifecycleManager, ShuffleClient};
use mallorn_proto::batch::OVERHEAD_BYTES;
use mallorn_runtime::clock::{self, Instant};
use mallorn_runtime::config::Loaded;
use mallorn_runtime::random::Random;
use mallorn_runtime::task;
use mallorn_runtime::telemetry::{self, process};
use prometheus::Registry;

use crate::settings::Root;
use crate::signals::Signals;
use cluster::{Cluster, Fate, ProcessFigures, WorkerBytes};
use driver::{Driver, Faulted, ShuffledTable};
use error::DemoError;
use progress::Progress;
use report::Report;
use verify::Verified;
use workload::{CsvFile, Tpch, Workload};

pub(crate) use options::DemoArgs;

/// How long a running cluster may take to be told that the application is over.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Runs the demo: exit code 0 if everything was verified, 1 if not, 2 for wrong options, 130 or 143 after a signal.
pub(crate) async fn demo(args: DemoArgs, started: Instant) -> ExitCode {
    match Box::pin(run(&args, started)).await {
        Ok(report) => {
            report.died().for_each(|line| complain(&line));
            print(&if args.json { report.to_json() } else { report.to_string() });
            ExitCode::SUCCESS
        }
        Err(error) => {
            if args.json && error.exit_code() == 1 {
                print(&serde_json::json!({ "verified": false, "error": error.to_string() }).to_string());
            }
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Whoever reads our output may have seen enough, as `head` does.
fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Where standard error is closed nobody wants to know.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

async fn run(args: &DemoArgs, started: Instant) -> Result<Report, DemoError> {
    args.check().map_err(DemoError::Options)?;
    let settings = args.settings()?;
    let root = &settings.value;
    telemetry::init(root.log.format, &root.log.filter)?;
    let mut signals = Signals::receive().map_err(DemoError::Signals)?;

    let mut session = Session::default();
    let outcome = tokio::select! {
        biased;
        signal = signals.next() => Err(DemoError::Interrupted(signal)),
        outcome = shuffle_input(args, &settings, &mut session) => outcome,
    };
    if args.endpoint.is_some() {
        session.tell_cluster(&mut signals).await;
    }
    let (processes, bytes) = session.close().await;
    let demo = ProcessFigures::new("demo", started.elapsed(), process::usage().unwrap_or_default(), Fate::Running);
    Ok(Report::new((args, root), outcome?, demo, processes, bytes))
}

/// What has to be ended, whatever comes.
#[derive(Default)]
struct Session {
    cluster: Option<Cluster>,
    lifecycle: Option<LifecycleManager>,
}

impl Session {
    /// Tells a cluster that goes on that the application is over, unless a signal says that there is no time for that.
    async fn tell_cluster(&mut self, signals: &mut Signals) {
        let Some(lifecycle) = self.lifecycle.take() else { return };
        let told = tokio::select! {
            biased;
            _ = signals.next() => Err("interrupted".to_owned()),
            told = clock::timeout(STOP_WITHIN, lifecycle.stop()) => match told {
                Ok(told) => told.map_err(|error| error.to_string()),
                Err(elapsed) => Err(elapsed.to_string()),
            },
        };
        if let Err(why) = told {
            complain(&format!("the cluster was not told that the application is over: {why}; its lease will end it"));
        }
    }

    /// Ends it. A cluster of our own is simply killed, and the application with it.
    async fn close(self) -> (Vec<ProcessFigures>, WorkerBytes) {
        let Some(mut cluster) = self.cluster else { return Default::default() };
        let bytes = cluster.count_bytes().await;
        let (figures, removed) = cluster.close().await;
        if let Err(error) = removed {
            complain(&format!("can't remove a temporary folder: {error}"));
        }
        (figures, bytes)
    }
}

/// A shuffle that was verified.
#[derive(Debug)]
struct Done {
    verified: Verified,
    tables: Vec<ShuffledTable>,
    stages: Vec<(&'static str, Duration)>,
    faulted: Option<Faulted>,
    traffic: ClientStats,
}

async fn shuffle_input(args: &DemoArgs, settings: &Loaded<Root>, session: &mut Session) -> Result<Done, DemoError> {
    match (&args.input, &args.key) {
        (Some(path), Some(key)) => {
            let stage = Progress::new().stage("scan", "", 0);
            let (path, key, maps) = (path.clone(), key.clone(), args.mappers);
            let file = task::blocking(move || CsvFile::open(&path, &key, maps)).await??;
            stage.finish();
            Box::pin(shuffle(file, args, settings, session)).await
        }
        (_, _) => Box::pin(shuffle(Tpch::new(args.scale, args.mappers)?, args, settings, session)).await,
    }
}

async fn shuffle<W: Workload>(
    workload: W,
    args: &DemoArgs,
    settings: &Loaded<Root>,
    session: &mut Session,
) -> Result<Done, DemoError> {
    let root = &settings.value;
    if args.endpoint.is_none() {
        check_row(&workload, root)?;
    }
    let workload = Arc::new(workload);
    let stage = Progress::new().stage("start", "", 0);
    let preparing = task::spawn({
        let workload = Arc::clone(&workload);
        task::blocking(move || workload.prepare())
    });
    let client = start(args, settings, session).await?;
    preparing.await??;
    let mut stages = vec![("start", stage.finish())];

    let Session { cluster, lifecycle } = session;
    let lifecycle = lifecycle.as_ref().expect("it was started with the client");
    let driver = Driver::register(Arc::clone(&workload), args, lifecycle, client.clone(), cluster.as_mut()).await?;
    let shuffled = driver.run().await?;
    let verified = verify::verify(&workload, &shuffled).await?;
    stages.extend(&shuffled.stages);
    stages.push(("check", verified.took));
    Ok(Done { verified, tables: shuffled.tables, stages, faulted: shuffled.faulted, traffic: client.stats() })
}

/// Refuses what can't be pushed before anything is started. A cluster that runs tells its limit when it is reached.
fn check_row(workload: &impl Workload, root: &Root) -> Result<(), DemoError> {
    let limit_bytes = u64::from(root.cluster.body_limit_bytes()) - OVERHEAD_BYTES as u64;
    let row_bytes = workload.largest_row_bytes();
    if row_bytes > limit_bytes { Err(DemoError::RowTooLarge { row_bytes, limit_bytes }) } else { Ok(()) }
}

/// Starts the cluster, unless there is one, and the application.
async fn start(args: &DemoArgs, settings: &Loaded<Root>, session: &mut Session) -> Result<ShuffleClient, DemoError> {
    let Root { client, lifecycle, .. } = settings.value.clone();
    let mut lifecycle = lifecycle;
    if args.endpoint.is_none() {
        let cluster = session.cluster.insert(Cluster::new(&args.data)?);
        lifecycle.master = cluster.start(settings, args.workers).await?.to_string();
    }
    let random = Random::from_system();
    // A name of its own: a second demo on the same cluster must not fence the first.
    let application = format!("mallorn-demo-{:016x}", random.id());
    let master = lifecycle.master.clone();
    let manager = LifecycleManager::start(&application, lifecycle, random.clone()).await;
    let manager = session.lifecycle.insert(manager.map_err(|source| DemoError::Start { master, source })?);
    Ok(ShuffleClient::connect(manager.address(), client, random, &Registry::new()).await?)
}
