//! Answers to pushes whose batches wait for their replicas.
//!
//! Owns the statuses of a push from its first batch that waits to its last that is decided, wherever that happens, and
//! handing the whole to the push's connection. Does not own when a batch is confirmed (`replicate`). Nothing here is
//! held across a wait: a batch's [`Ticket`] lies with its location, and whoever drops it has decided it.

use std::sync::Arc;

use mallorn_proto::status::Status;
use mallorn_sabotage::{self as sabotage, Sabotage};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::memory::pressure::Pause;
use crate::metrics::Metrics;

/// What stands for the status of a batch that waits; its ticket puts the true one over it.
pub(crate) const UNDECIDED: Status = Status::HardSplit;

/// The answers of one connection that were completed elsewhere.
pub(crate) struct Answers {
    pub(crate) metrics: Metrics,
    ready: Mutex<Vec<Decided>>,
    told: Notify,
}

/// A push whose batches all are decided.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) request: u64,
    pub(crate) statuses: Vec<Status>,
}

impl Answers {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { metrics, ready: Mutex::default(), told: Notify::new() })
    }

    /// Waits until there is something to take. For the connection alone. Cancel-safe.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// What was completed since it was last asked.
    pub(crate) fn take(&self) -> Vec<Decided> {
        std::mem::take(&mut *self.ready.lock())
    }
}

/// A push that is being taken; in the usual case all of it is decided at once, and nothing is allocated.
pub(crate) struct Asking<'a> {
    answers: &'a Arc<Answers>,
    pub(crate) request: u64,
    batches: usize,
    /// The batch that is being taken.
    at: u16,
    pending: Option<Arc<Pending>>,
    /// How long the push has waited for memory, once it does.
    pub(crate) pause: Option<Pause>,
}

impl<'a> Asking<'a> {
    pub(crate) fn new(answers: &'a Arc<Answers>, request: u64, batches: usize) -> Self {
        Self { answers, request, batches, at: 0, pending: None, pause: None }
    }

    pub(crate) fn metrics(&self) -> &'a Metrics {
        &self.answers.metrics
    }

    /// Goes on to the next batch.
    pub(crate) fn advance(&mut self) {
        self.at += 1;
    }

    /// The present batch is in the log and waits; once confirmed its status is `stored`.
    pub(crate) fn ticket(&mut self, stored: Status, length: usize) -> Ticket {
        let pending = self.pending.get_or_insert_with(|| {
            // The first one is for the push itself, until all of its batches were taken.
            let state = Statuses { decided: vec![None; self.batches], left: 1 };
            Arc::new(Pending { answers: Arc::clone(self.answers), request: self.request, statuses: Mutex::new(state) })
        });
        pending.statuses.lock().left += 1;
        Ticket { pending: Arc::clone(pending), index: self.at, length, stored, replica: Status::HardSplit }
    }

    /// All batches were taken; `statuses` has those that were decided at once. Returns whether the answer comes later.
    pub(crate) fn settle(self, statuses: &[Status]) -> bool {
        let Some(pending) = self.pending else { return false };
        let mut state = pending.statuses.lock();
        for (decided, status) in state.decided.iter_mut().zip(statuses) {
            decided.get_or_insert(*status);
        }
        pending.count_down(&mut state);
        true
    }
}

/// A push of which batches wait.
struct Pending {
    answers: Arc<Answers>,
    request: u64,
    statuses: Mutex<Statuses>,
}

struct Statuses {
    decided: Vec<Option<Status>>,
    left: usize,
}

impl Pending {
    fn count_down(&self, state: &mut Statuses) {
        state.left -= 1;
        if state.left == 0 {
            let statuses = state.decided.iter().map(|status| status.unwrap_or(UNDECIDED)).collect();
            self.answers.ready.lock().push(Decided { request: self.request, statuses });
            self.answers.told.notify_one();
        }
    }
}

/// A batch that waits for its replica. Dropped without a confirmation it is answered hard split.
pub(crate) struct Ticket {
    pending: Arc<Pending>,
    index: u16,
    length: usize,
    /// What the primary answers for it.
    stored: Status,
    /// What its replica does.
    replica: Status,
}

impl Ticket {
    /// The replica has the batch.
    pub(crate) fn confirm(mut self) {
        self.replica = Status::Success;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let status = if sabotage::is(Sabotage::StatusesMergedInTheWrongOrder) {
            self.stored.min(self.replica)
        } else {
            self.stored.merge(self.replica)
        };
        self.pending.answers.metrics.decided(status, self.length);
        let mut state = self.pending.statuses.lock();
        state.decided[usize::from(self.index)] = Some(status);
        self.pending.count_down(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::store::tests::store;

    #[test]
    fn a_push_is_answered_when_its_last_batch_is_decided_whatever_the_order() {
        let answers = Answers::new(store().metrics);
        let mut ask = Asking::new(&answers, 7, 4);
        let first = ask.ticket(Status::Success, 100);
        ask.advance();
        ask.advance();
        let third = ask.ticket(Status::SoftSplit, 100);
        ask.advance();
        let fourth = ask.ticket(Status::Success, 100);
        third.confirm();
        let statuses = [UNDECIDED, Status::BadChecksum, UNDECIDED, UNDECIDED];
        assert!(ask.settle(&statuses));
        drop(fourth);
        assert_eq!(answers.take(), []);
        first.confirm();
        let statuses = vec![Status::Success, Status::BadChecksum, Status::SoftSplit, Status::HardSplit];
        assert_eq!(answers.take(), [Decided { request: 7, statuses }]);
        assert_eq!(answers.metrics.push_bytes.get(), 200);
    }

    #[test]
    fn a_push_without_a_batch_that_waits_is_answered_at_once() {
        let answers = Answers::new(store().metrics);
        assert!(!Asking::new(&answers, 1, 1).settle(&[Status::Success]));
        let mut ask = Asking::new(&answers, 2, 1);
        ask.ticket(Status::Success, 1).confirm();
        assert_eq!(answers.take(), [], "not before all of it was taken");
        assert!(ask.settle(&[UNDECIDED]));
        assert_eq!(answers.take(), [Decided { request: 2, statuses: vec![Status::Success] }]);
    }
}
