//! Folders: what is in them, names that change, the space of their disk, and locks.
//!
//! Owns who may hold a lock. Does not own the names.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::error::{FileAction, FileError, LockError};
use super::{Backing, Disk, real};

/// Where Linux names the time since the machine was started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Most bytes of such a name.
const BOOT_ID_BYTES_MAX: u64 = 64;

/// What is in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the folder's.
    pub name: String,
    /// Whether it is a folder itself.
    pub is_folder: bool,
    /// Bytes of a file; 0 for a folder.
    pub bytes: u64,
}

/// The room of a disk, or of the part of it that we may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All there is.
    pub capacity_bytes: u64,
    /// What this process may still write.
    pub free_bytes: u64,
}

/// A lock, held until this is dropped or the process ends.
#[derive(Debug)]
pub struct FileLock {
    _held: Held,
}

#[derive(Debug)]
enum Held {
    Real {
        _file: fs::File,
    },
    #[cfg(feature = "sim")]
    Simulated {
        _lock: super::simulated::Lock,
    },
}

impl Disk {
    /// Makes a folder in one that exists; one that is there already is fine. Unlike [`create_dir`](Self::create_dir) it does
    /// not bring back what is above it.
    ///
    /// # Errors
    /// [`is_not_found`](FileError::is_not_found) where the folder above is gone.
    pub fn make_dir(&self, path: &Path) -> Result<(), FileError> {
        let made = match &self.backing {
            Backing::Real => fs::create_dir(path),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.make_dir(path),
        };
        match made {
            Err(source) if source.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(failed(FileAction::MakeDir, path)),
        }
    }

    /// Removes a file; one that does not exist is fine. Its space comes back once nobody has it open.
    pub fn remove_file(&self, path: &Path) -> Result<(), FileError> {
        let removed = match &self.backing {
            Backing::Real => fs::remove_file(path),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.remove_file(path),
        };
        match removed {
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(failed(FileAction::Remove, path)),
        }
    }

    /// Gives a file another name on the same disk, in place of the file that has it, in one step. It is safe from a loss of
    /// power once the folder is synced.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        let renamed = match &self.backing {
            Backing::Real => fs::rename(from, to),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.rename(from, to),
        };
        renamed.map_err(failed(FileAction::Rename, from))
    }

    /// What is in a folder, sorted by name.
    pub fn list(&self, folder: &Path) -> Result<Vec<Entry>, FileError> {
        let entries = match &self.backing {
            Backing::Real => real::list(folder),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.list(folder),
        };
        entries.map_err(failed(FileAction::List, folder))
    }

    /// Makes the names in a folder safe from a loss of power: new, changed and removed ones.
    pub fn sync_dir(&self, folder: &Path) -> Result<(), FileError> {
        let synced = match &self.backing {
            Backing::Real => real::sync_dir(folder),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.sync_dir(folder),
        };
        synced.map_err(failed(FileAction::SyncDirectory, folder))
    }

    /// The room of the disk that a folder is on.
    pub fn space(&self, folder: &Path) -> Result<Space, FileError> {
        let space = match &self.backing {
            Backing::Real => real::space(folder),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.space(folder),
        };
        space.map_err(failed(FileAction::Space, folder))
    }

    /// Takes the lock that a file stands for, creating the file where there is none; it stays when the lock is given back.
    /// Nobody else gets it meanwhile, in this process or another.
    ///
    /// # Errors
    /// [`LockError::Held`] at once where somebody has it.
    pub fn lock(&self, path: &Path) -> Result<FileLock, LockError> {
        let held = match &self.backing {
            Backing::Real => real::lock(path).map(|file| file.map(|file| Held::Real { _file: file })),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.lock(path).map(|lock| lock.map(|lock| Held::Simulated { _lock: lock })),
        };
        match held.map_err(failed(FileAction::Lock, path))? {
            Some(held) => Ok(FileLock { _held: held }),
            None => Err(LockError::Held { path: path.to_owned() }),
        }
    }

    /// What names the time since the machine was started: another one means that what was not synced may be lost. Empty
    /// where the system does not tell.
    pub fn boot_id(&self) -> String {
        match &self.backing {
            Backing::Real => {
                let id = self.read(Path::new(BOOT_ID), BOOT_ID_BYTES_MAX).unwrap_or_default();
                String::from_utf8_lossy(&id).trim().to_owned()
            }
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.boot_id(),
        }
    }
}

fn failed(action: FileAction, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { action, path: path.to_owned(), source }
}
