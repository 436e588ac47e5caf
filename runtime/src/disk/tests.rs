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
