//! Who this worker is: its id, kept in each of its data folders, beside an id of the folder's own.
//!
//! Owns the file `worker-id` and what follows from what the folders say. Does not own the incarnation, which is fresh at
//! each start, nor anything else in the folders.

use std::path::{Path, PathBuf};

use mallorn_proto::id::WorkerId;
use mallorn_runtime::disk::{CreateDirError, Disk, ReadError, ReplaceError};
use mallorn_runtime::random::Random;

/// The file's name in each folder.
const FILE: &str = "worker-id";
/// The file's first line; a later form gets another.
const FORM: &str = "mallorn worker 1";
/// Far more than the file ever has.
const FILE_BYTES_MAX: u64 = 4096;

/// What a worker is called by others, for as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) worker: WorkerId,
    /// Largest body that the cluster takes, in bytes.
    pub(crate) body_limit_bytes: u32,
}

/// Why a worker does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A data folder can't be used.
    #[error("a folder of `worker.data_folders`: {0}")]
    Folder(#[from] CreateDirError),
    /// A folder's id can't be read.
    #[error("a folder of `worker.data_folders`: {0}")]
    Read(#[from] ReadError),
    /// A folder's id can't be written.
    #[error("a folder of `worker.data_folders`: {0}")]
    Write(#[from] ReplaceError),
    /// A file by the id's name that holds something else.
    #[error("{path} is not a worker's id ({line:?}): remove the folder's content, or name another folder", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The line that is wrong.
        line: String,
    },
    /// A folder of another cluster's worker.
    #[error(
        "{folder} belongs to a worker of the cluster `{found}`, this one is of `{cluster}`: set `cluster`, or name \
         another folder in `worker.data_folders`",
        folder = folder.display()
    )]
    OtherCluster {
        /// The folder.
        folder: PathBuf,
        /// The cluster named in it.
        found: String,
        /// This worker's cluster.
        cluster: String,
    },
    /// One folder's id in two of them.
    #[error(
        "{one} and {other} have the same id: one was copied from the other, and locations would be read from the wrong \
         one; remove {other}, or its content",
        one = one.display(),
        other = other.display()
    )]
    Copied {
        /// A folder.
        one: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// Folders of two workers.
    #[error(
        "{one} belongs to worker {one_id}, {other} to worker {other_id}: `worker.data_folders` must name folders of one \
         worker, or blank ones",
        one = one.display(),
        other = other.display()
    )]
    Disagree {
        /// A folder.
        one: PathBuf,
        /// The worker that it belongs to.
        one_id: WorkerId,
        /// Another folder.
        other: PathBuf,
        /// The worker that this belongs to.
        other_id: WorkerId,
    },
}

/// Who the worker is, and what its folders are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The worker.
    pub(crate) worker: WorkerId,
    /// The folders' own ids, in their order.
    pub(crate) folders: Vec<u64>,
}

/// Finds the worker's id in its folders, and writes it into those that are blank. Blank folders alone are a new worker,
/// and so is, at each start, a worker without folders. Blocks.
///
/// # Errors
/// When a folder can't be used, belongs to another cluster, or to another worker than the folders before it, or is a copy of
/// one of them.
pub(crate) fn find(disk: &Disk, folders: &[PathBuf], cluster: &str, random: &Random) -> Result<Found, IdentityError> {
    let mut found: Option<(&Path, WorkerId)> = None;
    let mut ids = Vec::with_capacity(folders.len());
    for folder in folders {
        disk.create_dir(folder)?;
        let Some((id, own)) = read(disk, folder, cluster)? else {
            ids.push(None);
            continue;
        };
        if let Some(at) = ids.iter().position(|id| *id == Some(own)) {
            return Err(IdentityError::Copied { one: folders[at].clone(), other: folder.clone() });
        }
        ids.push(Some(own));
        match found {
            Some((one, one_id)) if one_id != id => {
                let (one, other) = (one.to_owned(), folder.clone());
                return Err(IdentityError::Disagree { one, one_id, other, other_id: id });
            }
            Some(_) | None => found = Some((folder, id)),
        }
    }
    let worker = found.map_or_else(|| WorkerId(random.wide_id()), |(_, id)| id);
    let mut named = Vec::with_capacity(folders.len());
    for (folder, id) in folders.iter().zip(ids) {
        named.push(match id {
            Some(id) => id,
            None => {
                let id = random.id();
                let text = format!("{FORM}\ncluster {cluster}\nworker {worker}\nfolder {id:016x}\n");
                disk.replace(&folder.join(FILE), text.as_bytes())?;
                id
            }
        });
    }
    Ok(Found { worker, folders: named })
}

