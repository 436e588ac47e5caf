//! One reader: reads a range of partitions to its end, or learns why it cannot, and shows the oracle what it got.

use std::ops::Range;

use mallorn_client::{Batch, Generation, ReadError, ReadRequest, Reader, Reason, ShuffleClient, Token};
use mallorn_oracle::{Asked, Delivered, Ended, Wanted, read_units, write_unit};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::{Dropper, Spoil, World, pause, run_for};
use crate::setup::random;

/// A range of partitions to read.
#[derive(Clone, Debug)]
pub(crate) struct ReadTask {
    pub(crate) shuffle: u32,
    pub(crate) partitions: Range<u32>,
    /// Only these maps.
    pub(crate) maps: Option<Range<u32>>,
    /// By tokens; else the winners.
    pub(crate) tokens: Option<Vec<Token>>,
    /// Different in every task of a run.
    pub(crate) number: u32,
    /// Drops the reader half-way, once, and begins anew.
    pub(crate) restarts: bool,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// Everything was read.
    Whole { generation: Generation },
    /// Some of it is lost.
    Lost { generation: Generation, incomplete: Vec<Token> },
    /// Another generation has started, or the shuffle was released: the driver did not wait for this read.
    Revoked,
    /// It may be tried again.
    Failed,
}

pub(super) async fn run(world: &World, client: &ShuffleClient, mut task: ReadTask) -> ReadOutcome {
    let doing =
        world.board.begin_doing(format_args!("read {} of {}, {:?}", task.number, task.shuffle, task.partitions));
    let mut random = random(world.seed, "read", &[task.shuffle, task.number]);
    loop {
        let mut request = ReadRequest::new(task.shuffle, task.partitions.clone());
        request = task.maps.clone().map_or(request.clone(), |maps| request.maps(maps));
        request = task.tokens.clone().map_or(request.clone(), |tokens| request.tokens(tokens));
        match client.read(request).await {
            Err(error) => return failed(world, &task, &error),
            Ok(reader) => {
                doing.now("reads");
                if let Some(outcome) = run_opened(world, &mut task, reader, &mut random).await {
                    return outcome;
                }
            }
        }
    }
}

/// `None` when the reader was dropped half-way.
async fn run_opened(
    world: &World,
    task: &mut ReadTask,
    mut reader: Reader,
    random: &mut StdRng,
) -> Option<ReadOutcome> {
    let generation = reader.generation();
    let wanted = match &task.tokens {
        Some(tokens) => Wanted::Tokens(tokens.iter().map(|token| token.0).collect()),
        None => Wanted::Winners { maps: world.shape.maps },
    };
    let asked = Asked {
        shuffle: task.shuffle,
        generation: generation.0,
        partitions: task.partitions.clone(),
        maps: task.maps.clone(),
        wanted,
    };
    let mut dropper = Dropper::new(&world.shape);
    let mut delivered = Vec::new();
    let stops_after = std::mem::take(&mut task.restarts).then(|| random.random_range(0..10));
    let result = loop {
        let next = run_for(dropper.draw(random), reader.next()).await;
        match next {
            None => {}
            Some(Ok(Some(batch))) => delivered.push(taken(batch)),
            Some(Ok(None)) => break Ok(()),
            Some(Err(error)) => break Err(error),
        }
        if stops_after.is_some_and(|after| delivered.len() > after) {
            world.board.count("readers dropped half-way");
            return None;
        }
        pause(&world.shape, random).await;
    };
    if let Some(how) = world.spoil {
        spoil(world, how, &asked, &mut delivered);
    }
    let ended = if result.is_ok() { Ended::Whole } else { Ended::Failed };
    world.oracle.read(&asked, &delivered, ended);
    Some(match result {
        Ok(()) => ReadOutcome::Whole { generation },
        Err(error) => failed(world, task, &error),
    })
}

fn taken(batch: Batch) -> Delivered {
    Delivered { partition: batch.partition.0, map: batch.map.0, data: batch.data.to_vec() }
}

fn failed(world: &World, task: &ReadTask, error: &ReadError) -> ReadOutcome {
    world.trace.say(format_args!("read {} of s{} p{:?}: {error}", task.number, task.shuffle, task.partitions));
    match error {
        ReadError::PartitionLost { generation, partition, incomplete, why, .. } => {
            world.board.count("partitions lost");
            if let Some(rule) = broken_rule(world, task, why) {
                world.oracle.violated(format_args!("{task:?}: {rule}: {why}"));
            }
            let strange = incomplete.iter().any(|token| task.tokens.iter().flatten().all(|asked| asked != token));
            let nothing_to_do = task.tokens.is_some() && incomplete.is_empty();
            if strange || nothing_to_do || !task.partitions.contains(&partition.0) {
                world.oracle.violated(format_args!("{task:?} lost partition {partition}, incomplete {incomplete:?}"));
            }
            ReadOutcome::Lost { generation: *generation, incomplete: incomplete.clone() }
        }
        ReadError::Revoked { .. } => ReadOutcome::Revoked,
        ReadError::TimedOut { .. } | ReadError::NoRoom => ReadOutcome::Failed,
        ReadError::Lifecycle(error) if error.reason().is_none() => ReadOutcome::Failed,
        ReadError::Lifecycle(error)
            if error.reason() == Some(Reason::Released) && world.board.is_released(task.shuffle) =>
        {
            ReadOutcome::Revoked
        }
        ReadError::Lifecycle(_) | ReadError::Decompress { .. } => {
            world.oracle.violated(format_args!("{task:?}: {error}"));
            ReadOutcome::Failed
        }
    }
}

/// What a reader finds out by its own sums and checksums, nobody else has noticed: its last line of defence held, and
/// the one before it did not.
fn broken_rule(world: &World, task: &ReadTask, why: &str) -> Option<&'static str> {
    let is_short = why.contains("map(s) are missing") || why.contains("the winners pushed");
    if task.tokens.is_none() && is_short {
        return Some("the plan was whole, and what was read is not");
    }
    let is_broken = why.contains("its bytes are broken") || why.contains("bad_checksum");
    (is_broken && !world.disks_spoil).then_some("a worker serves bytes that are not what was pushed")
}

/// Makes what was delivered wrong, where it can be made so.
fn spoil(world: &World, how: Spoil, asked: &Asked, delivered: &mut Vec<Delivered>) {
    let Some(at) = delivered.iter().position(|batch| !batch.data.is_empty()) else { return };
    match how {
        Spoil::Lose => {
            let unit = u32::from_le_bytes(delivered[at].data[..4].try_into().unwrap_or_default());
            delivered[at].data.drain(..unit as usize);
        }
        Spoil::Repeat => delivered.push(delivered[at].clone()),
        Spoil::Cut => drop(delivered[at].data.pop()),
        Spoil::Loser => {
            let Some(unit) = world.oracle.unit_of_a_loser(asked) else { return };
            let mut data = Vec::new();
            write_unit(unit.of, unit.partition, unit.sequence, 100, &mut data);
            debug_assert!(read_units(&data).is_ok_and(|units| units.len() == 1), "what was written can be read");
            delivered.push(Delivered { partition: unit.partition, map: unit.of.map, data });
        }
        Spoil::Lie | Spoil::Lone => return,
    }
    world.board.count("reads spoilt");
}
