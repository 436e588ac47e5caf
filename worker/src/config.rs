//! The worker's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mallorn_proto::limits::RACK_BYTES_MAX;
use mallorn_runtime::config::{ByteSize, Check, Invalid, Span, settings};
use mallorn_worker_core::memory::BUDGET_BYTES_MIN;

/// Most data folders of one worker: masters take no more, and locations keep a bit for each.
const DATA_FOLDERS_MAX: usize = 64;

settings! {
    /// Settings of a worker.
    pub struct WorkerConfig {
        /// Name shown to people, unique in the cluster; by default host and port of the control address.
        pub name: Option<String>,
        /// host:port of the master.
        pub master: String = "127.0.0.1:9097".to_owned(),
        /// Where gRPC is served: reservations, commits, releases.
        pub control_listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 9101)),
        /// Where pushes and fetches are served.
        pub data_listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 9102)),
        /// Where metrics and probes are served; left out, nowhere.
        pub admin_listen: Option<SocketAddr> = Some(SocketAddr::from(([0, 0, 0, 0], 9103))),
        /// Host under which others reach this worker; by default the address listened on, or else the machine's name.
        pub advertised_host: Option<String>,
        /// Where the worker stands, such as its rack or zone, at most 48 bytes: two copies are kept in different ones.
        pub rack: Option<String>,
        /// Folders, one per disk, for what memory does not hold and for who this worker is. Without any it is a new worker at
        /// each start, and takes only shuffles whose durability is `memory`.
        pub data_folders: Vec<PathBuf>,
        /// Whether the data folders are there again when this worker comes back. Where they are not (a folder that goes with
        /// the pod, a machine that is given back), a worker that ends hands what it holds over to others.
        pub disk_returns: bool = true,
        /// How long a worker that is told to end may take for that: Kubernetes' grace period, less a margin.
        pub grace: Span = Span(Duration::from_secs(60)),
        /// Memory for shuffle data, at least 16MiB. It is taken as it is needed and then kept. By default 60 % of what the
        /// container may have, less 128 MiB; 1GiB where it has no limit.
        pub memory: Option<ByteSize>,
        /// A location of this size is still pushed to, but its clients are told to move on to a new one.
        pub soft_split: ByteSize = ByteSize::gib(1),
        /// A location of this size takes no more; larger than `soft_split`.
        pub hard_split: ByteSize = ByteSize::gib(4),
        /// Connections on the data port at once; more are refused. In a container at most a fifth of its memory is for them,
        /// at 128 KiB each.
        pub connections_max: usize = 4096,
    }
}

/// What a worker takes where it is told nothing and has no limit.
const MEMORY_BYTES: u64 = 1024 * 1024 * 1024;
/// Share of a container's limit that is for shuffle data, less what the process itself takes.
const MEMORY_PERCENT: u64 = 60;
const PROCESS_BYTES: u64 = 128 * 1024 * 1024;
/// Share of a container's limit that the system's buffers of connections may take, and what one takes at first.
const SOCKETS_SHARE: u64 = 5;
const SOCKET_BYTES: u64 = 128 * 1024;

impl WorkerConfig {
    /// Bytes of memory for shuffle data, in a container with this limit.
    pub(crate) fn memory_bytes(&self, limit: Option<u64>) -> u64 {
        let share = |limit: u64| (limit / 100 * MEMORY_PERCENT).saturating_sub(PROCESS_BYTES).max(BUDGET_BYTES_MIN);
        self.memory.map(ByteSize::bytes).or(limit.map(share)).unwrap_or(MEMORY_BYTES)
    }

    /// Connections on the data port, in a container with this limit.
    pub(crate) fn connections(&self, limit: Option<u64>) -> usize {
        let fits = |limit: u64| (limit / SOCKETS_SHARE / SOCKET_BYTES).max(1) as usize;
        limit.map_or(self.connections_max, |limit| self.connections_max.min(fits(limit)))
    }
}

impl Check for WorkerConfig {
    fn check(&self) -> Result<(), Invalid> {
        if self.memory.is_some_and(|memory| memory.bytes() < BUDGET_BYTES_MIN) {
            return Err(Invalid::new("memory", format!("must be at least {}", ByteSize(BUDGET_BYTES_MIN))));
        }
        if self.soft_split.bytes() == 0 {
            return Err(Invalid::new("soft_split", "must be at least 1B"));
        }
        if self.hard_split <= self.soft_split {
            return Err(Invalid::new("hard_split", format!("must be larger than soft_split, {}", self.soft_split)));
        }
        if self.data_folders.len() > DATA_FOLDERS_MAX {
            return Err(Invalid::new("data_folders", format!("must be at most {DATA_FOLDERS_MAX}")));
        }
        if self.rack.as_ref().is_some_and(|rack| rack.len() > RACK_BYTES_MAX) {
            return Err(Invalid::new("rack", format!("must have at most {RACK_BYTES_MAX} bytes")));
        }
        if self.connections_max == 0 {
            return Err(Invalid::new("connections_max", "must be at least 1"));
        }
        if self.master.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            return Err(Invalid::new("master", "must be host:port"));
        }
        if self.advertised_host.as_ref().is_some_and(String::is_empty) {
            return Err(Invalid::new("advertised_host", "must not be empty"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mallorn_runtime::config::Loader;

    use super::*;

    fn refusal(text: &str) -> String {
        Loader::new().toml("worker.toml", text).load::<WorkerConfig>().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_good_and_bad_values_say_what_to_set() {
        assert!(Loader::new().load::<WorkerConfig>().is_ok());
        assert!(refusal("memory = '1KiB'").contains("must be at least 16MiB"));
        assert!(refusal("connections_max = 0").contains("must be at least 1"));
        assert!(refusal("soft_split = '0B'").contains("must be at least 1B"));
        assert!(refusal("hard_split = '1GiB'").contains("must be larger than soft_split, 1GiB"));
        assert!(refusal("master = 'nowhere'").contains("must be host:port"));
    }

    #[test]
    fn memory_and_connections_fit_the_container() {
        let config = WorkerConfig::default();
        let gib = 1024 * 1024 * 1024;
        assert_eq!((config.memory_bytes(None), config.connections(None)), (gib, 4096));
        assert_eq!(config.memory_bytes(Some(4 * gib)), 4 * gib / 100 * 60 - 128 * 1024 * 1024);
        assert_eq!((config.connections(Some(4 * gib)), config.connections(Some(gib))), (4096, 1638));
        assert_eq!(config.memory_bytes(Some(1)), BUDGET_BYTES_MIN, "too little is told when it starts");
        let told = WorkerConfig { memory: Some(ByteSize::mib(64)), ..config };
        assert_eq!(told.memory_bytes(Some(gib)), 64 * 1024 * 1024);
    }
}
