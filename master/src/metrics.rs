//! The master's metrics.
//!
//! Owns their names, labels and units. Does not own the registry, which is passed in, nor the numbers.

use mallorn_master_core::{Census, Expired};
use prometheus::{Counter, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// The master's metrics, registered once.
#[derive(Debug)]
pub(crate) struct Metrics {
    workers: IntGaugeVec,
    applications: IntGaugeVec,
    memory_bytes: IntGaugeVec,
    placements: IntCounterVec,
    placed_locations: IntCounter,
    heartbeats: IntCounterVec,
    expired: IntCounterVec,
    tick_late_seconds: Counter,
    handed_over: IntGauge,
    requests: IntCounterVec,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// When the registry has metrics of these names already: one registry serves one master.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let placed_locations =
            IntCounter::new("mallorn_master_placed_locations_total", "Locations for which a worker was picked.")?;
        registry.register(Box::new(placed_locations.clone()))?;
        let tick_late_seconds = Counter::new(
            "mallorn_master_tick_late_seconds_total",
            "Time by which ticks were late, and all leases extended. Rising fast: the master is starved of CPU.",
        )?;
        registry.register(Box::new(tick_late_seconds.clone()))?;
        let handed_over = IntGauge::new(
            "mallorn_master_handed_over_locations",
            "Locations that workers have said they took over from others that leave.",
        )?;
        registry.register(Box::new(handed_over.clone()))?;
        Ok(Self {
            handed_over,
            workers: gauges("mallorn_master_workers", "Workers by state (live, draining, lost).", &["state"])?,
            applications: gauges(
                "mallorn_master_applications",
                "Instances of applications by state (active, fenced, ended).",
                &["state"],
            )?,
            memory_bytes: gauges(
                "mallorn_master_workers_memory_bytes",
                "Memory of all live and draining workers: arena, held of it, free for pushes.",
                &["kind"],
            )?,
            placements: counters(
                "mallorn_master_placements_total",
                "Requests for locations by result (placed, no_room).",
                &["result"],
            )?,
            placed_locations,
            heartbeats: counters(
                "mallorn_master_heartbeats_total",
                "Heartbeats by result (renewed, register_again).",
                &["result"],
            )?,
            expired: counters(
                "mallorn_master_expired_total",
                "Leases that ran out, by holder (worker, application).",
                &["holder"],
            )?,
            tick_late_seconds,
            requests: counters(
                "mallorn_master_requests_total",
                "Requests by operation and result.",
                &["op", "result"],
            )?,
        })
    }

    /// A request was answered; `result` is `ok` or a status' name.
    pub(crate) fn request(&self, op: &'static str, result: &'static str) {
        self.requests.with_label_values(&[op, result]).inc();
    }

    /// A heartbeat was answered.
    pub(crate) fn heartbeat(&self, is_renewed: bool) {
        let result = if is_renewed { "renewed" } else { "register_again" };
        self.heartbeats.with_label_values(&[result]).inc();
    }

    /// A request for locations was answered with so many picks.
    pub(crate) fn placement(&self, picks: usize) {
        let result = if picks == 0 { "no_room" } else { "placed" };
        self.placements.with_label_values(&[result]).inc();
        self.placed_locations.inc_by(picks as u64);
    }

    /// A tick ended these leases.
    pub(crate) fn tick(&self, expired: &Expired) {
        self.expired.with_label_values(&["worker"]).inc_by(expired.workers.len() as u64);
        self.expired.with_label_values(&["application"]).inc_by(expired.applications.len() as u64);
        self.tick_late_seconds.inc_by(expired.late_by.as_secs_f64());
    }

    /// How many there are of what now.
    pub(crate) fn census(&self, census: &Census) {
        let set = |gauges: &IntGaugeVec, label: &str, value: u64| {
            gauges.with_label_values(&[label]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.workers, "live", census.live as u64);
        set(&self.workers, "draining", census.draining as u64);
        set(&self.workers, "lost", census.lost as u64);
        set(&self.applications, "active", census.applications.active as u64);
        set(&self.applications, "fenced", census.applications.fenced as u64);
        set(&self.applications, "ended", census.applications.ended as u64);
        set(&self.memory_bytes, "arena", census.memory.arena_bytes);
        set(&self.memory_bytes, "held", census.memory.held_bytes);
        set(&self.memory_bytes, "push_free", census.memory.push_free_bytes);
        self.handed_over.set(i64::try_from(census.handed_over).unwrap_or(i64::MAX));
    }
}
