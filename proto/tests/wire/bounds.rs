//! Every bound, at its edge: the largest legal value passes and fits a frame, one more is refused on both sides.

use mallorn_proto::batch::{BatchError, Codec, ENVELOPE_BYTES, Envelope};
use mallorn_proto::id::{Application, Epoch, Handle, Incarnation, Instance, LocationId, Partition, SealId, ShuffleId};
use mallorn_proto::id::{WorkerId, WorkerIdError};
use mallorn_proto::limits;
use mallorn_proto::message::{
    Failure, Fetched, Hello, Kind, MergedPart, MessageError, Open, Opened, PushMerged, PushReply, Replicate,
    ReplicatedPart, Role, Welcome,
};
use mallorn_proto::status::{self, GRPC_STATUS_KEY, Status};
use mallorn_proto::version;

use crate::message::{KINDS, Message};

fn hello() -> Hello {
    Hello {
        oldest: version::OLDEST,
        newest: version::CURRENT,
        role: Role::Push,
        worker: WorkerId(1),
        incarnation: Incarnation(2),
        application: Application { name: String::new(), instance: Instance(3) },
        cluster: String::new(),
        credential: Vec::new(),
    }
}

fn opened(length: u64, chunk_ends: &[u64]) -> Opened {
    Opened { request: 1, stream: 2, length, chunk_ends: chunk_ends.to_vec() }
}

/// The header that `message` would have if its encoder checked nothing.
fn with_count(mut head: Vec<u8>, count: usize, each: &[u8]) -> Vec<u8> {
    head.extend_from_slice(&(count as u16).to_be_bytes());
    head.extend(each.iter().copied().cycle().take(count * each.len()));
    head
}

#[test]
fn the_largest_messages_fit_a_header() {
    let rising: Vec<u64> = (1..=limits::CHUNKS_MAX as u64).collect();
    let largest = [
        Message::Hello(Hello {
            application: Application { name: "a".repeat(limits::APPLICATION_BYTES_MAX), instance: Instance(3) },
            cluster: "c".repeat(limits::CLUSTER_BYTES_MAX),
            credential: vec![7; limits::CREDENTIAL_BYTES_MAX],
            ..hello()
        }),
        Message::PushMerged {
            request: 1,
            parts: vec![MergedPart { handle: Handle(1), length: u32::MAX }; limits::MERGED_LOCATIONS_MAX],
        },
        Message::Replicate {
            request: 1,
            parts: vec![
                ReplicatedPart { handle: Handle(1), offset: u64::MAX, length: u32::MAX };
                limits::REPLICATED_BATCHES_MAX
            ],
        },
        Message::PushReply(PushReply { request: 1, statuses: vec![Status::Busy; limits::MERGED_LOCATIONS_MAX] }),
        Message::Opened(opened(limits::CHUNKS_MAX as u64, &rising)),
        Message::Failure(Failure {
            request: 1,
            status: Status::Internal,
            text: "t".repeat(limits::FAILURE_TEXT_BYTES_MAX),
        }),
    ];
    for message in largest {
        let bytes = message.encode().unwrap();
        assert!(bytes.len() <= limits::FRAME_HEADER_BYTES_MAX, "{:?}: {} bytes", message.kind(), bytes.len());
        assert_eq!(Message::decode(message.kind(), &bytes, message.body_length()), Ok(message));
    }
}

