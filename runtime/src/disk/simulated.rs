//! Files in memory, for the simulation.
//!
//! Owns the tree. Every operation is atomic and safe at once: a simulated crash loses the process, never a part of a
//! small file, which is what the crash-safe replacement on a real disk promises too.

use std::collections::BTreeMap;
use std::io::{self, Cursor, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// A file's content as it was when the file was opened.
pub(super) type Content = Cursor<Arc<[u8]>>;

#[derive(Debug)]
enum Node {
    Folder,
    File(Arc<[u8]>),
}

/// All files and folders by path. The root and the empty path are folders that always exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: Arc<Mutex<BTreeMap<PathBuf, Node>>>,
}

impl Tree {
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut nodes = self.nodes.lock();
        match path.parent() {
            None => return Err(ErrorKind::IsADirectory.into()),
            Some(folder) if is_base(folder) => {}
            Some(folder) => match nodes.get(folder) {
                Some(Node::Folder) => {}
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => return Err(ErrorKind::NotFound.into()),
            },
        }
        if let Some(Node::Folder) = nodes.get(path) {
            return Err(ErrorKind::IsADirectory.into());
        }
        nodes.insert(path.to_owned(), Node::File(Arc::from(bytes)));
        Ok(())
    }

    pub(super) fn open_read(&self, path: &Path) -> io::Result<Content> {
        match self.nodes.lock().get(path) {
            Some(Node::File(bytes)) => Ok(Cursor::new(bytes.clone())),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut nodes = self.nodes.lock();
        let mut folders: Vec<&Path> = path.ancestors().filter(|folder| !is_base(folder)).collect();
        folders.reverse();
        for folder in folders {
            match nodes.get(folder) {
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                Some(Node::Folder) => {}
                None => drop(nodes.insert(folder.to_owned(), Node::Folder)),
            }
        }
        Ok(())
    }

    pub(super) fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut nodes = self.nodes.lock();
        match nodes.get(path) {
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            Some(Node::Folder) | None => {
                nodes.retain(|node, _| !node.starts_with(path));
                Ok(())
            }
        }
    }
}

fn is_base(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none()
}
