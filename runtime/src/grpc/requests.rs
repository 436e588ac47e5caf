//! Takes requests in whole before anything is made of them, within a bound on bytes and on time.
//!
//! Owns both bounds. Does not own how large a message may be: that is the generated code's, which is given what came.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use mallorn_proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request;

use crate::clock;

/// Bytes of requests of all connections that are held and not decoded yet.
pub(super) const REQUESTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a request may take to arrive, once it has begun: one that stalls must not hold bytes that others wait for.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);
/// A message with its length before it. What is longer is not held: as much shows that it is too long.
const TAKEN_BYTES_MAX: usize = CONTROL_MESSAGE_BYTES_MAX + 5;

/// A request with all of its body, whose bytes are counted until the body is dropped.
///
/// # Errors
/// When it did not arrive in time, be it for its sender or for want of room, or its connection broke.
pub(super) async fn whole<B>(request: Request<B>, room: Arc<Semaphore>) -> Result<Request<Body>, Status>
where
    B: BodyExt<Data = Bytes> + Unpin,
{
    let (head, body) = request.into_parts();
    let taken = clock::timeout(ARRIVE_WITHIN, take(body, room)).await;
    let late = || Status::deadline_exceeded(format!("the request did not arrive within {ARRIVE_WITHIN:?}; try again"));
    let (bytes, held) = taken.map_err(|_| late())?.ok_or_else(|| Status::cancelled("the request broke off"))?;
    let body = Full::new(bytes).map_frame(move |frame| {
        let _ = &held;
        frame
    });
    Ok(Request::from_parts(head, Body::new(body)))
}

async fn take<B>(mut body: B, room: Arc<Semaphore>) -> Option<(Bytes, OwnedSemaphorePermit)>
where
    B: BodyExt<Data = Bytes> + Unpin,
{
    let (mut bytes, mut held) = (BytesMut::new(), Arc::clone(&room).try_acquire_many_owned(0).ok()?);
    while bytes.len() < TAKEN_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        let permits = u32::try_from(data.len()).ok()?;
        held.merge(Arc::clone(&room).acquire_many_owned(permits).await.ok()?);
        bytes.extend_from_slice(&data);
    }
    Some((bytes.freeze(), held))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn request(bytes: usize) -> Full<Bytes> {
        Full::new(vec![7; bytes].into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_room_and_one_that_stalls_gives_it_back() {
        let room = Arc::new(Semaphore::new(100));
        let stalls = request(80).with_trailers(pending());
        let stalled = tokio::spawn(whole(Request::new(Box::pin(stalls)), Arc::clone(&room)));
        clock::sleep(Duration::from_secs(1)).await;
        assert_eq!(room.available_permits(), 20);
        let start = clock::now();
        let waited = whole(Request::new(request(50)), Arc::clone(&room)).await.unwrap();
        assert_eq!(clock::since(start), ARRIVE_WITHIN - Duration::from_secs(1));
        assert_eq!(stalled.await.unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert_eq!(room.available_permits(), 50);
        assert_eq!(waited.into_body().collect().await.unwrap().to_bytes(), [7; 50][..]);
        assert_eq!(room.available_permits(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_held_than_shows_that_a_request_is_too_long() {
        let room = Arc::new(Semaphore::new(REQUESTS_BYTES_MAX));
        let endless = request(TAKEN_BYTES_MAX).with_trailers(pending());
        whole(Request::new(Box::pin(endless)), room).await.unwrap();
    }
}
