use std::future::pending;
use std::path::{Path, PathBuf};

use crate::disk::{Conditions, Disk, DiskFaults, File, FileError, Lane, LockError, OpenHow, Space, Trouble, trouble};
use crate::random::Random;

const SEEDS: u64 = 200;

fn path(name: &str) -> PathBuf {
    Path::new("/data").join(name)
}

/// A disk with the folder `/data`, which is safe.
fn disk() -> (Disk, DiskFaults) {
    let disk = Disk::simulated();
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    let faults = disk.faults().unwrap();
    (disk, faults)
}

fn content(disk: &Disk, name: &str) -> Option<String> {
    disk.read(&path(name), 100).ok().map(|bytes| String::from_utf8(bytes).unwrap())
}

/// What different losses of power leave of what `before` did.
fn left(before: impl Fn(&Disk), found: impl Fn(&Disk) -> String) -> Vec<String> {
    let mut left: Vec<String> = (0..SEEDS)
        .map(|seed| {
            let (disk, faults) = disk();
            before(&disk);
            faults.lose_power(&Random::seeded(seed));
            found(&disk)
        })
        .collect();
    left.sort();
    left.dedup();
    left
}

fn file(disk: &Disk) -> File {
    let file = disk.open(&path("file"), OpenHow::Create).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    file
}

