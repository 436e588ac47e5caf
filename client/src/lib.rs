//! Mallorn's client: the two types that an engine needs.
//!
//! - [`LifecycleManager`], one per application, in the engine's driver: registers shuffles, knows which attempt of each
//!   map counts, commits, starts generations after a loss.
//! - [`ShuffleClient`], one per process that runs tasks: starts attempts ([`MapAttempt`]), pushes, reads ([`Reader`]).
//!
//! A whole shuffle, with a master and a worker in the same process:
//!
//! ```
//! use mallorn_client::{ClientConfig, Durability, LifecycleConfig, LifecycleManager, ReadRequest, ShuffleClient};
//! use mallorn_runtime::random::Random;
//! use prometheus::Registry;
//! # use mallorn_runtime::{disk::Disk, task::Shutdown};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
//! # let master = mallorn_master::start(mallorn_master::Config::loopback(), &Registry::new(), Shutdown::new()).await?;
//! # let config = mallorn_worker::WorkerConfig {
//! #     master: master.control_address().to_string(),
//! #     control_listen: any,
//! #     data_listen: any,
//! #     admin_listen: None,
//! #     ..Default::default()
//! # };
//! # let surroundings = mallorn_worker::Surroundings {
//! #     cluster: "mallorn".to_owned(),
//! #     body_limit_bytes: mallorn_proto::limits::BODY_BYTES_DEFAULT,
//! #     disk: Disk::real(),
//! #     random: Random::from_system(),
//! #     registry: Registry::new(),
//! # };
//! # let _worker = mallorn_worker::start(config, surroundings).await?;
//! // The driver: one shuffle of 4 partitions and 2 map tasks.
//! let master = master.control_address().to_string();
//! // This one worker has no disk: its data is kept in memory.
//! let config = LifecycleConfig { master, durability: Durability::Memory, ..Default::default() };
//! let driver = LifecycleManager::start("my-application", config, Random::from_system()).await?;
//! driver.register(0, 4, Some(2)).await?;
//!
//! // A process that runs map tasks.
//! let client =
//!     ShuffleClient::connect(driver.address(), ClientConfig::default(), Random::from_system(), &Registry::new()).await?;
//! for map in 0..2 {
//!     let mut attempt = client.start_attempt(0, map, 0).await?;
//!     for row in 0..100 {
//!         attempt.push(row % 4, format!("row {row} of map {map};").as_bytes()).await?;
//!     }
//!     assert!(attempt.mapper_end().await?.won);
//! }
//!
//! // A process that runs reduce tasks: this one reads partition 2.
//! let mut reader = client.read(ReadRequest::new(0, 2..3)).await?;
//! let mut rows = 0;
//! while let Some(batch) = reader.next().await? {
//!     rows += batch.data.split(|byte| *byte == b';').filter(|row| !row.is_empty()).count();
//! }
//! assert_eq!(rows, 50);
//!
//! driver.release(0).await?;
//! driver.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Modules follow a byte: push, memory, fetch; `lifecycle` is the driver's side.

mod client;
mod connections;
mod error;
mod fetch;
mod lifecycle;
mod link;
mod memory;
mod metrics;
mod push;
mod renew;
mod watch;

pub mod codec;
pub mod config;

pub use client::{ReadRequest, ShuffleClient, Source};
pub use config::{ClientConfig, Compression, Durability, LifecycleConfig, ShuffleOptions};
pub use error::{ConnectError, LifecycleError, PushError, ReadError, StartError};
pub use fetch::{Batch, Reader};
pub use lifecycle::{LifecycleManager, StageEnd};
pub use mallorn_proto::id::{Application, Generation, Token};
pub use mallorn_proto::reason::Reason;
pub use metrics::ClientStats;
pub use push::{MapAttempt, MapperEnd};

#[cfg(test)]
mod tests;

/// Awaits all of these at once, within the caller's task; results in order.
async fn concurrently<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}
