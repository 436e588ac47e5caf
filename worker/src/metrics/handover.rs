//! What a worker counts of hand-over: what it gives, what it takes, what is left.

use prometheus::{IntCounter, IntGauge, Registry};

use super::{counter, gauge};

/// The metrics of hand-over; clones share them.
#[derive(Clone)]
pub(crate) struct HandoverMetrics {
    /// Bytes that other workers have taken over.
    pub(crate) bytes: IntCounter,
    /// Locations that other workers have taken over.
    pub(crate) locations: IntCounter,
    /// Locations taken over from other workers.
    pub(crate) taken_over: IntCounter,
    /// Their bytes.
    pub(crate) taken_over_bytes: IntCounter,
    /// Tries to hand a location over that came to nothing.
    pub(crate) failures: IntCounter,
    /// Locations that draining has still to write or hand over.
    pub(crate) left: IntGauge,
}

impl HandoverMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            bytes: counter(registry, "handed_over_bytes_total", "Bytes that other workers have taken over")?,
            locations: counter(
                registry,
                "handed_over_locations_total",
                "Locations that other workers have taken over",
            )?,
            taken_over_bytes: counter(
                registry,
                "taken_over_bytes_total",
                "Bytes of locations taken over from other workers",
            )?,
            taken_over: counter(registry, "taken_over_locations_total", "Locations taken over from other workers")?,
            failures: counter(
                registry,
                "handover_failures_total",
                "Tries to hand a location over that came to nothing; each is made again",
            )?,
            left: gauge(registry, "drain_left_locations", "Locations that draining has still to write or hand over")?,
        })
    }
}
