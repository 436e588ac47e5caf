//! What holds for every message and every input.

use mallorn_proto::batch::{BatchHeader, Batches, Envelope, HEADER_BYTES, Place, verify};
use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{Instance, Partition, ShuffleId};
use mallorn_proto::limits;
use mallorn_proto::message::{Kind, MessageError};
use mallorn_proto::version;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::message::{KINDS, Message, any_message};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_message_is_what_was_encoded(message in any_message()) {
        let bytes = message.encode().unwrap();
        prop_assert_eq!(Message::decode(message.kind(), &bytes, message.body_length()), Ok(message));
    }

    #[test]
    fn a_message_cut_anywhere_is_short(message in any_message()) {
        let bytes = message.encode().unwrap();
        for end in 0..bytes.len() {
            let cut = Message::decode(message.kind(), &bytes[..end], message.body_length());
            prop_assert!(matches!(cut, Err(MessageError::Short { missing }) if missing <= bytes.len() - end), "{:?}", cut);
        }
    }

    #[test]
    fn bytes_after_a_message_are_refused(message in any_message(), extra in prop::collection::vec(any::<u8>(), 1..20)) {
        let bytes = [message.encode().unwrap(), extra.clone()].concat();
        let decoded = Message::decode(message.kind(), &bytes, message.body_length());
        prop_assert_eq!(decoded, Err(MessageError::Trailing { extra: extra.len() }));
    }

    #[test]
    fn random_bytes_are_an_error_or_a_message_in_its_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        body_length: usize,
    ) {
        for kind in KINDS {
            assert_bounded(kind, &bytes, body_length);
        }
    }

    #[test]
    fn damaged_messages_are_an_error_or_a_message_in_its_bounds(
        message in any_message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        decoded_as in prop::sample::select(KINDS.to_vec()),
        body_length in 0..1usize << 33,
    ) {
        let mut bytes = message.encode().unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(2 * bytes.len()));
        for kind in [message.kind(), decoded_as] {
            assert_bounded(kind, &bytes, message.body_length());
            assert_bounded(kind, &bytes, body_length);
        }
    }

    #[test]
    fn a_merged_push_is_taken_with_its_own_body_only(message in any_message(), body_length: usize) {
        if let Message::PushMerged { .. } = message {
            let decoded = Message::decode(Kind::PushMerged, &message.encode().unwrap(), body_length);
            prop_assert_eq!(decoded.is_ok(), body_length == message.body_length());
        }
    }

    #[test]
    fn a_prefix_within_its_bounds_or_none(bytes in prop::collection::vec(any::<u8>(), 0..30), limit in 0..=limits::BODY_BYTES_MAX) {
        let decoded = Prefix::decode(&bytes, limit);
        if bytes.len() < limits::FRAME_PREFIX_BYTES {
            prop_assert_eq!(decoded, Ok(None));
        } else if let Ok(prefix) = decoded {
            let prefix = prefix.expect("nine bytes are enough");
            let mut encoded = Vec::new();
            prefix.encode(&mut encoded);
            prop_assert_eq!(&encoded[..], &bytes[..limits::FRAME_PREFIX_BYTES]);
            prop_assert!(prefix.head_length() <= limits::FRAME_PREFIX_BYTES + limits::FRAME_HEADER_BYTES_MAX);
            prop_assert!(prefix.frame_length() - prefix.head_length() <= limit);
        }
    }

    #[test]
    fn a_walk_over_any_bytes_stays_inside_them(bytes in prop::collection::vec(any::<u8>(), 0..200), lengths in prop::collection::vec(0u8..40, 0..12)) {
        let mut bytes = bytes;
        let mut at = 0;
        for length in lengths {
            // Small lengths where a walk will look for them, so that it gets past the first batch.
            if let Some(field) = bytes.get_mut(at + 12..at + HEADER_BYTES) {
                field.copy_from_slice(&u32::from(length).to_le_bytes());
            }
            at += HEADER_BYTES + usize::from(length);
        }
        let steps: Vec<_> = Batches::new(&bytes).collect();
        let whole = steps.iter().filter_map(|step| step.as_ref().ok());
        let walked: Vec<u8> = whole.clone().flat_map(|(_, batch)| batch.iter().copied()).collect();
        prop_assert!(bytes.starts_with(&walked));
        prop_assert!(whole.clone().all(|(header, batch)| header.stored_bytes() == batch.len() as u64));
        let failed = steps.iter().filter(|step| step.is_err()).count();
        prop_assert_eq!(failed, usize::from(walked.len() < bytes.len()));
    }

    #[test]
    fn no_bytes_make_a_batch_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), ids: (u64, u32, u32)) {
        let place = Place { instance: Instance(ids.0), shuffle: ShuffleId(ids.1), partition: Partition(ids.2) };
        let _ = verify(&place, &bytes);
        prop_assert_eq!(BatchHeader::decode(&bytes).is_ok(), bytes.len() >= HEADER_BYTES);
        if let Ok(envelope) = Envelope::decode(&bytes) {
            prop_assert!(envelope.raw_length as usize <= limits::BODY_BYTES_MAX);
        }
    }
}

/// The same cases in every run, unless `PROPTEST_RNG_SEED` names others.
fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    let rng_seed = match given.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig { rng_seed, failure_persistence: None, ..given }
}

/// Decodes bytes from nowhere: whatever comes out holds to its bounds and encodes to the very same bytes, but for the
/// statuses of a later version, which are all read as one.
fn assert_bounded(kind: Kind, bytes: &[u8], body_length: usize) {
    let Ok(message) = Message::decode(kind, bytes, body_length) else { return };
    match &message {
        Message::Hello(hello) => {
            assert!(hello.cluster.capacity() <= limits::CLUSTER_BYTES_MAX);
            assert!(hello.application.name.capacity() <= limits::APPLICATION_BYTES_MAX);
            assert!(hello.credential.capacity() <= limits::CREDENTIAL_BYTES_MAX);
        }
        Message::Welcome(welcome) => assert!(welcome.body_limit as usize <= limits::BODY_BYTES_MAX),
        Message::PushMerged { parts, .. } => assert!(parts.len() <= limits::MERGED_LOCATIONS_MAX),
        Message::Replicate { parts, .. } => assert!(parts.len() <= limits::REPLICATED_BATCHES_MAX),
        Message::PushReply(reply) => assert!(reply.statuses.capacity() <= limits::MERGED_LOCATIONS_MAX),
        Message::Opened(opened) => {
            assert!(opened.chunk_ends.capacity() <= limits::CHUNKS_MAX);
            assert!(opened.chunk_ends.iter().all(|end| (1..=opened.length).contains(end)));
        }
        Message::Failure(failure) => {
            assert!(failure.text.capacity() <= limits::FAILURE_TEXT_BYTES_MAX);
            assert!(!failure.status.is_stored());
        }
        Message::Open(open) => assert!(open.map_start <= open.map_end),
        Message::Fetched(fetched) => assert!(fetched.offset <= fetched.next),
        Message::Push(_) | Message::Fetch(_) | Message::CloseStream(_) => {}
    }
    let encoded = message.encode().expect("what was decoded is within its bounds");
    let is_newer = match &message {
        Message::Hello(hello) => hello.newest > version::CURRENT,
        Message::Welcome(welcome) => welcome.version > version::CURRENT,
        _ => false,
    };
    if is_newer {
        assert!(bytes.starts_with(&encoded), "only what follows the fields is ignored");
        return;
    }
    assert_eq!(encoded.len(), bytes.len());
    if !matches!(kind, Kind::PushReply | Kind::Failure) {
        assert_eq!(encoded, bytes);
    }
}
