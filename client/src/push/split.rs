//! Soft splits: a worker has taken a batch and wants the next ones to go elsewhere.
//!
//! Owns: asking for the next epoch in the background, once for each, while pushes go on to the present one. Does not own:
//! where partitions are (`table`), or hard splits (`send`).

use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::id::{Epoch, Partition};
use mallorn_proto::v1;
use mallorn_proto::v1::revive_request::Cause;
use mallorn_proto::v1::revived::Outcome;
use mallorn_runtime::{clock, task};

use super::AttemptShared;
use crate::metrics::SPLIT_SOFT;

/// Between two questions for a next epoch for which there was no place.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks for the next epochs of these locations, which are full, unless somebody does already.
pub(super) fn ask(shared: &Arc<AttemptShared>, full: impl Iterator<Item = (Partition, Epoch)>) {
    let asked: Vec<_> = full.filter(|(partition, epoch)| shared.table.begin_split(*partition, *epoch)).collect();
    if asked.is_empty() {
        return;
    }
    let shared = Arc::clone(shared);
    task::spawn(async move {
        if !next_epochs(&shared, &asked).await {
            clock::sleep(shared.client.random.jitter(PAUSE)).await;
        }
        asked.iter().for_each(|(partition, _)| shared.table.end_split(*partition));
    });
}

/// `false` where some of it has no place. What else goes wrong the next push finds out.
async fn next_epochs(shared: &AttemptShared, asked: &[(Partition, Epoch)]) -> bool {
    let one = |(partition, epoch): &(Partition, Epoch)| v1::ReviveOne { partition: partition.0, epoch: epoch.0 };
    let request = v1::ReviveRequest {
        instance: shared.client.application.instance.0,
        attempt: Some(shared.id),
        partitions: asked.iter().map(one).collect(),
        cause: Cause::SoftSplit.into(),
    };
    let metrics = &shared.client.metrics;
    metrics.revives.inc();
    metrics.splits.with_label_values(&[SPLIT_SOFT]).inc_by(asked.len() as u64);
    let call = shared.client.link.call(|mut door| {
        let request = request.clone();
        async move { door.revive(request).await }
    });
    let reply = match call.await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(%error, "ask for the next epochs of full locations");
            return false;
        }
    };
    let workers: Vec<_> = reply.workers.into_iter().map(Arc::new).collect();
    let mut placed = reply.partitions.len() == asked.len();
    for (revived, (partition, epoch)) in reply.partitions.iter().zip(asked) {
        let location = revived.location.filter(|_| revived.outcome() == Outcome::Revived);
        let open = location.and_then(|location| shared.table.opened(&location, *partition, &workers).ok());
        match open.filter(|open| open.location.epoch > *epoch) {
            Some(open) => shared.table.learn(open),
            None => placed = false,
        }
    }
    placed
}
