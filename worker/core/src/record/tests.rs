//! Records as they are written, torn, broken and of other versions.

use proptest::prelude::*;

use super::*;

const FOLDERS: [u64; 2] = [0xaaaa, 0xbbbb];

fn header() -> Header {
    let application = Application { name: "äpp".to_owned(), instance: Instance(7) };
    Header { application, shuffle: ShuffleId(3), boot: "boot-1".to_owned() }
}

fn any_said() -> impl Strategy<Value = Said> {
    let extent = any::<(bool, u32, u64, u32, u32, u32, u32, u32)>().prop_map(|numbers| Extent {
        place: ExtentPlace { disk: u16::from(numbers.0), segment: numbers.1, position: numbers.2 },
        offset: numbers.2 / 2,
        length: numbers.3 / 2,
        stored: numbers.3,
        batches: numbers.4,
        first_map: numbers.5,
        last_map: numbers.6,
        crc: numbers.7,
        list_crc: !numbers.7,
    });
    let life = (any::<(u64, u64, bool)>()).prop_map(|(fixed, length, is_sealed)| match is_sealed {
        true => (Life::Sealed { seal: SealId(fixed), length }, length),
        false => (Life::Frozen { acked: fixed }, length),
    });
    let chunks = prop::collection::vec(any::<(u64, u64)>(), 0..5);
    let whole = (life, any::<(u64, bool, Vec<u128>)>(), chunks, prop::collection::vec(extent, 0..5)).prop_map(
        |((life, length), (batches, synced, origins), chunk_ends, extents)| {
            let restored = Restored { life, length, batches, chunk_ends, extents };
            let origins = origins.into_iter().take(ORIGINS_MAX).map(WorkerId).collect();
            Said::Whole(Whole { restored, synced, origins: Origins::recorded(origins) })
        },
    );
    prop_oneof![1 => Just(Said::Opened), 4 => whole, 1 => Just(Said::Dropped)]
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_written_up_to_where_they_are_torn(
        said in prop::collection::vec(any_said(), 0..8),
        torn in any::<prop::sample::Index>(),
        flipped in any::<(prop::sample::Index, bool)>(),
    ) {
        let mut bytes = Vec::new();
        put_header(&mut bytes, &header());
        let mut ends = vec![bytes.len()];
        for (partition, said) in (0..).zip(&said) {
            put(&mut bytes, Name { partition: Partition(partition), epoch: Epoch(1) }, said, &FOLDERS);
            ends.push(bytes.len());
        }
        let start = ends[0];
        let mut cut = start + torn.index(bytes.len() - start + 1);
        bytes.truncate(cut);
        if flipped.1 && cut > start {
            let at = start + flipped.0.index(cut - start);
            bytes[at] ^= 0x10;
            cut = at;
        }
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let (found, rest) = get_header(&bytes).unwrap();
        prop_assert_eq!(found, header());
        let (records, _) = records(rest, &FOLDERS);
        prop_assert_eq!(records.len(), whole);
        for (record, expected) in records.iter().zip(&said) {
            prop_assert_eq!(record.1.as_ref(), Some(expected));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (get_header(&bytes), upgraded(&bytes));
        let _ = records(&bytes, &FOLDERS);
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&crc(&bytes).to_le_bytes());
        framed.extend_from_slice(&bytes);
        let _ = records(&framed, &FOLDERS);
        let _ = check_segment_header(&bytes, Instance(1), ShuffleId(2), 3);
    }
}

#[test]
fn a_folder_that_is_not_there_makes_its_locations_unusable_not_unnamed() {
    let extent = Extent {
        place: ExtentPlace { disk: 1, segment: 0, position: 64 },
        offset: 0,
        length: 9,
        stored: 9,
        batches: 1,
        first_map: 0,
        last_map: 0,
        crc: 0,
        list_crc: 0,
    };
    let life = Life::Frozen { acked: 9 };
    let restored = Restored { life, length: 9, batches: 1, chunk_ends: Vec::new(), extents: vec![extent] };
    let mut bytes = Vec::new();
    let name = Name { partition: Partition(4), epoch: Epoch(0) };
    put(&mut bytes, name, &Said::Whole(Whole { restored, synced: false, origins: Origins::default() }), &FOLDERS);
    assert_eq!(records(&bytes, &FOLDERS[..1]), (vec![(name, None)], 0));
}

/// Whoever changes the form changes its version.
#[test]
fn the_form_is_that_of_its_version() {
    let place = ExtentPlace { disk: 0, segment: 2, position: 4096 };
    let extent =
        Extent { place, offset: 1, length: 3, stored: 4, batches: 5, first_map: 6, last_map: 7, crc: 8, list_crc: 9 };
    let life = Life::Sealed { seal: SealId(10), length: 11 };
    let restored = Restored { life, length: 11, batches: 12, chunk_ends: vec![(13, 14)], extents: vec![extent] };
    let origins = Origins::recorded(vec![WorkerId(15), WorkerId(16)]);
    let mut bytes = Vec::new();
    put_header(&mut bytes, &header());
    let name = Name { partition: Partition(17), epoch: Epoch(18) };
    put(&mut bytes, name, &Said::Whole(Whole { restored, synced: true, origins }), &FOLDERS);
    put(&mut bytes, name, &Said::Dropped, &FOLDERS);
    assert_eq!((VERSION, bytes.len(), crc(&bytes)), (2, 216, 1_884_412_694));
}

#[test]
fn a_torn_header_is_none_and_not_one_of_another_version() {
    let mut records = Vec::new();
    put_header(&mut records, &header());
    let segment = segment_header(Instance(1), ShuffleId(2), 3);
    for kept in 0..segment.len() {
        let torn = |bytes: &[u8]| {
            let mut torn = bytes.to_vec();
            torn[kept.min(bytes.len() - 1)..].fill(0);
            torn
        };
        assert_eq!(get_header(&torn(&records)).map(drop), Err(FormError::Header), "{kept}");
        let torn = check_segment_header(&torn(&segment), Instance(1), ShuffleId(2), 3);
        assert_eq!(torn, Err(FormError::Header), "{kept}");
    }
}

#[test]
fn another_s_or_a_newer_file_is_refused() {
    let mut bytes = Vec::new();
    put_header(&mut bytes, &header());
    bytes[8] = 3;
    assert_eq!(get_header(&bytes).map(drop), Err(FormError::Version { found: 3 }));
    assert_eq!(upgraded(&bytes), None);
    bytes[8] = 1;
    assert_eq!(upgraded(&bytes), None, "its checksum is that of another version");
    assert_eq!(get_header(&bytes).map(drop), Err(FormError::Header));
    bytes[0] = b'x';
    assert_eq!(get_header(&bytes).map(drop), Err(FormError::Header));
    let mut segment = segment_header(Instance(1), ShuffleId(2), 3);
    assert_eq!(segment.len() as u64, SEGMENT_HEADER_BYTES);
    assert_eq!(check_segment_header(&segment, Instance(1), ShuffleId(2), 3), Ok(()));
    assert_eq!(check_segment_header(&segment, Instance(1), ShuffleId(2), 4), Err(FormError::Header));
    segment[8] = 9;
    let newer = Err(FormError::Version { found: 9 });
    assert_eq!(check_segment_header(&segment, Instance(1), ShuffleId(2), 3), newer);
}
