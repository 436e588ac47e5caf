//! Frame prefixes and the headers of our own messages.

use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{
    Application, Epoch, Handle, Incarnation, Instance, LocationId, Partition, SealId, ShuffleId, WorkerId,
};
use mallorn_proto::limits::{BODY_BYTES_MAX, FRAME_PREFIX_BYTES};
use mallorn_proto::message::{
    CloseStream, Failure, Fetch, Fetched, Hello, Kind, MergedPart, Open, Opened, Push, PushReply, ReplicatedPart, Role,
    Welcome,
};
use mallorn_proto::status::Status;

use super::Golden;
use crate::message::{KINDS, Message};

pub(super) fn golden() -> Vec<Golden> {
    let mut all: Vec<Golden> = messages().into_iter().map(|(name, value)| message(name, value)).collect();
    all.push(prefixes("frame_prefixes", &KINDS[..11]));
    all.push(prefixes("frame_prefixes_of_copies", &KINDS[11..]));
    all.push(frame());
    all
}

fn message(name: &'static str, value: Message) -> Golden {
    let encoded = value.encode().expect("within its bounds");
    let decode = move |bytes: &[u8]| {
        let decoded = Message::decode(value.kind(), bytes, value.body_length());
        assert_eq!(decoded.as_ref(), Ok(&value), "{name}");
    };
    Golden { name, encoded, decode: Box::new(decode) }
}

/// A prefix of each of our types, one after the other.
fn prefixes(name: &'static str, kinds: &'static [Kind]) -> Golden {
    let prefix = |kind: Kind| Prefix { header_length: 0x0102, kind: kind as u8, body_length: 0x0003_0405 };
    let mut encoded = Vec::new();
    for kind in kinds {
        prefix(*kind).encode(&mut encoded);
    }
    let decode = move |bytes: &[u8]| {
        let decoded: Vec<Prefix> = bytes
            .chunks(FRAME_PREFIX_BYTES)
            .map(|bytes| Prefix::decode(bytes, BODY_BYTES_MAX).expect("within its bounds").expect("nine bytes"))
            .collect();
        assert_eq!(decoded, kinds.iter().copied().map(prefix).collect::<Vec<_>>());
        let known: Result<Vec<_>, _> = decoded.iter().map(|prefix| Kind::from_wire(prefix.kind)).collect();
        assert_eq!(known.as_deref(), Ok(kinds));
    };
    Golden { name, encoded, decode: Box::new(decode) }
}

/// A whole frame: a failure of the connection.
fn frame() -> Golden {
    let failure =
        Failure { request: 0, status: Status::WrongCluster, text: "this is cluster blue, not green".to_owned() };
    let mut header = Vec::new();
    failure.encode(&mut header);
    let prefix = Prefix { header_length: header.len() as u32, kind: Kind::Failure as u8, body_length: 0 };
    let mut encoded = Vec::new();
    prefix.encode(&mut encoded);
    encoded.extend_from_slice(&header);
    let decode = move |bytes: &[u8]| {
        assert_eq!(Prefix::decode(bytes, 0), Ok(Some(prefix)));
        assert_eq!(bytes.len(), prefix.frame_length());
        assert_eq!(Failure::decode(&bytes[FRAME_PREFIX_BYTES..prefix.head_length()]).as_ref(), Ok(&failure));
    };
    Golden { name: "frame", encoded, decode: Box::new(decode) }
}

fn messages() -> Vec<(&'static str, Message)> {
    let mut all = connection();
    all.extend(push());
    all.extend(read());
    all
}

fn connection() -> Vec<(&'static str, Message)> {
    let hello = Hello {
        oldest: 1,
        newest: 2,
        role: Role::Push,
        worker: WorkerId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        incarnation: Incarnation(0xa0a1_a2a3_a4a5_a6a7),
        application: Application { name: "spark-application-1".to_owned(), instance: Instance(0xb0b1_b2b3_b4b5_b6b7) },
        cluster: "blau-grün".to_owned(),
        credential: vec![0, 255, 1, 254],
    };
    let fetch = Hello {
        role: Role::Fetch,
        incarnation: Incarnation(0),
        cluster: String::new(),
        credential: Vec::new(),
        ..hello.clone()
    };
    let replicate = Hello {
        role: Role::Replicate,
        application: Application { name: String::new(), instance: Instance(0) },
        credential: Vec::new(),
        ..hello.clone()
    };
    let welcome = Welcome { version: 1, body_limit: 0x0010_1000, incarnation: Incarnation(0xa0a1_a2a3_a4a5_a6a7) };
    let failure =
        |text: &str| Failure { request: 0x1112_1314_1516_1718, status: Status::NotHere, text: text.to_owned() };
    vec![
        ("hello_push", Message::Hello(hello)),
        ("hello_fetch", Message::Hello(fetch)),
        ("hello_replicate", Message::Hello(replicate)),
        ("welcome", Message::Welcome(welcome)),
        ("failure", Message::Failure(failure("kein Platz für Partition 3"))),
        ("failure_silent", Message::Failure(failure(""))),
    ]
}

fn push() -> Vec<(&'static str, Message)> {
    let request = 0x2122_2324_2526_2728;
    let part = |handle, length| MergedPart { handle: Handle(handle), length };
    vec![
        ("push", Message::Push(Push { request, handle: Handle(0xc0c1_c2c3_c4c5_c6c7) })),
        (
            "push_merged",
            Message::PushMerged { request, parts: vec![part(0xc0c1_c2c3_c4c5_c6c7, 28), part(1, 0x0001_0203)] },
        ),
        (
            "replicate",
            Message::Replicate {
                request,
                parts: vec![
                    ReplicatedPart { handle: Handle(0xc0c1_c2c3_c4c5_c6c7), offset: 0x0001_0203_0405_0607, length: 28 },
                    ReplicatedPart { handle: Handle(1), offset: 0, length: 0x0001_0203 },
                ],
            },
        ),
        ("push_reply", Message::PushReply(PushReply { request, statuses: Status::ALL.to_vec() })),
    ]
}

fn read() -> Vec<(&'static str, Message)> {
    let (request, stream) = (0x3132_3334_3536_3738, 0x4142_4344_4546_4748);
    let location =
        LocationId { shuffle: ShuffleId(0x5152_5354), partition: Partition(0x6162_6364), epoch: Epoch(0x7172_7374) };
    let open = Open { request, location, seal: SealId(0xd0d1_d2d3_d4d5_d6d7), map_start: 5, map_end: 0x0102_0304 };
    let opened = |chunk_ends: &[u64]| Opened {
        request,
        stream,
        length: chunk_ends.last().copied().unwrap_or(0),
        chunk_ends: chunk_ends.to_vec(),
    };
    let offset = 0x0001_0203_0405_0607;
    vec![
        ("open", Message::Open(open)),
        ("open_all", Message::Open(Open { map_start: 0, map_end: u32::MAX, ..open })),
        ("opened", Message::Opened(opened(&[28, 0x0080_0001, 0x0001_0203_0405]))),
        ("opened_empty", Message::Opened(opened(&[]))),
        ("fetch", Message::Fetch(Fetch { request, stream, offset, limit: 0x0010_1000 })),
        ("fetched", Message::Fetched(Fetched { request, stream, offset, next: offset + 44 })),
        ("close_stream", Message::CloseStream(CloseStream { stream })),
    ]
}
