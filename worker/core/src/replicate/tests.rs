use std::collections::VecDeque;

use mallorn_proto::id::{Attempt, BatchId, MapId};
use proptest::prelude::*;

use super::*;
use crate::push::{BatchEntry, SplitLimits};

/// The soft and the hard limit are reached in some runs.
const LIMITS: SplitLimits = SplitLimits { soft_bytes: 40, hard_bytes: 90 };

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u32),
    /// The next forwarded batch reaches the replica.
    Deliver,
    /// The next answer of the replica reaches the primary.
    Answer,
    /// The connection breaks: what is on its way is lost, and the primary ends the location.
    Lose,
    /// The same, but what is on its way to the replica still arrives later.
    GiveUp,
    FreezePrimary,
    FreezeReplica,
    /// Somebody else's batch, or one that comes twice.
    Stray(u64, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u32..6).prop_map(Step::Push),
        8 => Just(Step::Deliver),
        8 => Just(Step::Answer),
        1 => Just(Step::Lose),
        1 => Just(Step::GiveUp),
        1 => Just(Step::FreezePrimary),
        1 => Just(Step::FreezeReplica),
        2 => (0u64..60, 1u32..6).prop_map(|(offset, bytes)| Step::Stray(offset, bytes)),
    ]
}

fn entry(batch: u32, stored_bytes: u32) -> BatchEntry {
    BatchEntry { map: MapId(1), attempt: Attempt(0), batch: BatchId(batch), stored_bytes }
}

/// Two copies and what is on its way between them.
struct Pair {
    primary: Log,
    replica: Log,
    forwarded: VecDeque<(u64, BatchEntry)>,
    /// Where the batch ends, and whether the replica took it.
    answers: VecDeque<(u64, bool)>,
    /// The end of the last batch whose push was answered as stored.
    acked: u64,
    /// Batches that were appended at the primary and not answered yet, by where they end.
    waiting: VecDeque<u64>,
    pushed: u32,
}

impl Pair {
    fn new() -> Self {
        Self {
            primary: Log::of(Copy::Primary, LIMITS),
            replica: Log::of(Copy::Replica, LIMITS),
            forwarded: VecDeque::new(),
            answers: VecDeque::new(),
            acked: 0,
            waiting: VecDeque::new(),
            pushed: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(bytes) => {
                if let Admission::Append { offset } = self.primary.admit() {
                    let entry = entry(self.pushed, bytes);
                    self.pushed += 1;
                    self.primary.append(entry);
                    self.forwarded.push_back((offset, entry));
                    self.waiting.push_back(self.primary.length());
                }
            }
            Step::Deliver => {
                let Some((offset, entry)) = self.forwarded.pop_front() else { return };
                let took = self.offer(offset, entry);
                self.answers.push_back((offset + u64::from(entry.stored_bytes), took));
            }
            Step::Answer => match self.answers.pop_front() {
                Some((end, true)) if self.primary.confirm(end) => {
                    while self.waiting.front().is_some_and(|waiting| *waiting <= end) {
                        self.acked = self.waiting.pop_front().unwrap_or_default();
                    }
                }
                Some((_, true)) | None => {}
                Some((_, false)) => self.end(),
            },
            Step::Lose => {
                self.forwarded.clear();
                self.answers.clear();
                self.end();
            }
            Step::GiveUp | Step::FreezePrimary => self.end(),
            Step::FreezeReplica => assert_eq!(self.replica.freeze(), Some(self.replica.length())),
            Step::Stray(offset, bytes) => {
                assert_eq!(self.replica.admit(), Admission::HardSplit, "nobody pushes to a replica");
                assert_eq!(self.primary.admit_at(offset), Admission::HardSplit, "nobody forwards to a primary");
                if offset != self.replica.length() {
                    assert!(!self.offer(offset, entry(1000, bytes)));
                }
            }
        }
    }

    fn offer(&mut self, offset: u64, entry: BatchEntry) -> bool {
        let admission = self.replica.admit_at(offset);
        if admission == (Admission::Append { offset }) {
            self.replica.append(entry);
        }
        admission != Admission::HardSplit
    }

    /// Freezes the primary, which answers everything that waits.
    fn end(&mut self) {
        let answer = self.primary.freeze();
        assert!(answer >= Some(self.acked));
        self.waiting.clear();
    }

    fn check(&self) {
        for copy in [&self.primary, &self.replica] {
            let answer = copy.clone().freeze().unwrap();
            assert!(self.acked <= answer, "{} acked, frozen at {answer}", self.acked);
            assert!(answer <= copy.length());
        }
        let fewer = self.primary.batches.len().min(self.replica.batches.len());
        assert!(
            self.primary.batches.iter().take(fewer).eq(self.replica.batches.iter().take(fewer)),
            "copies are equal"
        );
        assert!(self.replica.length() <= self.primary.length());
    }
}

proptest! {
    #[test]
    fn every_acked_byte_lies_below_what_either_copy_freezes_at(steps in prop::collection::vec(step(), 0..120)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
            pair.check();
        }
    }

    #[test]
    fn frames_are_filled_and_bounded(lengths in prop::collection::vec(28u32..100_000, 1..50), limit in 1_000u32..200_000) {
        let mut rest = &lengths[..];
        while !rest.is_empty() {
            let count = gather(rest.iter().copied(), limit);
            prop_assert!(count >= 1);
            let body = |count: usize| rest[..count].iter().map(|length| *length as usize).sum::<usize>();
            let fits = |count: usize| body(count) + count * PART_BYTES <= FRAME_BYTES && body(count) <= limit as usize;
            prop_assert!(count == 1 || fits(count));
            prop_assert!(count == rest.len() || !fits(count + 1));
            rest = &rest[count..];
        }
    }
}

#[test]
fn a_location_that_ended_takes_no_confirmation() {
    let mut log = Log::of(Copy::Primary, SplitLimits::NONE);
    log.append(entry(0, 10));
    log.append(entry(1, 10));
    assert!(log.confirm(10));
    assert_eq!(log.freeze(), Some(10));
    assert!(!log.confirm(20));
    assert_eq!((log.freeze(), log.length()), (Some(10), 20));
}

#[test]
fn a_link_is_late_before_its_batches_unless_it_makes_progress() {
    let second = Duration::from_secs;
    assert_eq!(late_at(second(5), second(5)), (second(7), Late::Link));
    assert_eq!(late_at(second(13), second(5)), (second(15), Late::Link));
    assert_eq!(late_at(second(14), second(5)), (second(15), Late::Batch));
}

#[test]
fn a_frame_names_at_most_so_many_batches() {
    assert_eq!(gather(std::iter::repeat_n(28, 9000), u32::MAX), REPLICATED_BATCHES_MAX);
    assert_eq!(gather(std::iter::once(5_000_000), 100), 1);
    assert_eq!(gather(std::iter::empty(), 100), 0);
}
