//! The machine's own files.
//!
//! Owns the system calls, and that those which do half of what was asked are made again for the rest. Does not own paths
//! in errors: the callers put them in.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::StatVfs;
use rustix::io::{Errno, retry_on_intr};

use super::error::{CreateDirError, ReplaceError, ReplaceStep, create_dir_error};
use super::{Entry, OpenHow, Space};

/// The most pieces that the system takes at once (`IOV_MAX`).
const PIECES_MAX: usize = 1024;

pub(super) fn open(path: &Path, how: OpenHow) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match how {
        OpenHow::Read => {
            let file = options.open(path)?;
            // The system opens folders too, and refuses only to read them.
            return if file.metadata()?.is_dir() { Err(ErrorKind::IsADirectory.into()) } else { Ok(file) };
        }
        OpenHow::Create => options.write(true).create_new(true),
        OpenHow::Write => options.write(true).create(true).truncate(false),
    };
    options.open(path)
}

pub(super) fn write_at(file: &File, pieces: &[&[u8]], mut offset: u64) -> io::Result<()> {
    for pieces in pieces.chunks(PIECES_MAX) {
        let filled = pieces.iter().filter(|piece| !piece.is_empty());
        let mut slices: Vec<_> = filled.map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let written = retry_on_intr(|| rustix::io::pwritev(file, rest, offset))?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
    }
    Ok(())
}

/// `None` where the file system has no such thing, or the file is not there any more.
#[cfg(target_os = "linux")]
pub(super) fn open_past_cache(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::DIRECT.bits();
    OpenOptions::new().read(true).write(true).custom_flags(flags as i32).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open_past_cache(_: &Path) -> Option<File> {
    None
}

pub(super) fn read_blocks_at(file: &File, into: &mut [u8], offset: u64, needed: usize) -> io::Result<()> {
    let mut filled = 0;
    while filled < needed {
        match retry_on_intr(|| rustix::io::pread(file, &mut into[filled..], offset + filled as u64))? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}

pub(super) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(into, offset)
}

pub(super) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    match allocate(file, offset, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let space = space_of(&rustix::fs::fstatvfs(file)?);
            if space.free_bytes < length { Err(Errno::NOSPC.into()) } else { Ok(()) }
        }
        done => Ok(done?),
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, offset: u64, length: u64) -> Result<(), Errno> {
    retry_on_intr(|| rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, offset, length))
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64, _: u64) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

/// On Linux this advice begins to write what is dirty, as `sync_file_range` does. It would also drop what is clean already;
/// of bytes that were written just now nothing is, so that they stay readable from memory.
#[cfg(target_os = "linux")]
pub(super) fn start_writeback(file: &File, offset: u64, length: u64) {
    if let Some(length) = std::num::NonZeroU64::new(length) {
        // A hint: the sync that follows tells of errors.
        let _ = rustix::fs::fadvise(file, offset, Some(length), rustix::fs::Advice::DontNeed);
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn start_writeback(_: &File, _: u64, _: u64) {}

pub(super) fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            // Removed since the folder was read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let is_folder = metadata.is_dir();
        let bytes = if is_folder { 0 } else { metadata.len() };
        entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), is_folder, bytes });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

pub(super) fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn space(folder: &Path) -> io::Result<Space> {
    Ok(space_of(&rustix::fs::statvfs(folder)?))
}

/// What the system keeps for its administrator is not free for us.
fn space_of(stat: &StatVfs) -> Space {
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Space { capacity_bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) }
}

/// The file with its lock, or `None` where somebody else has it.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = open(path, OpenHow::Write)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
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
    sync_dir(folder).map_err(failed(ReplaceStep::SyncDirectory))
}

pub(super) fn create_dir(path: &Path) -> Result<(), CreateDirError> {
    fs::create_dir_all(path).map_err(|source| create_dir_error(path, source))?;
    // Permissions tell little (read-only mounts, quotas, other users' rules), so a file is tried.
    let probe = path.join(format!(".mallorn-probe-{}", std::process::id()));
    let written = File::create(&probe).and_then(|mut file| file.write_all(b"probe"));
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(|source| CreateDirError::Unwritable { path: path.to_owned(), source })
}
