//! What workers have moved beside pushes and reads, asked of each by its gRPC door.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::v1::worker_client::WorkerClient;
use mallorn_runtime::{clock, grpc};
use serde::Serialize;

/// How long one question may take.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How often a worker that hands over is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Bytes that workers have moved.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct WorkerBytes {
    /// Of extents written to disk, for whatever reason.
    pub(crate) spilled_bytes: u64,
    /// Forwarded to replicas.
    pub(crate) replicated_bytes: u64,
    /// Handed over by a worker that left.
    pub(crate) handed_over_bytes: u64,
}

impl WorkerBytes {
    pub(super) fn add(&mut self, other: Self) {
        self.spilled_bytes += other.spilled_bytes;
        self.replicated_bytes += other.replicated_bytes;
        self.handed_over_bytes += other.handed_over_bytes;
    }
}

/// What each worker has moved, by its name. One that does not answer is left out.
pub(super) async fn ask(master: SocketAddr, cluster: &str) -> BTreeMap<String, WorkerBytes> {
    let mut all = BTreeMap::new();
    for address in workers(master, cluster).await.unwrap_or_default() {
        let request = v1::DescribeRequest { cluster: cluster.to_owned(), worker: address.worker };
        let Ok(channel) = grpc::channel(&address.control, ASK_WITHIN) else { continue };
        if let Ok(reply) = WorkerClient::new(channel).describe(request).await {
            let reply = reply.into_inner();
            let bytes = WorkerBytes {
                spilled_bytes: reply.spilled_bytes,
                replicated_bytes: reply.replicated_bytes,
                handed_over_bytes: reply.taken_over_bytes,
            };
            all.insert(address.name, bytes);
        }
    }
    all
}

async fn workers(master: SocketAddr, cluster: &str) -> Result<Vec<v1::WorkerAddress>, String> {
    let channel = grpc::channel(&master.to_string(), ASK_WITHIN).map_err(|error| error.to_string())?;
    let request = v1::DescribeClusterRequest { cluster: cluster.to_owned() };
    let reply =
        MasterClient::new(channel).describe_cluster(request).await.map_err(|error| error.message().to_owned())?;
    let live = |worker: v1::DescribedWorker| {
        let worker = worker.worker?;
        let is_live = worker.state() != v1::resolved_worker::State::Lost;
        worker.address.filter(|_| is_live)
    };
    Ok(reply.into_inner().workers.into_iter().filter_map(live).collect())
}

/// Has a worker hand over everything it holds; returns the bytes of that.
pub(super) async fn hand_over(master: SocketAddr, cluster: &str, name: &str, within: Duration) -> Result<u64, String> {
    let found = workers(master, cluster).await?.into_iter().find(|worker| worker.name == name);
    let address = found.ok_or_else(|| "the master does not know it".to_owned())?;
    let channel = grpc::channel(&address.control, ASK_WITHIN).map_err(|error| error.to_string())?;
    let mut door = WorkerClient::new(channel);
    let deadline = clock::now() + within;
    loop {
        let request = v1::DrainRequest { cluster: cluster.to_owned(), worker: address.worker, hand_over: true };
        let reply = door.drain(request).await.map_err(|error| error.message().to_owned())?.into_inner();
        if reply.done {
            return Ok(reply.bytes_handed_over);
        }
        if clock::now() >= deadline {
            return Err(format!("{} locations are left after {within:?}", reply.locations_left));
        }
        clock::sleep(ASK_EVERY).await;
    }
}
