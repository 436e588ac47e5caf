//! A driver in a process of its own, to be killed: it has pushed and committed one shuffle and is pushing another.

use std::io::{self, Write as _};

use mallorn_client::{
    ClientConfig, ConnectError, LifecycleConfig, LifecycleError, LifecycleManager, PushError, ShuffleClient, StartError,
};
use mallorn_runtime::random::Random;
use mallorn_runtime::task;
use prometheus::Registry;

const PARTITIONS: u32 = 8;
/// Of each shuffle.
const UNITS: u32 = 256;
const UNIT_BYTES: usize = 32 * 1024;

/// Why it can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error(transparent)]
    Push(#[from] PushError),
    #[error(transparent)]
    Print(#[from] io::Error),
}

/// Drives until it is killed, or nobody wants it any more.
pub(crate) async fn run(master: String) -> Result<(), DriverError> {
    let config = LifecycleConfig { master, copies: 2, ..LifecycleConfig::default() };
    let manager = LifecycleManager::start("driver", config, Random::from_system()).await?;
    let random = Random::from_system();
    let client = ShuffleClient::connect(manager.address(), ClientConfig::default(), random, &Registry::new()).await?;
    let row = vec![7; UNIT_BYTES];
    for shuffle in [0, 1] {
        let generation = manager.register(shuffle, PARTITIONS, Some(1)).await?;
        let mut attempt = client.start_attempt(shuffle, 0, 0).await?;
        for unit in 0..UNITS {
            attempt.push(unit % PARTITIONS, &row).await?;
        }
        if shuffle == 0 {
            attempt.mapper_end().await?;
            manager.stage_end(shuffle, generation).await?;
        } else {
            writeln!(io::stdout(), "ready")?;
            // It has nothing else to say: whoever started it lets go of it.
            let _ = task::blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())).await;
        }
    }
    Ok(())
}
