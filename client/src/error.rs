//! What can go wrong, one type per operation, each telling its caller what to do.

use std::io;

use mallorn_client_core::lifecycle::{AttemptError, RegisterError, TokenError};
use mallorn_proto::id::{Epoch, Generation, Partition, Token};
use mallorn_proto::reason::Reason;
use mallorn_runtime::config::Invalid;

/// A lifecycle manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of its range.
    #[error("lifecycle: {0}")]
    Config(Invalid),
    /// Its address cannot be listened on, or the master's is not one.
    #[error(transparent)]
    Listen(io::Error),
    /// The master is out of reach, or refuses the application.
    #[error("the master does not register the application: {text}")]
    Master {
        /// What came of the call.
        text: String,
    },
}

/// A call to the lifecycle manager failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifecycleError {
    /// It refuses: the reason says what that means for the caller.
    #[error("{text}")]
    Refused {
        /// The kind of refusal.
        reason: Reason,
        /// Why, for people.
        text: String,
    },
    /// It could not be reached, or did not answer in time; the call may or may not have been carried out, and may be
    /// made again.
    #[error("the lifecycle manager or the master is out of reach: {text}")]
    Unreachable {
        /// What came of the call.
        text: String,
    },
}

impl LifecycleError {
    pub(crate) fn refused(reason: Reason, text: String) -> Self {
        Self::Refused { reason, text }
    }

    /// The reason of a refusal; `None` where the manager was out of reach.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            Self::Unreachable { .. } => None,
        }
    }

    /// The answer is not one that an honest lifecycle manager gives to what was asked.
    pub(crate) fn senseless(what: &str) -> Self {
        Self::Unreachable { text: format!("its answer makes no sense: {what}") }
    }

    pub(crate) fn to_grpc(&self) -> tonic::Status {
        match self {
            Self::Refused { reason, text } => reason.to_grpc(text),
            Self::Unreachable { text } => tonic::Status::unavailable(text),
        }
    }

    pub(crate) fn from_grpc(error: &tonic::Status) -> Self {
        match Reason::from_grpc(error) {
            Some(reason) => Self::refused(reason, error.message().to_owned()),
            None => Self::Unreachable { text: describe(error) },
        }
    }
}

/// A client could not join its application.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A setting is out of its range.
    #[error("client: {0}")]
    Config(Invalid),
    /// The lifecycle manager's address is not one.
    #[error(transparent)]
    Address(io::Error),
    /// The lifecycle manager is out of reach, or refuses.
    #[error(transparent)]
    Lifecycle(LifecycleError),
    /// The client's memory is too small for the cluster's bodies.
    #[error(transparent)]
    Memory(mallorn_client_core::memory::TooSmall),
    /// The client's batches do not fit the cluster's bodies.
    #[error("client.batch is {batch} bytes, the cluster takes bodies of at most {limit}; set it lower")]
    Batch {
        /// The batch size.
        batch: u64,
        /// The cluster's limit.
        limit: u64,
    },
    /// Metrics of a client are registered already.
    #[error("register the client's metrics: {0}")]
    Metrics(prometheus::Error),
}

/// A push, or the end of an attempt, failed. The attempt is over but for `TooLarge`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// One push is over the cluster's limit; nothing of it was taken, and the attempt goes on.
    #[error(
        "a push of {bytes} bytes, the cluster takes at most {limit}; push smaller units or raise cluster.body_limit"
    )]
    TooLarge {
        /// Bytes pushed.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// No such partition; nothing was taken, and the attempt goes on.
    #[error("partition {partition} of {partitions}")]
    Partition {
        /// The partition.
        partition: u32,
        /// Partitions of the shuffle.
        partitions: u32,
    },
    /// No worker had room within `no_space_within`.
    #[error("no space: {refused_bytes} bytes were refused; {missing}")]
    NoSpace {
        /// All live arenas, in bytes.
        arena_bytes: u64,
        /// What is held of them, in bytes.
        held_bytes: u64,
        /// Bytes of the batches that found no place.
        refused_bytes: u64,
        /// What is missing (memory, workers or disks) and what to do about it.
        missing: String,
    },
    /// Another attempt has won the map: stop, this is not a failure of the job.
    #[error("another attempt of the map has won")]
    MapEnded,
    /// Every map has a winner: stop, this is not a failure of the job.
    #[error("the stage has ended")]
    StageEnded,
    /// The lifecycle manager refuses, or is out of reach for longer than a call may take.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// The attempt has been ended, or its end was asked for; nothing of the push was taken.
    #[error("a push after the attempt's end")]
    Ended,
    /// A worker refuses for good, or every one that was tried is out of reach.
    #[error("a worker refuses the batch: {text}")]
    Refused {
        /// Why.
        text: String,
    },
}

