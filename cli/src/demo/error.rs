//! Why a demo fails, and the exit codes of that.

use mallorn_client::{ConnectError, LifecycleError, PushError, ReadError, StartError};
use mallorn_runtime::config::ConfigError;
use mallorn_runtime::telemetry::InitError;
use tokio::task::JoinError;

use super::cluster::ClusterError;
use super::workload::{CsvError, ReduceError, RowError, TpchError};
use crate::signals::EndSignal;

/// Why a demo fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// Options that don't fit each other.
    #[error("{0}")]
    Options(String),
    /// Settings.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The scale.
    #[error("--scale: {0}")]
    Scale(#[from] TpchError),
    /// The log.
    #[error("`log.filter`: {0}")]
    Log(#[from] InitError),
    /// Signals can't be received, so that nothing could be cleaned up after one.
    #[error("can't receive signals: {0}")]
    Signals(std::io::Error),
    /// The input file.
    #[error(transparent)]
    Input(#[from] CsvError),
    /// A row that fits no batch.
    #[error(
        "the longest row has {row_bytes} bytes, and the cluster takes at most {limit_bytes} at once: raise \
         cluster.body_limit (--set cluster.body_limit=SIZE)"
    )]
    RowTooLarge {
        /// The row.
        row_bytes: u64,
        /// The most that fits.
        limit_bytes: u64,
    },
    /// The processes.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The lifecycle manager.
    #[error("{source}; is there a master at {master}?")]
    Start {
        /// The master's address.
        master: String,
        /// What happened.
        source: StartError,
    },
    /// The client.
    #[error("can't start the client: {0}")]
    Connect(#[from] ConnectError),
    /// A call to the lifecycle manager.
    #[error("{what}: {source}")]
    Lifecycle {
        /// What was wanted.
        what: &'static str,
        /// What came of it.
        source: LifecycleError,
    },
    /// A map task.
    #[error("map {map} of {table}: {source}")]
    Map {
        /// The table's name.
        table: &'static str,
        /// The map.
        map: u32,
        /// What happened.
        source: MapError,
    },
    /// All attempts of a map say that another one has won.
    #[error("map {map} of {table} has ended, but no attempt of it has won")]
    NoWinner {
        /// The table's name.
        table: &'static str,
        /// The map.
        map: u32,
    },
    /// A reduce task.
    #[error("reduce task {partition}: {source}")]
    Reduce {
        /// Its partition.
        partition: u32,
        /// What happened.
        source: ReduceTaskError,
    },
    /// The direct computation.
    #[error("the direct computation: {0}")]
    Direct(RowError),
    /// A task of the demo itself.
    #[error("a task of the demo failed: {0}")]
    Task(#[from] JoinError),
    /// Data is lost again and again.
    #[error("data was lost in each of {rounds} rounds; the demo gives up")]
    LostAgain {
        /// How often everything that was lost was made anew.
        rounds: u32,
    },
    /// What came back is not what was pushed, or the answer is wrong.
    #[error("not verified: {0}")]
    NotVerified(String),
    /// Ended by the user or a supervisor.
    #[error("interrupted")]
    Interrupted(EndSignal),
}

impl DemoError {
    /// 2 for what must be changed on the command line or in the settings, 1 for what failed, more for signals.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Options(_) | Self::Settings(_) | Self::Scale(_) | Self::Log(_) => 2,
            Self::Interrupted(signal) => signal.exit_code(),
            Self::Signals(_)
            | Self::Input(_)
            | Self::RowTooLarge { .. }
            | Self::Cluster(_)
            | Self::Start { .. }
            | Self::Connect(_)
            | Self::Lifecycle { .. }
            | Self::Map { .. }
            | Self::NoWinner { .. }
            | Self::Reduce { .. }
            | Self::Direct(_)
            | Self::Task(_)
            | Self::LostAgain { .. }
            | Self::NotVerified(_) => 1,
        }
    }

    /// For a failed call to the lifecycle manager.
    pub(super) fn lifecycle(what: &'static str) -> impl Fn(LifecycleError) -> Self {
        move |source| Self::Lifecycle { what, source }
    }
}

/// Why a map task fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum MapError {
    /// Its rows.
    #[error(transparent)]
    Rows(#[from] RowError),
    /// It can't be started.
    #[error(transparent)]
    Start(#[from] LifecycleError),
    /// Its data can't be pushed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The thread that generates its rows.
    #[error(transparent)]
    Generator(#[from] JoinError),
    /// The client has counted other bytes than the task has pushed.
    #[error("pushed {pushed} bytes, but the client reports {reported}")]
    Bytes {
        /// What the task pushed.
        pushed: u64,
        /// What the client says.
        reported: u64,
    },
}

/// Why a reduce task fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReduceTaskError {
    /// Its partition can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It can't use what it read.
    #[error(transparent)]
    Reduce(#[from] ReduceError),
}
