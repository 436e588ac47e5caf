//! Hostile bytes on every port while a job runs.
//!
//! Owns which ports, and what must hold meanwhile: the job verifies, memory stays within its budget, the log stays readable.
//! Does not own the bytes (`hostile`).

use std::sync::Arc;
use std::time::Duration;

use mallorn_client::config::Compression;
use mallorn_proto::id::{Application, Incarnation, Instance, WorkerId};
use mallorn_proto::message::{Hello, Role};
use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::version;
use mallorn_runtime::task::Tasks;
use mallorn_runtime::{clock, grpc};

use super::{Context, Fault, Seen};
use crate::cluster::{Cluster, Spec};
use crate::failure::{Failure, must, struck};
use crate::hostile::{Attack, Door, Target};
use crate::job::{Job, Phase, Plan};

/// How long, and from how many connections at once.
const FOR: Duration = Duration::from_secs(60);
const CONNECTIONS: u64 = 50;
/// Of each worker's arena, and beside it for the process itself (docs/performance.md, G14).
const ARENA_MIB: u32 = 64;
const PROCESS_MIB: u64 = 48;
/// Lines that a process may log: a complaint of one peer every ten seconds from each of its doors, and the job's own.
const LOG_LINES_MAX: u64 = 60;
/// How long a call to the master may take.
const ASK_WITHIN: Duration = Duration::from_secs(5);

pub(super) const ALL: &[Fault] = &[Fault {
    name: "hostile-bytes",
    about: "garbage on every port for 60 s from 50 connections while a job runs; two copies",
    needs: &[],
    within: Duration::from_secs(150),
    run: |context| Box::pin(hostile_bytes(context)),
}];

async fn hostile_bytes(context: Context) -> Result<Seen, Failure> {
    let mut cluster = context.cluster(Spec { memory_mib: ARENA_MIB, ..Spec::default() }).await?;
    let plan = Plan {
        partitions: 12,
        units: 1200,
        push_pause: Duration::from_millis(20),
        call_within: Duration::from_secs(10),
        // More than arenas hold, so that they are full.
        codec: Compression::None,
        ..Plan::two_copies(context.seed)
    };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, 1).await?;
    let before = lines(&mut cluster)?;
    let attack = Arc::new(Attack::new(targets(&cluster, &job).await?));
    let mut attackers = Tasks::new();
    let until = clock::now() + FOR;
    for number in 0..CONNECTIONS {
        attackers.spawn(Arc::clone(&attack).strike(context.seed ^ number << 8, until));
    }
    // Each of them ends by itself.
    let ended = attackers.join(FOR + Duration::from_secs(20)).await;
    must(ended, || "attackers hang in connections that nobody ends".to_owned())?;
    let said = attack.said();
    must(said.unreached.is_empty(), || format!("these ports did not take a connection: {:?}", said.unreached))?;
    let refused = cluster.metric("connections_refused_total", "").await;
    struck(refused > 100.0, || format!("only {refused} connections were refused"))?;
    let logged = lines(&mut cluster)?;
    let most = logged.iter().zip(before).map(|(now, before)| now - before).max().unwrap_or(0);
    must(most <= LOG_LINES_MAX, || format!("{most} lines in a log within {FOR:?}"))?;
    let peak = peak_mib(&mut cluster)?;
    let bound = (u64::from(ARENA_MIB) + PROCESS_MIB) * 11 / 10;
    must(peak <= bound, || format!("a worker has taken {peak} MiB, {bound} at most"))?;
    let master = cluster.master_process()?.peak_rss_bytes() >> 20;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    let struck =
        format!("{} connections, {:.0} MB sent, {refused} refused by workers", said.connections, said.megabytes);
    let outcome = format!(
        "peak {peak} MiB of {bound} at workers, {master} MiB at the master, at most {most} log lines, {}",
        report.summary()
    );
    Ok(Seen { struck, outcome })
}

/// Lines of each log: of the workers, and of the master.
fn lines(cluster: &mut Cluster) -> Result<Vec<u64>, Failure> {
    let mut lines = vec![cluster.master_process()?.log().lines()];
    for worker in 0..3 {
        lines.push(cluster.process(worker)?.log().lines());
    }
    Ok(lines)
}

fn peak_mib(cluster: &mut Cluster) -> Result<u64, Failure> {
    let mut peak = 0;
    for worker in 0..3 {
        peak = peak.max(cluster.process(worker)?.peak_rss_bytes() >> 20);
    }
    Ok(peak)
}

/// Every port that there is.
async fn targets(cluster: &Cluster, job: &Job) -> Result<Vec<Target>, Failure> {
    let mut targets = vec![
        Target { door: Door::Grpc, address: cluster.master() },
        Target { door: Door::Grpc, address: job.lifecycle_address() },
    ];
    targets.extend(cluster.admins().map(|admin| Target { door: Door::Http, address: admin.to_string() }));
    for worker in described(cluster).await? {
        let hello = hello(&worker, job.application());
        targets.push(Target { door: Door::Grpc, address: worker.control.clone() });
        // Most of the protocol is here.
        for _ in 0..2 {
            targets.push(Target { door: Door::Frames(Box::new(hello.clone())), address: worker.data.clone() });
        }
    }
    Ok(targets)
}

async fn described(cluster: &Cluster) -> Result<Vec<v1::WorkerAddress>, Failure> {
    let failed = |error: String| Failure::Setup(format!("ask the master for its workers: {error}"));
    let channel = grpc::channel(&cluster.master(), ASK_WITHIN).map_err(|error| failed(error.to_string()))?;
    let request = v1::DescribeClusterRequest { cluster: "mallorn".to_owned() };
    let reply = MasterClient::new(channel).describe_cluster(request).await;
    let workers = reply.map_err(|error| failed(error.to_string()))?.into_inner().workers;
    Ok(workers.into_iter().filter_map(|described| described.worker?.address).collect())
}

/// A hello that the worker takes.
fn hello(worker: &v1::WorkerAddress, application: Application) -> Hello {
    Hello {
        oldest: version::OLDEST,
        newest: version::CURRENT,
        role: Role::Push,
        worker: worker.worker.map(WorkerId::from).unwrap_or_default(),
        incarnation: Incarnation(worker.incarnation),
        application: Application { instance: Instance(application.instance.0), ..application },
        cluster: "mallorn".to_owned(),
        credential: Vec::new(),
    }
}
