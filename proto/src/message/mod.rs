//! Mallorn's own messages of the data plane: the headers of frames of type 64 and up. All numbers are big-endian.
//!
//! Every message but `Hello`, `Welcome` and `CloseStream` begins with the request's number, which the answer repeats.
//!
//! | type | message | header after the request's number | body |
//! |---|---|---|---|
//! | 64 | Hello | (no request number) oldest u16, newest u16, role u8, worker u128, incarnation u64, instance u64, cluster str, application str, credential str | |
//! | 65 | Welcome | (no request number) version u16, body limit u32, incarnation u64 | |
//! | 66 | Push | handle u64 | one batch |
//! | 67 | PushMerged | count u16, count x (handle u64, length u32) | the batches, in that order |
//! | 68 | PushReply | count u16, count x status u8 | |
//! | 69 | Open | shuffle u32, partition u32, epoch u32, seal u64, first map u32, end map u32 | |
//! | 70 | Opened | stream u64, length u64, count u16, count x chunk end u64 | |
//! | 71 | Fetch | stream u64, offset u64, limit u32 | |
//! | 72 | Fetched | stream u64, offset u64, next u64 | whole batches |
//! | 73 | CloseStream | (no request number) stream u64 | |
//! | 74 | Failure | status u8, text str | |
//! | 75 | Replicate | count u16, count x (handle u64, offset u64, length u32) | the batches, in that order |
//!
//! New fields of `Hello` and `Welcome` go to the end: a peer of the version before ignores them.
//!
//! `str` is a u16 length and that many bytes of UTF-8 (the credential: any bytes).

mod hello;
mod push;
mod replicate;
mod fetch;
mod failure;

mod field;

use crate::version;

pub use self::failure::Failure;
pub use self::fetch::{CloseStream, Fetch, Fetched, Open, Opened};
pub use self::hello::{Hello, Role, Welcome};
pub use self::push::{MergedPart, Push, PushMerged, PushReply};
pub use self::replicate::{Replicate, ReplicatedPart};

/// Type numbers of our own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is a row of the module's table")]
pub enum Kind {
    Hello = 64,
    Welcome = 65,
    Push = 66,
    PushMerged = 67,
    PushReply = 68,
    Open = 69,
    Opened = 70,
    Fetch = 71,
    Fetched = 72,
    CloseStream = 73,
    Failure = 74,
    Replicate = 75,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Hello,
        Self::Welcome,
        Self::Push,
        Self::PushMerged,
        Self::PushReply,
        Self::Open,
        Self::Opened,
        Self::Fetch,
        Self::Fetched,
        Self::CloseStream,
        Self::Failure,
        Self::Replicate,
    ];

    /// The kind of a type number.
    ///
    /// # Errors
    /// `Unknown` for a number that this build does not speak.
    pub fn from_wire(kind: u8) -> Result<Self, MessageError> {
        Self::ALL.into_iter().find(|known| *known as u8 == kind).ok_or(MessageError::Unknown { kind })
    }
}

/// Why a header is not the message that its type claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A type that this build does not speak.
    #[error("unknown message type {kind}")]
    Unknown {
        /// The type's number.
        kind: u8,
    },
    /// Fewer bytes than the message needs.
    #[error("the header ends {missing} bytes early")]
    Short {
        /// Bytes missing at least.
        missing: usize,
    },
    /// More bytes than the message has.
    #[error("the header has {extra} bytes too many")]
    Trailing {
        /// Bytes too many.
        extra: usize,
    },
    /// A text or list of bytes over its bound.
    #[error("{field} has {length} bytes, at most {limit} are legal")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
        /// Its bound in bytes.
        limit: usize,
    },
    /// A list over its bound.
    #[error("{count} {field}, at most {limit} are legal")]
    TooMany {
        /// The list.
        field: &'static str,
        /// Its length.
        count: usize,
        /// Its bound.
        limit: usize,
    },
    /// A text that is not UTF-8.
    #[error("{field} is not valid UTF-8")]
    Text {
        /// The field.
        field: &'static str,
    },
    /// A caller with whom no version is in common, and whose hello is not as ours.
    #[error(
        "the caller speaks protocol versions {oldest} to {newest}, this side {} to {}: run builds that have one in common",
        version::OLDEST,
        version::CURRENT
    )]
    Versions {
        /// The oldest version that the caller speaks.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
    /// A caller of a newer version wants what this one does not know.
    #[error(
        "role {role} is not known: the caller speaks protocol version {newest}, this side up to {}; update this side first",
        version::CURRENT
    )]
    NewerRole {
        /// The role's number.
        role: u8,
        /// The newest version that the caller speaks.
        newest: u16,
    },
    /// A number that makes no sense.
    #[error("{field} has the senseless value {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
    },
}
