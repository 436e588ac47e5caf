//! The files that workers have written: how many there are, and having the system forget what it caches of them.

use std::path::Path;

use mallorn_runtime::disk::{Disk, FileError};
use rustix::fs::{Advice, Mode, OFlags, fadvise, fsync, open};

/// Folders deep that are looked into.
const DEPTH: usize = 6;

/// Why files can't be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("look at what workers have written: {0}")]
    List(#[from] FileError),
    #[error("have the system forget {path}: {source}", path = path.display())]
    Forget { path: std::path::PathBuf, source: std::io::Error },
}

/// Files in a folder and the folders in it.
pub(crate) fn count(folder: &Path) -> Result<u64, FilesError> {
    let mut count = 0;
    each(folder, DEPTH, &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Has the system write everything, and forget what it caches of it.
pub(crate) fn forget_cached(folder: &Path) -> Result<(), FilesError> {
    each(folder, DEPTH, &mut |path| {
        let forget = || {
            let file = open(path, OFlags::RDONLY, Mode::empty())?;
            fsync(&file)?;
            fadvise(&file, 0, None, Advice::DontNeed)
        };
        forget().map_err(|source| FilesError::Forget { path: path.to_owned(), source: source.into() })
    })
}

fn each(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path) -> Result<(), FilesError>) -> Result<(), FilesError> {
    for entry in Disk::real().list(folder)? {
        let path = folder.join(&entry.name);
        if !entry.is_folder {
            visit(&path)?;
        } else if depth > 0 {
            each(&path, depth - 1, visit)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_stay_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::real();
        disk.create_dir(&root.path().join("a")).unwrap();
        disk.replace(&root.path().join("a").join("x"), b"abc").unwrap();
        disk.replace(&root.path().join("y"), b"d").unwrap();
        assert_eq!(count(root.path()).unwrap(), 2);
        forget_cached(root.path()).unwrap();
        assert_eq!(disk.read(&root.path().join("a").join("x"), 10).unwrap(), b"abc");
    }
}
