//! What operators do to a running cluster, and what happens when an application's driver vanishes.

use std::path::Path;
use std::time::Duration;

use mallorn_client::config::Compression;
use mallorn_runtime::clock;

use super::{Context, Fault, Seen, WITHIN, seconds};
use crate::cluster::{Process, Spec};
use crate::failure::{Failure, must, struck};
use crate::job::{Job, Phase, Plan};
use crate::tool;

/// What is handed over.
const HAND_OVER_BYTES: u64 = 1 << 30;

pub(super) const ALL: &[Fault] = &[
    Fault {
        name: "rolling-restart",
        about: "three workers end and start again, one after the other, while maps push; two copies",
        needs: &[],
        within: Duration::from_secs(90),
        run: |context| Box::pin(rolling_restart(context)),
    },
    Fault {
        name: "restart-one-copy",
        about: "a worker ends and starts again while maps push; one copy, written",
        needs: &[],
        within: WITHIN,
        run: |context| Box::pin(restart_one_copy(context)),
    },
    Fault {
        name: "leave",
        about: "a worker whose disk does not return is told to end while maps push; one copy",
        needs: &[],
        within: WITHIN,
        run: |context| Box::pin(leave(context)),
    },
    Fault {
        name: "hand-over",
        about: "a worker that holds 1 GiB is drained by hand, and gone; one copy, nothing runs again",
        needs: &[],
        within: Duration::from_secs(180),
        run: |context| Box::pin(hand_over(context)),
    },
    Fault {
        name: "kill-driver",
        about: "kill -9 of a driver in a process of its own: its lease ends, and everything of it is given back",
        needs: &[],
        within: WITHIN,
        run: |context| Box::pin(kill_driver(context)),
    },
];

/// No task may fail, and no generation but the first be needed.
async fn rolling_restart(context: Context) -> Result<Seen, Failure> {
    let mut cluster = context.cluster(Spec::default()).await?;
    let plan = Plan { push_pause: Duration::from_millis(30), ..Plan::two_copies(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    let mut took = Vec::new();
    for (worker, percent) in [(0, 10), (1, 35), (2, 60)] {
        job.reaches(Phase::Push, percent).await?;
        let began = clock::now();
        cluster.terminate(worker, Duration::from_secs(25)).await?;
        let ended = began.elapsed();
        // A start takes a machine a while, mostly.
        clock::sleep(Duration::from_secs(1)).await;
        cluster.start_worker(worker).await?;
        cluster.until_live(3).await?;
        took.push(format!("{} + {}", seconds(ended), seconds(began.elapsed() - ended)));
    }
    struck(!job.is_at(Phase::Commit, 0), || format!("maps had ended before all had restarted: {}", took.join(", ")))?;
    let report = job.finish(&cluster).await?;
    report.failed_nothing()?;
    cluster.all_run()?;
    let struck = format!("3 ended with 0 and came back ({})", took.join(", "));
    Ok(Seen { struck, outcome: format!("0 failed tasks, one generation, {}", report.summary()) })
}

/// It writes down what it holds before it ends, and is back in time.
async fn restart_one_copy(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    let job = Job::start(&cluster, Plan::new(context.seed)).await?;
    job.reaches(Phase::Push, context.moment(20..60)).await?;
    cluster.terminate(victim, Duration::from_secs(25)).await?;
    clock::sleep(Duration::from_millis(500)).await;
    cluster.start_worker(victim).await?;
    let restored = cluster.worker_metric(victim, "restored_locations_total", "").await.unwrap_or(0.0);
    struck(restored > 0.0, || "it held nothing when it ended".to_owned())?;
    let report = job.finish(&cluster).await?;
    report.failed_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("ended with 0, {restored} locations found again"), outcome: report.summary() })
}

