//! The memory that this process's container leaves it, as Linux's control groups tell it (versions 1 and 2).
//!
//! Owns finding the limit. Does not own what is made of it. Where nothing can be read there is none.

use std::path::{Path, PathBuf};

use crate::disk::Disk;

/// The root of the system's files.
const ROOT: &str = "/";
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Version 1 has no word for "no limit": it is a number that no machine has.
const UNLIMITED_FROM: u64 = 1 << 60;

/// The least of the limits of the control groups that this process is in, and no more than the machine has, in bytes;
/// `None` without a limit. Blocks.
#[must_use]
pub fn memory_limit_bytes(disk: &Disk) -> Option<u64> {
    limit_in(disk, Path::new(ROOT))
}

fn limit_in(disk: &Disk, root: &Path) -> Option<u64> {
    let groups = text(disk, &root.join("proc/self/cgroup"))?;
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        least(disk, &root.join(mount), path, file)
    };
    let limit = groups.lines().filter_map(of_line).min()?;
    Some(machine_bytes(disk, root).map_or(limit, |machine| limit.min(machine)))
}

fn machine_bytes(disk: &Disk, root: &Path) -> Option<u64> {
    let text = text(disk, &root.join("proc/meminfo"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit of a group and those around it. In a container the path may be that of the machine, of which only the
/// last part is there: then the mount is the group.
fn least(disk: &Disk, mount: &Path, group: &str, file: &str) -> Option<u64> {
    let mut folders = vec![mount.to_owned()];
    let mut folder = PathBuf::from(mount);
    for part in group.split('/').filter(|part| !part.is_empty() && *part != "..") {
        folder.push(part);
        folders.push(folder.clone());
    }
    let limit = |folder: &PathBuf| text(disk, &folder.join(file))?.trim().parse().ok();
    folders.iter().filter_map(limit).filter(|bytes| *bytes < UNLIMITED_FROM).min()
}

fn text(disk: &Disk, path: &Path) -> Option<String> {
    let bytes = disk.read(path, FILE_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            let mut made = root.path().to_owned();
            for part in path.parent().unwrap().strip_prefix(root.path()).unwrap() {
                made.push(part);
                Disk::real().make_dir(&made).unwrap();
            }
            Disk::real().replace(&path, content.as_bytes()).unwrap();
        }
        root
    }

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        limit_in(&Disk::real(), root(files).path())
    }

    #[test]
    fn the_least_limit_of_the_groups_around_counts_in_both_versions() {
        let two = [
            ("proc/self/cgroup", "0::/pod/worker\n"),
            ("sys/fs/cgroup/pod/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/pod/worker/memory.max", "max\n"),
        ];
        assert_eq!(limit(&two), Some(4 << 30));
        let more_than_there_is = [
            ("proc/self/cgroup", "0::/\n"),
            ("proc/meminfo", "MemTotal:        1048576 kB\nMemFree: 1 kB\n"),
            ("sys/fs/cgroup/memory.max", "549755813888\n"),
        ];
        assert_eq!(limit(&more_than_there_is), Some(1 << 30));
        let one = [
            ("proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2147483648\n"),
        ];
        assert_eq!(limit(&one), Some(2 << 30));
    }

    #[test]
    fn inside_a_container_the_mount_is_the_group() {
        let namespaced = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "1073741824\n")];
        assert_eq!(limit(&namespaced), Some(1 << 30));
        let paths_of_the_machine = [
            ("proc/self/cgroup", "4:memory:/kubepods/pod1/c\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "7340032\n"),
        ];
        assert_eq!(limit(&paths_of_the_machine), Some(7 << 20));
    }

    #[test]
    fn without_a_limit_or_without_groups_there_is_none() {
        assert_eq!(limit(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")]), None);
        assert_eq!(limit(&[("proc/self/cgroup", "nonsense\n")]), None);
        assert_eq!(limit(&[("other", "")]), None);
    }
}
