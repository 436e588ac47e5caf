//! The only door to the outside world: network, disk, blocking work, spawning, clock, randomness and hash seeds.
//!
//! Owns: thin wrappers that the simulation swaps (feature `sim`), the framed connection with its bounds and deadlines,
//! gRPC serving and dialling, configuration loading, and telemetry. Does not own: any rule of the shuffle service.
//! The other crates may not reach around it; clippy bans the direct calls there.

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod connection;
pub mod container;
pub mod disk;
pub mod grpc;
pub mod hash;
pub mod net;
pub mod random;
pub mod shares;
#[cfg(feature = "sim")]
pub mod simulation;
pub mod task;
pub mod telemetry;
