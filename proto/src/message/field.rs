//! What the messages' codecs have in common: bounds, lengths, and bytes behind a u16 length.

use bytes::{Buf, BufMut};

use super::MessageError;

pub(super) fn need(from: &&[u8], bytes: usize) -> Result<(), MessageError> {
    match bytes.checked_sub(from.len()) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(MessageError::Short { missing }),
    }
}

pub(super) fn finished(from: &&[u8]) -> Result<(), MessageError> {
    if from.is_empty() { Ok(()) } else { Err(MessageError::Trailing { extra: from.len() }) }
}

pub(super) fn within(field: &'static str, length: usize, limit: usize) -> Result<(), MessageError> {
    if length <= limit { Ok(()) } else { Err(MessageError::TooLong { field, length, limit }) }
}

pub(super) fn at_most(field: &'static str, count: usize, limit: usize) -> Result<(), MessageError> {
    if count <= limit { Ok(()) } else { Err(MessageError::TooMany { field, count, limit }) }
}

/// Every caller has checked the length against a bound below 64 KiB.
pub(super) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

pub(super) fn get_bytes<'a>(from: &mut &'a [u8], field: &'static str, limit: usize) -> Result<&'a [u8], MessageError> {
    need(from, 2)?;
    let length = usize::from(from.get_u16());
    within(field, length, limit)?;
    need(from, length)?;
    let (bytes, rest) = from.split_at(length);
    *from = rest;
    Ok(bytes)
}

pub(super) fn get_text(from: &mut &[u8], field: &'static str, limit: usize) -> Result<String, MessageError> {
    let bytes = get_bytes(from, field, limit)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| MessageError::Text { field })
}
