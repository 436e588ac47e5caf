//! Files: the few operations on small files and folders that processes need, done so that a crash leaves no half.
//!
//! Owns the crash-safe replacement of a small file, bounded reading, and errors that name the path. Does not own what
//! the files mean. All calls block; call them from [`task::blocking`](crate::task::blocking) where others wait.
//!
//! [`Disk`] is a handle passed to constructors. With the feature `sim` there is one whose files live in memory for as
//! long as somebody holds the handle, which is how a simulated host finds its files again after a crash.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

#[cfg(feature = "sim")]
mod simulated;

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

/// An open file, read from its start.
#[derive(Debug)]
pub struct Reader {
    content: Content,
}

#[derive(Debug)]
enum Content {
    Real(File),
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
        Self { backing: Backing::Simulated(simulated::Tree::default()) }
    }

    /// Makes `bytes` the whole content of the file, whatever it was and whether it was: after a crash at any moment
    /// either the old content is found or the new, and the new once this has returned. One caller per file at a time.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
        match &self.backing {
            Backing::Real => replace_real(path, bytes),
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => tree.replace(path, bytes).map_err(|source| ReplaceError {
                path: path.to_owned(),
                step: ReplaceStep::Write,
                source,
            }),
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
            Backing::Real => {
                let file = File::open(path).map_err(|source| read_error(path, source))?;
                let metadata = file.metadata().map_err(|source| read_error(path, source))?;
                if metadata.is_dir() {
                    return Err(ReadError::NotFile { path: path.to_owned() });
                }
                Content::Real(file)
            }
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => {
                Content::Simulated(tree.open_read(path).map_err(|source| read_error(path, source))?)
            }
        };
        Ok(Reader { content })
    }

    /// Makes sure that the folder exists, with those above it, and that files can be written in it.
    pub fn create_dir(&self, path: &Path) -> Result<(), CreateDirError> {
        match &self.backing {
            Backing::Real => create_dir_real(path),
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

fn read_error(path: &Path, source: io::Error) -> ReadError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound => ReadError::NotFound { path },
        ErrorKind::IsADirectory => ReadError::NotFile { path },
        _ => ReadError::Failed { path, source },
    }
}

fn replace_real(path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    let failed = |step| move |source| ReplaceError { path: path.to_owned(), step, source };
    // One name per file, so that a crash between the steps leaves at most one stray file, which the next call reuses.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = File::create(&beside).map_err(failed(ReplaceStep::Write))?;
    let written = file.write_all(bytes).map_err(failed(ReplaceStep::Write));
    let synced = written.and_then(|()| file.sync_all().map_err(failed(ReplaceStep::Sync)));
    let renamed = synced.and_then(|()| fs::rename(&beside, path).map_err(failed(ReplaceStep::Rename)));
    if renamed.is_err() {
        // The caller learns of the first failure; a stray file is harmless.
        let _ = fs::remove_file(&beside);
        return renamed;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(ReplaceStep::SyncDirectory))
}

fn create_dir_real(path: &Path) -> Result<(), CreateDirError> {
    fs::create_dir_all(path).map_err(|source| create_dir_error(path, source))?;
    // Permissions tell little (read-only mounts, quotas, other users' rules), so a file is tried.
    let probe = path.join(format!(".mallorn-probe-{}", std::process::id()));
    let written = File::create(&probe).and_then(|mut file| file.write_all(b"probe"));
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(|source| CreateDirError::Unwritable { path: path.to_owned(), source })
}

fn create_dir_error(path: &Path, source: io::Error) -> CreateDirError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => CreateDirError::NotDirectory { path },
        _ => CreateDirError::Create { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every disk does, below the folder `root`, which does not exist yet.
    fn conformance(disk: &Disk, root: &Path) {
        let file = root.join("deep").join("id");
        assert!(matches!(disk.read(&file, 10), Err(ReadError::NotFound { .. })));
        assert!(matches!(disk.replace(&file, b"x"), Err(ReplaceError { step: ReplaceStep::Write, .. })));

        let folder = root.join("deep");
        disk.create_dir(&folder).unwrap();
        disk.create_dir(&folder).unwrap();
        disk.replace(&file, b"first").unwrap();
        disk.replace(&file, b"second").unwrap();
        assert_eq!(disk.read(&file, 6).unwrap(), b"second");
        assert!(matches!(disk.read(&file, 5), Err(ReadError::TooLarge { limit_bytes: 5, .. })));
        assert!(matches!(disk.read(&folder, 5), Err(ReadError::NotFile { .. })));
        assert!(matches!(disk.create_dir(&file), Err(CreateDirError::NotDirectory { .. })));
        assert!(matches!(disk.create_dir(&file.join("below")), Err(CreateDirError::NotDirectory { .. })));
        assert!(matches!(disk.replace(&folder, b"x"), Err(ReplaceError { .. })));

        let mut open = disk.clone().open_read(&file).unwrap();
        disk.replace(&file, b"third").unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "second", "an open reader keeps what it opened");

        disk.remove_dir_all(root).unwrap();
        disk.remove_dir_all(root).unwrap();
        assert!(matches!(disk.read(&file, 10), Err(ReadError::NotFound { .. })));
    }

    #[test]
    fn real_disk_conforms() {
        let folder = tempfile::tempdir().unwrap();
        conformance(&Disk::real(), &folder.path().join("root"));
    }

    #[cfg(feature = "sim")]
    #[test]
    fn simulated_disk_conforms() {
        conformance(&Disk::simulated(), Path::new("/data/root"));
    }

    #[test]
    fn real_replacement_leaves_nothing_beside_the_file() {
        let folder = tempfile::tempdir().unwrap();
        Disk::real().replace(&folder.path().join("id"), b"1").unwrap();
        Disk::real().create_dir(folder.path()).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["id"]);
    }

    #[test]
    fn messages_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("taken");
        Disk::real().replace(&file, b"").unwrap();
        let message = Disk::real().create_dir(&file).unwrap_err().to_string();
        assert!(message.contains("taken is not a folder"), "{message}");
        let message = Disk::real().create_dir(Path::new("/proc/mallorn")).unwrap_err().to_string();
        assert!(message.starts_with("can't create the folder /proc/mallorn: "), "{message}");
        let message = Disk::real().create_dir(Path::new("/proc")).unwrap_err().to_string();
        assert!(message.starts_with("can't write in the folder /proc: "), "{message}");
    }
}