impl PushError {
    /// Whether the attempt was merely overtaken: its data is not needed, and its task is done.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        match self {
            Self::MapEnded | Self::StageEnded => true,
            Self::Lifecycle(error) => error.reason() == Some(Reason::StageEnded),
            Self::TooLarge { .. }
            | Self::Partition { .. }
            | Self::NoSpace { .. }
            | Self::Ended
            | Self::Refused { .. } => false,
        }
    }
}

/// A read failed. It never ends early or empty instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Some of the partition is gone: start the shuffle's next generation and re-run its maps, or, without a map count,
    /// re-run the maps of the tokens that are no longer complete.
    #[error("partition {partition} of shuffle {shuffle} is lost in generation {generation}: {why}")]
    PartitionLost {
        /// The shuffle.
        shuffle: u32,
        /// The generation read.
        generation: Generation,
        /// The partition.
        partition: Partition,
        /// What happened.
        why: String,
        /// Of the tokens read, those that are no longer complete. Empty for shuffles with a map count.
        incomplete: Vec<Token>,
    },
    /// The generation that was read is over: forget what was read and read again.
    #[error("the read is revoked: {text}")]
    Revoked {
        /// Why, for people.
        text: String,
    },
    /// The lifecycle manager refuses (never registered, released, wrong tokens), or is out of reach.
    #[error(transparent)]
    Lifecycle(LifecycleError),
    /// The stage did not end, or a worker did not come back, within `read_within`.
    #[error("not read within read_within: {waiting_for}")]
    TimedOut {
        /// What was waited for.
        waiting_for: String,
    },
    /// More readers are open than the client's memory allows.
    #[error("the client's memory has no room for another reader; drop some, or raise client.memory")]
    NoRoom,
    /// A payload that its checksum confirms cannot be decompressed: its writer was broken.
    #[error("batch of partition {partition} (epoch {epoch}) cannot be decompressed: {text}")]
    Decompress {
        /// The partition.
        partition: Partition,
        /// The location's epoch.
        epoch: Epoch,
        /// Why.
        text: String,
    },
}

impl From<LifecycleError> for ReadError {
    fn from(error: LifecycleError) -> Self {
        match error {
            LifecycleError::Refused { reason: Reason::Fenced, text } => Self::Revoked { text },
            error => Self::Lifecycle(error),
        }
    }
}

impl From<RegisterError> for LifecycleError {
    fn from(error: RegisterError) -> Self {
        let reason = match error {
            RegisterError::Shape { .. }
            | RegisterError::Copies { .. }
            | RegisterError::Differs { .. }
            | RegisterError::TooMany => Reason::Invalid,
            RegisterError::Released { .. } => Reason::Released,
        };
        Self::refused(reason, error.to_string())
    }
}

impl From<AttemptError> for LifecycleError {
    fn from(error: AttemptError) -> Self {
        let reason = match error {
            AttemptError::Taken { .. } => Reason::Taken,
            AttemptError::NotStarted { .. } | AttemptError::Dead { .. } => Reason::Dead,
            AttemptError::StageEnded => Reason::StageEnded,
            AttemptError::MapOutOfRange { .. }
            | AttemptError::PageOrder { .. }
            | AttemptError::Partition { .. }
            | AttemptError::TooMany => Reason::Invalid,
        };
        Self::refused(reason, error.to_string())
    }
}

impl From<TokenError> for LifecycleError {
    fn from(error: TokenError) -> Self {
        Self::refused(Reason::Token, error.to_string())
    }
}

/// A gRPC error for people: its text, or what kind it is where it has none.
pub(crate) fn describe(error: &tonic::Status) -> String {
    if error.message().is_empty() { error.code().to_string() } else { error.message().to_owned() }
}
