//! Mallorn's client: the two types that an engine needs.
//!
//! - [`LifecycleManager`], one per application, in the engine's driver: registers shuffles, knows which attempt of each
//!   map counts, commits, starts generations after a loss.
//! - [`ShuffleClient`], one per process that runs tasks: starts attempts ([`MapAttempt`]), pushes, reads ([`Reader`]).
//!
//! Modules follow a byte: [`config`], push, memory, fetch; `lifecycle` is the driver's side.

mod client;
mod codec;
mod connections;
mod error;
mod fetch;
mod lifecycle;
mod link;
mod memory;
mod metrics;
mod push;

pub mod config;

pub use client::{ReadRequest, ShuffleClient, Source};
pub use config::{ClientConfig, Compression, LifecycleConfig};
pub use error::{ConnectError, LifecycleError, PushError, ReadError, StartError};
pub use fetch::{Batch, Reader};
pub use lifecycle::{LifecycleManager, StageEnd};
pub use mallorn_proto::id::{Application, Generation, Token};
pub use mallorn_proto::reason::Reason;
pub use metrics::ClientStats;
pub use push::{MapAttempt, MapperEnd};

/// Awaits all of these at once, within the caller's task; results in order.
async fn concurrently<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}
