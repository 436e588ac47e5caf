//! Files: what processes need of files and folders, done so that a crash leaves no half.
//!
//! Owns the crash-safe replacement of a small file, bounded reading, positional reading and writing of large files, locks
//! and the threads of a disk ([`Lane`]), and errors that name the path. Does not own what the files mean. All calls block:
//! make them on a lane, or from [`task::blocking`](crate::task::blocking) where no disk has one yet.
//!
//! [`Disk`] is a handle passed to constructors. With the feature `sim` there is one whose files live in memory for as
//! long as somebody holds the handle, which is how a simulated host finds its files again after a crash.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

#[cfg(feature = "sim")]
use error::create_dir_error;
use error::read_error;
pub use error::{
    CreateDirError, FileAction, FileError, LockError, ReadError, RemoveDirError, ReplaceError, ReplaceStep, Trouble,
    trouble,
};
pub use file::{File, OpenHow};
pub use folder::{Entry, FileLock, Space};
pub use lane::{Lane, LaneError};
pub use run::{BLOCK_BYTES, RunBuffer, RunWriter};
#[cfg(feature = "sim")]
pub use simulated::{Conditions, DiskFaults, Latency, Strike};

#[cfg(feature = "sim")]
use crate::random::Random;

mod error;
mod file;
mod folder;
mod lane;
mod real;
mod run;
#[cfg(feature = "sim")]
mod simulated;
#[cfg(test)]
mod tests;

/// The files a process may see. Cheap to clone; clones see the same files.
#[derive(Clone, Debug)]
pub struct Disk {
    backing: Backing,
}

#[derive(Clone, Debug)]
enum Backing {
    Real,
    #[cfg(feature = "sim")]
    Simulated(simulated::Tree),
}

/// An open file, read from its start.
#[derive(Debug)]
pub struct Reader {
    content: Content,
}

#[derive(Debug)]
enum Content {
    Real(fs::File),
    #[cfg(feature = "sim")]
    Simulated(simulated::Content),
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.content {
            Content::Real(file) => file.read(buffer),
            #[cfg(feature = "sim")]
            Content::Simulated(content) => content.read(buffer),
        }
    }
}

impl Disk {
    /// The machine's own files.
    pub fn real() -> Self {
        Self { backing: Backing::Real }
    }

    /// Files in memory, none at first, the same for all clones of this handle.
    #[cfg(feature = "sim")]
    pub fn simulated() -> Self {
        Self::simulated_with(Random::seeded(0))
    }

    /// Files in memory, as [`simulated`](Self::simulated), whose latencies are drawn from `random`.
    #[cfg(feature = "sim")]
    pub fn simulated_with(random: Random) -> Self {
        Self { backing: Backing::Simulated(simulated::Tree::new(random)) }
    }

    /// What goes wrong with these files, where they are simulated.
    #[cfg(feature = "sim")]
    pub fn faults(&self) -> Option<DiskFaults> {
        match &self.backing {
            Backing::Real => None,
            Backing::Simulated(tree) => Some(tree.faults()),
        }
    }

    /// Makes `bytes` the whole content of the file, whatever it was and whether it was: after a crash at any moment
    /// either the old content is found or the new, and the new once this has returned. One caller per file at a time.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
        match &self.backing {
            Backing::Real => real::replace(path, bytes),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => {
                tree.replace(path, bytes).map_err(|(step, source)| ReplaceError { path: path.to_owned(), step, source })
            }
        }
    }

    /// The whole content of a file of at most `limit_bytes`.
    pub fn read(&self, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        let mut reader = self.open_read(path)?.take(limit_bytes.saturating_add(1));
        reader.read_to_end(&mut bytes).map_err(|source| read_error(path, source))?;
        if bytes.len() as u64 > limit_bytes {
            return Err(ReadError::TooLarge { path: path.to_owned(), limit_bytes });
        }
        Ok(bytes)
    }

    /// Opens a file to read it from its start.
    pub fn open_read(&self, path: &Path) -> Result<Reader, ReadError> {
        let content = match &self.backing {
            Backing::Real => real::open(path, OpenHow::Read).map(Content::Real),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.open_read(path).map(Content::Simulated),
        };
        Ok(Reader { content: content.map_err(|source| read_error(path, source))? })
    }

    /// Makes sure that the folder exists, with those above it, and that files can be written in it.
    pub fn create_dir(&self, path: &Path) -> Result<(), CreateDirError> {
        match &self.backing {
            Backing::Real => real::create_dir(path),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.create_dir(path).map_err(|source| create_dir_error(path, source)),
        }
    }

    /// Removes a folder with everything in it; one that does not exist is fine.
    pub fn remove_dir_all(&self, path: &Path) -> Result<(), RemoveDirError> {
        let removed = match &self.backing {
            Backing::Real => fs::remove_dir_all(path),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.remove_dir_all(path),
        };
        match removed {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(RemoveDirError { path: path.to_owned(), source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
