//! What a worker writes down of its locations: records, headers of segments, and the lists of extents.

use std::ops::Range;

use mallorn_proto::checksum::Crc32c;
use mallorn_proto::id::{Instance, SealId, ShuffleId};
use mallorn_worker_core::fetch::{Cursor, ExtentPart, MapRange, Planned};
use mallorn_worker_core::handover::{Next, lengths_in};
use mallorn_worker_core::push::{Life, Log};
use mallorn_worker_core::record::{self, Name, Said, Whole};
use mallorn_worker_core::spill::extent::{ENTRY_BYTES, Extent, ExtentPlace, entries};

use crate::allocations::most;
use crate::feed::Feed;

/// The worker's folders; records name others too.
pub const FOLDERS: [u64; 2] = [0xaaaa, 0xbbbb];
/// Most bits that are flipped, one after the other.
const FLIPS_MAX: usize = 32;
/// Most fetches by which a location is read here.
const FETCHES_MAX: usize = 64;

/// What the bytes are taken for, and the bytes.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    match feed.byte() % 4 {
        0 => file(feed.rest()),
        1 => framed(feed),
        2 => segment(feed),
        _ => list(feed),
    }
}

/// A file of records as it is.
fn file(bytes: &[u8]) {
    let (header, held) = most(|| record::get_header(bytes));
    assert!(held <= 2 * bytes.len() + 1024, "{held} bytes for a header");
    let Ok((header, rest)) = header else { return };
    let mut written = Vec::new();
    record::put_header(&mut written, &header);
    assert_eq!(written, bytes[..bytes.len() - rest.len()], "a header is written as it was read");
    read(rest);
    for cut in 0..written.len() {
        assert!(record::get_header(&bytes[..cut]).is_err(), "a part of a header is not a header");
    }
}

/// Bodies of records, to each of which its length and checksum are given.
fn framed(mut feed: Feed<'_>) {
    let mut bytes = Vec::new();
    while !feed.is_empty() {
        let body = feed.piece();
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc(body).to_le_bytes());
        bytes.extend_from_slice(body);
    }
    read(&bytes);
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(bytes);
    crc.value()
}

fn read(bytes: &[u8]) {
    let ((records, torn), held) = most(|| record::records(bytes, &FOLDERS));
    assert!(held <= 64 * bytes.len() + 1024, "{held} bytes for records of {}", bytes.len());
    assert!(torn <= bytes.len());
    let whole = &bytes[..bytes.len() - torn];
    assert_eq!(record::records(whole, &FOLDERS), (records.clone(), 0), "what is torn does not change what is not");
    if !whole.is_empty() {
        let (shorter, left) = record::records(&whole[..whole.len() - 1], &FOLDERS);
        assert_eq!(shorter, records[..records.len() - 1], "a torn record is none");
        assert!(left > 0, "and is told of");
        flipped(whole, &records);
    }
    for (name, said) in records {
        if let Some(said) = said {
            again(name, &said);
            restored(said);
        }
    }
}

/// Wherever a bit flips, what was before it is read as it was, and nothing from there on.
fn flipped(whole: &[u8], records: &[(Name, Option<Said>)]) {
    for at in (0..whole.len()).step_by(1 + whole.len() / FLIPS_MAX) {
        let mut broken = whole.to_vec();
        broken[at] ^= 1 << (at % 8);
        let (read, torn) = record::records(&broken, &FOLDERS);
        assert!(torn >= whole.len() - at, "a bit at {at} has flipped, {torn} of {} bytes are torn", whole.len());
        assert_eq!(read, records[..read.len()]);
    }
}

/// A record is written as one that reads the same.
fn again(name: Name, said: &Said) {
    let mut written = Vec::new();
    record::put(&mut written, name, said, &FOLDERS);
    let (again, torn) = record::records(&written, &FOLDERS);
    assert_eq!((again, torn), (vec![(name, Some(said.clone()))], 0));
}

