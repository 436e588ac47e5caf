//! Bounds that hold for everyone who speaks the protocol. What an operator may change is in the configuration; what is
//! here is part of the contract.

/// Bytes of a frame before its header: header length (i32), type (i8), body length (i32).
pub const FRAME_PREFIX_BYTES: usize = 9;

/// Largest header of a frame, in bytes. The largest legal one opens a location of [`CHUNKS_MAX`] chunks.
pub const FRAME_HEADER_BYTES_MAX: usize = 64 * 1024;

/// Largest body of a frame that any configuration may allow, in bytes. The limit in force is one number per cluster,
/// told in the welcome of a connection and at registration.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Largest body in force where nothing else is configured: a batch of 1 MiB with its header and envelope.
pub const BODY_BYTES_DEFAULT: u32 = 1024 * 1024 + 4096;

/// Most locations that one merged push may name.
pub const MERGED_LOCATIONS_MAX: usize = 4096;

/// Most batches that one replicated frame may hold.
pub const REPLICATED_BATCHES_MAX: usize = 2048;

/// Largest application name, in bytes.
pub const APPLICATION_BYTES_MAX: usize = 256;

/// Largest cluster id, in bytes.
pub const CLUSTER_BYTES_MAX: usize = 64;

/// Largest credential in a hello, in bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 4096;

/// Largest text of a failure, in bytes; longer ones are cut at a character border.
pub const FAILURE_TEXT_BYTES_MAX: usize = 1024;

/// Most chunks that one sealed location may have (at about 8 MiB each: 60 GiB).
pub const CHUNKS_MAX: usize = 7680;

/// Aim for the length of a chunk: it ends with the batch that reaches this length.
pub const CHUNK_BYTES: u64 = 8 * 1024 * 1024;

/// Largest gRPC message in either direction, in bytes. What grows with maps or partitions is paged to stay below it.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most workers of one cluster: replies name each of those that they speak of once.
pub const WORKERS_MAX: usize = 4096;

/// Largest name of a worker, in bytes; by default it is its host and port.
pub const WORKER_NAME_BYTES_MAX: usize = 259;

/// Largest name of a rack, in bytes: the addresses of all workers fit one message.
pub const RACK_BYTES_MAX: usize = 48;

/// Largest address, in bytes: a host name of 253, a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 259;

/// Most partitions, locations or ranges that one control message names; callers page by it.
pub const PAGE_LOCATIONS_MAX: usize = 16 * 1024;

/// Most workers that are remembered to have had a location before it was handed over to where it is.
pub const ORIGINS_MAX: usize = 16;

/// Most maps, attempts or partition sums that one control message names; callers page by it.
pub const PAGE_MAPS_MAX: usize = 64 * 1024;

/// Most tokens that one read names.
pub const READ_TOKENS_MAX: usize = 256 * 1024;

/// Most partitions of one shuffle. A winner that touched every second one still fits a control message.
pub const PARTITIONS_MAX: u32 = 1 << 19;

/// Most map tasks of one shuffle.
pub const MAPS_MAX: u32 = 1 << 24;
