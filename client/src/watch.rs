//! Asks after a worker that does not answer.
//!
//! Owns when, and what follows: the connections to a worker that the master has said is lost are closed, so that whoever
//! waits for its answers goes on elsewhere now, and not at the end of its call. A worker that is only slow is waited for, and
//! asked after once in a while, however many calls wait for it. Does not own what the calls are.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use mallorn_proto::id::{Generation, Incarnation, WorkerId};
use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_runtime::hash::Map;
use parking_lot::Mutex;

use crate::client::Inner;

/// How long an answer may take before the lifecycle manager is asked, at most.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// When each worker was asked after last, of late.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    at: Mutex<Map<(WorkerId, Incarnation), clock::Instant>>,
}

impl Asked {
    /// Whether it is time to ask after a worker: once in this long, whoever waits.
    fn is_due(&self, worker: (WorkerId, Incarnation), every: Duration) -> bool {
        let now = clock::now();
        let mut at = self.at.lock();
        at.retain(|_, at| now.saturating_duration_since(*at) < every);
        let is_due = !at.contains_key(&worker);
        if is_due {
            at.insert(worker, now);
        }
        is_due
    }
}

/// The worker that is waited for, and the generation in which it is asked after.
pub(crate) struct Waited<'a> {
    pub(crate) client: &'a Inner,
    pub(crate) worker: &'a v1::WorkerAddress,
    pub(crate) shuffle: u32,
    pub(crate) generation: Generation,
}

impl Waited<'_> {
    /// Waits for the worker's answer to a call.
    pub(crate) async fn answer<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        // Several times within a call's own deadline.
        let ask_after = (self.client.config.call_within.0 / 4).min(ASK_AFTER);
        loop {
            let patience = async {
                clock::sleep(ask_after).await;
                self.client.asked.is_due(self.incarnation(), ask_after) && self.is_lost().await
            };
            tokio::select! {
                biased;
                answer = &mut call => return answer,
                is_lost = patience => {
                    if is_lost {
                        let (worker, incarnation) = self.incarnation();
                        tracing::info!(event = "worker_lost", worker = %self.worker.name, "close connections to a lost worker");
                        self.client.connections.close(worker, incarnation, "its worker is lost, the master says");
                    }
                }
            }
        }
    }

    fn incarnation(&self) -> (WorkerId, Incarnation) {
        (self.worker.worker.map(WorkerId::from).unwrap_or_default(), Incarnation(self.worker.incarnation))
    }

    /// Whether the worker is lost, or another incarnation of it is there; not where nobody can say so.
    async fn is_lost(&self) -> bool {
        let request = v1::ResolveRequest {
            instance: self.client.application.instance.0,
            workers: self.worker.worker.into_iter().collect(),
            shuffle: self.shuffle,
            generation: self.generation.0,
            ..v1::ResolveRequest::default()
        };
        let call = self.client.link.call(|mut door| {
            let request = request.clone();
            async move { door.resolve(request).await }
        });
        let Ok(reply) = call.await else { return false };
        let found = reply.workers.first();
        found.is_some_and(|found| {
            let is_other = |address: &v1::WorkerAddress| address.incarnation != self.worker.incarnation;
            found.lost || found.address.as_ref().is_some_and(is_other)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_asked_after_once_in_a_while_whoever_waits() {
        let (asked, second) = (Asked::default(), Duration::from_secs(1));
        let worker = |incarnation| (WorkerId(1), Incarnation(incarnation));
        assert!(asked.is_due(worker(1), second));
        assert!(!asked.is_due(worker(1), second));
        assert!(asked.is_due(worker(2), second), "another incarnation is another one");
        clock::sleep(second).await;
        assert!(asked.is_due(worker(1), second));
        assert_eq!(asked.at.lock().len(), 1, "only those of late are known");
    }
}
