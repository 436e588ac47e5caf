//! What a worker counts.
//!
//! Owns every metric of the role, each declared once. Does not own the registry, which is passed in.

mod handover;
mod replicate;
mod spill;

use std::sync::{Arc, Weak};

use mallorn_proto::message::Role;
use mallorn_proto::status::Status;
use mallorn_worker_core::memory::Pool;
use mallorn_worker_core::push::Life;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

pub(crate) use handover::HandoverMetrics;
pub(crate) use replicate::{Cause, ReplicateMetrics};
pub(crate) use spill::{Disks, SpillMetrics};

use crate::memory::arena::Arena;

/// Why a connection on the data port was refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What it sent is not the protocol.
    NotFrames,
    /// It did not begin with a hello, or not in time.
    NoHello,
    /// Its hello names another cluster, worker, incarnation or version.
    WrongHello,
    /// There are as many connections as may be.
    Limit,
    /// Its application, or its address before a hello, has its share of them.
    Share,
}

impl Refusal {
    const ALL: [Self; 5] = [Self::NotFrames, Self::NoHello, Self::WrongHello, Self::Limit, Self::Share];

    fn name(self) -> &'static str {
        match self {
            Self::NotFrames => "not_frames",
            Self::NoHello => "no_hello",
            Self::WrongHello => "wrong_hello",
            Self::Limit => "limit",
            Self::Share => "share",
        }
    }
}

/// The worker's metrics; clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// Pushes of one batch.
    pub(crate) push_single: IntCounter,
    /// Pushes of several.
    pub(crate) push_merged: IntCounter,
    /// Bytes appended.
    pub(crate) push_bytes: IntCounter,
    /// Writes that carried answers to pushes.
    pub(crate) reply_writes: IntCounter,
    /// Calls to the control port.
    pub(crate) calls: IntCounter,
    /// Batches whose checksum did not match.
    pub(crate) checksum_failures: IntCounter,
    /// Fetches answered.
    pub(crate) fetch_requests: IntCounter,
    /// Bytes sent to readers.
    pub(crate) fetch_bytes: IntCounter,
    /// Streams open.
    pub(crate) streams: IntGauge,
    /// Bytes of memory given back by releases.
    pub(crate) released_bytes: IntCounter,
    /// Times that the master asked for a fresh registration.
    pub(crate) register_again: IntCounter,
    /// Copies and splits.
    pub(crate) replicate: ReplicateMetrics,
    /// Hand-over.
    pub(crate) handover: HandoverMetrics,
    /// What goes to disk.
    pub(crate) spill: SpillMetrics,
    batches: Arc<[IntCounter]>,
    refused: Arc<[IntCounter]>,
    connections: Arc<[IntGauge]>,
    open: IntGauge,
    frozen: IntGauge,
    sealed: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When the registry has metrics of these names.
    pub(crate) fn new(registry: &Registry, arena: &Arc<Arena>) -> Result<Self, prometheus::Error> {
        let requests = counters(registry, "push_requests_total", "Pushes received, by form", "form")?;
        let batches = counters(registry, "push_batches_total", "Batches pushed, by the status answered", "status")?;
        let refused = counters(
            registry,
            "connections_refused_total",
            "Connections on the data port that were refused or ended for what they sent, by reason",
            "reason",
        )?;
        let connections = gauges(registry, "connections", "Connections on the data port, by role", "role")?;
        let locations = gauges(registry, "locations", "Locations held, by state", "state")?;
        registry.register(Box::new(Memory::new(Arc::downgrade(arena))?))?;
        Ok(Self {
            push_single: requests.with_label_values(&["single"]),
            push_merged: requests.with_label_values(&["merged"]),
            push_bytes: counter(registry, "push_bytes_total", "Bytes appended to locations")?,
            reply_writes: counter(registry, "push_reply_writes_total", "Writes that carried answers to pushes")?,
            calls: counter(registry, "calls_total", "Calls to the control port")?,
            checksum_failures: counter(registry, "checksum_failures_total", "Batches whose checksum did not match")?,
            fetch_requests: counter(registry, "fetch_requests_total", "Fetches answered with batches")?,
            fetch_bytes: counter(registry, "fetch_bytes_total", "Bytes of batches sent to readers")?,
            spill: SpillMetrics::new(registry)?,
            streams: gauge(registry, "streams", "Streams open for reading")?,
            released_bytes: counter(registry, "released_bytes_total", "Bytes of memory given back by releases")?,
            register_again: counter(
                registry,
                "register_again_total",
                "Times that the master asked for a fresh registration",
            )?,
            replicate: ReplicateMetrics::new(registry)?,
            handover: HandoverMetrics::new(registry)?,
            batches: Status::ALL.iter().map(|status| batches.with_label_values(&[status.name()])).collect(),
            refused: Refusal::ALL.iter().map(|reason| refused.with_label_values(&[reason.name()])).collect(),
            connections: [Role::Push, Role::Fetch, Role::Replicate]
                .map(|role| connections.with_label_values(&[role.name()]))
                .into(),
            open: locations.with_label_values(&["open"]),
            frozen: locations.with_label_values(&["frozen"]),
            sealed: locations.with_label_values(&["sealed"]),
        })
    }

    /// Counts a pushed batch of `length` bytes by what is answered.
    pub(crate) fn decided(&self, status: Status, length: usize) {
        let at = Status::ALL.iter().position(|known| *known == status).expect("every status is in the list");
        self.batches[at].inc();
        if status.is_stored() {
            self.push_bytes.inc_by(length as u64);
        }
        if status == Status::BadChecksum {
            self.checksum_failures.inc();
        }
    }

    /// Counts a connection that was refused or ended.
    pub(crate) fn refused(&self, reason: Refusal) {
        self.refused[reason as usize].inc();
    }

    /// Counts a connection for as long as what it returns lives.
    pub(crate) fn connected(&self, role: Role) -> Counted {
        Counted::begin(self.connections[role as usize].clone())
    }

    /// Notes a step in a location's life; made is from `Gone`.
    pub(crate) fn location_moved(&self, from: Life, to: Life) {
        if let Some(gauge) = self.locations(from) {
            gauge.dec();
        }
        if let Some(gauge) = self.locations(to) {
            gauge.inc();
        }
    }

    /// Locations that are open, frozen and sealed.
    pub(crate) fn locations_by_state(&self) -> [u64; 3] {
        [&self.open, &self.frozen, &self.sealed].map(|gauge| gauge.get().max(0) as u64)
    }

    fn locations(&self, life: Life) -> Option<&IntGauge> {
        match life {
            Life::Open => Some(&self.open),
            Life::Frozen { .. } => Some(&self.frozen),
            Life::Sealed { .. } => Some(&self.sealed),
            Life::Gone => None,
        }
    }
}