fn read(disk: &Disk, folder: &Path, cluster: &str) -> Result<Option<(WorkerId, u64)>, IdentityError> {
    let path = folder.join(FILE);
    let bytes = match disk.read(&path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(ReadError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let mut line = |key: &str| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(key).map(str::to_owned).ok_or_else(|| unreadable(&path, line))
    };
    let form = line(FORM)?;
    if !form.is_empty() {
        return Err(unreadable(&path, &format!("{FORM}{form}")));
    }
    let found = line("cluster ")?;
    if found != cluster {
        return Err(IdentityError::OtherCluster { folder: folder.to_owned(), found, cluster: cluster.to_owned() });
    }
    let id = line("worker ")?;
    let worker = id.parse().map_err(|_| unreadable(&path, &id))?;
    let own = line("folder ")?;
    let own = folder_id(&own).ok_or_else(|| unreadable(&path, &own))?;
    Ok(Some((worker, own)))
}

/// Exactly 16 digits, as they are written: what is left of a line that was cut is another folder's id, and by that one no
/// record would be found.
fn folder_id(text: &str) -> Option<u64> {
    let is_whole = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_whole.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn unreadable(path: &Path, line: &str) -> IdentityError {
    IdentityError::Unreadable { path: path.to_owned(), line: line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(root: &Path, names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| root.join(name)).collect()
    }

    fn find_in(root: &Path, names: &[&str], cluster: &str, seed: u64) -> Result<WorkerId, IdentityError> {
        find(&Disk::real(), &folders(root, names), cluster, &Random::seeded(seed)).map(|found| found.worker)
    }

    #[test]
    fn the_id_stays_with_the_folders() {
        let root = tempfile::tempdir().unwrap();
        let id = find_in(root.path(), &["a", "b"], "east", 1).unwrap();
        assert_eq!(find_in(root.path(), &["a", "b"], "east", 2).unwrap(), id);
        assert_eq!(find_in(root.path(), &["c", "b"], "east", 3).unwrap(), id, "a blank folder joins the others");
        assert_eq!(find_in(root.path(), &["c"], "east", 4).unwrap(), id);
        assert_ne!(find_in(root.path(), &[], "east", 5).unwrap(), id);
    }

    #[test]
    fn folders_of_two_workers_or_another_cluster_are_refused() {
        let root = tempfile::tempdir().unwrap();
        find_in(root.path(), &["a"], "east", 1).unwrap();
        find_in(root.path(), &["b"], "east", 2).unwrap();
        let error = find_in(root.path(), &["a", "b"], "east", 3).unwrap_err();
        assert!(matches!(error, IdentityError::Disagree { .. }), "{error}");
        let error = find_in(root.path(), &["a"], "west", 3).unwrap_err();
        assert!(error.to_string().contains("of the cluster `east`, this one is of `west`"), "{error}");
    }

    #[test]
    fn a_folder_and_its_copy_are_refused() {
        let root = tempfile::tempdir().unwrap();
        find_in(root.path(), &["a"], "east", 1).unwrap();
        let id = Disk::real().read(&root.path().join("a").join(FILE), FILE_BYTES_MAX).unwrap();
        Disk::real().create_dir(&root.path().join("b")).unwrap();
        Disk::real().replace(&root.path().join("b").join(FILE), &id).unwrap();
        let error = find_in(root.path(), &["a", "b"], "east", 2).unwrap_err();
        assert!(matches!(error, IdentityError::Copied { .. }), "{error}");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let id = find_in(root.path(), &["a"], "east", 1).unwrap();
        let file = root.path().join("a").join(FILE);
        let good = format!("{FORM}\ncluster east\nworker {id}\nfolder 00000000000000ab\n");
        for text in [
            "",
            "garbage",
            &good.replace("worker 1", "worker 12"),
            &good.replace(&id.to_string(), "x"),
            &good.replace("ab", "zz"),
            &good.replace("ab\n", "a"),
            &good.replace("folder 0", "folder +"),
        ] {
            Disk::real().replace(&file, text.as_bytes()).unwrap();
            let error = find_in(root.path(), &["a"], "east", 1).unwrap_err();
            assert!(matches!(error, IdentityError::Unreadable { .. }), "{text:?}: {error}");
        }
        Disk::real().replace(&file, good.as_bytes()).unwrap();
        assert_eq!(find_in(root.path(), &["a"], "east", 9).unwrap(), id);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_a_clear_error() {
        let error = find(&Disk::real(), &[PathBuf::from("/proc/mallorn")], "east", &Random::seeded(1)).unwrap_err();
        assert!(error.to_string().contains("can't create the folder /proc/mallorn"), "{error}");
    }
}
