//! What a master is started with.
//!
//! Owns the settings of section `master` and their rules. Does not own what all roles of a cluster share (its name and
//! largest body): the binary reads that once and hands it to every role.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mallorn_master_core::Strategy;
use mallorn_proto::limits::{BODY_BYTES_DEFAULT, BODY_BYTES_MAX, CLUSTER_BYTES_MAX};
use mallorn_runtime::config::{Check, Invalid, Span};

const WORKER_LEASE_MIN: Duration = Duration::from_millis(100);
const LEASE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A worker that misses two heartbeats in a row still has one more.
const HEARTBEATS_PER_LEASE: u32 = 3;
const TICKS_PER_LEASE: u32 = 10;

mallorn_runtime::choices! {
    /// How the master picks workers for new locations.
    pub enum PlacementStrategy {
        /// In proportion to the memory that pushes may still take.
        LoadAware = "load-aware",
        /// Each worker in turn.
        RoundRobin = "round-robin",
    }
}

impl From<PlacementStrategy> for Strategy {
    fn from(strategy: PlacementStrategy) -> Self {
        match strategy {
            PlacementStrategy::LoadAware => Self::LoadAware,
            PlacementStrategy::RoundRobin => Self::RoundRobin,
        }
    }
}

mallorn_runtime::settings! {
    /// Settings of a master.
    pub struct MasterSettings {
        /// Address on which workers and applications reach the master. Port 0 picks a free one.
        pub listen: SocketAddr = any_address(9097),
        /// Address of metrics and probes. Empty serves none.
        pub admin: Option<SocketAddr> = Some(any_address(9098)),
        /// How long a worker is believed after its last heartbeat. It sends three in that time. A worker that crashes is
        /// noticed after this long; one that is only cut off for less loses nothing.
        pub worker_lease: Span = Span::seconds(10),
        /// How long an application is kept after its driver's last sign of life; then everything of it is deleted. Also
        /// how long a restarted master waits for signs of life before it has anything deleted.
        pub application_lease: Span = Span::seconds(60),
        /// How workers are picked for new data.
        pub placement: PlacementStrategy = PlacementStrategy::LoadAware,
    }
}

impl Check for MasterSettings {
    fn check(&self) -> Result<(), Invalid> {
        let (worker, application) = (self.worker_lease, self.application_lease);
        if !(WORKER_LEASE_MIN..=LEASE_MAX).contains(&worker.duration()) {
            return Err(Invalid::new("worker_lease", format!("is {worker}: must be between 100ms and 1d")));
        }
        if application < worker {
            let why = format!("is {application}: must be at least as long as worker_lease, {worker}");
            return Err(Invalid::new("application_lease", why));
        }
        if application.duration() > LEASE_MAX {
            return Err(Invalid::new("application_lease", format!("is {application}: must be at most 1d")));
        }
        Ok(())
    }
}

impl MasterSettings {
    /// How long a worker waits between heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        self.worker_lease.duration() / HEARTBEATS_PER_LEASE
    }

    /// How long the master waits between ticks.
    pub(crate) fn tick(&self) -> Duration {
        self.worker_lease.duration() / TICKS_PER_LEASE
    }
}

/// What a master is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The cluster's name, of 1 to 64 bytes; calls that name another are refused.
    pub cluster: String,
    /// The largest body that the cluster takes, in bytes; a worker that takes another is refused.
    pub body_limit_bytes: u32,
    /// Section `master`.
    pub master: MasterSettings,
}

impl Default for Config {
    fn default() -> Self {
        Self { cluster: "mallorn".to_owned(), body_limit_bytes: BODY_BYTES_DEFAULT, master: MasterSettings::default() }
    }
}

impl Config {
    /// Listens on free ports of this machine's loopback and serves no admin port: for tests and for whole clusters in
    /// one process.
    #[must_use]
    pub fn loopback() -> Self {
        let listen = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        Self { master: MasterSettings { listen, admin: None, ..MasterSettings::default() }, ..Self::default() }
    }

    /// Refuses what no cluster can be run with.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if !(1..=CLUSTER_BYTES_MAX).contains(&self.cluster.len()) {
            return Err(Invalid::new("cluster", format!("must have 1 to {CLUSTER_BYTES_MAX} bytes")));
        }
        if self.body_limit_bytes == 0 || self.body_limit_bytes as usize > BODY_BYTES_MAX {
            return Err(Invalid::new("body_limit_bytes", format!("must lie between 1 and {BODY_BYTES_MAX}")));
        }
        self.master.check()
    }
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mallorn_runtime::config::Loader;

    fn load(toml: &str) -> Result<MasterSettings, String> {
        let loaded = Loader::new().toml("master.toml", toml).load::<MasterSettings>();
        loaded.map(|loaded| loaded.value).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_valid_and_three_heartbeats_fit_a_lease() {
        let settings = load("").unwrap();
        assert_eq!(settings, MasterSettings::default());
        assert!(settings.heartbeat() * 3 <= settings.worker_lease.duration());
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(Config::loopback().check(), Ok(()));
    }

    #[test]
    fn leases_out_of_order_or_range_are_refused_with_the_reason() {
        let short = load("worker_lease = '1ms'").unwrap_err();
        assert!(short.contains("worker_lease") && short.contains("between 100ms and 1d"), "{short}");
        let order = load("application_lease = '5s'").unwrap_err();
        assert!(
            order.contains("application_lease") && order.contains("at least as long as worker_lease, 10s"),
            "{order}"
        );
    }

    #[test]
    fn a_placement_has_its_names() {
        assert_eq!(load("placement = 'round-robin'").unwrap().placement, PlacementStrategy::RoundRobin);
        let unknown = load("placement = 'roundrobin'").unwrap_err();
        assert!(unknown.contains("did you mean `round-robin`?"), "{unknown}");
    }

    #[test]
    fn a_cluster_needs_a_name_and_a_body_limit() {
        let nameless = Config { cluster: String::new(), ..Config::default() };
        assert_eq!(nameless.check().unwrap_err().key, "cluster");
        let bodiless = Config { body_limit_bytes: 0, ..Config::default() };
        assert_eq!(bodiless.check().unwrap_err().key, "body_limit_bytes");
    }
}
