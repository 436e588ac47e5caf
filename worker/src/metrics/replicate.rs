//! What a worker counts of copies: what it forwards, how long that waits, and what ends locations.

use std::sync::Arc;
use std::time::Duration;

use mallorn_worker_core::push::Split;
use prometheus::{Counter, IntCounter, IntGauge, Registry};

use super::{counter, counters, gauge, options};

/// Why a replica ended its location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The other worker could not be reached, or the connection to it was lost.
    Lost,
    /// It did not confirm in time.
    Late,
    /// It refused a batch.
    Refused,
    /// More bytes waited for replicas than may, and this one was the slowest.
    Backlog,
}

impl Cause {
    const ALL: [Self; 4] = [Self::Lost, Self::Late, Self::Refused, Self::Backlog];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Backlog => "backlog",
        }
    }
}

/// The metrics of copies; clones share them.
#[derive(Clone)]
pub(crate) struct ReplicateMetrics {
    /// Bytes forwarded.
    pub(crate) bytes: IntCounter,
    /// Bytes that wait for replicas now, with what the waiting takes itself.
    pub(crate) waiting_bytes: IntGauge,
    wait_seconds: Counter,
    paused_seconds: Counter,
    failures: Arc<[IntCounter]>,
    splits: Arc<[IntCounter]>,
}

impl ReplicateMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let failures =
            counters(registry, "replica_failures_total", "Locations that ended for their replica, by cause", "cause")?;
        let splits = counters(
            registry,
            "splits_total",
            "Locations that reached their soft limit, and those that reached the hard one or lost their replica",
            "kind",
        )?;
        Ok(Self {
            bytes: counter(registry, "replicated_bytes_total", "Bytes forwarded to replicas")?,
            waiting_bytes: gauge(registry, "replica_waiting_bytes", "Bytes that wait for replicas to confirm them")?,
            wait_seconds: seconds(
                registry,
                "replica_wait_seconds_total",
                "Seconds that batches waited for their replicas, summed over batches",
            )?,
            paused_seconds: seconds(
                registry,
                "push_paused_seconds_total",
                "Seconds that connections were left unread because there was no memory, summed over connections",
            )?,
            failures: Cause::ALL.iter().map(|cause| failures.with_label_values(&[cause.name()])).collect(),
            splits: [Split::Soft, Split::Hard].map(|split| splits.with_label_values(&[split.name()])).into(),
        })
    }

    /// Counts a batch that was confirmed after this long.
    pub(crate) fn waited(&self, waited: Duration) {
        self.wait_seconds.inc_by(waited.as_secs_f64());
    }

    /// Counts a connection that was left unread for this long.
    pub(crate) fn paused(&self, paused: Duration) {
        self.paused_seconds.inc_by(paused.as_secs_f64());
    }

    /// Counts a location that ended for its replica.
    pub(crate) fn failed(&self, cause: Cause) {
        self.failures[cause as usize].inc();
        self.split(Split::Hard);
    }

    /// Counts a location that reached a limit.
    pub(crate) fn split(&self, split: Split) {
        self.splits[split as usize].inc();
    }
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Result<Counter, prometheus::Error> {
    let counter = Counter::with_opts(options(name, help))?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}
