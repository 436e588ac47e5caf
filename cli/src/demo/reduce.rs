//! A reduce task: reads one partition of every table and computes its share of the answer.
//!
//! Owns one try at it; a loss ends the try, and nothing of what was read by then counts. Does not own what is done about
//! a loss (`driver`).

use std::sync::Arc;

use mallorn_client::{Generation, ReadError, ReadRequest, ShuffleClient, Token};

use super::error::ReduceTaskError;
use super::progress::Counters;
use super::workload::{Reducer, RowSum, Workload};

/// One try at a reduce task.
pub(super) struct ReduceTask<W: Workload> {
    pub(super) workload: Arc<W>,
    pub(super) partition: u32,
    pub(super) sources: Arc<[Source<W>]>,
    pub(super) client: ShuffleClient,
    pub(super) counters: Arc<Counters>,
}

/// Where a table is read from.
pub(super) struct Source<W: Workload> {
    pub(super) table: W::Table,
    pub(super) shuffle: u32,
    /// The attempts to read, if the reader names them.
    pub(super) tokens: Option<Vec<Token>>,
}

/// How a try ended.
pub(super) enum ReduceEnd<W: Workload> {
    /// Everything was read.
    Done(Reduced<W>),
    /// Some of a table is lost.
    Lost(Loss),
    /// What was being read has been replaced: read again.
    Revoked,
}

/// The result of a reduce task.
pub(super) struct Reduced<W: Workload> {
    /// Its share of the answer.
    pub(super) partial: W::Partial,
    /// The rows that it read, by table in the order of [`Workload::TABLES`].
    pub(super) accepted: Vec<RowSum>,
}

/// A loss that a reduce task met.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    /// The table's place in [`Workload::TABLES`].
    pub(super) table: usize,
    /// The generation that was read.
    pub(super) generation: Generation,
    /// Of the attempts named, those that are no longer complete.
    pub(super) incomplete: Vec<Token>,
    /// The loss in words.
    pub(super) text: String,
}

impl<W: Workload> ReduceTask<W> {
    pub(super) async fn run(self) -> Result<ReduceEnd<W>, ReduceTaskError> {
        let mut reducer = self.workload.reducer();
        for (table, source) in self.sources.iter().enumerate() {
            match self.read(source, &mut reducer).await {
                Ok(()) => {}
                Err(ReduceTaskError::Read(ReadError::Revoked { .. })) => return Ok(ReduceEnd::Revoked),
                Err(ReduceTaskError::Read(error)) => match loss(table, error) {
                    Ok(loss) => return Ok(ReduceEnd::Lost(loss)),
                    Err(error) => return Err(error.into()),
                },
                Err(error @ ReduceTaskError::Reduce(_)) => return Err(error),
            }
        }
        let accepted = self.sources.iter().map(|source| reducer.accepted(source.table)).collect();
        Ok(ReduceEnd::Done(Reduced { partial: reducer.finish()?, accepted }))
    }

    async fn read(&self, source: &Source<W>, reducer: &mut W::Reducer) -> Result<(), ReduceTaskError> {
        let mut request = ReadRequest::new(source.shuffle, self.partition..self.partition + 1);
        if let Some(tokens) = &source.tokens {
            request = request.tokens(tokens.clone());
        }
        let mut reader = self.client.read(request).await?;
        let mut before = reducer.accepted(source.table);
        while let Some(batch) = reader.next().await? {
            reducer.accept(source.table, &batch.data)?;
            let after = reducer.accepted(source.table);
            self.counters.add(after.rows - before.rows, after.bytes - before.bytes);
            before = after;
        }
        Ok(())
    }
}

/// The loss that an error tells of, or the error.
fn loss(table: usize, error: ReadError) -> Result<Loss, ReadError> {
    let text = error.to_string();
    match error {
        ReadError::PartitionLost { generation, incomplete, .. } => Ok(Loss { table, generation, incomplete, text }),
        error => Err(error),
    }
}
