//! All messages of the data plane behind one type, so that what holds for each is asked once.

use mallorn_proto::id::{
    Application, Epoch, Handle, Incarnation, Instance, LocationId, Partition, SealId, ShuffleId, WorkerId,
};
use mallorn_proto::limits;
use mallorn_proto::message::{
    CloseStream, Failure, Fetch, Fetched, Hello, Kind, MergedPart, MessageError, Open, Opened, Push, PushMerged,
    PushReply, Replicate, ReplicatedPart, Role, Welcome,
};
use mallorn_proto::status::Status;
use mallorn_proto::version;
use proptest::prelude::*;

/// Kinds of messages, in the order of their numbers.
pub(crate) const KINDS: [Kind; 12] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Push,
    Kind::PushMerged,
    Kind::PushReply,
    Kind::Open,
    Kind::Opened,
    Kind::Fetch,
    Kind::Fetched,
    Kind::CloseStream,
    Kind::Failure,
    Kind::Replicate,
];

/// A message of any kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    Hello(Hello),
    Welcome(Welcome),
    Push(Push),
    PushMerged { request: u64, parts: Vec<MergedPart> },
    PushReply(PushReply),
    Open(Open),
    Opened(Opened),
    Fetch(Fetch),
    Fetched(Fetched),
    CloseStream(CloseStream),
    Failure(Failure),
    Replicate { request: u64, parts: Vec<ReplicatedPart> },
}

impl Message {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Push(_) => Kind::Push,
            Self::PushMerged { .. } => Kind::PushMerged,
            Self::PushReply(_) => Kind::PushReply,
            Self::Open(_) => Kind::Open,
            Self::Opened(_) => Kind::Opened,
            Self::Fetch(_) => Kind::Fetch,
            Self::Fetched(_) => Kind::Fetched,
            Self::CloseStream(_) => Kind::CloseStream,
            Self::Failure(_) => Kind::Failure,
            Self::Replicate { .. } => Kind::Replicate,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let mut bytes = Vec::new();
        match self {
            Self::Hello(message) => message.encode(&mut bytes)?,
            Self::Welcome(message) => message.encode(&mut bytes),
            Self::Push(message) => message.encode(&mut bytes),
            Self::PushMerged { request, parts } => PushMerged::encode(*request, parts, &mut bytes)?,
            Self::PushReply(message) => PushReply::encode(message.request, &message.statuses, &mut bytes)?,
            Self::Open(message) => message.encode(&mut bytes),
            Self::Opened(message) => message.encode(&mut bytes)?,
            Self::Fetch(message) => message.encode(&mut bytes),
            Self::Fetched(message) => message.encode(&mut bytes),
            Self::CloseStream(message) => message.encode(&mut bytes),
            Self::Failure(message) => message.encode(&mut bytes),
            Self::Replicate { request, parts } => Replicate::encode(*request, parts, &mut bytes)?,
        }
        Ok(bytes)
    }

    /// Decodes a header as a message of this kind; only a merged push and a replicated one look at the body's length.
    pub(crate) fn decode(kind: Kind, header: &[u8], body_length: usize) -> Result<Self, MessageError> {
        Ok(match kind {
            Kind::Hello => Self::Hello(Hello::decode(header)?),
            Kind::Welcome => Self::Welcome(Welcome::decode(header)?),
            Kind::Push => Self::Push(Push::decode(header)?),
            Kind::PushMerged => {
                let merged = PushMerged::decode(header, body_length)?;
                Self::PushMerged { request: merged.request, parts: merged.parts().collect() }
            }
            Kind::PushReply => Self::PushReply(PushReply::decode(header)?),
            Kind::Open => Self::Open(Open::decode(header)?),
            Kind::Opened => Self::Opened(Opened::decode(header)?),
            Kind::Fetch => Self::Fetch(Fetch::decode(header)?),
            Kind::Fetched => Self::Fetched(Fetched::decode(header)?),
            Kind::CloseStream => Self::CloseStream(CloseStream::decode(header)?),
            Kind::Failure => Self::Failure(Failure::decode(header)?),
            Kind::Replicate => {
                let replicate = Replicate::decode(header, body_length)?;
                Self::Replicate { request: replicate.request, parts: replicate.parts().collect() }
            }
        })
    }

    /// Bytes of the body that the header speaks of; 0 where it does not.
    pub(crate) fn body_length(&self) -> usize {
        match self {
            Self::PushMerged { parts, .. } => parts.iter().map(|part| part.length as usize).sum(),
            Self::Replicate { parts, .. } => parts.iter().map(|part| part.length as usize).sum(),
            _ => 0,
        }
    }
}