/// What is taken in can be sealed where it was frozen, is read to its end in whole extents, and is written down again.
fn restored(said: Said) {
    let Said::Whole(whole) = said else { return };
    let (life, length, origins) = (whole.restored.life, whole.restored.length, whole.origins.clone());
    let Ok(mut log) = Log::restored(whole.restored.clone()) else { return };
    let again = Whole::of(&log, whole.synced, origins).expect("what was written down can be");
    assert_eq!(again.restored, whole.restored);
    assert_eq!((log.written(), log.unwritten(), log.memory_start()), (length, 0, length));
    let frozen = log.freeze().expect("it is frozen at least");
    assert!(frozen <= length, "{frozen} bytes were acked of {length}");
    let mut sent = Cursor::default();
    while let Next::Disk(extent) = log.next_to_send(sent) {
        assert!(extent.end() > sent.offset && extent.end() <= length);
        sent = Cursor::at(extent.end());
    }
    assert_eq!(log.next_to_send(sent), Next::End);
    let seal = match life {
        Life::Sealed { seal, .. } => seal,
        Life::Open | Life::Frozen { .. } | Life::Gone => SealId(7),
    };
    log.seal(seal, frozen);
    let opened = log.open(seal).expect("it was sealed");
    assert_eq!(opened, frozen);
    let ends: Vec<u64> = log.chunk_ends().collect();
    assert!(ends.first() != Some(&0) && ends.windows(2).all(|pair| pair[0] < pair[1]), "{ends:?}: a reader refuses it");
    assert_eq!(ends.last().copied().unwrap_or(0), opened);
    fetched(&log, opened);
}

fn fetched(log: &Log, length: u64) {
    let mut offset = 0;
    for _ in 0..FETCHES_MAX {
        let planned =
            log.plan(Cursor::at(offset), offset, u32::MAX, MapRange::ALL).expect("an extent's end is a border");
        let next = match planned {
            Planned::Memory(plan) => plan.next.offset,
            Planned::Disk(plan) => plan.next,
        };
        assert!(next > offset || offset >= length, "a fetch gets further");
        assert!(next <= length);
        offset = next;
    }
}

/// A segment's header, and whose it should be.
fn segment(mut feed: Feed<'_>) {
    let (instance, shuffle, number) = (Instance(feed.u64()), ShuffleId(feed.u32()), feed.u32());
    let mut header = record::segment_header(instance, shuffle, number);
    assert_eq!(record::check_segment_header(&header, instance, shuffle, number), Ok(()));
    let given = feed.rest();
    if record::check_segment_header(given, instance, shuffle, number).is_ok() {
        assert_eq!(given, header);
    }
    let (at, bit) = (given.first().copied().unwrap_or(0), given.last().copied().unwrap_or(0));
    let at = usize::from(at) % header.len();
    header[at] ^= 1 << (bit % 8);
    assert!(record::check_segment_header(&header, instance, shuffle, number).is_err(), "a flipped bit at {at}");
}

/// An extent's list, the place to go on at, the limit and the maps.
fn list(mut feed: Feed<'_>) {
    let (offset, from) = (u64::from(feed.u32()), u64::from(feed.u32()));
    let (limit, maps) = (feed.u32(), MapRange { start: feed.u32() % 16, end: feed.u32() });
    let (length, fits) = (feed.u32(), feed.byte() & 1 == 1);
    let list = feed.rest();
    let all: u64 = entries(list).map(|entry| u64::from(entry.stored_bytes)).sum();
    assert_eq!(entries(list).count(), list.len() / ENTRY_BYTES);
    // What a worker has written fits; a list of another length is only there where a checksum was met by chance.
    let stored = if fits { u32::try_from(all).unwrap_or(u32::MAX) } else { length };
    let extent = Extent {
        place: ExtentPlace { disk: 0, segment: 0, position: 4096 },
        offset,
        length: stored.min(length.max(1)),
        stored,
        batches: (list.len() / ENTRY_BYTES) as u32,
        first_map: 0,
        last_map: u32::MAX,
        crc: 0,
        list_crc: crc(list),
    };
    if !extent.is_list(list) {
        assert!(
            !fits || all != u64::from(stored) || !list.len().is_multiple_of(ENTRY_BYTES),
            "a list that fits is refused"
        );
        return;
    }
    let part = ExtentPart { extent, from: offset.saturating_add(from % (all + 1)), selects: true };
    if let Ok(selection) = part.select(list, limit, maps) {
        within(&selection.runs, stored);
        let bytes: u64 = selection.runs.iter().map(|run| u64::from(run.end - run.start)).sum();
        assert_eq!(bytes, selection.bytes);
        assert!(bytes <= u64::from(limit) && selection.next >= part.from);
    }
    if let Some(lengths) = lengths_in(&extent, list, part.from) {
        let sum: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
        assert_eq!(part.from.max(extent.offset) + sum, extent.end().max(part.from), "{lengths:?} of {extent:?}");
    }
}

/// Nothing behind an extent's batches is sent for one.
fn within(runs: &[Range<u32>], stored: u32) {
    assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{runs:?} are not rising");
    assert!(runs.last().is_none_or(|run| run.end <= stored), "{runs:?} lie beyond {stored} bytes");
}
