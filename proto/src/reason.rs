//! Why a lifecycle manager or a master refuses a call: the small kind that a caller acts on, carried beside the text.

use std::fmt;

use crate::status::{Status, to_grpc};

/// Metadata key under which a gRPC error carries the reason's name.
pub const GRPC_REASON_KEY: &str = "mallorn-reason";

/// What the refusal means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The shuffle was never registered.
    Unknown,
    /// The shuffle was released.
    Released,
    /// The caller's instance or generation is over: begin again with the current one.
    Fenced,
    /// The attempt is dead: start another one.
    Dead,
    /// Somebody else has started this attempt: use another number.
    Taken,
    /// Every map of the stage has a winner: nothing is left to do.
    StageEnded,
    /// A token is unknown, or two name one map.
    Token,
    /// No worker has room.
    NoSpace,
    /// The request makes no sense.
    Invalid,
}

impl Reason {
    const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Released,
        Self::Fenced,
        Self::Dead,
        Self::Taken,
        Self::StageEnded,
        Self::Token,
        Self::NoSpace,
        Self::Invalid,
    ];

    /// The name on the wire and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Released => "released",
            Self::Fenced => "fenced",
            Self::Dead => "dead",
            Self::Taken => "taken",
            Self::StageEnded => "stage_ended",
            Self::Token => "token",
            Self::NoSpace => "no_space",
            Self::Invalid => "invalid",
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Unknown | Self::Released => Status::NotHere,
            Self::Fenced | Self::Dead | Self::Taken | Self::StageEnded => Status::Fenced,
            Self::Token | Self::Invalid => Status::Malformed,
            Self::NoSpace => Status::Busy,
        }
    }

    /// Makes the gRPC error for this reason.
    #[must_use]
    pub fn to_grpc(self, text: impl Into<String>) -> tonic::Status {
        let mut error = to_grpc(self.status(), text);
        error.metadata_mut().insert(GRPC_REASON_KEY, tonic::metadata::MetadataValue::from_static(self.name()));
        error
    }

    /// The reason that a gRPC error carries; `None` when the callee did not refuse but could not be reached.
    #[must_use]
    pub fn from_grpc(error: &tonic::Status) -> Option<Self> {
        let name = error.metadata().get(GRPC_REASON_KEY)?.to_str().ok()?;
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_grpc() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_grpc(&reason.to_grpc("text")), Some(reason));
        }
        assert_eq!(Reason::from_grpc(&tonic::Status::unavailable("gone")), None);
    }
}
