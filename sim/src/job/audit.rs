//! After the job: nothing of it is left anywhere.

use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::v1::resolved_worker::State;
use mallorn_runtime::disk::Disk;
use mallorn_runtime::{clock, grpc};

use super::{AGAIN, Job};
use crate::board::Doing;
use crate::engine::{Queue, Task, World};
use crate::faults;
use crate::setup::{CLUSTER, MASTER_PORT};

/// How long one question to the master may take.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// Waits until no attempt and no reader runs, no worker holds a byte or a location, and the application is gone. Where
/// that does not come, the simulation's bound ends the run with what is waited for.
pub(super) async fn nothing_left(job: Arc<Job>) {
    let board = job.world.board.clone();
    let audit = board.begin_doing("audit");
    audit.now("waits for attempts and reads that were left to themselves");
    while board.is_anybody_doing("attempt") || board.is_anybody_doing("read") {
        clock::sleep(AGAIN).await;
    }
    // Connections are still open, and readers were dropped half-way: none of that may hold anything.
    workers_are_empty(&job.world, &audit).await;
    job.mappers.iter().chain(&job.reducers).for_each(|queue| queue.push(Task::Leave));
    clock::sleep(Duration::from_secs(2)).await;
    audit.now("waits for tasks of the driver that were left to themselves");
    let mut job = job;
    let Job { world, manager, .. } = loop {
        match Arc::try_unwrap(job) {
            Ok(job) => break job,
            Err(shared) => job = shared,
        }
        clock::sleep(AGAIN).await;
    };
    audit.now("ends the application");
    match manager.stop().await {
        Ok(()) => {}
        // The master finds out by the lease.
        Err(error) if error.reason().is_none() => world.trace.say(format_args!("end the application: {error}")),
        Err(error) => world.oracle.violated(format_args!("end the application: {error}")),
    }
    until_the_master_says(&audit, "applications", |cluster| cluster.applications).await;
}

/// The same where the driver has died in the middle: its attempts and readers end by themselves, its application by its
/// lease, and then everything that was its own is deleted everywhere.
pub(super) async fn nothing_left_without_its_driver(world: &World, executors: &[Queue]) {
    let audit = world.board.begin_doing("audit");
    world.board.count("drivers that died");
    audit.now("waits for attempts and reads without their driver");
    while world.board.is_anybody_doing("attempt") || world.board.is_anybody_doing("read") {
        clock::sleep(AGAIN).await;
    }
    until_the_master_says(&audit, "applications", |cluster| cluster.applications).await;
    world.board.want_calm();
    workers_are_empty(world, &audit).await;
    executors.iter().for_each(|queue| queue.push(Task::Leave));
}

/// No worker has a location, a stream, a byte in memory or a file.
async fn workers_are_empty(world: &World, audit: &Doing) {
    let board = &world.board;
    for what in ["locations", "streams", "memory_held_bytes"] {
        until_zero(audit, what, || board.metric(&format!("mallorn_worker_{what}"))).await;
    }
    until_the_master_says(audit, "held bytes", |cluster| {
        // One that went with its disks stays listed for a while, as it was.
        let is_lost =
            |worker: &&v1::DescribedWorker| worker.worker.as_ref().is_some_and(|worker| worker.state() == State::Lost);
        let here = cluster.workers.iter().filter(|worker| !is_lost(worker));
        here.filter_map(|worker| worker.memory.as_ref()).map(|memory| memory.held_bytes).sum()
    })
    .await;
    let disks = world.settings.disks;
    let files = |(host, disk): (String, Disk)| (host, faults::files(&disk, disks).len() as f64);
    until_zero(audit, "files", || board.disks().into_iter().map(files).collect()).await;
}

async fn until_zero(audit: &Doing, what: &str, measure: impl Fn() -> Vec<(String, f64)>) {
    loop {
        let left: Vec<_> = measure().into_iter().filter(|(_, count)| *count != 0.0).collect();
        if left.is_empty() {
            return;
        }
        audit.now(format_args!("{what} are left: {left:?}"));
        clock::sleep(AGAIN).await;
    }
}

async fn until_the_master_says(audit: &Doing, what: &str, measure: impl Fn(&v1::DescribeClusterReply) -> u64) {
    loop {
        match describe().await.map(|cluster| measure(&cluster)) {
            Ok(0) => return,
            Ok(left) => audit.now(format_args!("the master says that {left} {what} are left")),
            Err(error) => audit.now(error),
        }
        clock::sleep(AGAIN).await;
    }
}

async fn describe() -> Result<v1::DescribeClusterReply, String> {
    let channel = grpc::channel(&format!("master:{MASTER_PORT}"), ASK_WITHIN).map_err(|error| error.to_string())?;
    let request = v1::DescribeClusterRequest { cluster: CLUSTER.to_owned() };
    let described = MasterClient::new(channel).describe_cluster(request).await;
    described.map(|reply| reply.into_inner()).map_err(|error| error.message().to_owned())
}
