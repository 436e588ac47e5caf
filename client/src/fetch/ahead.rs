//! A fetch under way. It runs as a task of its own, so that a reader that is dropped half-way loses nothing, and so that
//! the next bytes come while the engine works. Bytes fetched ahead are dropped when a push needs their memory.

use std::sync::Arc;

use bytes::Bytes;
use mallorn_proto::id::LocationId;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::cursor::{Chunk, Cursor, Failed};
use crate::client::Inner;
use crate::error::{LifecycleError, ReadError};
use crate::memory::{Permit, Reclaim};
use mallorn_runtime::task;

#[derive(Debug)]
pub(super) struct Ahead {
    /// Where the fetch began, to begin again.
    begin: Cursor,
    task: JoinHandle<Result<Cursor, Failed>>,
    kept: Arc<Kept>,
}

/// What has arrived.
#[derive(Debug)]
struct Kept {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chunk: Option<Chunk>,
    /// The memory of bytes that nobody has asked for; `None` where the reader itself owns the room.
    permit: Option<Permit>,
    reclaimed: bool,
}

impl Kept {
    /// Gives up what is kept, and its memory; returned for the caller to drop.
    fn give(&self) -> impl Sized + use<> {
        let mut state = self.state.lock();
        // Once it is its reader's there is nothing to give.
        let permit = state.permit.take()?;
        state.reclaimed = true;
        Some((state.chunk.take(), permit))
    }
}

impl Reclaim for Kept {
    fn reclaim(&self) {
        drop(self.give());
    }
}

impl Ahead {
    /// Starts to fetch; with a permit, ahead of the engine.
    pub(super) fn start(client: &Arc<Inner>, cursor: Cursor, permit: Option<Permit>) -> Self {
        let is_ahead = permit.is_some();
        let kept = Arc::new(Kept { state: Mutex::new(State { chunk: None, permit, reclaimed: false }) });
        let begin = cursor.clone();
        let (client, filled) = (Arc::clone(client), Arc::clone(&kept));
        let task = task::spawn(async move {
            let mut cursor = cursor;
            let fetched = if is_ahead { cursor.fetch_ahead(&client).await } else { Some(cursor.fetch(&client).await?) };
            let Some((fetched, body)) = fetched else {
                drop(filled.give());
                return Ok(cursor);
            };
            let bytes = body.map_or_else(Bytes::new, mallorn_runtime::connection::Buffer::freeze);
            filled.state.lock().chunk = Some(Chunk { offset: fetched.offset, bytes });
            if is_ahead {
                let kept: Arc<dyn Reclaim> = filled;
                client.memory.offer_reclaim(Arc::downgrade(&kept));
            }
            Ok(cursor)
        });
        Self { begin, task, kept }
    }

    pub(super) fn location(&self) -> LocationId {
        self.begin.location()
    }

    /// Waits for the bytes; without them when their memory was needed elsewhere, and the cursor is back where it began.
    /// Cancel-safe; not to be called again after it has answered.
    pub(super) async fn arrived(&mut self) -> Result<(Cursor, Option<Chunk>), Failed> {
        let cursor = (&mut self.task).await.unwrap_or_else(|error| {
            let text = format!("the task that fetches has failed: {error}");
            Err(Failed::Read(ReadError::Lifecycle(LifecycleError::Unreachable { text })))
        })?;
        let mut state = self.kept.state.lock();
        if state.reclaimed {
            let mut cursor = cursor;
            cursor.seek(self.begin.offset());
            return Ok((cursor, None));
        }
        // The room of the chunk before, which the reader owns, is this one's now.
        drop(state.permit.take());
        Ok((cursor, state.chunk.take()))
    }

    /// Gives the fetch up; the cursor is back where it began.
    pub(super) fn into_cursor(self) -> Cursor {
        self.begin.clone()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}
