//! Whether the shuffle is right: the rows read are those pushed, and the answer is the one found without a shuffle.

use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::task;
use tokio::task::JoinSet;

use super::driver::{Shuffled, ShuffledTable, slots};
use super::error::DemoError;
use super::progress::Progress;
use super::workload::{Answer, Partial, Workload};

/// What was verified.
#[derive(Debug)]
pub(super) struct Verified {
    /// The answer.
    pub(super) answer: Answer,
    /// How many rows it is computed from.
    pub(super) rows: u64,
    /// How long that took.
    pub(super) took: Duration,
}

/// Compares rows and answer. The direct computation is done here and now, in parallel parts.
pub(super) async fn verify<W: Workload>(workload: &Arc<W>, shuffled: &Shuffled<W>) -> Result<Verified, DemoError> {
    rows(&shuffled.tables)?;
    let stage = Progress::new().stage("check", "parts", u64::from(workload.direct_parts()));
    let mut truth = W::Partial::default();
    let mut parts = JoinSet::new();
    let (mut waiting, slots) = (0..workload.direct_parts(), slots());
    loop {
        while parts.len() < slots
            && let Some(part) = waiting.next()
        {
            let workload = Arc::clone(workload);
            parts.spawn(task::blocking(move || workload.direct(part)));
        }
        let Some(part) = parts.join_next().await else { break };
        truth.merge(part??.map_err(DemoError::Direct)?);
        stage.counters.add(1, 0);
    }
    let answer = workload.answer(&shuffled.partial);
    same("the direct computation", &workload.answer(&truth), &answer)?;
    if let Some(published) = workload.published() {
        same("the published answer", &published, &answer)?;
    }
    let rows = shuffled.tables.iter().map(|table| table.accepted.rows).sum();
    if rows != answer.rows() {
        return Err(DemoError::NotVerified(format!("{rows} rows were read, the answer has {}", answer.rows())));
    }
    Ok(Verified { answer, rows, took: stage.finish() })
}

/// Every row pushed was read once, and no other.
fn rows(tables: &[ShuffledTable]) -> Result<(), DemoError> {
    for table in tables {
        if let Some(difference) = table.yielded.difference(&table.accepted) {
            return Err(DemoError::NotVerified(format!("{}: {difference}", table.name)));
        }
    }
    Ok(())
}

fn same(what: &str, right: &Answer, answer: &Answer) -> Result<(), DemoError> {
    match right.difference(answer) {
        None => Ok(()),
        Some(difference) => Err(DemoError::NotVerified(format!("the answer differs from {what}:\n{difference}"))),
    }
}
