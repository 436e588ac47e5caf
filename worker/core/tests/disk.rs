//! The golden files: the bytes of records and segments' headers of each version that was written, which are never changed.
//! What is written today is the newest; a file of any version that is still read says what it said.
//!
//! A core writes no files: a new version gets its own from what `cargo test -p mallorn-worker-core --test disk -- --ignored
//! --nocapture show_bytes` shows, through `xxd -r -p`.

use mallorn_proto::id::{Application, Epoch, Instance, Partition, SealId, ShuffleId, WorkerId};
use mallorn_worker_core::handover::Origins;
use mallorn_worker_core::push::Life;
use mallorn_worker_core::record::{self, FormError, Header, Name, OLDEST, Said, VERSION, Whole};
use mallorn_worker_core::spill::extent::{Extent, ExtentPlace, Restored};

const FOLDERS: [u64; 2] = [0xaaaa, 0xbbbb];
const SEGMENT: u32 = 5;

fn header() -> Header {
    let application = Application { name: "äpp".to_owned(), instance: Instance(0x0102_0304_0506_0708) };
    Header { application, shuffle: ShuffleId(0x1112_1314), boot: "boot-1".to_owned() }
}

fn name(partition: u32, epoch: u32) -> Name {
    Name { partition: Partition(partition), epoch: Epoch(epoch) }
}

fn extent(disk: u16, offset: u64, length: u32) -> Extent {
    let place = ExtentPlace { disk, segment: 0x2122_2324 + u32::from(disk), position: 0x3132_3334_3536_3738 };
    let (crc, list_crc) = (0x5152_5354, 0x6162_6364);
    Extent { place, offset, length, stored: length + 9, batches: 3, first_map: 4, last_map: 5, crc, list_crc }
}

fn restored(life: Life) -> Restored {
    let extents = vec![extent(0, 0, 0x100), extent(1, 0x100, 0x200)];
    Restored { life, length: 0x300, batches: 6, chunk_ends: vec![(0x280, 5), (0x300, 6)], extents }
}

/// What the files say; each version names as many earlier workers as it can.
fn said(origins: &[u128]) -> Vec<(Name, Said)> {
    let whole = |life, synced, origins: &[u128]| {
        let origins: Vec<WorkerId> = origins.iter().copied().map(WorkerId).collect();
        let origins = match origins.split_last() {
            Some((from, earlier)) => Origins::new(earlier, *from, WorkerId(1)),
            None => Origins::default(),
        };
        Said::Whole(Whole { restored: restored(life), synced, origins })
    };
    vec![
        (name(0, 1), Said::Opened),
        (name(1, 0), whole(Life::Frozen { acked: 0x2f0 }, false, origins)),
        (name(2, 0), whole(Life::Sealed { seal: SealId(0x77), length: 0x300 }, true, &[])),
        (name(3, 2), Said::Dropped),
    ]
}

/// Earlier workers in the files of a version.
fn origins(version: u16) -> &'static [u128] {
    if version == 1 { &[0xf1] } else { &[0xf1, 0xf2] }
}

fn records() -> Vec<u8> {
    let mut bytes = Vec::new();
    record::put_header(&mut bytes, &header());
    said(origins(VERSION)).iter().for_each(|(name, said)| record::put(&mut bytes, *name, said, &FOLDERS));
    bytes
}

fn segment() -> Vec<u8> {
    record::segment_header(header().application.instance, header().shuffle, SEGMENT)
}

fn read(version: u16, name: &str) -> Vec<u8> {
    let bytes: &[u8] = match (version, name) {
        (1, "records") => include_bytes!("golden/disk/v1/records.bin"),
        (1, "segment") => include_bytes!("golden/disk/v1/segment.bin"),
        (2, "records") => include_bytes!("golden/disk/v2/records.bin"),
        (2, "segment") => include_bytes!("golden/disk/v2/segment.bin"),
        _ => panic!("version {version} has no golden file of {name}"),
    };
    bytes.to_vec()
}

/// Whoever changes the form changes its version.
#[test]
fn what_is_written_are_the_golden_bytes_of_the_version() {
    assert_eq!(records(), read(VERSION, "records"));
    assert_eq!(segment(), read(VERSION, "segment"));
}

#[test]
fn every_version_from_the_oldest_on_is_read() {
    for version in OLDEST..=VERSION {
        let bytes = read(version, "records");
        let upgraded = record::upgraded(&bytes);
        assert_eq!(upgraded.is_some(), version < VERSION);
        let bytes = upgraded.unwrap_or(bytes);
        let (found, rest) = record::get_header(&bytes).unwrap();
        assert_eq!(found, header());
        let expected = said(origins(version)).into_iter().map(|(name, said)| (name, Some(said))).collect();
        assert_eq!(record::records(rest, &FOLDERS), (expected, 0), "version {version}");
        let Header { application, shuffle, .. } = header();
        let check =
            |segment: &[u8], number| record::check_segment_header(segment, application.instance, shuffle, number);
        let segment = read(version, "segment");
        assert_eq!(check(&segment, SEGMENT), Ok(()), "version {version}");
        assert_eq!(check(&segment, SEGMENT + 1), Err(FormError::Header), "version {version}");
    }
}

/// What the version before had torn is torn in ours, and nothing of what stood before it is lost.
#[test]
fn a_torn_file_of_the_version_before_is_upgraded_up_to_where_it_is_torn() {
    let bytes = read(OLDEST, "records");
    let expected: Vec<_> = said(origins(OLDEST)).into_iter().map(|(name, said)| (name, Some(said))).collect();
    let mut most = 0;
    for length in 0..bytes.len() {
        let Some(upgraded) = record::upgraded(&bytes[..length]) else {
            assert_eq!(most, 0, "the header ends once");
            continue;
        };
        let (_, rest) = record::get_header(&upgraded).unwrap();
        let (found, torn) = record::records(rest, &FOLDERS);
        assert_eq!(torn, 0, "what is written anew is whole");
        assert_eq!(found, expected[..found.len()], "cut at {length}");
        assert!(found.len() >= most);
        most = found.len();
    }
    assert_eq!(most, expected.len() - 1);
}

#[test]
#[ignore = "shows the bytes of a new version's files"]
fn show_bytes() {
    for (name, bytes) in [("records", records()), ("segment", segment())] {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{name}: {hex}");
    }
}
