//! The worker: takes pushed batches into memory, seals them at commit, and serves them to readers.
//!
//! Owns the process' parts and their order of start and end. The rules are in `mallorn_worker_core`; everything outside
//! the process is reached through `mallorn_runtime`. The modules of the byte path stand in the order in which a byte
//! meets them.

mod config;
mod identity;
mod server;
mod push;
mod memory;
mod replicate;
mod spill;
mod commit;
mod fetch;
mod handover;
mod drain;
mod service;
mod restart;
mod master_link;
mod metrics;
mod start;

pub use config::WorkerConfig;
pub use identity::IdentityError;
pub use memory::arena::MemoryError;
pub use restart::RestartError;
pub use spill::FolderError;
pub use start::{Running, StartError, Surroundings, start};
