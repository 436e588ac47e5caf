//! Settings of the client's two sides.

use std::time::Duration;

use mallorn_proto::batch::Codec;
use mallorn_proto::{durability, v1};
use mallorn_runtime::config::{ByteSize, Check, Invalid, Span, choices, settings};

/// The longest time that can be set.
const SPAN_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

choices! {
    /// How a client compresses payloads.
    pub enum Compression {
        /// Not at all: where neither network nor memory is scarce.
        None = "none",
        /// LZ4: little CPU, about half the size.
        Lz4 = "lz4",
        /// Zstandard, level 1: more CPU, about a third of the size.
        Zstd = "zstd",
    }
}

impl Compression {
    pub(crate) fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Lz4 => Codec::Lz4,
            Self::Zstd => Codec::Zstd,
        }
    }
}

choices! {
    /// What a shuffle's data survives once its stage has ended, or a read by tokens has committed it. Before that, one
    /// copy does not survive its worker.
    pub enum Durability {
        /// Kept in the workers' memory. Two copies survive one crash; one copy survives none. Small shuffles never touch
        /// a disk.
        Memory = "memory",
        /// Written to disk: survives a crash or a restart of the worker.
        Written = "written",
        /// Synced to disk: survives loss of power.
        Synced = "synced",
    }
}

impl From<Durability> for durability::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Memory => Self::Memory,
            Durability::Written => Self::Written,
            Durability::Synced => Self::Synced,
        }
    }
}

/// How well one shuffle is kept; what is not set is the application's default
/// ([`LifecycleConfig::copies`], [`LifecycleConfig::durability`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShuffleOptions {
    /// Copies of its data: 1, or 2 on different workers.
    pub copies: Option<u32>,
    /// What its data survives.
    pub durability: Option<Durability>,
}

impl ShuffleOptions {
    /// The declaration of a shuffle with them.
    pub(crate) fn declare(
        self,
        instance: u64,
        shuffle: u32,
        partitions: u32,
        maps: Option<u32>,
    ) -> v1::RegisterShuffleRequest {
        let durability = self.durability.map(|level| durability::Durability::from(level).to_wire());
        v1::RegisterShuffleRequest { instance, shuffle, partitions, maps, copies: self.copies, durability }
    }
}

settings! {
    /// Settings of a `ShuffleClient`.
    pub struct ClientConfig {
        /// Bytes that pushes and reads of one client hold together: a quarter only for pushes, a quarter only for reads.
        pub memory: ByteSize = ByteSize::mib(64),
        /// Bytes of one partition that are pushed as one batch, before compression.
        pub batch: ByteSize = ByteSize::kib(64),
        /// How payloads are compressed.
        pub codec: Compression = Compression::Lz4,
        /// Connections to each worker for pushes, and as many for reads.
        pub connections: u32 = 1,
        /// How long a push goes on looking for a worker with room before it fails with `NoSpace`.
        pub no_space_within: Span = Span(Duration::from_secs(10)),
        /// How long one call to a worker or to the lifecycle manager may take.
        pub call_within: Span = Span(Duration::from_secs(30)),
        /// How long a read waits for the stage to end, and for a worker that is away.
        pub read_within: Span = Span(Duration::from_secs(3600)),
    }
}

impl Check for ClientConfig {
    fn check(&self) -> Result<(), Invalid> {
        if self.batch.0 < 1024 {
            return Err(Invalid::new("batch", "must be at least 1KiB"));
        }
        if self.batch.0 > u64::from(u32::MAX) {
            return Err(Invalid::new("batch", "must be below 4GiB"));
        }
        if !(1..=64).contains(&self.connections) {
            return Err(Invalid::new("connections", "must be between 1 and 64"));
        }
        if self.call_within.0.is_zero() {
            return Err(Invalid::new("call_within", "must not be zero"));
        }
        bounded(&[
            ("no_space_within", self.no_space_within),
            ("call_within", self.call_within),
            ("read_within", self.read_within),
        ])
    }
}

/// What a program sets itself was not read, and so is not bounded yet.
fn bounded(spans: &[(&'static str, Span)]) -> Result<(), Invalid> {
    match spans.iter().find(|(_, span)| span.0 > SPAN_MAX) {
        Some((key, _)) => Err(Invalid::new(key, "must be at most a hundred years")),
        None => Ok(()),
    }
}

settings! {
    /// Settings of a `LifecycleManager`.
    pub struct LifecycleConfig {
        /// host:port of the master's gRPC door.
        pub master: String = "127.0.0.1:9097".to_owned(),
        /// The cluster that the application wants.
        pub cluster: String = "mallorn".to_owned(),
        /// Where the application's tasks reach the lifecycle manager; port 0 picks a free one.
        pub listen: String = "127.0.0.1:0".to_owned(),
        /// The host that tasks are told to reach it at; the listening one where nothing is set.
        pub advertise: Option<String>,
        /// How long an attempt lives without a sign of life from its client.
        pub attempt_lease: Span = Span(Duration::from_secs(30)),
        /// How long commits and readers wait for a worker that vanished, after its lease has ended.
        pub wait_for_return: Span = Span(Duration::from_secs(30)),
        /// How long the registration of a shuffle waits for workers with room.
        pub place_within: Span = Span(Duration::from_secs(30)),
        /// Copies of each shuffle's data, unless it is registered otherwise: 1, or 2 on different workers, which survive
        /// the loss of one.
        pub copies: u32 = 1,
        /// What each shuffle's data survives once its stage has ended, unless it is registered otherwise.
        pub durability: Durability = Durability::Written,
    }
}

impl Check for LifecycleConfig {
    fn check(&self) -> Result<(), Invalid> {
        if self.attempt_lease.0 < Duration::from_secs(1) {
            return Err(Invalid::new("attempt_lease", "must be at least 1s"));
        }
        if !(1..=2).contains(&self.copies) {
            return Err(Invalid::new("copies", "must be 1 or 2"));
        }
        bounded(&[
            ("attempt_lease", self.attempt_lease),
            ("wait_for_return", self.wait_for_return),
            ("place_within", self.place_within),
        ])
    }
}
