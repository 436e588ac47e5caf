//! Batches of each codec, and the hash by which whole partitions are compared.

use mallorn_proto::batch::{
    BatchHeader, Batches, Codec, ENVELOPE_BYTES, Envelope, OVERHEAD_BYTES, Place, encode_overhead, verify,
};
use mallorn_proto::checksum::batch_hash;
use mallorn_proto::id::{Attempt, BatchId, Instance, MapId, Partition, ShuffleId};

use super::Golden;

const PLACE: Place = Place {
    instance: Instance(0xb0b1_b2b3_b4b5_b6b7),
    shuffle: ShuffleId(0x5152_5354),
    partition: Partition(0x6162_6364),
};

/// The raw bytes of every payload here.
const RAW: &[u8] = b"mallorn";

/// An LZ4 block of seven literals.
const LZ4: &[u8] = b"\x70mallorn";

/// A Zstandard frame (one segment, content size 7) with one raw block, the last.
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x20\x07\x39\x00\x00mallorn";

pub(super) fn golden() -> Vec<Golden> {
    vec![
        batch("batch_none", Codec::None, 0, RAW),
        batch("batch_lz4", Codec::Lz4, 1, LZ4),
        batch("batch_zstd", Codec::Zstd, 2, ZSTD),
        last(),
        opaque(),
        hashes(),
    ]
}

fn header(batch: u32, payload: &[u8]) -> BatchHeader {
    BatchHeader {
        map: MapId(0x8182_8384),
        attempt: Attempt(0x9192_9394),
        batch: BatchId(batch),
        length: (ENVELOPE_BYTES + payload.len()) as u32,
    }
}

fn batch(name: &'static str, codec: Codec, number: u32, payload: &'static [u8]) -> Golden {
    one(name, number, Envelope { codec, last: false, raw_length: RAW.len() as u32, crc: 0 }, payload)
}

/// The batch that ends an attempt with nothing left to say.
fn last() -> Golden {
    one("batch_last", 3, Envelope { codec: Codec::None, last: true, raw_length: 0, crc: 0 }, &[])
}

fn one(name: &'static str, number: u32, envelope: Envelope, payload: &'static [u8]) -> Golden {
    let header = header(number, payload);
    let (overhead, crc) = encode_overhead(&PLACE, &header, &envelope, payload);
    let decode = move |bytes: &[u8]| {
        assert_eq!(verify(&PLACE, bytes), Ok((header, Envelope { crc, ..envelope })), "{name}");
        assert_eq!(&bytes[OVERHEAD_BYTES..], payload, "{name}");
    };
    Golden { name, encoded: [&overhead[..], payload].concat(), decode: Box::new(decode) }
}

/// Two batches of a Celeborn client, whose data is opaque but for the header.
fn opaque() -> Golden {
    let each = [(BatchHeader { length: 7, ..header(4, &[]) }, RAW), (BatchHeader { length: 0, ..header(5, &[]) }, &[])];
    let encoded = each.iter().flat_map(|(header, data)| [&header.encode()[..], data].concat()).collect();
    let decode = move |bytes: &[u8]| {
        let walked: Vec<_> = Batches::new(bytes).map(|step| step.expect("a whole batch")).collect();
        assert_eq!(walked.len(), each.len());
        for ((header, stored), (expected, data)) in walked.into_iter().zip(each) {
            assert_eq!((header, &stored[16..]), (expected, data));
        }
    };
    Golden { name: "batches_opaque", encoded, decode: Box::new(decode) }
}

/// Hashes of a few (map, batch, CRC), big-endian: pushers and readers of two versions must add up the same.
fn hashes() -> Golden {
    let encode = || -> Vec<u8> {
        [(0, 0, 0), (1, 2, 3), (0x8182_8384, 7, 0xe306_9283), (u32::MAX, u32::MAX, u32::MAX)]
            .into_iter()
            .flat_map(|(map, batch, crc)| batch_hash(map, batch, crc).to_be_bytes())
            .collect()
    };
    Golden { name: "batch_hashes", encoded: encode(), decode: Box::new(move |bytes| assert_eq!(bytes, encode())) }
}