/// What it holds goes to other workers before it ends.
async fn leave(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let own_settings = vec![(victim, "worker.disk_returns=false".to_owned())];
    let mut cluster = context.cluster(Spec { own_settings, ..Spec::default() }).await?;
    let plan = Plan { holds_reads: true, ..Plan::new(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, context.moment(20..60)).await?;
    let began = clock::now();
    let log = cluster.terminate(victim, Duration::from_secs(25)).await?;
    let took = began.elapsed();
    let taken = cluster.metric("taken_over_locations_total", "").await;
    struck(taken > 0.0, || format!("nothing was handed over{}", log.tail()))?;
    must(log.count("drain_left") == 0, || format!("it ended with something left{}", log.tail()))?;
    let report = job.finish(&cluster).await?;
    report.failed_nothing()?;
    cluster.all_run()?;
    let struck = format!("ended with 0 after {}, {taken} locations taken over", seconds(took));
    Ok(Seen { struck, outcome: report.summary() })
}

async fn hand_over(context: Context) -> Result<Seen, Failure> {
    // Only the first one is there while maps push.
    let spec = Spec { late: 2, memory_mib: 256, ..Spec::default() };
    let mut cluster = context.cluster(spec).await?;
    let plan = Plan {
        partitions: 64,
        units: 2800,
        unit_bytes: 64 * 1024,
        codec: Compression::None,
        push_pause: Duration::ZERO,
        twice_percent: 0,
        holds_reads: true,
        wait_for_return: Duration::from_secs(2),
        ..Plan::new(context.seed)
    };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Committed, 0).await?;
    for worker in [1, 2] {
        cluster.start_worker(worker).await?;
    }
    cluster.until_live(3).await?;
    let began = clock::now();
    let mallorn = context.mallorn.display().to_string();
    let master = cluster.master();
    tool::run(&[&mallorn, "worker", "drain", "worker-0", "--hand-over", "--wait", "--master", &master]).await?;
    let took = began.elapsed();
    let bytes = cluster.worker_metric(0, "handed_over_bytes_total", "").await.unwrap_or(0.0);
    struck(bytes >= HAND_OVER_BYTES as f64, || format!("only {bytes} bytes were handed over"))?;
    cluster.terminate(0, Duration::from_secs(25)).await?;
    let report = job.finish(&cluster).await?;
    report.failed_nothing()?;
    cluster.all_run()?;
    let mib = bytes / f64::from(1 << 20);
    let struck = format!("{mib:.0} MiB handed over in {}, then the worker ended", seconds(took));
    Ok(Seen { struck, outcome: format!("nothing run again, {}", report.summary()) })
}

async fn kill_driver(context: Context) -> Result<Seen, Failure> {
    let lease = Duration::from_secs(3);
    let spec = Spec { application_lease: lease, ..Spec::default() };
    let mut cluster = context.cluster(spec).await?;
    let program = std::env::current_exe().map_err(|error| Failure::Setup(error.to_string()))?;
    let mut driver = start_driver(&program, &cluster.master())?;
    let line = driver.line().await?;
    let held = cluster.metric("locations", "").await;
    struck(line == "ready" && held > 0.0, || format!("the driver says {line:?}, {held} locations are held"))?;
    driver.kill().await?;
    let began = clock::now();
    cluster.nothing_left(lease + Duration::from_secs(10)).await?;
    let freed = began.elapsed();
    let expired = cluster.master_metric("mallorn_master_expired_total", "application").await.unwrap_or(0.0);
    struck(expired == 1.0, || format!("{expired} applications' leases have ended"))?;
    must(freed < lease + Duration::from_secs(3), || format!("given back after {} only", seconds(freed)))?;
    cluster.all_run()?;
    let struck = format!("dead of SIGKILL with {held} locations, its lease of {} ended", seconds(lease));
    Ok(Seen { struck, outcome: format!("memory and disks of all workers given back after {}", seconds(freed)) })
}

fn start_driver(program: &Path, master: &str) -> Result<Process, Failure> {
    Process::spawn("driver", program, &["--drive".into(), master.into()])
}
