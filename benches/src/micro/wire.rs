//! What crosses a connection: heads of frames (prefix and header), and batches in their envelopes.

use std::hint::black_box;

use mallorn_proto::batch::{
    BatchHeader, Codec, ENVELOPE_BYTES, Envelope, OVERHEAD_BYTES, Place, encode_overhead, verify,
};
use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{Attempt, BatchId, Handle, Instance, MapId, Partition, ShuffleId};
use mallorn_proto::limits::{BODY_BYTES_DEFAULT, FRAME_PREFIX_BYTES};
use mallorn_proto::message::{Fetch, Fetched, Kind, MergedPart, Push, PushMerged, PushReply};
use mallorn_proto::status::Status;

use super::Bench;

/// Batches of a merged push, and statuses of its answer.
const MERGED: usize = 64;
/// Bytes of each of those batches.
const MERGED_BYTES: u32 = 2048;
/// Bytes of the only batch of a push.
const ALONE_BYTES: u32 = 64 * 1024 + OVERHEAD_BYTES as u32;

/// Times all of them.
pub(super) fn run(bench: &mut Bench) {
    push(bench);
    push_merged(bench);
    push_reply(bench);
    fetch(bench);
    fetched(bench);
    batch(bench, ("batch build 4 KiB", "batch verify 4 KiB"), 4 * 1024);
    batch(bench, ("batch build 64 KiB", "batch verify 64 KiB"), 64 * 1024);
}

/// Writes a head in place of what is in `out`: header first, then the prefix that tells its length, as a connection does.
fn encode(out: &mut Vec<u8>, kind: Kind, body_length: u32, header: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.resize(FRAME_PREFIX_BYTES, 0);
    header(out);
    let prefix = Prefix { header_length: (out.len() - FRAME_PREFIX_BYTES) as u32, kind: kind as u8, body_length };
    prefix.encode(&mut &mut out[..FRAME_PREFIX_BYTES]);
}

/// Reads the prefix of a head that is valid; returns it with the header.
fn decode(head: &[u8]) -> (Prefix, &[u8]) {
    let prefix = Prefix::decode(black_box(head), BODY_BYTES_DEFAULT as usize);
    let prefix = prefix.expect("it was encoded here").expect("the head is whole");
    (prefix, &head[FRAME_PREFIX_BYTES..])
}

fn push(bench: &mut Bench) {
    let push = Push { request: 77, handle: Handle(1 << 40) };
    let mut head = Vec::with_capacity(64 * 1024);
    bench.time("push encode", "head of a Push", 1, || {
        encode(&mut head, Kind::Push, ALONE_BYTES, |out| black_box(push).encode(out));
        head.len()
    });
    bench.time("push decode", "the same", 1, || {
        let (prefix, header) = decode(&head);
        (prefix, Push::decode(header))
    });
}

fn push_merged(bench: &mut Bench) {
    let part = |index: u64| MergedPart { handle: Handle(index << 20), length: MERGED_BYTES };
    let parts: Vec<_> = (0..MERGED as u64).map(part).collect();
    let mut head = Vec::with_capacity(64 * 1024);
    bench.time("merged push encode", "head of a PushMerged of 64 batches", 1, || {
        encode(&mut head, Kind::PushMerged, MERGED as u32 * MERGED_BYTES, |out| {
            PushMerged::encode(77, black_box(&parts), out).expect("64 are within the limit");
        });
        head.len()
    });
    bench.time("merged push decode", "the same, and a walk over its 64 parts", 1, || {
        let (prefix, header) = decode(&head);
        let merged = PushMerged::decode(header, prefix.body_length as usize).expect("it was encoded here");
        merged.parts().fold(merged.request, |all, part| all ^ part.handle.0)
    });
}

fn push_reply(bench: &mut Bench) {
    let statuses = [Status::Success; MERGED];
    let mut head = Vec::with_capacity(64 * 1024);
    bench.time("push reply encode", "head of a PushReply of 64 statuses", 1, || {
        encode(&mut head, Kind::PushReply, 0, |out| {
            PushReply::encode(77, black_box(&statuses), out).expect("64 are within the limit");
        });
        head.len()
    });
    bench.time("push reply decode", "the same", 1, || PushReply::decode(decode(&head).1));
}

fn fetch(bench: &mut Bench) {
    let fetch = Fetch { request: 77, stream: 12, offset: 8 << 20, limit: BODY_BYTES_DEFAULT };
    let mut head = Vec::with_capacity(64 * 1024);
    bench.time("fetch encode", "head of a Fetch", 1, || {
        encode(&mut head, Kind::Fetch, 0, |out| black_box(fetch).encode(out));
        head.len()
    });
    bench.time("fetch decode", "the same", 1, || Fetch::decode(decode(&head).1));
}

fn fetched(bench: &mut Bench) {
    let fetched = Fetched { request: 77, stream: 12, offset: 8 << 20, next: 9 << 20 };
    let mut head = Vec::with_capacity(64 * 1024);
    bench.time("fetched encode", "head of a Fetched", 1, || {
        encode(&mut head, Kind::Fetched, 1 << 20, |out| black_box(fetched).encode(out));
        head.len()
    });
    bench.time("fetched decode", "the same", 1, || Fetched::decode(decode(&head).1));
}

fn batch(bench: &mut Bench, (build, check): (&'static str, &'static str), payload_bytes: u32) {
    let place = Place { instance: Instance(7), shuffle: ShuffleId(3), partition: Partition(11) };
    let header = BatchHeader {
        map: MapId(1),
        attempt: Attempt(0),
        batch: BatchId(5),
        length: payload_bytes + ENVELOPE_BYTES as u32,
    };
    let envelope = Envelope { codec: Codec::None, last: false, raw_length: payload_bytes, crc: 0 };
    let payload: Vec<u8> = (0..payload_bytes).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    bench.time(build, "header and envelope, with the CRC over the payload", 1, || {
        encode_overhead(&place, &header, &envelope, black_box(&payload))
    });
    let (overhead, _) = encode_overhead(&place, &header, &envelope, &payload);
    let whole = [&overhead[..], &payload].concat();
    bench.time(check, "a stored batch is decoded and its CRC checked", 1, || verify(&place, black_box(&whole)));
}
