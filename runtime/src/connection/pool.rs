//! Buffers for the bodies of answers: allocated before the question is asked, and used again, because first touch of
//! fresh memory is dearer than everything else that happens to a byte.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers kept for reuse, at most this many bytes; clones share them.
#[derive(Clone)]
pub struct Pool {
    kept: Arc<Mutex<Kept>>,
}

struct Kept {
    /// The one that came back last is at the end: its memory is the warmest.
    buffers: VecDeque<Box<[u8]>>,
    bytes: usize,
    bytes_max: usize,
}

impl Pool {
    /// Keeps at most `bytes_max` bytes of unused buffers.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { kept: Arc::new(Mutex::new(Kept { buffers: VecDeque::new(), bytes: 0, bytes_max })) }
    }

    /// A buffer with room for at least this many bytes: the one used last among those kept that have it and are not more
    /// than twice as large, or a new one.
    #[must_use]
    pub fn take(&self, room: usize) -> Buffer {
        let found = {
            let kept = &mut *self.kept.lock();
            let place = kept.buffers.iter().rposition(|buffer| buffer.len() >= room && buffer.len() / 2 <= room);
            place.and_then(|place| kept.buffers.remove(place)).inspect(|buffer| kept.bytes -= buffer.len())
        };
        let bytes = found.unwrap_or_else(|| vec![0; room].into_boxed_slice());
        Buffer { bytes, length: 0, pool: self.clone() }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.lock();
        write!(f, "Pool({} buffers, {} of {} bytes)", kept.buffers.len(), kept.bytes, kept.bytes_max)
    }
}

impl Kept {
    /// Keeps a buffer, and lets go of those that were idle longest where that takes more room than there is: the sizes
    /// asked for now are worth more than those of yesterday. Returns what is to be freed.
    fn put(&mut self, bytes: Box<[u8]>) -> Vec<Box<[u8]>> {
        if bytes.is_empty() || bytes.len() > self.bytes_max {
            return vec![bytes];
        }
        self.bytes += bytes.len();
        self.buffers.push_back(bytes);
        let mut freed = Vec::new();
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.buffers.pop_front() else { break };
            self.bytes -= oldest.len();
            freed.push(oldest);
        }
        freed
    }
}

/// A buffer of a [`Pool`]; goes back to it when dropped.
pub struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
    pool: Pool,
}

impl Buffer {
    /// Bytes that it has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.len()
    }

    /// Its first `length` bytes, to be written; they are its content from here on.
    ///
    /// # Panics
    /// When there is less room.
    pub fn fill(&mut self, length: usize) -> &mut [u8] {
        let content = &mut self.bytes[..length];
        self.length = length;
        content
    }

    /// Its content as shared bytes; the buffer goes back to its pool with the last of them.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

/// Lengths only: payload bytes belong in no log.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.length, self.bytes.len())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // Freed after the lock is let go.
        let freed = self.pool.kept.lock().put(bytes);
        drop(freed);
    }
}
