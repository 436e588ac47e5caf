//! The headers of the data plane's messages.

use std::fmt::Debug;

use mallorn_proto::limits::{FRAME_HEADER_BYTES_MAX, MERGED_LOCATIONS_MAX, REPLICATED_BATCHES_MAX};
use mallorn_proto::message::{
    CloseStream, Failure, Fetch, Fetched, Hello, Kind, MergedPart, MessageError, Open, Opened, Push, PushMerged,
    PushReply, Replicate, ReplicatedPart, Welcome,
};
use mallorn_proto::status::{self, Status};
use mallorn_proto::version;

use crate::allocations::within;
use crate::feed::Feed;

/// What a message may hold beyond twice its own bytes, in bytes: a few texts and lists that are rounded up.
const SPARE_BYTES: usize = 1024;

/// A message's type number, the length of its body, and its header.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (kind, body_length) = (feed.byte(), feed.u32() as usize);
    let header = feed.rest();
    if header.len() > FRAME_HEADER_BYTES_MAX {
        return;
    }
    codes(kind);
    let Ok(kind) = Kind::from_wire(kind) else { return };
    within(8 * header.len() + SPARE_BYTES, "a message", || decode(kind, header, body_length));
}

fn codes(number: u8) {
    let status = Status::from_wire(number);
    assert!(status as u8 == number || status == Status::Internal, "an unknown status is never one that is known");
    let carried = status::from_grpc(&status::to_grpc(status, "text"));
    assert!(!carried.is_stored(), "no error says that something is stored");
    assert!(status.is_stored() || carried == status);
    if let Ok(kind) = Kind::from_wire(number) {
        assert_eq!(kind as u8, number);
    }
}

fn decode(kind: Kind, header: &[u8], body_length: usize) {
    match kind {
        Kind::Hello => {
            let known = Hello::decode(header).map(|hello| hello.newest <= version::CURRENT);
            let write = |hello: &Hello, out: &mut Vec<u8>| hello.encode(out).expect("what was read is in bounds");
            if known == Ok(false) { begins(header, Hello::decode, write) } else { same(header, Hello::decode, write) }
        }
        Kind::Welcome => {
            let known = Welcome::decode(header).map(|welcome| welcome.version <= version::CURRENT);
            let write = |welcome: &Welcome, out: &mut Vec<u8>| welcome.encode(out);
            if known == Ok(false) {
                begins(header, Welcome::decode, write)
            } else {
                same(header, Welcome::decode, write)
            }
        }
        Kind::Push => same(header, Push::decode, |push, out| push.encode(out)),
        Kind::PushMerged => merged(header, body_length),
        Kind::Replicate => replicated(header, body_length),
        Kind::PushReply => reply(header),
        Kind::Open => same(header, Open::decode, |open, out| open.encode(out)),
        Kind::Opened => {
            same(header, Opened::decode, |opened, out| opened.encode(out).expect("what was read is in bounds"));
        }
        Kind::Fetch => same(header, Fetch::decode, |fetch, out| fetch.encode(out)),
        Kind::Fetched => same(header, Fetched::decode, |fetched, out| fetched.encode(out)),
        Kind::CloseStream => same(header, CloseStream::decode, |close, out| close.encode(out)),
        Kind::Failure => failure(header),
    }
}

/// What is accepted is written again as the same bytes, and neither a part of it nor more than it is accepted.
fn same<T: Debug + PartialEq>(
    header: &[u8],
    decode: fn(&[u8]) -> Result<T, MessageError>,
    encode: impl Fn(&T, &mut Vec<u8>),
) {
    let Ok(message) = decode(header) else { return };
    let mut written = Vec::with_capacity(header.len());
    encode(&message, &mut written);
    assert_eq!(written, header, "{message:?} is written as other bytes than it was read from");
    only_whole(header, |header| decode(header).is_ok());
}

/// Of a newer version only what follows the fields that are known is ignored.
fn begins<T: Debug + PartialEq>(
    header: &[u8],
    decode: fn(&[u8]) -> Result<T, MessageError>,
    encode: impl Fn(&T, &mut Vec<u8>),
) {
    let message = decode(header).expect("it was read once");
    let mut written = Vec::with_capacity(header.len());
    encode(&message, &mut written);
    assert!(header.starts_with(&written), "{message:?} is written as other bytes than it was read from");
    assert!(decode(&written).as_ref() == Ok(&message), "what is ignored says nothing");
}

fn only_whole(header: &[u8], accepts: impl Fn(&[u8]) -> bool) {
    let cuts = (0..header.len()).step_by(1 + header.len() / 64).chain(header.len().checked_sub(1));
    for cut in cuts {
        assert!(!accepts(&header[..cut]), "the first {cut} of {} bytes are taken for the whole", header.len());
    }
    let longer = [header, &[0]].concat();
    assert!(!accepts(&longer), "a byte too many is passed over");
}

fn merged(header: &[u8], body_length: usize) {
    let Ok(merged) = PushMerged::decode(header, body_length) else { return };
    let parts: Vec<MergedPart> = merged.parts().collect();
    assert!(parts.len() <= MERGED_LOCATIONS_MAX);
    let total: u64 = parts.iter().map(|part| u64::from(part.length)).sum();
    assert_eq!(total, body_length as u64, "the parts are the body");
    let mut written = Vec::with_capacity(header.len());
    PushMerged::encode(merged.request, &parts, &mut written).expect("what was read is in bounds");
    assert_eq!(written, header);
    only_whole(header, |header| PushMerged::decode(header, body_length).is_ok());
    assert!(PushMerged::decode(header, body_length + 1).is_err());
}

fn replicated(header: &[u8], body_length: usize) {
    let Ok(replicate) = Replicate::decode(header, body_length) else { return };
    let parts: Vec<ReplicatedPart> = replicate.parts().collect();
    assert!(parts.len() <= REPLICATED_BATCHES_MAX);
    let total: u64 = parts.iter().map(|part| u64::from(part.length)).sum();
    assert_eq!(total, body_length as u64, "the parts are the body");
    let mut written = Vec::with_capacity(header.len());
    Replicate::encode(replicate.request, &parts, &mut written).expect("what was read is in bounds");
    assert_eq!(written, header);
    only_whole(header, |header| Replicate::decode(header, body_length).is_ok());
    assert!(Replicate::decode(header, body_length + 1).is_err());
}

/// A status of a later version is read as a failure, so the bytes need not be the same.
fn reply(header: &[u8]) {
    let Ok(reply) = PushReply::decode(header) else { return };
    let mut written = Vec::with_capacity(header.len());
    PushReply::encode(reply.request, &reply.statuses, &mut written).expect("what was read is in bounds");
    assert_eq!(PushReply::decode(&written).as_ref(), Ok(&reply));
    for (status, byte) in reply.statuses.iter().zip(&header[10..]) {
        assert!(!status.is_stored() || *status as u8 == *byte, "{byte} is not a batch that is stored");
    }
    only_whole(header, |header| PushReply::decode(header).is_ok());
}

fn failure(header: &[u8]) {
    let Ok(failure) = Failure::decode(header) else { return };
    assert!(!failure.status.is_stored(), "no failure says that something is stored");
    let mut written = Vec::with_capacity(header.len());
    failure.encode(&mut written);
    assert_eq!(Failure::decode(&written).as_ref(), Ok(&failure));
    only_whole(header, |header| Failure::decode(header).is_ok());
}
