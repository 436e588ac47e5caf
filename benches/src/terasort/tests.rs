//! The pure parts: records, splits, and what validation finds.

use super::record::{Record, key, prefix};
use super::sort::{in_order, validate};
use super::*;

const PARTITIONS: u32 = 7;

fn options(size_bytes: u64) -> Options {
    Options { size_bytes, maps: 3, partitions: PARTITIONS, slots: 2, seed: 1 }
}

/// The records of each partition, sorted, and the sum of all that were generated.
fn sorted(count: u64) -> (Vec<Vec<Record>>, Sum) {
    let input = options(count * RECORD_BYTES as u64).input().unwrap();
    let (mut partitions, mut sum) = (vec![Vec::new(); PARTITIONS as usize], Sum::default());
    for number in (0..input.maps).flat_map(|map| input.numbers(map)) {
        let record = input.generator.record(number);
        sum.add(&record);
        partitions[input.splits.partition_of(prefix(&record)) as usize].push(record);
    }
    let sort = |records: Vec<Record>| in_order(&records).copied().collect();
    (partitions.into_iter().map(sort).collect(), sum)
}

/// What the whole sort would say of these partitions.
fn validated(partitions: &[Vec<Record>], generated: Sum) -> Result<(), TerasortError> {
    let mut sum = Sum::default();
    for (partition, records) in (0..).zip(partitions) {
        sum.merge(validate(records.iter(), Splits::new(PARTITIONS), partition)?);
    }
    same(generated, sum)
}

#[test]
fn a_record_is_made_again_from_its_number_and_seed() {
    let generator = Generator::new(1);
    let record = generator.record(123_456_789);
    assert_eq!(record, Generator::new(1).record(123_456_789));
    assert_eq!(record[10..18], 123_456_789_u64.to_be_bytes());
    assert!(record[18..].iter().all(u8::is_ascii_uppercase));
    assert_ne!(record[..10], generator.record(123_456_790)[..10]);
    assert_ne!(record[..10], Generator::new(2).record(123_456_789)[..10]);
    let keys: std::collections::BTreeSet<_> = (0..10_000).map(|number| key(&generator.record(number))).collect();
    assert_eq!(keys.len(), 10_000);
}

#[test]
fn keys_are_ordered_as_their_bytes_are() {
    let records: Vec<_> = (0..100).map(|number| Generator::new(1).record(number)).collect();
    for pair in records.windows(2) {
        assert_eq!(key(&pair[0]).cmp(&key(&pair[1])), pair[0][..10].cmp(&pair[1][..10]));
    }
    assert!(in_order(&records).is_sorted_by_key(|record| &record[..10]));
}

#[test]
fn splits_cover_the_key_space_and_rise() {
    for partitions in [1, 2, 3, 7, 1000, 1 << 19] {
        let splits = Splits::new(partitions);
        assert_eq!(splits.range(0).start, 0);
        assert_eq!(splits.range(partitions - 1).end, 1 << 64);
        assert_eq!((splits.partition_of(0), splits.partition_of(u64::MAX)), (0, partitions - 1));
        for partition in (0..partitions).step_by((partitions as usize / 100).max(1)) {
            let range = splits.range(partition);
            assert!(range.start < range.end);
            assert_eq!(splits.partition_of(range.start as u64), partition);
            assert_eq!(splits.partition_of((range.end - 1) as u64), partition);
            assert!(partition + 1 == partitions || splits.range(partition + 1).start == range.end);
        }
    }
}

#[test]
fn maps_share_all_records_and_partitions_are_even() {
    let input = options(10_001 * RECORD_BYTES as u64 + 99).input().unwrap();
    let numbers: Vec<u64> = (0..input.maps).flat_map(|map| input.numbers(map)).collect();
    assert!(numbers.into_iter().eq(0..10_001));
    let (partitions, generated) = sorted(10_001);
    assert_eq!(generated.records, 10_001);
    assert!(partitions.iter().all(|records| (1200..1700).contains(&records.len())));
}

#[test]
fn what_is_whole_and_sorted_is_valid() {
    let (partitions, generated) = sorted(5000);
    assert!(validated(&partitions, generated).is_ok());
    assert!(validated(&vec![Vec::new(); PARTITIONS as usize], Sum::default()).is_ok());
}

#[test]
fn a_swapped_pair_is_found() {
    let (mut partitions, generated) = sorted(1000);
    partitions[3].swap(10, 11);
    assert!(matches!(validated(&partitions, generated), Err(TerasortError::Order { partition: 3 })));
}

#[test]
fn a_record_in_the_wrong_partition_is_found() {
    let (mut partitions, generated) = sorted(1000);
    let stray = partitions[2].pop().unwrap();
    partitions[3].insert(0, stray);
    assert!(matches!(validated(&partitions, generated), Err(TerasortError::Range { partition: 3 })));
    let (mut partitions, generated) = sorted(1000);
    let stray = partitions[4].remove(0);
    partitions[3].push(stray);
    assert!(matches!(validated(&partitions, generated), Err(TerasortError::Range { partition: 3 })));
}

#[test]
fn a_missing_record_and_a_repeated_one_are_found() {
    let (mut partitions, generated) = sorted(1000);
    let taken = partitions[6].remove(5);
    let found = validated(&partitions, generated);
    assert!(matches!(found, Err(TerasortError::Count { expected: 1000, found: 999 })), "{found:?}");
    partitions[6].splice(5..5, [taken, taken]);
    assert!(matches!(validated(&partitions, generated), Err(TerasortError::Count { expected: 1000, found: 1001 })));
    // One for another.
    partitions[6].remove(7);
    assert!(matches!(validated(&partitions, generated), Err(TerasortError::Checksum { .. })));
}

#[test]
fn any_changed_byte_of_a_value_is_found() {
    let (mut partitions, generated) = sorted(100);
    for at in 10..RECORD_BYTES {
        partitions[0][1][at] ^= 1;
        assert!(matches!(validated(&partitions, generated), Err(TerasortError::Checksum { .. })), "byte {at}");
        partitions[0][1][at] ^= 1;
    }
    assert!(validated(&partitions, generated).is_ok());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for wrong in [
        Options { maps: 0, ..options(1000) },
        Options { partitions: 0, ..options(1000) },
        Options { slots: 0, ..options(1000) },
        options(99),
    ] {
        assert!(matches!(wrong.input(), Err(TerasortError::Options { .. })), "{wrong:?}");
    }
}
