//! What a worker counts of its disks: what it writes and reads there, what a restart found, how they stand.

use std::sync::Weak;
use std::time::Duration;

use mallorn_worker_core::spill::disk::Health;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntCounter, IntGauge, IntGaugeVec, Registry};

use super::{counter, options, seconds};
use crate::spill::Spill;

/// The metrics of spilling; clones share them.
#[derive(Clone)]
pub(crate) struct SpillMetrics {
    /// Bytes read from disk for readers.
    pub(crate) read_bytes: IntCounter,
    /// Reads of extents that failed.
    pub(crate) read_failures: IntCounter,
    /// Bytes written that are of no use: cut off by a seal, or of a location that was gone.
    pub(crate) dead_bytes: IntCounter,
    bytes: IntCounter,
    writes: IntCounter,
    seconds: Counter,
    syncs: IntCounter,
    sync_seconds: Counter,
    restored: IntCounter,
    lost: IntCounter,
}

impl SpillMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            read_bytes: counter(registry, "fetch_disk_bytes_total", "Bytes of batches read from disk for readers")?,
            read_failures: counter(registry, "read_failures_total", "Reads of extents from disk that failed")?,
            dead_bytes: counter(registry, "dead_bytes_total", "Bytes written to disk that turned out to be of no use")?,
            bytes: counter(registry, "spilled_bytes_total", "Bytes of extents written to disk")?,
            writes: counter(registry, "spill_writes_total", "Writes of extents to disk")?,
            seconds: seconds(registry, "spill_write_seconds_total", "Time that writes of extents took")?,
            syncs: counter(registry, "syncs_total", "Syncs of data folders at commit")?,
            sync_seconds: seconds(registry, "sync_seconds_total", "Time that syncs of data folders took")?,
            restored: counter(registry, "restored_locations_total", "Locations found whole after a restart")?,
            lost: counter(registry, "lost_locations_total", "Locations found lost after a restart")?,
        })
    }

    /// Counts a write of extents.
    pub(crate) fn wrote(&self, bytes: u64, took: Duration) {
        self.bytes.inc_by(bytes);
        self.writes.inc();
        self.seconds.inc_by(took.as_secs_f64());
    }

    /// Bytes of extents written so far.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Counts a sync.
    pub(crate) fn synced(&self, took: Duration) {
        self.syncs.inc();
        self.sync_seconds.inc_by(took.as_secs_f64());
    }

    /// Counts what a restart has found.
    pub(crate) fn restarted(&self, restored: u64, lost: u64) {
        self.restored.inc_by(restored);
        self.lost.inc_by(lost);
    }
}

/// How the disks stand, looked at when somebody asks. The registry may outlive them.
pub(crate) struct Disks {
    spill: Weak<Spill>,
    owed_bytes: IntGauge,
    clean_bytes: IntGauge,
    capacity_bytes: IntGaugeVec,
    free_bytes: IntGaugeVec,
    queued_bytes: IntGaugeVec,
    health: IntGaugeVec,
}

impl Disks {
    pub(crate) fn register(registry: &Registry, spill: Weak<Spill>) -> Result<(), prometheus::Error> {
        let of_disk = |name, help| IntGaugeVec::new(options(name, help), &["disk"]);
        let owed = "Bytes in memory only, of shuffles whose commit asks for disk";
        let disks = Self {
            spill,
            owed_bytes: IntGauge::with_opts(options("unwritten_bytes", owed))?,
            clean_bytes: IntGauge::with_opts(options("memory_clean_bytes", "Bytes of memory that are on disk too"))?,
            capacity_bytes: of_disk("disk_capacity_bytes", "Bytes of the disk")?,
            free_bytes: of_disk("disk_free_bytes", "Bytes of the disk that are free")?,
            queued_bytes: of_disk("disk_queued_bytes", "Bytes that wait to be written, or are being written")?,
            health: IntGaugeVec::new(
                options("disk_health", "1 for the health that the disk has"),
                &["disk", "health"],
            )?,
        };
        registry.register(Box::new(disks))
    }
}

impl Collector for Disks {
    fn desc(&self) -> Vec<&Desc> {
        let single = [self.owed_bytes.desc(), self.clean_bytes.desc()].concat();
        let by_disk = [&self.capacity_bytes, &self.free_bytes, &self.queued_bytes, &self.health];
        single.into_iter().chain(by_disk.into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(spill) = self.spill.upgrade() else { return Vec::new() };
        self.owed_bytes.set(spill.owed_bytes() as i64);
        self.clean_bytes.set(spill.clean_bytes() as i64);
        for disk in spill.disks() {
            let path = disk.path.display().to_string();
            self.capacity_bytes.with_label_values(&[&path]).set(disk.capacity_bytes as i64);
            self.free_bytes.with_label_values(&[&path]).set(disk.free_bytes as i64);
            self.queued_bytes.with_label_values(&[&path]).set(disk.queued_bytes as i64);
            for health in Health::ALL {
                let is = i64::from(health == disk.health);
                self.health.with_label_values(&[path.as_str(), health.name()]).set(is);
            }
        }
        let single = [self.owed_bytes.collect(), self.clean_bytes.collect()].concat();
        let by_disk = [&self.capacity_bytes, &self.free_bytes, &self.queued_bytes, &self.health];
        single.into_iter().chain(by_disk.into_iter().flat_map(Collector::collect)).collect()
    }
}
