//! Names of files and folders, and which of them a loss of power leaves.
//!
//! Owns both trees: the one that is seen, and the one that is safe. What was changed since its folder was synced lies
//! between them, in order. Does not own what the files hold.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::inode::Inode;
use crate::disk::Entry;
use crate::random::Random;

/// Changes that may be unsynced; the oldest are safe then, as if the file system's journal had been written.
const UNSYNCED_MAX: usize = 512;

/// What a path stands for.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Folder,
    File(Arc<Inode>),
}

/// All names.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: Nodes,
    safe: Nodes,
    unsynced: Vec<Change>,
}

type Nodes = BTreeMap<PathBuf, Node>;

#[derive(Debug)]
enum Change {
    Link {
        path: PathBuf,
        node: Node,
    },
    /// In one step, so that the file has one of the names whatever happens.
    Rename {
        from: PathBuf,
        to: PathBuf,
        node: Node,
    },
    Unlink {
        path: PathBuf,
    },
}

impl Change {
    /// Whether syncing the folder makes this safe: it is in the folder, or the folder is in it.
    fn is_synced_by(&self, folder: &Path) -> bool {
        let concerns = |path: &Path| parent(path) == folder || folder.starts_with(path);
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => concerns(path),
            Self::Rename { from, to, .. } => concerns(from) || concerns(to),
        }
    }

    fn apply(self, nodes: &mut Nodes) {
        match self {
            Self::Link { path, node } => drop(nodes.insert(path, node)),
            Self::Rename { from, to, node } => {
                // Another file may have taken the old name since.
                if nodes.get(&from).is_some_and(|there| there.is(&node)) {
                    nodes.remove(&from);
                }
                nodes.insert(to, node);
            }
            Self::Unlink { path } => nodes.retain(|node, _| !node.starts_with(&path)),
        }
    }
}

impl Node {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder, Self::Folder) => true,
            (Self::File(one), Self::File(two)) => Arc::ptr_eq(one, two),
            (Self::Folder, Self::File(_)) | (Self::File(_), Self::Folder) => false,
        }
    }
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<&Node> {
        if is_base(path) { Some(&Node::Folder) } else { self.seen.get(path) }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<&Arc<Inode>> {
        match self.get(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn check_folder(&self, folder: &Path) -> io::Result<()> {
        match self.get(folder) {
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Whether a file may have this name: its folder is there, and no folder has it.
    pub(super) fn check_place(&self, path: &Path) -> io::Result<()> {
        match self.get(path) {
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            Some(Node::File(_)) | None => self.check_folder(parent(path)),
        }
    }

    /// Gives a file a name, in place of the file that has it.
    pub(super) fn link(&mut self, path: &Path, inode: Arc<Inode>) -> io::Result<()> {
        self.check_place(path)?;
        let node = Node::File(inode);
        self.seen.insert(path.to_owned(), node.clone());
        self.note(Change::Link { path: path.to_owned(), node });
        Ok(())
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut folders: Vec<&Path> = path.ancestors().filter(|folder| !is_base(folder)).collect();
        folders.reverse();
        for folder in folders {
            match self.seen.get(folder) {
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                Some(Node::Folder) => {}
                None => {
                    self.seen.insert(folder.to_owned(), Node::Folder);
                    self.note(Change::Link { path: folder.to_owned(), node: Node::Folder });
                }
            }
        }
        Ok(())
    }

    /// File by file, so that a loss of power may leave any of them.
    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.check_folder(path)?;
        let below: Vec<PathBuf> = self.below(path).map(|(path, _)| path.clone()).collect();
        for path in below.into_iter().rev() {
            self.seen.remove(&path);
            self.note(Change::Unlink { path });
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.seen.remove(path);
        self.note(Change::Unlink { path: path.to_owned() });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = Node::File(self.file(from)?.clone());
        self.check_place(to)?;
        if from == to {
            return Ok(());
        }
        self.seen.remove(from);
        self.seen.insert(to.to_owned(), node.clone());
        self.note(Change::Rename { from: from.to_owned(), to: to.to_owned(), node });
        Ok(())
    }

    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.check_folder(folder)?;
        let within = self.below(folder).filter(|(path, _)| !is_base(path) && parent(path) == folder);
        let entries = within.filter_map(|(path, node)| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some(match node {
                Node::Folder => Entry { name, is_folder: true, bytes: 0 },
                Node::File(inode) => Entry { name, is_folder: false, bytes: inode.length() },
            })
        });
        Ok(entries.collect())
    }

    /// Bytes that the files in and below a folder take.
    pub(super) fn allocated(&self, folder: &Path) -> u64 {
        let files = self.below(folder).filter_map(|(_, node)| match node {
            Node::Folder => None,
            Node::File(inode) => Some(inode.allocated()),
        });
        files.sum()
    }

    /// Makes the names in a folder safe. A journal keeps the order in which folders and what is in them came to be, so the
    /// folders above are safe too.
    pub(super) fn sync(&mut self, folder: &Path) {
        let (synced, unsynced) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|change: &Change| change.is_synced_by(folder));
        self.unsynced = unsynced;
        synced.into_iter().for_each(|change: Change| change.apply(&mut self.safe));
    }

    /// Leaves what was synced, and of the rest as much as chance has it.
    pub(super) fn lose_power(&mut self, random: &Random) {
        self.lose(random, |_, inode| inode.after_power_loss(random));
    }

    /// Leaves every name, and everything but the unsynced content of these files: as a disk may that writes in an order of
    /// its own.
    pub(super) fn lose_power_in_the_worst_order(&mut self, random: &Random, is_spoilt: impl Fn(&Path) -> bool) {
        for change in std::mem::take(&mut self.unsynced) {
            change.apply(&mut self.safe);
        }
        self.lose(random, |path, inode| inode.after_worst_order(is_spoilt(path), random));
    }

    fn lose(&mut self, random: &Random, left_of: impl Fn(&Path, &Inode) -> Inode) {
        // Of names few, many or all are there again: a journal may have been written just before.
        let kept_of_ten = [3, 7, 10][random.below(3) as usize];
        for change in std::mem::take(&mut self.unsynced) {
            if random.below(10) < kept_of_ten {
                change.apply(&mut self.safe);
            }
        }
        let mut left = Nodes::new();
        // A folder comes before what is in it.
        for (path, node) in std::mem::take(&mut self.safe) {
            let folder = parent(&path);
            if !is_base(folder) && !matches!(left.get(folder), Some(Node::Folder)) {
                continue;
            }
            let node = match node {
                Node::Folder => Node::Folder,
                Node::File(inode) => Node::File(Arc::new(left_of(&path, &inode))),
            };
            left.insert(path, node);
        }
        self.seen = left.clone();
        self.safe = left;
    }

    fn below<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Node)> {
        // Paths are ordered by their parts, so that all below a folder follow it.
        self.seen.range(folder.to_owned()..).take_while(move |(path, _)| path.starts_with(folder))
    }

    fn note(&mut self, change: Change) {
        self.unsynced.push(change);
        if self.unsynced.len() > UNSYNCED_MAX {
            self.unsynced.remove(0).apply(&mut self.safe);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn is_base(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none()
}
