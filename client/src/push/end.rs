//! The end of an attempt: the last batches, the wait for every ack, the report.

use std::sync::Arc;

use mallorn_proto::id::{Partition, Token};
use mallorn_proto::v1;

use super::AttemptShared;
use crate::error::PushError;

/// Sums in one page of the report.
const PAGE_SUMS: usize = 65_536;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapperEnd {
    /// Names the attempt for reads by tokens.
    pub token: Token,
    /// Whether its data counts. A loser is not an error: another attempt of the map was first.
    pub won: bool,
    /// Bytes pushed to each partition it touched, before compression.
    pub bytes: Vec<(Partition, u64)>,
}

pub(super) async fn run(shared: &Arc<AttemptShared>) -> Result<MapperEnd, PushError> {
    {
        let mut state = shared.state.lock();
        if let Some(error) = &state.over {
            return Err(error.clone());
        }
        state.ended = true;
        state.buffers.cut_all();
    }
    shared.flush(0);
    acked(shared).await?;
    report(shared).await
}

/// Waits until no request is in flight.
async fn acked(shared: &AttemptShared) -> Result<(), PushError> {
    let mut in_flight = shared.in_flight.subscribe();
    loop {
        let count = *in_flight.borrow_and_update();
        if let Some(error) = shared.over() {
            return Err(error);
        }
        if count == 0 {
            return Ok(());
        }
        // The sender lives in `shared`, so this cannot fail.
        let _ = in_flight.changed().await;
    }
}

async fn report(shared: &AttemptShared) -> Result<MapperEnd, PushError> {
    let sums = shared.state.lock().buffers.sums();
    let wire = |(partition, sum): &(Partition, mallorn_client_core::push::BatchSum)| v1::PartitionSum {
        partition: partition.0,
        batches: sum.batches,
        bytes: sum.bytes,
        hash: sum.hash,
    };
    let mut pages: Vec<Vec<_>> = sums.chunks(PAGE_SUMS).map(|page| page.iter().map(wire).collect()).collect();
    if pages.is_empty() {
        pages.push(Vec::new());
    }
    let count = pages.len();
    let mut reply = v1::MapperEndReply::default();
    for (page, sums) in pages.into_iter().enumerate() {
        let request = v1::MapperEndRequest {
            instance: shared.client.application.instance.0,
            attempt: Some(shared.id),
            page: page as u32,
            last_page: page + 1 == count,
            sums,
        };
        let call = shared.client.link.call(|mut door| {
            let request = request.clone();
            async move { door.mapper_end(request).await }
        });
        reply = call.await?;
    }
    let bytes = sums.iter().map(|(partition, sum)| (*partition, sum.bytes)).collect();
    Ok(MapperEnd { token: Token(reply.token), won: reply.won, bytes })
}
