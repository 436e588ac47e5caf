//! Errors of files and folders: each names its path, and what to make of it.
//!
//! Owns the types and what a system's answer says about the disk. Does not own what is done about it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

/// Why a file could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is none.
    #[error("{path} does not exist", path = path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// It is a folder or the like.
    #[error("{path} is not a file", path = path.display())]
    NotFile {
        /// What is not a file.
        path: PathBuf,
    },
    /// It holds more than the caller accepts.
    #[error("{path} is larger than {limit_bytes} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is accepted.
        limit_bytes: u64,
    },
    /// The system refused or failed.
    #[error("can't read {path}: {source}", path = path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Why a file was not replaced. The old content is still there, unless the step is [`ReplaceStep::SyncDirectory`]: then
/// either may be found after a loss of power.
#[derive(Debug, Error)]
#[error("can't replace {path}: {step}: {source}", path = path.display())]
pub struct ReplaceError {
    /// The file.
    pub path: PathBuf,
    /// How far it got.
    pub step: ReplaceStep,
    /// The system's answer.
    pub source: io::Error,
}

/// The steps of replacing a file.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ReplaceStep {
    /// Writing the new content beside the old file.
    #[error("write a new file beside it")]
    Write,
    /// Making that content safe from a loss of power.
    #[error("sync the new file")]
    Sync,
    /// Giving it the old file's name.
    #[error("rename the new file")]
    Rename,
    /// Making the name safe from a loss of power.
    #[error("sync the folder")]
    SyncDirectory,
}

/// Why a folder can't be used.
#[derive(Debug, Error)]
pub enum CreateDirError {
    /// Something else has that name.
    #[error("{path} is not a folder: choose another path, or remove it", path = path.display())]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// It is missing and could not be created.
    #[error("can't create the folder {path}: {source}", path = path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is there, but files can't be written in it.
    #[error("can't write in the folder {path}: {source}", path = path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Why a folder could not be removed whole.
#[derive(Debug, Error)]
#[error("can't remove the folder {path}: {source}", path = path.display())]
pub struct RemoveDirError {
    /// The folder.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// Why something was not done to a file or folder.
#[derive(Debug, Error)]
#[error("can't {action} {path}: {source}", path = path.display())]
pub struct FileError {
    /// What was to be done.
    pub action: FileAction,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// What is done to files and folders.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FileAction {
    /// [`Disk::open`](super::Disk::open).
    #[error("open")]
    Open,
    /// [`Disk::make_dir`](super::Disk::make_dir).
    #[error("make the folder")]
    MakeDir,
    /// [`Disk::remove_file`](super::Disk::remove_file).
    #[error("remove")]
    Remove,
    /// [`Disk::rename`](super::Disk::rename).
    #[error("rename")]
    Rename,
    /// [`Disk::list`](super::Disk::list).
    #[error("list the folder")]
    List,
    /// [`Disk::sync_dir`](super::Disk::sync_dir).
    #[error("sync the folder")]
    SyncDirectory,
    /// [`Disk::space`](super::Disk::space).
    #[error("find out the free space of the disk of")]
    Space,
    /// [`Disk::lock`](super::Disk::lock).
    #[error("lock")]
    Lock,
}

impl FileError {
    /// Whether there is no such file or folder.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == ErrorKind::NotFound
    }

    /// Whether a file that was to be created exists already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.source.kind() == ErrorKind::AlreadyExists
    }

    /// What it says about the disk; see [`trouble`].
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        trouble(&self.source)
    }
}

/// Why a lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody has it.
    #[error(
        "{path} is locked: another process uses this folder; stop it, or give each process a folder of its own",
        path = path.display()
    )]
    Held {
        /// The file that stands for the lock.
        path: PathBuf,
    },
    /// The system refused or failed.
    #[error(transparent)]
    Failed(#[from] FileError),
}

/// What an error says about the disk that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No space is left, or none is granted: what is there can be read, and removing makes it usable again.
    Full,
    /// It does not do what it should, or it is gone: nothing new should go there.
    Failing,
    /// This process has no descriptors or no memory left. The disk is not to blame.
    Process,
}

/// What an error of a file says about its disk. A file that is not there counts as failing: where that is to be expected,
/// ask for it first.
#[must_use]
pub fn trouble(error: &io::Error) -> Trouble {
    if let Some(FileError { source, .. }) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        // The kind alone does not tell a process without descriptors from a broken disk.
        return trouble(source);
    }
    match (error.kind(), Errno::from_io_error(error)) {
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, _) => Trouble::Full,
        (ErrorKind::OutOfMemory, _) | (_, Some(Errno::MFILE | Errno::NFILE)) => Trouble::Process,
        _ => Trouble::Failing,
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

pub(super) fn read_error(path: &Path, source: io::Error) -> ReadError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound => ReadError::NotFound { path },
        ErrorKind::IsADirectory => ReadError::NotFile { path },
        _ => ReadError::Failed { path, source },
    }
}

pub(super) fn create_dir_error(path: &Path, source: io::Error) -> CreateDirError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => CreateDirError::NotDirectory { path },
        _ => CreateDirError::Create { path, source },
    }
}
