//! Status codes: one ordered type for the data plane, and the only mapping between it, gRPC and what a caller does next.

use std::fmt;

use crate::limits::FAILURE_TEXT_BYTES_MAX;

/// What a worker answers to one location of a push, or to a request on the data plane.
///
/// Ordered: where several copies answer for one batch, the greatest status is the answer
/// (fail > hard split > congested > soft split > success).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// Verified and appended.
    Success = 0,
    /// Appended; the next batches should go to the next epoch.
    SoftSplit = 1,
    /// Appended; the sender should slow down.
    Congested = 2,
    /// Not appended; push the batch to the next epoch.
    HardSplit = 3,
    /// The checksum does not match; nothing was stored. Push the batch again.
    BadChecksum = 16,
    /// The body is larger than the cluster allows.
    TooLarge = 17,
    /// The bytes are not what the protocol says they are.
    Malformed = 18,
    /// The worker does not have what was asked for. Whether it never existed, was empty or was released, the lifecycle
    /// manager knows.
    NotHere = 19,
    /// The caller belongs to an instance, incarnation or generation that is over.
    Fenced = 20,
    /// The connection was meant for another cluster.
    WrongCluster = 21,
    /// The connection was meant for another worker.
    WrongWorker = 22,
    /// No common protocol version.
    UnsupportedVersion = 23,
    /// The worker is stopping.
    ShuttingDown = 24,
    /// A bound on connections, streams or memory is reached; try again later.
    Busy = 25,
    /// The worker failed in a way that has no better name; its log has the cause.
    Internal = 26,
}

/// What a caller does about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The same request may succeed later or elsewhere.
    Retry,
    /// Push to the next epoch.
    Revive,
    /// The caller is over: stop.
    Stop,
    /// The request is wrong and will stay so.
    Mend,
}

impl Status {
    /// All codes, in order.
    pub const ALL: [Self; 15] = [
        Self::Success,
        Self::SoftSplit,
        Self::Congested,
        Self::HardSplit,
        Self::BadChecksum,
        Self::TooLarge,
        Self::Malformed,
        Self::NotHere,
        Self::Fenced,
        Self::WrongCluster,
        Self::WrongWorker,
        Self::UnsupportedVersion,
        Self::ShuttingDown,
        Self::Busy,
        Self::Internal,
    ];

    /// The code of a byte from the wire; a code of a later version is `Internal`, so that it is never taken for success.
    #[must_use]
    pub fn from_wire(code: u8) -> Self {
        Self::ALL.into_iter().find(|status| *status as u8 == code).unwrap_or(Self::Internal)
    }

    /// Whether the batch was appended.
    #[must_use]
    pub fn is_stored(self) -> bool {
        self < Self::HardSplit
    }

    /// The answer to a batch of which each copy answered one of these: the greater one.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        self.max(other)
    }

    /// The name used in logs, metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::SoftSplit => "soft_split",
            Self::Congested => "congested",
            Self::HardSplit => "hard_split",
            Self::BadChecksum => "bad_checksum",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::NotHere => "not_here",
            Self::Fenced => "fenced",
            Self::WrongCluster => "wrong_cluster",
            Self::WrongWorker => "wrong_worker",
            Self::UnsupportedVersion => "unsupported_version",
            Self::ShuttingDown => "shutting_down",
            Self::Busy => "busy",
            Self::Internal => "internal",
        }
    }

    /// What a caller does about it; `None` where the batch is stored.
    #[must_use]
    pub fn advice(self) -> Option<Advice> {
        match self {
            Self::Success | Self::SoftSplit | Self::Congested => None,
            Self::HardSplit => Some(Advice::Revive),
            Self::BadChecksum | Self::ShuttingDown | Self::Busy | Self::Internal | Self::NotHere => Some(Advice::Retry),
            Self::Fenced => Some(Advice::Stop),
            Self::TooLarge | Self::Malformed | Self::WrongCluster | Self::WrongWorker | Self::UnsupportedVersion => {
                Some(Advice::Mend)
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Metadata key under which a gRPC error carries the [`Status`] name beside gRPC's own code.
pub const GRPC_STATUS_KEY: &str = "mallorn-status";

/// Makes the gRPC error for a status: gRPC's nearest code, the text (cut at [`FAILURE_TEXT_BYTES_MAX`], since it travels
/// in a header), and the status' own name in the metadata.
#[must_use]
pub fn to_grpc(status: Status, text: impl Into<String>) -> tonic::Status {
    let code = match status {
        Status::Success | Status::SoftSplit | Status::Congested | Status::HardSplit | Status::Internal => {
            tonic::Code::Internal
        }
        Status::BadChecksum => tonic::Code::DataLoss,
        Status::TooLarge | Status::Malformed => tonic::Code::InvalidArgument,
        Status::NotHere => tonic::Code::NotFound,
        Status::Fenced | Status::WrongCluster | Status::WrongWorker => tonic::Code::FailedPrecondition,
        Status::UnsupportedVersion => tonic::Code::Unimplemented,
        Status::ShuttingDown => tonic::Code::Unavailable,
        Status::Busy => tonic::Code::ResourceExhausted,
    };
    let mut error = tonic::Status::new(code, bounded(&text.into()));
    error.metadata_mut().insert(GRPC_STATUS_KEY, tonic::metadata::MetadataValue::from_static(status.name()));
    error
}

/// The status that a gRPC error carries, or the nearest one where it carries none (an error of the transport). It never
/// says that something was stored.
#[must_use]
pub fn from_grpc(error: &tonic::Status) -> Status {
    let named = error.metadata().get(GRPC_STATUS_KEY).and_then(|value| value.to_str().ok());
    if let Some(status) = named.and_then(|name| Status::ALL.into_iter().find(|status| status.name() == name)) {
        return if status.is_stored() { Status::Internal } else { status };
    }
    match error.code() {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Status::Malformed,
        tonic::Code::NotFound => Status::NotHere,
        tonic::Code::ResourceExhausted => Status::Busy,
        tonic::Code::Unimplemented => Status::UnsupportedVersion,
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Status::ShuttingDown,
        _ => Status::Internal,
    }
}

/// The start of a text for people that fits an answer, cut at a character border.
pub(crate) fn bounded(text: &str) -> &str {
    let mut end = text.len().min(FAILURE_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_fail_hard_congested_soft_success() {
        assert!(Status::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Status::SoftSplit.merge(Status::Congested), Status::Congested);
        assert_eq!(Status::HardSplit.merge(Status::Congested), Status::HardSplit);
        assert_eq!(Status::Success.merge(Status::SoftSplit), Status::SoftSplit);
        assert_eq!(Status::BadChecksum.merge(Status::HardSplit), Status::BadChecksum);
    }

    #[test]
    fn every_code_survives_the_wire_and_grpc() {
        for status in Status::ALL {
            assert_eq!(Status::from_wire(status as u8), status);
            if !status.is_stored() {
                assert_eq!(from_grpc(&to_grpc(status, "text")), status);
            }
        }
        assert_eq!(Status::from_wire(200), Status::Internal);
    }
}
