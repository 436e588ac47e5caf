//! Every message of the control plane, and the types that are read from their fields.

use std::fmt::Debug;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, LocationId, WorkerId};
use mallorn_proto::range_set::RangeSet;
use mallorn_proto::v1;
use prost::Message;

use crate::allocations::most;
use crate::feed::Feed;

/// Memory that a message may hold for each byte of it, in bytes: see `door`.
const BYTES_PER_BYTE: usize = 192;
const SPARE_BYTES: usize = 4096;
/// Most ranges that a set is read from here.
const RANGES_MAX: usize = 64;

macro_rules! messages {
    ($($name:ident),+ $(,)?) => {
        /// Every message that is sent, or is a part of one with rules of its own.
        const MESSAGES: &[fn(&[u8])] = &[$(again::<v1::$name>),+];
    };
}

messages!(
    // The worker's door.
    ReserveRequest,
    ReserveReply,
    FreezeRequest,
    FreezeReply,
    SealRequest,
    SealReply,
    ReleaseRequest,
    ReleaseReply,
    SettleRequest,
    SettleReply,
    DrainRequest,
    DrainReply,
    DescribeRequest,
    DescribeReply,
    // The master's.
    RegisterWorkerRequest,
    RegisterWorkerReply,
    HeartbeatRequest,
    HeartbeatReply,
    RegisterApplicationRequest,
    RegisterApplicationReply,
    RenewApplicationRequest,
    RenewApplicationReply,
    EndApplicationRequest,
    EndApplicationReply,
    PlaceRequest,
    PlaceReply,
    ResolveWorkersRequest,
    ResolveWorkersReply,
    ResolveMovedRequest,
    ResolveMovedReply,
    DescribeClusterRequest,
    DescribeClusterReply,
    // The lifecycle manager's.
    JoinRequest,
    JoinReply,
    RegisterShuffleRequest,
    RegisterShuffleReply,
    NextGenerationRequest,
    NextGenerationReply,
    ReleaseShuffleRequest,
    ReleaseShuffleReply,
    StartAttemptRequest,
    StartAttemptReply,
    RenewAttemptsRequest,
    RenewAttemptsReply,
    AttemptFailedRequest,
    AttemptFailedReply,
    MapperEndRequest,
    MapperEndReply,
    LocateRequest,
    LocateReply,
    ReviveRequest,
    ReviveReply,
    PlanReadRequest,
    PlanReadReply,
    ListWinnersRequest,
    ListWinnersReply,
    ResolveRequest,
    ResolveReply,
);

/// How many messages there are; a higher first byte chooses the types.
pub const MESSAGES_COUNT: u8 = MESSAGES.len() as u8;

/// Which message, and its bytes.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    let number = usize::from(feed.byte());
    match MESSAGES.get(number) {
        Some(message) => message(feed.rest()),
        None => types(feed),
    }
}

/// A message that is read is written as one that reads the same, and as no more bytes.
fn again<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let limit = BYTES_PER_BYTE * bytes.len() + SPARE_BYTES;
    let (read, held) = most(|| M::decode(bytes));
    assert!(held <= limit, "a message of {} bytes held {held}, more than {limit}", bytes.len());
    let Ok(message) = read else { return };
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len());
    let again = M::decode(&written[..]).expect("what is written is read");
    assert!(again == message || again.encode_to_vec() == written, "{message:?} is written as {again:?}");
}

fn types(mut feed: Feed<'_>) {
    let id = v1::WorkerId { high: feed.u64(), low: feed.u64() };
    assert_eq!(v1::WorkerId::from(WorkerId::from(id)), id);
    let location = v1::LocationId { shuffle: feed.u32(), partition: feed.u32(), epoch: feed.u32() };
    assert_eq!(v1::LocationId::from(LocationId::from(location)), location);
    let application = v1::Application { instance: feed.u64(), name: feed.text() };
    assert_eq!(v1::Application::from(Application::from(application.clone())), application);
    let number = feed.u32() as i32;
    let durability = Durability::from_wire(number);
    assert!(durability.to_wire() == number || durability == Durability::Synced, "what is not known is the strongest");
    worker_id(&feed.text());
    ranges(feed);
}

/// A text is one worker's id or none: a part of it is not another one's.
fn worker_id(text: &str) {
    let Ok(id) = text.parse::<WorkerId>() else { return };
    assert_eq!(id.to_string(), text.trim().to_lowercase());
    let trimmed = text.trim();
    assert!(trimmed[..trimmed.len() - 1].parse::<WorkerId>().is_err());
}

fn ranges(mut feed: Feed<'_>) {
    let limit = usize::from(feed.byte()).min(RANGES_MAX);
    let (among, width) = (feed.u32(), feed.u32());
    let mut wire = Vec::new();
    while !feed.is_empty() && wire.len() <= RANGES_MAX {
        wire.push(v1::Range { first: feed.u32(), end: feed.u32() });
    }
    let Ok(set) = RangeSet::from_wire(wire.clone(), limit) else { return };
    assert!(wire.len() <= limit);
    assert_eq!(set.to_wire(), wire, "a set is written as it was read");
    assert!(set.runs().windows(2).all(|pair| pair[0].end < pair[1].start));
    assert_eq!(set.len(), wire.iter().map(|range| u64::from(range.end - range.first)).sum::<u64>());
    let window = among..among.saturating_add(width);
    let part = set.within(&window);
    for run in part.runs() {
        assert!(set.contains(run.start) && set.contains(run.end - 1));
        assert!(window.contains(&run.start) && window.contains(&(run.end - 1)));
    }
    assert_eq!(set.intersection(&part, usize::MAX), part);
    let mut joined = set.clone();
    joined.join_tail(limit / 2);
    assert!(joined.runs().len() <= (limit / 2).max(1));
    assert!(set.runs().iter().all(|run| joined.contains(run.start) && joined.contains(run.end - 1)));
}