#[test]
fn a_loss_of_power_keeps_what_was_synced_and_some_of_the_rest_but_makes_nothing_up() {
    let found = |disk: &Disk| content(disk, "file").unwrap().replace('\0', "0");
    let before = |disk: &Disk| {
        let file = file(disk);
        file.write_at(&[b"synced"], 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(&[b"AB"], 4).unwrap();
        file.write_at(&[b"CD"], 6).unwrap();
    };
    // Each of the writes whole, its first half, or not at all, and the second perhaps no more than its length.
    let mut expected = ["synced", "syncAd", "syncAB"]
        .map(|first| ["", "C", "CD", "00"].map(|second| first.to_owned() + second))
        .concat();
    expected.sort();
    assert_eq!(left(before, found), expected);

    let before = |disk: &Disk| {
        let file = file(disk);
        file.write_at(&[b"A"], 0).unwrap();
        file.write_at(&[b"B"], 1).unwrap();
    };
    assert_eq!(left(before, found), ["", "0", "00", "0B", "A", "A0", "AB"], "a hole reads as zeros");

    let before = |disk: &Disk| {
        let file = file(disk);
        file.write_at(&[b"whole"], 0).unwrap();
        file.sync_all().unwrap();
        file.truncate(2).unwrap();
    };
    assert_eq!(left(before, found), ["wh", "whole"]);
}

#[test]
fn names_are_safe_once_their_folder_is_synced_and_a_file_is_renamed_in_one_step() {
    let names = |disk: &Disk| {
        let texts = ["a", "b"].map(|name| content(disk, name).unwrap_or("-".to_owned()));
        texts.join(" ")
    };
    let with_a = |disk: &Disk| {
        let file = disk.open(&path("a"), OpenHow::Create).unwrap();
        file.write_at(&[b"A"], 0).unwrap();
        file.sync_data().unwrap();
    };
    let with_both = |disk: &Disk| {
        with_a(disk);
        disk.replace(&path("b"), b"B").unwrap();
    };
    assert_eq!(left(with_a, names), ["- -", "A -"]);
    assert_eq!(left(with_both, names), ["A B"], "a replacement syncs the folder");
    let renamed = |disk: &Disk| {
        with_both(disk);
        disk.rename(&path("a"), &path("b")).unwrap();
    };
    assert_eq!(left(renamed, names), ["- A", "A B"]);
    let renamed_for_good = |disk: &Disk| {
        renamed(disk);
        disk.sync_dir(Path::new("/data")).unwrap();
    };
    assert_eq!(left(renamed_for_good, names), ["- A"]);
    let removed = |disk: &Disk| {
        with_both(disk);
        disk.remove_dir_all(Path::new("/data")).unwrap();
    };
    assert_eq!(left(removed, names), ["- -", "- B", "A -", "A B"]);
    let moved_below_a_new_folder = |disk: &Disk| {
        with_both(disk);
        disk.create_dir(&path("new")).unwrap();
        disk.rename(&path("a"), &path("new/a")).unwrap();
        disk.sync_dir(&path("new")).unwrap();
    };
    assert_eq!(left(moved_below_a_new_folder, |disk| content(disk, "new/a").unwrap()), ["A"]);
}

#[test]
fn a_loss_of_power_is_a_new_start_of_the_machine() {
    let (disk, faults) = disk();
    let before = (disk.boot_id(), disk.lock(&path("lock")).unwrap());
    let open = file(&disk);
    assert_eq!(disk.boot_id(), before.0);
    faults.lose_power(&Random::seeded(1));
    assert_ne!(disk.boot_id(), before.0);
    // What the dead process had does nothing to the next one's.
    let held = disk.lock(&path("lock")).unwrap();
    drop(before);
    assert!(matches!(disk.lock(&path("lock")), Err(LockError::Held { .. })));
    drop(held);
    open.write_at(&[b"late"], 0).unwrap();
    assert_eq!(content(&disk, "file").unwrap(), "");
}

#[test]
fn a_crash_gives_locks_back_and_ends_what_waited_for_the_disk_but_keeps_what_was_written() {
    let (disk, faults) = disk();
    let (written, host) = (disk.clone(), "worker");
    let mut sim = turmoil::Builder::new().build();
    sim.host(host, move || {
        let disk = disk.clone();
        async move {
            let _held = disk.lock(&path("lock"))?;
            let lane = Lane::new(&disk, path(""), "disk-0", 1, 1)?;
            let file = disk.open(&path("file"), OpenHow::Write)?;
            let end = file.length()?;
            file.write_at(&[b"life "], end)?;
            lane.run(move || file.write_at(&[b"job "], end + 5)).await??;
            pending().await
        }
    });
    faults.change(Path::new("/data"), |disk| disk.hung = true);
    for _ in 0..2 {
        sim.step().unwrap();
        sim.crash(host);
        sim.bounce(host);
    }
    faults.heal();
    for _ in 0..5 {
        sim.step().unwrap();
    }
    assert_eq!(content(&written, "file").unwrap(), "life life life job ");
}

#[test]
fn what_a_failed_sync_should_have_written_is_lost_with_the_power_whatever_came_after() {
    let (disk, faults) = disk();
    let file = file(&disk);
    file.write_at(&[b"A"], 0).unwrap();
    faults.change(Path::new("/data"), |disk| disk.fails_syncs = true);
    assert_eq!(trouble(&file.sync_data().unwrap_err()), Trouble::Failing);
    assert_eq!(disk.sync_dir(Path::new("/data")).unwrap_err().trouble(), Trouble::Failing);
    assert!(disk.replace(&path("small"), b"x").unwrap_err().to_string().contains("sync the new file"));
    faults.heal();
    file.sync_data().unwrap();
    assert_eq!(content(&disk, "file").unwrap(), "A");
    faults.lose_power(&Random::seeded(1));
    assert_eq!(content(&disk, "file").unwrap(), "");
}

#[test]
fn a_full_disk_takes_what_fits_and_more_once_something_is_removed() {
    let (disk, faults) = disk();
    faults.change(Path::new("/data"), |disk| disk.capacity_bytes = Some(10));
    let free = || disk.space(Path::new("/data")).unwrap().free_bytes;
    let file = file(&disk);
    file.reserve(0, 6).unwrap();
    assert_eq!(disk.space(Path::new("/data")).unwrap(), Space { capacity_bytes: 10, free_bytes: 4 });
    let other = disk.open(&path("other"), OpenHow::Create).unwrap();
    let full = other.write_at(&[b"12", b"345"], 0).unwrap_err();
    assert_eq!((trouble(&full), content(&disk, "other").unwrap().as_str(), free()), (Trouble::Full, "1234", 0));
    assert_eq!(trouble(&other.reserve(0, 5).unwrap_err()), Trouble::Full);
    assert!(disk.replace(&path("small"), b"x").is_err());

    file.write_at(&[b"123456"], 0).unwrap();
    assert!(file.write_at(&[b"7"], 6).is_err());
    disk.remove_file(&path("other")).unwrap();
    assert_eq!(free(), 4);
    file.write_at(&[b"7"], 6).unwrap();
    disk.replace(&path("small"), b"x").unwrap();
    assert_eq!(free(), 2);

    disk.create_dir(Path::new("/elsewhere")).unwrap();
    disk.replace(Path::new("/elsewhere/large"), &[0; 100]).unwrap();
    assert_eq!(free(), 2);
}

#[test]
fn a_disk_fails_as_it_was_told_and_others_do_not() {
    let (disk, faults) = disk();
    disk.create_dir(Path::new("/other")).unwrap();
    let open = file(&disk);
    open.write_at(&[b"AB"], 0).unwrap();
    let with = |change: fn(&mut Conditions)| {
        faults.heal();
        faults.change(Path::new("/data"), change);
        disk.replace(Path::new("/other/file"), b"fine").unwrap();
        disk.read(Path::new("/other/file"), 4).unwrap();
        let create = disk.open(&path("new"), OpenHow::Create).map(drop).map_err(errno);
        let list = disk.list(Path::new("/data")).map(drop).map_err(errno);
        let write = open.write_at(&[b"A"], 0).map_err(|error| error.raw_os_error());
        let read = open.read_at(&mut [0], 0).map_err(|error| error.raw_os_error());
        disk.remove_file(&path("new")).ok();
        (create, list, write, read)
    };
    let (gone, io, read_only) = (Err(Some(2)), Err(Some(5)), Err(Some(30)));
    assert_eq!(with(|_| ()), (Ok(()), Ok(()), Ok(()), Ok(())));
    assert_eq!(with(|disk| disk.fails_writes = true), (io, Ok(()), io, Ok(())));
    assert_eq!(with(|disk| disk.fails_reads = true), (Ok(()), io, Ok(()), io));
    assert_eq!(with(|disk| disk.read_only = true), (read_only, Ok(()), read_only, Ok(())));
    assert_eq!(with(|disk| disk.vanished = true), (gone, gone, io, io));

    faults.heal();
    assert!(faults.flip_bit(&path("file"), 1, 0));
    assert!(!faults.flip_bit(&path("file"), 2, 0) && !faults.flip_bit(&path("none"), 0, 0));
    assert_eq!(content(&disk, "file").unwrap(), "AC");
}

fn errno(error: FileError) -> Option<i32> {
    error.source.raw_os_error()
}