/// A legal message of any kind.
pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any_hello().prop_map(Message::Hello),
        (0..=version::CURRENT, 0..=limits::BODY_BYTES_MAX as u32, any::<u64>()).prop_map(
            |(version, body_limit, incarnation)| {
                Message::Welcome(Welcome { version, body_limit, incarnation: Incarnation(incarnation) })
            }
        ),
        any::<(u64, u64)>().prop_map(|(request, handle)| Message::Push(Push { request, handle: Handle(handle) })),
        (any::<u64>(), prop::collection::vec(any_part(), 0..40))
            .prop_map(|(request, parts)| Message::PushMerged { request, parts }),
        (any::<u64>(), prop::collection::vec(any_replicated(), 0..40))
            .prop_map(|(request, parts)| Message::Replicate { request, parts }),
        (any::<u64>(), prop::collection::vec(any_status(), 0..40))
            .prop_map(|(request, statuses)| Message::PushReply(PushReply { request, statuses })),
        any_open().prop_map(Message::Open),
        any_opened().prop_map(Message::Opened),
        any::<(u64, u64, u64, u32)>()
            .prop_map(|(request, stream, offset, limit)| { Message::Fetch(Fetch { request, stream, offset, limit }) }),
        any::<(u64, u64, u64, u64)>().prop_map(|(request, stream, one, other)| {
            Message::Fetched(Fetched { request, stream, offset: one.min(other), next: one.max(other) })
        }),
        any::<u64>().prop_map(|stream| Message::CloseStream(CloseStream { stream })),
        (any::<u64>(), any_status(), ".{0,64}")
            .prop_filter("a failure says that nothing was stored", |(_, status, _)| !status.is_stored())
            .prop_map(|(request, status, text)| Message::Failure(Failure { request, status, text })),
    ]
}

fn any_hello() -> impl Strategy<Value = Hello> {
    let role = prop_oneof![Just(Role::Push), Just(Role::Fetch), Just(Role::Replicate)];
    let texts = ("[a-zé]{0,30}", ".{0,60}", prop::collection::vec(any::<u8>(), 0..200));
    let numbers = (version::OLDEST..=version::CURRENT, any::<(u128, u64, u64)>());
    (numbers, role, texts).prop_map(|((newest, numbers), role, (cluster, name, credential))| Hello {
        oldest: version::OLDEST,
        newest,
        role,
        worker: WorkerId(numbers.0),
        incarnation: Incarnation(numbers.1),
        application: Application { name, instance: Instance(numbers.2) },
        cluster,
        credential,
    })
}

fn any_part() -> impl Strategy<Value = MergedPart> {
    any::<(u64, u32)>().prop_map(|(handle, length)| MergedPart { handle: Handle(handle), length })
}

fn any_replicated() -> impl Strategy<Value = ReplicatedPart> {
    any::<(u64, u64, u32)>().prop_map(|(handle, offset, length)| ReplicatedPart {
        handle: Handle(handle),
        offset,
        length,
    })
}

fn any_status() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL.to_vec())
}

fn any_open() -> impl Strategy<Value = Open> {
    any::<(u64, u32, u32, u32, u64, u32, u32)>().prop_map(|(request, shuffle, partition, epoch, seal, one, other)| {
        Open {
            request,
            location: LocationId { shuffle: ShuffleId(shuffle), partition: Partition(partition), epoch: Epoch(epoch) },
            seal: SealId(seal),
            map_start: one.min(other),
            map_end: one.max(other),
        }
    })
}

fn any_opened() -> impl Strategy<Value = Opened> {
    let chunks = prop::collection::btree_set(1u64.., 0..40);
    (any::<(u64, u64)>(), chunks).prop_map(|((request, stream), chunks)| {
        let chunk_ends: Vec<u64> = chunks.into_iter().collect();
        Opened { request, stream, length: chunk_ends.last().copied().unwrap_or(0), chunk_ends }
    })
}
