//! Every setting of the binary: the sections of the roles and of the client, under one root.
//!
//! Owns what all roles of a cluster share, and the log's settings. Does not own the sections of the roles: each crate
//! declares its own.

use mallorn_client::{ClientConfig, LifecycleConfig};
use mallorn_master::MasterSettings;
use mallorn_proto::limits::{BODY_BYTES_DEFAULT, BODY_BYTES_MAX, CLUSTER_BYTES_MAX};
use mallorn_runtime::config::{ByteSize, Check, Invalid};
use mallorn_runtime::telemetry::LogFormat;
use mallorn_worker::WorkerConfig;

mallorn_runtime::settings! {
    /// All settings.
    pub(crate) struct Root {
        /// What all processes of a cluster must have alike.
        pub(crate) cluster: ClusterSettings,
        /// The log of a process, written to standard error.
        pub(crate) log: LogSettings,
        /// Settings of a master.
        pub(crate) master: MasterSettings,
        /// Settings of a worker.
        pub(crate) worker: WorkerConfig,
        /// Settings of the client in an engine's tasks. Of the commands only `demo` has one.
        pub(crate) client: ClientConfig,
        /// Settings of the lifecycle manager in an engine's driver. Of the commands only `demo` has one.
        pub(crate) lifecycle: LifecycleConfig,
    }
}

mallorn_runtime::settings! {
    /// What all processes of a cluster must have alike.
    pub(crate) struct ClusterSettings {
        /// Name of the cluster. Processes of another one are refused.
        pub(crate) name: String = "mallorn".to_owned(),
        /// Largest body of one message with shuffle data, at most 64MiB. Nothing that is pushed as one unit can be larger.
        pub(crate) body_limit: ByteSize = ByteSize(BODY_BYTES_DEFAULT as u64),
    }
}

mallorn_runtime::settings! {
    /// The log of a process, written to standard error.
    pub(crate) struct LogSettings {
        /// How lines are written.
        pub(crate) format: LogFormat = LogFormat::Auto,
        /// What is written: a level (error, warn, info, debug, trace), or pairs of target and level with commas between
        /// them.
        pub(crate) filter: String = "info".to_owned(),
    }
}

/// Smallest body that a cluster may be limited to: less would make every batch mostly header.
const BODY_BYTES_MIN: u64 = 16 * 1024;

impl ClusterSettings {
    /// The largest body as the roles want it.
    pub(crate) fn body_limit_bytes(&self) -> u32 {
        u32::try_from(self.body_limit.bytes()).expect("checked to be at most 64MiB")
    }
}

impl Check for ClusterSettings {
    fn check(&self) -> Result<(), Invalid> {
        if !(1..=CLUSTER_BYTES_MAX).contains(&self.name.len()) {
            return Err(Invalid::new("name", format!("must have 1 to {CLUSTER_BYTES_MAX} bytes")));
        }
        let largest = BODY_BYTES_MAX as u64;
        if !(BODY_BYTES_MIN..=largest).contains(&self.body_limit.bytes()) {
            let why = format!("must lie between {} and {}", ByteSize(BODY_BYTES_MIN), ByteSize(largest));
            return Err(Invalid::new("body_limit", why));
        }
        Ok(())
    }
}

impl Check for LogSettings {}

impl Check for Root {}

#[cfg(test)]
mod tests {
    use mallorn_runtime::config::{Loader, reference_markdown};
    use mallorn_runtime::disk::Disk;

    use super::*;

    #[test]
    fn the_reference_in_docs_is_current() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let page = Disk::real().read(page.as_ref(), 1 << 20).unwrap();
        assert!(
            String::from_utf8(page).unwrap() == reference_markdown::<Root>(),
            "write it anew: cargo run -- config reference > docs/configuration.md"
        );
    }

    #[test]
    fn defaults_fit_together() {
        let root = Loader::new().load::<Root>().unwrap().value;
        assert_eq!(root.cluster.name, root.lifecycle.cluster);
        assert_eq!(root.lifecycle.master, root.worker.master);
        assert!(root.lifecycle.master.ends_with(&format!(":{}", root.master.listen.port())));
    }

    #[test]
    fn a_cluster_needs_a_name_and_a_usable_body_limit() {
        for (setting, why) in [
            ("cluster.name=", "must have 1 to 64 bytes"),
            ("cluster.body_limit=1GiB", "must lie between 16KiB and 64MiB"),
            ("cluster.body_limit=1KiB", "must lie between 16KiB and 64MiB"),
        ] {
            let error = Loader::new().assign(setting, "--set").load::<Root>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
