use mallorn_proto::id::{Attempt, BatchId, MapId};

use super::*;
use crate::push::{Admission, BatchEntry, SplitLimits};
use crate::replicate::Copy;
use crate::spill::extent::ExtentPlace;

const SEAL: SealId = SealId(5);

fn holding(lengths: &[u32]) -> Log {
    let mut log = Log::of(Copy::HandedOver, SplitLimits::NONE);
    for (batch, stored_bytes) in (0..).zip(lengths) {
        let (map, attempt, batch) = (MapId(0), Attempt(0), BatchId(batch));
        log.append(BatchEntry { map, attempt, batch, stored_bytes: *stored_bytes });
    }
    log
}

/// Writes everything that is in memory only; returns the lists of the extents.
fn write(log: &mut Log) -> Vec<Vec<u8>> {
    let cuts = log.cut(u64::MAX, true);
    let extents: Vec<_> = cuts.iter().map(|cut| cut.written_at(ExtentPlace::default(), 0, 0)).collect();
    log.wrote(&extents);
    cuts.into_iter().map(|cut| cut.list).collect()
}

/// Sends everything as a worker does; memory forgets when it is in the middle. Returns the lengths of the batches.
fn send(log: &mut Log, lists: &[Vec<u8>], forget_at: u64) -> Option<Vec<u32>> {
    let (mut at, mut sent) = (Cursor::default(), Vec::new());
    loop {
        match log.next_to_send(at) {
            Next::Memory(batches) => {
                assert_eq!(batches.range.start, at.offset);
                sent.extend(&batches.lengths);
                at = batches.next;
            }
            Next::Disk(extent) => {
                let index = log.extents().iter().position(|known| *known == extent)?;
                let lengths = lengths_in(&extent, &lists[index], at.offset)?;
                at = Cursor::at(at.offset + lengths.iter().map(|length| u64::from(*length)).sum::<u64>());
                assert_eq!(at.offset, extent.end());
                sent.extend(lengths);
            }
            Next::End => return Some(sent),
            Next::Gone => return None,
        }
        if at.offset >= forget_at {
            log.forget_clean();
        }
    }
}

#[test]
fn every_batch_is_sent_once_from_wherever_it_lies_up_to_the_sealed_length() {
    let lengths: Vec<u32> = (0..400).map(|batch| 1000 + 37 * (batch % 100)).chain([3_000_000, 5]).collect();
    let cut: u64 = lengths[..300].iter().map(|length| u64::from(*length)).sum();
    for forget_at in [u64::MAX, 1, 600_000, 1_200_000] {
        let mut log = holding(&lengths);
        let lists = write(&mut log);
        log.life = Life::Frozen { acked: log.length() };
        assert_eq!(send(&mut log.clone(), &lists, forget_at).as_ref(), Some(&lengths));
        log.seal(SEAL, cut);
        assert_eq!(send(&mut log, &lists, forget_at).unwrap(), lengths[..300]);
    }
    let mut log = holding(&lengths);
    assert_eq!(send(&mut log, &[], u64::MAX), Some(lengths), "from memory alone");
    log.drop_all();
    assert_eq!(log.next_to_send(Cursor::default()), Next::Gone);
}

#[test]
fn a_worker_takes_over_exactly_what_it_was_told_and_repeats_its_answer() {
    let frozen = Told { acked: 10, seal: None, length: 30 };
    let sealed = Told { acked: 20, seal: Some(SEAL), length: 20 };
    assert!(!holding(&[10, 10]).settle(&frozen), "less than was sent");
    assert!(!holding(&[10, 10, 10, 10]).settle(&frozen));
    assert!(!holding(&[10]).settle(&sealed));
    let mut log = holding(&[10, 10, 10]);
    assert!(log.settle(&frozen) && log.settle(&frozen));
    assert_eq!(log.life(), Life::Frozen { acked: 10 }, "what was acked is kept apart from what is held");
    assert_eq!(log.length(), 30);
    log.seal(SEAL, 20);
    assert!(log.settle(&frozen), "it was taken over, and sealed since");
    let mut log = holding(&[10, 10, 10]);
    assert!(log.settle(&sealed) && log.settle(&sealed));
    assert_eq!(log.life(), Life::Sealed { seal: SEAL, length: 20 }, "sealed while it was sent");
    assert!(!log.settle(&Told { seal: Some(SealId(6)), ..sealed }));
    log.drop_all();
    assert!(!log.settle(&sealed));
}

#[test]
fn what_is_not_all_here_yet_is_unknown_to_a_commit_and_arrives_all_the_same() {
    let mut log = holding(&[10, 10]);
    assert!(log.is_arriving());
    assert_eq!((log.freeze(), log.seal(SEAL, 10), log.seal(SEAL, 30)), (None, Sealing::Unknown, Sealing::Unknown));
    assert_eq!(log.admit_at(20), Admission::Append { offset: 20 });
    assert!(log.settle(&Told { acked: 10, seal: None, length: 20 }) && !log.is_arriving());
    assert_eq!((log.freeze(), log.seal(SEAL, 10)), (Some(10), Sealing::Sealed { batches: 1 }));
}

#[test]
fn a_location_is_moved_from_the_moment_it_is_told_until_it_is_known_not_to_be() {
    let (mut leaving, mut log) = (Leaving::default(), holding(&[10, 10]));
    assert!(!leaving.begin(log.life()), "an open location is not moved");
    log.life = Life::Frozen { acked: 10 };
    assert!(leaving.begin(log.life()) && !leaving.begin(log.life()) && !leaving.is_moved());
    assert_eq!(leaving.tell(&log), Some(Told { acked: 10, seal: None, length: 20 }));
    assert_eq!((leaving.tell(&log), leaving.is_moved()), (None, true));
    leaving.hold();
    assert!(!leaving.is_moved() && !leaving.taken(), "an answer that comes too late deletes nothing");
    assert!(leaving.begin(log.life()));
    log.seal(SEAL, 10);
    assert_eq!(leaving.tell(&log), Some(Told { acked: 10, seal: Some(SEAL), length: 10 }));
    assert!(leaving.taken() && !leaving.taken());
    leaving.hold();
    assert_eq!(leaving.stage(), Stage::Deleted);
    for worker in [3, 1, 2, 1] {
        leaving.avoid(WorkerId(worker));
    }
    assert_eq!(leaving.holders(), [3, 1, 2].map(WorkerId));
}

#[test]
fn groups_are_of_one_kind_and_bounded() {
    let kinds = (0..2 * GROUP_LOCATIONS_MAX + 2).map(|index| (index % 2, 1));
    let large = [(7, GROUP_BYTES_MAX), (7, 1), (7, 2 * GROUP_BYTES_MAX)];
    let groups = groups(kinds.chain(large));
    let sizes: Vec<_> = groups.iter().map(|(kind, group)| (*kind, group.len())).collect();
    let full = GROUP_LOCATIONS_MAX;
    assert_eq!(sizes, [(0, full), (0, 1), (1, full), (1, 1), (7, 1), (7, 1), (7, 1)]);
    assert_eq!(groups[0].1[..3], [0, 2, 4]);
}
