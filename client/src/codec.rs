//! Compression of payloads: done by the writer once, so that a batch pushed again is the same bytes.

use bytes::Bytes;
use mallorn_proto::batch::Codec;
use mallorn_runtime::connection::Pool;

const ZSTD_LEVEL: i32 = 1;

/// Compresses a payload; one that does not get smaller stays as it is, under `Codec::None`.
#[must_use]
pub fn compress(codec: Codec, raw: Bytes) -> (Codec, Bytes) {
    let packed = match codec {
        Codec::None => None,
        Codec::Lz4 => {
            let mut out = vec![0; lz4_flex::block::get_maximum_output_size(raw.len())];
            let length = lz4_flex::block::compress_into(&raw, &mut out).ok();
            length.map(|length| Bytes::copy_from_slice(&out[..length]))
        }
        Codec::Zstd => zstd::bulk::compress(&raw, ZSTD_LEVEL).ok().map(Bytes::from),
    };
    match packed {
        Some(packed) if packed.len() < raw.len() => (codec, packed),
        _ => (Codec::None, raw),
    }
}

/// Undoes [`compress`], in a buffer of exactly `raw_length` bytes: a payload that unpacks to more or less is refused. The
/// payload's checksum was verified, so an error means that its writer was broken.
///
/// # Errors
/// In words for people: the payload is not of its codec, or not of this length.
pub fn decompress(codec: Codec, payload: Bytes, raw_length: u32, pool: &Pool) -> Result<Bytes, String> {
    let raw_length = raw_length as usize;
    let written = match codec {
        Codec::None => {
            return if payload.len() == raw_length { Ok(payload) } else { Err(lengths(raw_length, payload.len())) };
        }
        Codec::Lz4 => {
            let mut raw = pool.take(raw_length);
            lz4_flex::block::decompress_into(&payload, raw.fill(raw_length))
                .map(|written| (raw, written))
                .map_err(|error| error.to_string())
        }
        Codec::Zstd => {
            let mut raw = pool.take(raw_length);
            zstd::bulk::decompress_to_buffer(&payload, raw.fill(raw_length))
                .map(|written| (raw, written))
                .map_err(|error| error.to_string())
        }
    };
    let (raw, written) = written?;
    if written == raw_length { Ok(raw.freeze()) } else { Err(lengths(raw_length, written)) }
}

fn lengths(claimed: usize, have: usize) -> String {
    format!("the payload has {have} bytes, its envelope says {claimed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_comes_back() {
        let pool = Pool::new(1 << 20);
        let raw = Bytes::from("a line of text that repeats itself; ".repeat(100));
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let (used, packed) = compress(codec, raw.clone());
            assert_eq!(used, codec);
            assert!(codec == Codec::None || packed.len() < raw.len());
            let length = raw.len() as u32;
            assert_eq!(decompress(used, packed.clone(), length, &pool).unwrap(), raw);
            assert!(decompress(used, packed, length + 1, &pool).is_err());
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_left_alone() {
        let noise: Vec<u8> = (0u32..64).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
        for codec in [Codec::Lz4, Codec::Zstd] {
            assert_eq!(compress(codec, Bytes::from(noise.clone())).0, Codec::None);
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let pool = Pool::new(1 << 20);
        for codec in [Codec::Lz4, Codec::Zstd] {
            assert!(decompress(codec, Bytes::from_static(&[0xff; 40]), 100, &pool).is_err());
        }
    }
}
