use std::path::Path;

use rustix::io::Errno;

use super::*;

/// What every disk does with small files, below the folder `root`, which does not exist yet.
fn conforms_on_small_files(disk: &Disk, root: &Path) {
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

/// What every disk does with files that are read and written at offsets.
fn conforms_on_large_files(disk: &Disk, root: &Path) {
    disk.create_dir(root).unwrap();
    let path = root.join("segment");
    assert!(disk.open(&path, OpenHow::Read).unwrap_err().is_not_found());
    assert!(disk.open(&root.join("no").join("segment"), OpenHow::Write).unwrap_err().is_not_found());
    assert_eq!(disk.open(root, OpenHow::Read).unwrap_err().source.kind(), ErrorKind::IsADirectory);
    let file = disk.open(&path, OpenHow::Create).unwrap();
    assert!(disk.open(&path, OpenHow::Create).unwrap_err().is_taken());

    // More pieces than the system takes at once, of 0 to 2 bytes.
    let bytes: Vec<u8> = (0..9000_u32).map(|number| (number % 251) as u8 + 1).collect();
    let pieces: Vec<&[u8]> = bytes.chunks(3).flat_map(|three| [&three[..2], &[], &three[2..]]).collect();
    assert!(pieces.len() > 8 * 1024);
    file.write_at(&pieces, 100).unwrap();
    assert_eq!(file.length().unwrap(), 9100);
    let read = |file: &File, offset, length| {
        let mut into = vec![0xff; length];
        file.read_at(&mut into, offset).map(|()| into)
    };
    assert_eq!(read(&file, 100, 9000).unwrap(), bytes);
    assert_eq!(read(&file, 98, 4).unwrap(), [0, 0, 1, 2], "what was not written reads as zeros");
    assert_eq!(read(&file, 9099, 2).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(read(&file, 9100, 0).unwrap(), b"");

    let reader = disk.open(&path, OpenHow::Read).unwrap();
    assert!(reader.write_at(&[b"x"], 0).is_err());
    file.write_at(&[b"seen ", b"at once"], 0).unwrap();
    assert_eq!(read(&reader, 0, 12).unwrap(), b"seen at once");
    disk.open(&path, OpenHow::Write).unwrap().write_at(&[b"S"], 0).unwrap();
    assert_eq!(read(&reader, 0, 4).unwrap(), b"Seen", "a file that exists is opened as it is");

    file.reserve(9100, 1 << 20).unwrap();
    file.reserve(0, 0).unwrap();
    assert_eq!(file.length().unwrap(), 9100, "space that is reserved is no content");
    file.truncate(4).unwrap();
    file.truncate(6).unwrap();
    assert_eq!(read(&file, 0, 6).unwrap(), b"Seen\0\0");
    file.start_writeback(0, 6);
    file.sync_data().unwrap();
    file.sync_all().unwrap();

    disk.remove_file(&path).unwrap();
    disk.remove_file(&path).unwrap();
    assert!(disk.open(&path, OpenHow::Read).unwrap_err().is_not_found());
    assert_eq!(read(&reader, 0, 4).unwrap(), b"Seen", "what is open stays when its name goes");
}

/// What every disk does with folders.
fn conforms_on_folders(disk: &Disk, root: &Path) {
    disk.create_dir(&root.join("b")).unwrap();
    assert!(disk.list(&root.join("no")).unwrap_err().is_not_found());
    assert!(disk.sync_dir(&root.join("no")).unwrap_err().is_not_found());
    assert!(disk.space(&root.join("no")).unwrap_err().is_not_found());
    for (name, text) in [("c", "12345"), ("a", "1"), ("b/below", "123")] {
        disk.replace(&root.join(name), text.as_bytes()).unwrap();
    }
    let listed = || {
        let entries = disk.list(root).unwrap();
        entries.into_iter().map(|Entry { name, is_folder, bytes }| (name, is_folder, bytes)).collect::<Vec<_>>()
    };
    assert_eq!(listed(), [("a".to_owned(), false, 1), ("b".to_owned(), true, 0), ("c".to_owned(), false, 5)]);

    let replaced = disk.open(&root.join("a"), OpenHow::Read).unwrap();
    disk.rename(&root.join("c"), &root.join("a")).unwrap();
    assert_eq!(listed(), [("a".to_owned(), false, 5), ("b".to_owned(), true, 0)]);
    assert_eq!((replaced.length().unwrap(), disk.read(&root.join("a"), 5).unwrap()), (1, b"12345".to_vec()));
    assert!(disk.rename(&root.join("c"), &root.join("a")).unwrap_err().is_not_found());
    assert!(disk.rename(&root.join("a"), &root.join("b")).is_err());
    assert!(disk.remove_file(&root.join("b")).is_err());
    disk.sync_dir(root).unwrap();

    let space = disk.space(root).unwrap();
    assert!(0 < space.free_bytes && space.free_bytes <= space.capacity_bytes, "{space:?}");
    assert_eq!(disk.boot_id(), disk.clone().boot_id());
    disk.remove_dir_all(root).unwrap();
}

/// What every disk does with locks.
fn conforms_on_locks(disk: &Disk, root: &Path) {
    let path = root.join("lock");
    assert!(matches!(disk.lock(&path), Err(LockError::Failed(error)) if error.is_not_found()));
    disk.create_dir(root).unwrap();
    let held = disk.lock(&path).unwrap();
    let refused = disk.clone().lock(&path).unwrap_err();
    assert!(matches!(&refused, LockError::Held { path: named } if *named == path));
    assert!(refused.to_string().contains("lock is locked: another process uses this folder"), "{refused}");
    let other = disk.lock(&root.join("other")).unwrap();
    drop(held);
    let again = disk.lock(&path).unwrap();
    assert!(matches!(disk.lock(&path), Err(LockError::Held { .. })));
    drop((again, other));
}

fn conforms(disk: &Disk, folder: &Path) {
    conforms_on_small_files(disk, &folder.join("small"));
    conforms_on_large_files(disk, &folder.join("large"));
    conforms_on_folders(disk, &folder.join("folders"));
    conforms_on_locks(disk, &folder.join("locks"));
}

#[test]
fn real_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&Disk::real(), folder.path());
}

#[cfg(feature = "sim")]
#[test]
fn simulated_disk_conforms() {
    conforms(&Disk::simulated(), Path::new("/data"));
}

#[test]
fn an_error_tells_what_it_says_about_the_disk() {
    let of = |errno: Errno| trouble(&errno.into());
    assert_eq!([Errno::NOSPC, Errno::DQUOT].map(of), [Trouble::Full; 2]);
    assert_eq!([Errno::IO, Errno::ROFS, Errno::NOENT, Errno::NODEV].map(of), [Trouble::Failing; 4]);
    assert_eq!([Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(of), [Trouble::Process; 3]);
    let of_file = |errno: Errno| FileError { action: FileAction::Open, path: "/data".into(), source: errno.into() };
    let passed_on = |errno| trouble(&of_file(errno).into());
    let expected = [Trouble::Process, Trouble::Full, Trouble::Failing];
    assert_eq!([Errno::MFILE, Errno::DQUOT, Errno::IO].map(passed_on), expected);
}

#[cfg(target_os = "linux")]
#[test]
fn reserved_space_is_taken_from_the_disk_and_given_back() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segment");
    let file = Disk::real().open(&path, OpenHow::Create).unwrap();
    file.reserve(0, 1 << 20).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    file.write_at(&[b"x"], 0).unwrap();
    file.truncate(1).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
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