#[test]
fn one_over_a_list_s_bound_is_refused_on_both_sides() {
    let too_many = |field, limit: usize| Err(MessageError::TooMany { field, count: limit + 1, limit });

    let limit = limits::MERGED_LOCATIONS_MAX;
    let parts = vec![MergedPart { handle: Handle(0), length: 0 }; limit + 1];
    assert_eq!(PushMerged::encode(1, &parts, &mut Vec::new()), too_many("merged locations", limit));
    let header = with_count(vec![0; 8], limit + 1, &[0; 12]);
    assert_eq!(Message::decode(Kind::PushMerged, &header, 0).map(drop), too_many("merged locations", limit));

    let limit = limits::REPLICATED_BATCHES_MAX;
    let parts = vec![ReplicatedPart { handle: Handle(0), offset: 0, length: 0 }; limit + 1];
    assert_eq!(Replicate::encode(1, &parts, &mut Vec::new()), too_many("replicated batches", limit));
    let header = with_count(vec![0; 8], limit + 1, &[0; 20]);
    assert_eq!(Message::decode(Kind::Replicate, &header, 0).map(drop), too_many("replicated batches", limit));

    let limit = limits::MERGED_LOCATIONS_MAX;
    assert_eq!(PushReply::encode(1, &vec![Status::Success; limit + 1], &mut Vec::new()), too_many("statuses", limit));
    let header = with_count(vec![0; 8], limit + 1, &[0]);
    assert_eq!(PushReply::decode(&header).map(drop), too_many("statuses", limit));

    let limit = limits::CHUNKS_MAX;
    let rising: Vec<u64> = (1..=limit as u64 + 1).collect();
    assert_eq!(opened(limit as u64 + 1, &rising).encode(&mut Vec::new()), too_many("chunks", limit));
    let header = with_count(vec![0; 24], limit + 1, &[0; 8]);
    assert_eq!(Opened::decode(&header).map(drop), too_many("chunks", limit));
}

#[test]
fn a_count_without_its_list_is_short_however_large() {
    for count in [1, 100, u16::MAX] {
        let header = with_count(vec![0; 8], 0, &[]);
        let header = [&header[..8], &count.to_be_bytes()].concat();
        assert!(PushReply::decode(&header).is_err());
        assert!(PushMerged::decode(&header, 0).is_err());
        assert!(Replicate::decode(&header, 0).is_err());
        let header = [&[0; 24][..], &count.to_be_bytes()].concat();
        assert!(Opened::decode(&header).is_err());
    }
}

#[test]
fn one_over_a_text_s_bound_is_refused_on_both_sides() {
    let cases = [
        ("cluster", limits::CLUSTER_BYTES_MAX, 0),
        ("application", limits::APPLICATION_BYTES_MAX, 1),
        ("credential", limits::CREDENTIAL_BYTES_MAX, 2),
    ];
    for (field, limit, index) in cases {
        let text = "x".repeat(limit + 1);
        let mut message = hello();
        match index {
            0 => message.cluster = text.clone(),
            1 => message.application.name = text.clone(),
            _ => message.credential = text.clone().into_bytes(),
        }
        let refused = MessageError::TooLong { field, length: limit + 1, limit };
        let mut header = Vec::new();
        assert_eq!(message.encode(&mut header), Err(refused));
        assert!(header.is_empty(), "a refused message leaves nothing behind");

        hello().encode(&mut header).unwrap();
        header.truncate(37 + 2 * index);
        header.extend_from_slice(&(limit as u16 + 1).to_be_bytes());
        header.extend_from_slice(text.as_bytes());
        assert_eq!(Hello::decode(&header), Err(refused));
    }
}

#[test]
fn a_hello_of_the_next_version_may_have_more_fields() {
    let next = version::CURRENT + 1;
    let mut header = Vec::new();
    hello().encode(&mut header).unwrap();
    header.extend_from_slice(&[7; 8]);
    assert_eq!(Hello::decode(&header), Err(MessageError::Trailing { extra: 8 }), "our own has none");
    header[2..4].copy_from_slice(&next.to_be_bytes());
    assert_eq!(Hello::decode(&header), Ok(Hello { newest: next, ..hello() }));
    header[4] = 3;
    let refused = Hello::decode(&header).unwrap_err();
    assert_eq!(refused, MessageError::NewerRole { role: 3, newest: next });
    assert!(refused.to_string().ends_with("update this side first"), "{refused}");
}

#[test]
fn a_hello_without_a_version_in_common_says_so_whatever_follows() {
    let (oldest, newest) = (version::CURRENT + 1, version::CURRENT + 2);
    let mut header = Vec::new();
    Hello { oldest, newest, ..hello() }.encode(&mut header).unwrap();
    assert_eq!(Hello::decode(&header), Ok(Hello { oldest, newest, ..hello() }));
    for length in [4, 20, header.len() - 1] {
        let refused = Hello::decode(&header[..length]).unwrap_err();
        assert_eq!(refused, MessageError::Versions { oldest, newest }, "{length}");
        let both = format!("{oldest} to {newest}, this side {} to {}", version::OLDEST, version::CURRENT);
        assert!(refused.to_string().contains(&both), "{refused}");
    }
}

