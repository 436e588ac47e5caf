//! Reads a shuffle's partitions, in ranges that are drawn, all at once.

use std::ops::Range;
use std::sync::Arc;

use mallorn_client::{Generation, Token};
use mallorn_runtime::{clock, task};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use super::{AGAIN, Job, Shuffle};
use crate::engine::{ReadOutcome, ReadTask};

/// How the reads of a round came out, all of them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadsEnd {
    /// Every partition was read whole.
    Whole,
    /// Something is lost.
    Lost { generation: Generation, incomplete: Vec<Token> },
    /// Another generation has started.
    Revoked,
}

/// Reads of a round, under way.
pub(super) struct Reads {
    outcomes: mpsc::Receiver<ReadOutcome>,
}

/// Starts reading everything.
pub(super) fn start(shuffle: &Shuffle, tokens: Option<&[Token]>, random: &mut StdRng) -> Reads {
    let shape = &shuffle.job.world.shape;
    let mut asked: Vec<(Range<u32>, Option<Range<u32>>)> = Vec::new();
    let mut first = 0;
    while first < shape.partitions {
        let end = random.random_range(first + 1..=shape.partitions);
        asked.push((first..end, None));
        first = end;
    }
    // A few read some maps only, over whatever partitions.
    for _ in 0..random.random_range(0..3) {
        let (partitions, maps) = (drawn_range(shape.partitions, random), drawn_range(shape.maps, random));
        asked.push((partitions, Some(maps)));
    }
    let (sender, outcomes) = mpsc::channel(asked.len());
    for (partitions, maps) in asked {
        let (tokens, restarts) = (tokens.map(<[Token]>::to_vec), random.random_bool(0.2));
        let task = ReadTask { shuffle: shuffle.number, partitions, maps, tokens, number: 0, restarts };
        let (job, sender) = (Arc::clone(&shuffle.job), sender.clone());
        task::spawn(async move {
            let outcome = until_decided(&job, task).await;
            let _ = sender.send(outcome).await;
        });
    }
    Reads { outcomes }
}

fn drawn_range(count: u32, random: &mut StdRng) -> Range<u32> {
    let first = random.random_range(0..count);
    first..random.random_range(first + 1..=count)
}

/// A read whose process died, or that could not reach anybody, is made again.
async fn until_decided(job: &Job, task: ReadTask) -> ReadOutcome {
    loop {
        match job.run_read(task.clone()).await {
            Some(ReadOutcome::Failed) | None => job.world.board.count("reads tried again"),
            Some(outcome) => return outcome,
        }
        clock::sleep(AGAIN).await;
    }
}

impl Reads {
    /// Waits for all of them. Whatever was read of another generation than this does not fit the rest.
    pub(super) async fn finish(mut self, of: Generation) -> ReadsEnd {
        let mut end = ReadsEnd::Whole;
        while let Some(outcome) = self.outcomes.recv().await {
            end = match (outcome, end) {
                (ReadOutcome::Lost { generation, mut incomplete }, end) => {
                    if let ReadsEnd::Lost { incomplete: others, .. } = end {
                        incomplete.extend(others);
                    }
                    ReadsEnd::Lost { generation, incomplete }
                }
                (ReadOutcome::Revoked, ReadsEnd::Whole) => ReadsEnd::Revoked,
                (ReadOutcome::Whole { generation }, ReadsEnd::Whole) if generation != of => ReadsEnd::Revoked,
                (ReadOutcome::Revoked | ReadOutcome::Whole { .. } | ReadOutcome::Failed, end) => end,
            };
        }
        end
    }
}
