//! The writing side of a push connection.
//!
//! Owns the answers of one connection, from those given at once to those that come later, and how much may wait. Does
//! not own what is answered.

use std::sync::Arc;

use mallorn_proto::status::Status;
use mallorn_runtime::connection::Outbound;

use super::answers::{Answers, Asking};
use super::reply;
use crate::memory::pressure::{Pause, Waited};
use crate::server::Ended;

/// With this many batches of its pushes waiting for replicas a connection is not read on.
const WAITING_BATCHES_MAX: usize = 8192;

/// Answers pushes.
pub(super) struct Replies<'a> {
    outbound: &'a mut Outbound,
    answers: Arc<Answers>,
    /// Of pushes that are answered later.
    waiting_batches: usize,
}

impl<'a> Replies<'a> {
    pub(super) fn new(outbound: &'a mut Outbound, answers: Arc<Answers>) -> Self {
        Self { outbound, answers, waiting_batches: 0 }
    }

    /// Queues the answer to a push whose batches all were taken, now or for later.
    pub(super) fn settle(&mut self, ask: Asking<'_>, statuses: &[Status]) {
        let request = ask.request;
        if ask.settle(statuses) {
            self.waiting_batches += statuses.len();
        } else {
            reply(self.outbound, request, statuses);
        }
    }

    /// Whether another push may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.waiting_batches < WAITING_BATCHES_MAX
    }

    /// Whether answers come later.
    pub(super) fn waits(&self) -> bool {
        self.waiting_batches > 0
    }

    /// Waits until answers were completed elsewhere. Cancel-safe.
    pub(super) async fn told(&self) {
        self.answers.told().await;
    }

    /// Writes what is to be answered now.
    pub(super) async fn flush(&mut self) -> Result<(), Ended> {
        if self.waits() {
            for decided in self.answers.take() {
                self.waiting_batches -= decided.statuses.len();
                reply(self.outbound, decided.request, &decided.statuses);
            }
        }
        if self.outbound.queued_bytes() > 0 {
            self.answers.metrics.reply_writes.inc();
            self.outbound.flush().await?;
        }
        Ok(())
    }

    /// Waits for memory; answers to earlier pushes go out meanwhile.
    pub(super) async fn wait_for_room(&mut self, pause: &mut Pause) -> Result<Waited, Ended> {
        loop {
            self.flush().await?;
            tokio::select! {
                biased;
                waited = pause.room() => return Ok(waited),
                () = self.answers.told(), if self.waits() => {}
            }
        }
    }
}