#[test]
fn a_welcome_of_a_version_that_nobody_offered_is_read_to_be_refused_by_name() {
    let mut header = Vec::new();
    let welcome = |version| Welcome { version, body_limit: 1, incarnation: Incarnation(1) };
    welcome(version::CURRENT).encode(&mut header);
    header.extend_from_slice(&[7; 8]);
    assert_eq!(Welcome::decode(&header), Err(MessageError::Trailing { extra: 8 }));
    header[..2].copy_from_slice(&(version::CURRENT + 1).to_be_bytes());
    assert_eq!(Welcome::decode(&header), Ok(welcome(version::CURRENT + 1)));
}

#[test]
fn texts_that_are_not_utf8_are_refused() {
    let mut header = Vec::new();
    Hello { cluster: "abc".to_owned(), ..hello() }.encode(&mut header).unwrap();
    header[39] = 0xff;
    assert_eq!(Hello::decode(&header), Err(MessageError::Text { field: "cluster" }));
    let header = [&[0; 8][..], &[Status::Busy as u8, 0, 2, 0xc3, 0x28]].concat();
    assert_eq!(Failure::decode(&header), Err(MessageError::Text { field: "text" }));
}

#[test]
fn a_long_failure_is_cut_at_a_character() {
    let text = "x".repeat(limits::FAILURE_TEXT_BYTES_MAX - 1) + "é and more";
    let mut header = Vec::new();
    Failure { request: 9, status: Status::Busy, text }.encode(&mut header);
    let decoded = Failure::decode(&header).unwrap();
    assert_eq!(decoded.text, "x".repeat(limits::FAILURE_TEXT_BYTES_MAX - 1));
}

#[test]
fn a_failure_never_says_that_something_was_stored() {
    for status in Status::ALL {
        let mut header = Vec::new();
        Failure { request: 1, status, text: String::new() }.encode(&mut header);
        assert_eq!(Failure::decode(&header).is_err(), status.is_stored(), "{status}");
    }
    let header = [&[0; 8][..], &[201, 0, 0]].concat();
    assert_eq!(Failure::decode(&header).unwrap().status, Status::Internal);
}

#[test]
fn a_status_of_a_later_version_is_never_success() {
    let header = with_count(vec![0; 8], 2, &[0, 99]);
    let statuses = PushReply::decode(&header[..12]).unwrap().statuses;
    assert_eq!(statuses, [Status::Success, Status::Internal]);
}

#[test]
fn a_grpc_error_never_says_that_something_was_stored() {
    for status in Status::ALL.into_iter().filter(|status| status.is_stored()) {
        let mut error = tonic::Status::internal("text");
        error.metadata_mut().insert(GRPC_STATUS_KEY, status.name().parse().unwrap());
        assert_eq!(status::from_grpc(&error), Status::Internal);
        assert_eq!(status::from_grpc(&status::to_grpc(status, "text")), Status::Internal);
    }
}

#[test]
fn the_text_of_a_grpc_error_is_bounded() {
    let error = status::to_grpc(Status::NotHere, "é".repeat(limits::FAILURE_TEXT_BYTES_MAX));
    assert_eq!(error.message(), "é".repeat(limits::FAILURE_TEXT_BYTES_MAX / 2));
}

#[test]
fn chunks_rise_from_zero_to_the_length() {
    let decoded = |opened: Opened| {
        let mut header = Vec::new();
        opened.encode(&mut header).unwrap();
        Opened::decode(&header)
    };
    for legal in [opened(0, &[]), opened(5, &[5]), opened(9, &[4, 9]), opened(u64::MAX, &[1, u64::MAX])] {
        assert_eq!(decoded(legal.clone()), Ok(legal));
    }
    let senseless = [
        opened(0, &[0]),
        opened(5, &[]),
        opened(5, &[0, 5]),
        opened(5, &[4]),
        opened(5, &[6]),
        opened(5, &[5, 5]),
        opened(5, &[6, 5]),
        opened(0, &[5, 0]),
    ];
    for opened in senseless {
        let value = opened.length;
        assert_eq!(decoded(opened), Err(MessageError::Value { field: "chunk ends", value }));
    }
}

