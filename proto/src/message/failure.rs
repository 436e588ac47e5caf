//! The answer to a request that failed as a whole.

use bytes::{Buf, BufMut};

use super::MessageError;
use super::field::{finished, get_text, need, put_bytes};
use crate::limits;
use crate::status::{Status, bounded};

/// The answer to a request that failed as a whole, or (with request 0) to a connection that is about to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The request's number; 0 speaks of the connection.
    pub request: u64,
    /// What went wrong; never one of those that say that a batch is stored.
    pub status: Status,
    /// What went wrong, for people.
    pub text: String,
}

impl Failure {
    /// Writes the header; a text over [`limits::FAILURE_TEXT_BYTES_MAX`] is cut.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.request);
        out.put_u8(self.status as u8);
        put_bytes(out, bounded(&self.text).as_bytes());
    }

    /// Reads the header.
    ///
    /// # Errors
    /// `Short`, `Trailing`, `TooLong`, `Text`, or `Value` for a status that is none of a failure.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 9)?;
        let request = from.get_u64();
        let status = Status::from_wire(from.get_u8());
        let text = get_text(from, "text", limits::FAILURE_TEXT_BYTES_MAX)?;
        finished(from)?;
        if status.is_stored() {
            return Err(MessageError::Value { field: "failure status", value: status as u64 });
        }
        Ok(Self { request, status, text })
    }
}
