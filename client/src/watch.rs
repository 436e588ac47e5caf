//! Asks after a worker that does not answer.
//!
//! Owns when, and what follows: the connection to a worker that the master has said is lost is closed, so that whoever waits
//! for its answers goes on elsewhere now, and not at the end of its call. A worker that is only slow is waited for. Does not
//! own what the calls are.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use mallorn_proto::id::Generation;
use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_runtime::connection::Connection;

use crate::client::Inner;

/// How long an answer may take before the lifecycle manager is asked, at most.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// The worker that is waited for, and the generation in which it is asked after.
pub(crate) struct Waited<'a> {
    pub(crate) client: &'a Inner,
    pub(crate) worker: &'a v1::WorkerAddress,
    pub(crate) shuffle: u32,
    pub(crate) generation: Generation,
}

impl Waited<'_> {
    /// Waits for the answer to a call on this connection.
    pub(crate) async fn answer<T>(&self, connection: &Connection, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        // Several times within a call's own deadline.
        let ask_after = (self.client.config.call_within.0 / 4).min(ASK_AFTER);
        loop {
            let patience = async {
                clock::sleep(ask_after).await;
                self.is_lost().await
            };
            tokio::select! {
                biased;
                answer = &mut call => return answer,
                is_lost = patience => {
                    if is_lost {
                        let worker = &self.worker.name;
                        tracing::info!(event = "worker_lost", worker, "close the connection to a lost worker");
                        connection.close("its worker is lost, the master says");
                    }
                }
            }
        }
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
