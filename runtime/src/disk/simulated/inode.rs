//! What a file holds, and what of it a loss of power leaves.
//!
//! Owns both contents: the one that is seen, and the one that is safe, and the writes between them. Does not own the file's
//! names, nor whether there is space.

use parking_lot::Mutex;

use crate::random::Random;

/// A file, whatever it is called.
#[derive(Debug, Default)]
pub(super) struct Inode {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    seen: Vec<u8>,
    safe: Vec<u8>,
    /// From `safe` to `seen`, in order.
    unsynced: Vec<Change>,
    /// Bytes up to here have their space.
    reserved_end: u64,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write(content, *offset, bytes),
            Self::Truncate { length } => content.resize(*length, 0),
        }
    }

    /// It did not reach the disk when the power went: not at all, in a part, or as a length only.
    fn spoil(&self, content: &mut Vec<u8>, random: &Random) {
        if let Self::Write { offset, bytes } = self {
            match random.below(3) {
                0 => {}
                1 => write(content, *offset, &bytes[..random.below(bytes.len() as u64) as usize]),
                _ => content.resize(content.len().max(offset + bytes.len()), 0),
            }
        }
    }

    /// What of it reached the disk when the power went.
    fn apply_by_chance(&self, content: &mut Vec<u8>, random: &Random) {
        match (self, random.below(5)) {
            (_, 0) => {}
            (Self::Write { offset, bytes }, 1) => {
                let torn = random.below(bytes.len() as u64) as usize;
                write(content, *offset, &bytes[..torn]);
            }
            // The length may be there before the bytes are.
            (Self::Write { offset, bytes }, 2) => content.resize(content.len().max(offset + bytes.len()), 0),
            (change, _) => change.apply(content),
        }
    }
}

impl Inode {
    /// A file that is safe.
    pub(super) fn synced(bytes: &[u8]) -> Self {
        let content = Content { seen: bytes.to_vec(), safe: bytes.to_vec(), unsynced: Vec::new(), reserved_end: 0 };
        Self { content: Mutex::new(content) }
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.content.lock().seen.clone()
    }

    pub(super) fn length(&self) -> u64 {
        self.content.lock().seen.len() as u64
    }

    /// Bytes of the disk that it takes.
    pub(super) fn allocated(&self) -> u64 {
        let content = self.content.lock();
        content.reserved_end.max(content.seen.len() as u64)
    }

    /// Fills `into`, or returns false where the file ends before.
    pub(super) fn read(&self, into: &mut [u8], offset: usize) -> bool {
        let content = self.content.lock();
        let bytes = offset.checked_add(into.len()).and_then(|end| content.seen.get(offset..end));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }

    pub(super) fn write(&self, bytes: Vec<u8>, offset: usize) {
        self.change(Change::Write { offset, bytes });
    }

    pub(super) fn truncate(&self, length: usize) {
        self.change(Change::Truncate { length });
        self.content.lock().reserved_end = 0;
    }

    pub(super) fn reserve(&self, end: u64) {
        let mut content = self.content.lock();
        content.reserved_end = content.reserved_end.max(end);
    }

    /// Makes what is seen safe.
    pub(super) fn sync(&self) {
        let content = &mut *self.content.lock();
        for change in content.unsynced.drain(..) {
            change.apply(&mut content.safe);
        }
    }

    /// A sync that fails forgets what it should have written, while readers go on seeing it; the next one has nothing to do.
    pub(super) fn fail_sync(&self) {
        self.content.lock().unsynced.clear();
    }

    /// Another value of one bit, on the disk. Returns false where the file ends before.
    pub(super) fn flip_bit(&self, offset: usize, bit: u8) -> bool {
        let content = &mut *self.content.lock();
        let mask = 1_u8 << (bit % 8);
        if let Some(byte) = content.safe.get_mut(offset) {
            *byte ^= mask;
        }
        content.seen.get_mut(offset).map(|byte| *byte ^= mask).is_some()
    }

    /// What is found of it: all that was synced, and of the rest some, in part, or not at all.
    pub(super) fn after_power_loss(&self, random: &Random) -> Self {
        let content = self.content.lock();
        let mut left = content.safe.clone();
        content.unsynced.iter().for_each(|change| change.apply_by_chance(&mut left, random));
        Self::synced(&left)
    }

    /// The same with all that was not synced spoilt, or all of it there.
    pub(super) fn after_worst_order(&self, is_spoilt: bool, random: &Random) -> Self {
        let content = self.content.lock();
        let mut left = content.safe.clone();
        for change in &content.unsynced {
            if is_spoilt { change.spoil(&mut left, random) } else { change.apply(&mut left) }
        }
        Self::synced(&left)
    }

    fn change(&self, change: Change) {
        let content = &mut *self.content.lock();
        change.apply(&mut content.seen);
        content.unsynced.push(change);
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
