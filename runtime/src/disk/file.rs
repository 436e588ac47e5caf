//! Large files, read and written at offsets by several threads at once.
//!
//! Owns the handle. Does not own what lies where, nor that two do not write to one place.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{FileAction, FileError};
use super::{Backing, Disk, real};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// To be read; it has to exist.
    Read,
    /// To be written and read; it may not exist yet.
    Create,
    /// To be written and read, as it is, or empty where it does not exist yet.
    Write,
}

/// An open file without a cursor. Clones are the same open file, and it stays readable once its name is gone.
#[derive(Clone, Debug)]
pub struct File {
    handle: Handle,
    /// The same file past the system's cache, where it was opened so.
    past_cache: Option<Arc<PastCache>>,
}

/// A file past the system's cache.
#[derive(Debug)]
struct PastCache {
    file: fs::File,
    /// The disk wants larger blocks than ours: the cache is gone through.
    is_misfit: AtomicBool,
}

#[derive(Clone, Debug)]
enum Handle {
    Real(Arc<fs::File>),
    #[cfg(feature = "sim")]
    Simulated(super::simulated::OpenFile),
}

impl Disk {
    /// Opens a file. A new one is safe from a loss of power once its content is synced and then its folder
    /// ([`sync_dir`](Self::sync_dir)).
    ///
    /// # Errors
    /// [`is_not_found`](FileError::is_not_found) where it has to exist and does not or its folder does not,
    /// [`is_taken`](FileError::is_taken) where it exists and may not.
    pub fn open(&self, path: &Path, how: OpenHow) -> Result<File, FileError> {
        let handle = match &self.backing {
            Backing::Real => real::open(path, how).map(|file| Handle::Real(Arc::new(file))),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.open(path, how).map(Handle::Simulated),
        };
        let failed = |source| FileError { action: FileAction::Open, path: path.to_owned(), source };
        Ok(File { handle: handle.map_err(failed)?, past_cache: None })
    }

    /// Opens a file as [`OpenHow::Write`] does; runs are written and read past the system's cache where the file system
    /// can do that, and through it elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn open_past_cache(&self, path: &Path) -> Result<File, FileError> {
        let file = self.open(path, OpenHow::Write)?;
        let past_cache = match &file.handle {
            Handle::Real(_) => {
                let opened = real::open_past_cache(path);
                opened.map(|file| Arc::new(PastCache { file, is_misfit: AtomicBool::new(false) }))
            }
            #[cfg(feature = "sim")]
            Handle::Simulated(_) => None,
        };
        Ok(File { past_cache, ..file })
    }
}

impl PastCache {
    /// What came of an operation; `None` where it has to be made through the cache, as all later ones.
    fn judged(&self, done: io::Result<()>) -> Option<io::Result<()>> {
        let is_misfit = done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput);
        if is_misfit {
            self.is_misfit.store(true, Ordering::Relaxed);
        }
        (!is_misfit).then_some(done)
    }
}

impl File {
    /// Writes the pieces one after the other, beginning at `offset`; all of them, or it fails, and any part of them may be
    /// written then. Bytes between the end of the file and `offset` read as zeros.
    pub fn write_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        match &self.handle {
            Handle::Real(file) => real::write_at(file, pieces, offset),
            #[cfg(feature = "sim")]
            Handle::Simulated(file) => file.write_at(pieces, offset),
        }
    }

    fn fitting(&self) -> Option<&PastCache> {
        self.past_cache.as_deref().filter(|past| !past.is_misfit.load(Ordering::Relaxed))
    }

    /// Whether runs are written and read past the system's cache.
    #[must_use]
    pub fn is_past_cache(&self) -> bool {
        self.fitting().is_some()
    }

    /// Writes whole blocks, from memory and to an offset that are aligned to them; where the file was not opened past the
    /// cache, anything.
    pub(super) fn write_blocks_at(&self, blocks: &[u8], offset: u64) -> io::Result<()> {
        match self.fitting().and_then(|past| past.judged(real::write_at(&past.file, &[blocks], offset))) {
            Some(done) => done,
            None => self.write_at(&[blocks], offset),
        }
    }

    /// Fills `into` with the bytes from `offset`; both, and the memory, are multiples of [`BLOCK_BYTES`](super::BLOCK_BYTES).
    /// Only the first `needed` bytes have to be there.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before those; what `into` holds then is not said.
    pub fn read_blocks_at(&self, into: &mut [u8], offset: u64, needed: usize) -> io::Result<()> {
        match self.fitting().and_then(|past| past.judged(real::read_blocks_at(&past.file, into, offset, needed))) {
            Some(done) => done,
            None => self.read_at(&mut into[..needed], offset),
        }
    }

    /// Fills `into` with the bytes from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends before; what `into` holds then is not said.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.handle {
            Handle::Real(file) => real::read_at(file, into, offset),
            #[cfg(feature = "sim")]
            Handle::Simulated(file) => file.read_at(into, offset),
        }
    }

    /// Bytes of the file.
    pub fn length(&self) -> io::Result<u64> {
        match &self.handle {
            Handle::Real(file) => Ok(file.metadata()?.len()),
            #[cfg(feature = "sim")]
            Handle::Simulated(file) => file.length(),
        }
    }

    /// Makes the file this long: what lies beyond is gone, what is missing reads as zeros. Gives reserved space back.
    pub fn truncate(&self, length: u64) -> io::Result<()> {
        match &self.handle {
            Handle::Real(file) => file.set_len(length),
            #[cfg(feature = "sim")]
            Handle::Simulated(file) => file.truncate(length),
        }
    }

    /// Makes sure that writing these bytes does not fail for want of space; the length of the file stays. Where the file
    /// system can't, it is only looked whether there is as much.
    ///
    /// # Errors
    /// [`Full`](super::Trouble::Full) where there is not.
    pub fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        match &self.handle {
            Handle::Real(file) => real::reserve(file, offset, length),
            #[cfg(feature = "sim")]
            Handle::Simulated(file) => file.reserve(offset, length),
        }
    }

    /// Makes content and length safe from a loss of power. Once this has failed the bytes may be gone, and a second call
    /// does not tell: it must not be taken for a success.
    pub fn sync_data(&self) -> io::Result<()> {
        match &self.handle {
            Handle::Real(file) => file.sync_data(),
            #[cfg(feature = "sim")]
            Handle::Simulated(file) => file.sync(),
        }
    }

    /// As [`sync_data`](Self::sync_data), with times and modes.
    pub fn sync_all(&self) -> io::Result<()> {
        match &self.handle {
            Handle::Real(file) => file.sync_all(),
            #[cfg(feature = "sim")]
            Handle::Simulated(file) => file.sync(),
        }
    }

    /// Has the system begin to write these bytes to the disk, so that a later sync finds little left. A hint, to be given
    /// right after they were written; it does not wait.
    pub fn start_writeback(&self, offset: u64, length: u64) {
        match &self.handle {
            Handle::Real(file) => real::start_writeback(file, offset, length),
            #[cfg(feature = "sim")]
            Handle::Simulated(_) => {}
        }
    }
}