#[test]
fn senseless_numbers_are_refused() {
    let mut header = Vec::new();
    Fetched { request: 1, stream: 2, offset: 9, next: 8 }.encode(&mut header);
    assert_eq!(Fetched::decode(&header), Err(MessageError::Value { field: "next", value: 8 }));

    let mut header = Vec::new();
    let location = LocationId { shuffle: ShuffleId(1), partition: Partition(2), epoch: Epoch(3) };
    Open { request: 1, location, seal: SealId(4), map_start: 6, map_end: 5 }.encode(&mut header);
    assert_eq!(Open::decode(&header), Err(MessageError::Value { field: "end map", value: 5 }));

    let mut header = Vec::new();
    let body_limit = limits::BODY_BYTES_MAX as u32 + 1;
    Welcome { version: 1, body_limit, incarnation: Incarnation(1) }.encode(&mut header);
    assert_eq!(
        Welcome::decode(&header),
        Err(MessageError::Value { field: "body limit", value: u64::from(body_limit) })
    );

    let mut header = Vec::new();
    hello().encode(&mut header).unwrap();
    header[4] = 3;
    assert_eq!(Hello::decode(&header), Err(MessageError::Value { field: "role", value: 3 }));
}

#[test]
fn a_merged_push_whose_lengths_overflow_is_refused() {
    let parts = [MergedPart { handle: Handle(1), length: u32::MAX }, MergedPart { handle: Handle(2), length: 2 }];
    let mut header = Vec::new();
    PushMerged::encode(1, &parts, &mut header).unwrap();
    let value = u64::from(u32::MAX) + 2;
    assert_eq!(PushMerged::decode(&header, 1).map(drop), Err(MessageError::Value { field: "merged lengths", value }));
}

#[test]
fn only_our_own_types_have_a_kind() {
    let known: Vec<u8> = (0..=u8::MAX).filter(|number| Kind::from_wire(*number).is_ok()).collect();
    assert_eq!(known, (64..=75).collect::<Vec<u8>>());
    for kind in KINDS {
        assert_eq!(Kind::from_wire(kind as u8), Ok(kind));
    }
    assert_eq!(Kind::from_wire(76), Err(MessageError::Unknown { kind: 76 }));
}

#[test]
fn an_envelope_claims_no_more_than_the_largest_body() {
    let envelope = |raw_length: u32| {
        let mut bytes = [1, Codec::Zstd as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..8].copy_from_slice(&raw_length.to_le_bytes());
        Envelope::decode(&bytes)
    };
    assert_eq!(envelope(limits::BODY_BYTES_MAX as u32).unwrap().raw_length as usize, limits::BODY_BYTES_MAX);
    let claimed = limits::BODY_BYTES_MAX as u32 + 1;
    assert_eq!(envelope(claimed), Err(BatchError::RawLength { claimed }));
}

#[test]
fn an_envelope_with_unknown_parts_is_refused_and_says_which() {
    let envelope = |at: usize, value: u8| {
        let mut bytes = [0; ENVELOPE_BYTES];
        bytes[0] = 1;
        bytes[at] = value;
        Envelope::decode(&bytes)
    };
    assert_eq!(envelope(0, 2), Err(BatchError::Version { version: 2 }));
    assert_eq!(envelope(1, 3), Err(BatchError::Codec { code: 3 }));
    assert_eq!(envelope(2, 2), Err(BatchError::Flags { flags: 2 }));
    assert_eq!(envelope(3, 1), Err(BatchError::Flags { flags: 0x100 }));
    assert!(envelope(2, 1).unwrap().last);
}

#[test]
fn a_worker_id_is_exactly_its_32_digits() {
    let text = "0123456789abcdef0011223344556677";
    assert_eq!(format!(" {text}\n").parse::<WorkerId>().unwrap().to_string(), text);
    for other in ["", "1", &text[1..], &format!("{text}0"), &format!("+{}", &text[1..]), &format!("g{}", &text[1..])] {
        assert_eq!(other.parse::<WorkerId>(), Err(WorkerIdError), "{other}");
    }
}
