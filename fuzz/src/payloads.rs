//! Payloads as a reader unpacks them, whose checksum was good: only their writer can have broken them.

use bytes::Bytes;
use mallorn_client::codec::{compress, decompress};
use mallorn_proto::batch::Codec;
use mallorn_runtime::connection::Pool;

use crate::allocations::most;
use crate::feed::Feed;

/// What unpacking may hold beyond the bytes that come out, in bytes: the state of the codec.
const SPARE_BYTES: usize = 1 << 20;
/// Largest output that is asked for here, in bytes; a reader's is at most a body.
const RAW_BYTES_MAX: usize = 1 << 20;

/// A codec, the length that the envelope claims, and the payload.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    let codec = [Codec::None, Codec::Lz4, Codec::Zstd][usize::from(feed.byte() % 3)];
    let claimed = feed.u32() as usize % (RAW_BYTES_MAX + 1);
    let payload = Bytes::copy_from_slice(feed.rest());
    unpacked(codec, &payload, claimed);
    packed(codec, &payload);
}

/// Unpacks to exactly what is claimed or not at all, in no more memory than that.
fn unpacked(codec: Codec, payload: &Bytes, claimed: usize) {
    let pool = Pool::new(0);
    let (raw, held) = most(|| decompress(codec, payload.clone(), claimed as u32, &pool));
    assert!(held <= claimed + SPARE_BYTES, "{held} bytes were held for {claimed}");
    let Ok(raw) = raw else { return };
    assert_eq!(raw.len(), claimed);
    let again = decompress(codec, payload.clone(), claimed as u32, &Pool::new(RAW_BYTES_MAX));
    assert_eq!(again.as_ref(), Ok(&raw), "unpacking depends on nothing else");
    for other in [claimed + 1, claimed.wrapping_sub(1)] {
        if other <= RAW_BYTES_MAX {
            assert!(decompress(codec, payload.clone(), other as u32, &pool).is_err(), "{other} for {claimed}");
        }
    }
}

/// What is packed here unpacks to the same, and what was cut off does not.
fn packed(codec: Codec, raw: &Bytes) {
    let pool = Pool::new(0);
    let (used, packed) = compress(codec, raw.clone());
    assert!(packed.len() <= raw.len());
    let length = raw.len() as u32;
    assert_eq!(decompress(used, packed.clone(), length, &pool).as_ref(), Ok(raw));
    if let Some(last) = packed.len().checked_sub(1) {
        let cut = decompress(used, packed.slice(..last), length, &pool);
        assert!(cut.is_err(), "a payload without its last byte is taken for the whole");
    }
}