/// One more in a gauge, until it is dropped.
pub(crate) struct Counted(IntGauge);

impl Counted {
    /// One more from now on.
    pub(crate) fn begin(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The ledger, read when somebody asks. The registry may outlive the arena.
struct Memory {
    arena: Weak<Arena>,
    arena_bytes: IntGauge,
    grown_bytes: IntGauge,
    held_bytes: IntGaugeVec,
}

impl Memory {
    fn new(arena: Weak<Arena>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            arena,
            arena_bytes: IntGauge::with_opts(options("memory_arena_bytes", "The arena's budget"))?,
            grown_bytes: IntGauge::with_opts(options(
                "memory_grown_bytes",
                "What of the arena was ever used at once, and may be resident",
            ))?,
            held_bytes: IntGaugeVec::new(
                options("memory_held_bytes", "Bytes held of the arena's budget, by pool"),
                &["pool"],
            )?,
        })
    }
}

impl Collector for Memory {
    fn desc(&self) -> Vec<&Desc> {
        [self.arena_bytes.desc(), self.grown_bytes.desc(), self.held_bytes.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(usage) = self.arena.upgrade().map(|arena| arena.usage()) else { return Vec::new() };
        self.arena_bytes.set(usage.budget_bytes as i64);
        self.grown_bytes.set(usage.grown_bytes as i64);
        for (pool, bytes) in Pool::ALL.iter().zip(usage.held_bytes) {
            self.held_bytes.with_label_values(&[pool.name()]).set(bytes as i64);
        }
        [self.arena_bytes.collect(), self.grown_bytes.collect(), self.held_bytes.collect()].concat()
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("mallorn_worker_{name}"), help)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::with_opts(options(name, help))?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Result<Counter, prometheus::Error> {
    let counter = Counter::with_opts(options(name, help))?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::with_opts(options(name, help))?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(options(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn gauges(registry: &Registry, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(options(name, help), &[label])?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}
