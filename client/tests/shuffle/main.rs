//! Whole shuffles through a master and workers in this process.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod attempts;
mod cluster;
mod commits;
mod copies;
mod crowd;
mod exactly_once;
mod failover;
mod fakes;
mod losses;
mod nonsense;
mod refusals;
mod restarts;
mod scripted;
mod splits;

use std::collections::BTreeMap;

use mallorn_client::{Batch, MapAttempt, ReadError, ReadRequest, Reader, ShuffleClient};

/// Units that were read: how often each.
pub(crate) type Units = BTreeMap<Vec<u8>, u32>;

/// The units of one map: `count` of them, spread over the partitions, of lengths from 8 to about 200 bytes.
pub(crate) fn units(map: u32, count: u32, partitions: u32) -> Vec<(u32, Vec<u8>)> {
    let unit = |number: u32| {
        let text = format!("{map:04}-{number:06}|");
        let repeat = 1 + (number as usize * 7 + map as usize) % 17;
        ((number * 31 + map) % partitions, text.repeat(repeat).into_bytes())
    };
    (0..count).map(unit).collect()
}

pub(crate) async fn push_all(attempt: &mut MapAttempt, units: &[(u32, Vec<u8>)]) {
    for (partition, unit) in units {
        // Each unit begins with its length, so that a reader can cut batches into units again.
        let framed = [&(unit.len() as u32).to_le_bytes()[..], unit].concat();
        attempt.push(*partition, &framed).await.unwrap();
    }
}

pub(crate) async fn run_map(client: &ShuffleClient, shuffle: u32, map: u32, attempt: u32, units: &[(u32, Vec<u8>)]) {
    let mut attempt = client.start_attempt(shuffle, map, attempt).await.unwrap();
    push_all(&mut attempt, units).await;
    assert!(attempt.mapper_end().await.unwrap().won);
}

pub(crate) async fn read_all(client: &ShuffleClient, request: ReadRequest) -> Result<Units, ReadError> {
    let mut reader = client.read(request).await?;
    drain(&mut reader).await
}

pub(crate) async fn drain(reader: &mut Reader) -> Result<Units, ReadError> {
    let mut read = Units::new();
    while let Some(batch) = reader.next().await? {
        count(&mut read, &batch);
    }
    Ok(read)
}

/// Counts the units of a batch.
pub(crate) fn count(read: &mut Units, batch: &Batch) {
    let mut rest = &batch.data[..];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (unit, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        *read.entry(unit.to_vec()).or_default() += 1;
        rest = tail;
    }
    assert!(rest.is_empty(), "a batch holds whole units");
}

pub(crate) fn expected<'a>(units: impl IntoIterator<Item = &'a (u32, Vec<u8>)>) -> Units {
    let mut expected = Units::new();
    units.into_iter().for_each(|(_, unit)| *expected.entry(unit.clone()).or_default() += 1);
    expected
}
