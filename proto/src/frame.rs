//! The outer frame, shared with Celeborn's protocol: header length (i32), type (i8), body length (i32), all big-endian;
//! then the header, then the body. Types 64 to 127 are Mallorn's own ([`crate::message`]).

use bytes::BufMut;

use crate::limits::{FRAME_HEADER_BYTES_MAX, FRAME_PREFIX_BYTES};

/// The first type number of our own messages; those below are Celeborn's.
pub const FIRST_OWN_TYPE: u8 = 64;

/// The nine bytes before a frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes of the header.
    pub header_length: u32,
    /// The message's type number.
    pub kind: u8,
    /// Bytes of the body.
    pub body_length: u32,
}

impl Prefix {
    /// Reads a prefix from the start of `bytes`; `None` when there are not nine bytes yet.
    ///
    /// # Errors
    /// `Empty` for a frame of nothing, `Header` or `Body` for one over its bound; the connection cannot be read on.
    pub fn decode(bytes: &[u8], body_bytes_max: usize) -> Result<Option<Self>, FrameError> {
        let Some(bytes) = bytes.first_chunk::<FRAME_PREFIX_BYTES>() else { return Ok(None) };
        let header_length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let body_length = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        if header_length as usize > FRAME_HEADER_BYTES_MAX {
            return Err(FrameError::Header { claimed: header_length });
        }
        if body_length as usize > body_bytes_max {
            return Err(FrameError::Body { claimed: body_length, limit: body_bytes_max });
        }
        if header_length == 0 && body_length == 0 {
            return Err(FrameError::Empty);
        }
        Ok(Some(Self { header_length, kind: bytes[4], body_length }))
    }

    /// Writes the prefix.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.header_length);
        out.put_u8(self.kind);
        out.put_u32(self.body_length);
    }

    /// Bytes of the whole frame, prefix included.
    #[must_use]
    pub fn frame_length(&self) -> usize {
        FRAME_PREFIX_BYTES + self.header_length as usize + self.body_length as usize
    }

    /// Bytes of prefix and header.
    #[must_use]
    pub fn head_length(&self) -> usize {
        FRAME_PREFIX_BYTES + self.header_length as usize
    }
}

/// Why a stream of bytes is not a stream of frames. The connection is closed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Neither header nor body.
    #[error("a frame without header and body; is the peer speaking Mallorn's or Celeborn's data protocol?")]
    Empty,
    /// A header over the bound.
    #[error(
        "a frame claims a header of {claimed} bytes, at most {FRAME_HEADER_BYTES_MAX} are legal; is the peer speaking \
         Mallorn's or Celeborn's data protocol?"
    )]
    Header {
        /// Bytes claimed.
        claimed: u32,
    },
    /// A body over the bound in force.
    #[error("a frame claims a body of {claimed} bytes, this cluster takes at most {limit}")]
    Body {
        /// Bytes claimed.
        claimed: u32,
        /// Bytes allowed.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_prefix_is_what_was_encoded(header in 1u32..=FRAME_HEADER_BYTES_MAX as u32, kind: u8, body in 0u32..=1000) {
            let prefix = Prefix { header_length: header, kind, body_length: body };
            let mut bytes = Vec::new();
            prefix.encode(&mut bytes);
            prop_assert_eq!(Prefix::decode(&bytes, 1000), Ok(Some(prefix)));
            prop_assert_eq!(Prefix::decode(&bytes[..8], 1000), Ok(None));
        }

        #[test]
        fn nothing_over_the_bounds_is_accepted(bytes: [u8; 9]) {
            if let Ok(Some(prefix)) = Prefix::decode(&bytes, 4096) {
                prop_assert!(prefix.frame_length() <= FRAME_PREFIX_BYTES + FRAME_HEADER_BYTES_MAX + 4096);
            }
        }
    }

    #[test]
    fn an_http_request_and_a_frame_of_two_gib_are_refused() {
        assert!(matches!(Prefix::decode(b"GET / HTTP/1.1\r\n", 1 << 20), Err(FrameError::Header { .. })));
        let mut bytes = Vec::new();
        Prefix { header_length: 8, kind: 66, body_length: 1 << 31 }.encode(&mut bytes);
        assert_eq!(Prefix::decode(&bytes, 1 << 20), Err(FrameError::Body { claimed: 1 << 31, limit: 1 << 20 }));
    }
}
