//! What the machine allows: some faults need root, and programs of the system.
//!
//! Owns the names of what is missing, as somebody would type them to mend it, and the clean-up after a suite that was
//! killed. Does not own what is done with any of it.

use std::path::{Path, PathBuf};

use crate::cluster::PREFIX;
use crate::tool;

/// Folders of the suite begin with this, behind it stands the process id.
pub(crate) const FOLDER_PREFIX: &str = "mallorn-nemesis-";

/// What a fault may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Network namespaces and rules in them.
    Network,
    /// File systems in files.
    Loop,
    /// A block device that fails on demand.
    Nbd,
    /// The shutdown of a file system.
    Shutdown,
    /// A limit on a block device's writes.
    Throttle,
}

impl Need {
    /// Programs, and the Debian package of each.
    fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Network => &[("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")],
            Self::Loop => {
                &[("losetup", "mount"), ("mount", "mount"), ("mkfs.ext4", "e2fsprogs"), ("fsfreeze", "util-linux")]
            }
            Self::Nbd => &[("nbdkit", "nbdkit"), ("nbdfuse", "libnbd-bin"), ("fusermount3", "fuse3")],
            Self::Shutdown => &[("xfs_io", "xfsprogs"), ("unshare", "util-linux")],
            Self::Throttle => &[("lsblk", "util-linux")],
        }
    }

    /// What of it is not here.
    pub(crate) fn missing(self) -> Vec<String> {
        let mut missing = Vec::new();
        if !rustix::process::getuid().is_root() {
            missing.push("root".to_owned());
        }
        let absent = self.programs().iter().filter(|(program, _)| !is_installed(program));
        missing.extend(absent.map(|(program, package)| format!("`{program}` (package {package})")));
        let file = match self {
            Self::Loop => "/dev/loop-control",
            Self::Nbd => "/dev/fuse",
            Self::Throttle => THROTTLE_FOLDER,
            Self::Network | Self::Shutdown => "/proc",
        };
        if !Path::new(file).exists() {
            missing.push(file.to_owned());
        }
        // Root in a container may be root in name only.
        if missing.is_empty()
            && let Some((attempt, right)) = self.attempt()
            && !tool::succeeds(attempt)
        {
            missing.push(right.to_owned());
        }
        missing
    }

    /// What shows that this is allowed, and what is missing where it fails.
    fn attempt(self) -> Option<(&'static [&'static str], &'static str)> {
        match self {
            Self::Network => {
                Some((&["unshare", "--net", "true"], "the right to make network namespaces (CAP_SYS_ADMIN)"))
            }
            Self::Loop => Some((
                &["sh", "-c", "losetup --find && unshare --mount true"],
                "a loop device, or the right to mount (CAP_SYS_ADMIN)",
            )),
            Self::Shutdown => Some((&["unshare", "--mount", "true"], "the right to mount (CAP_SYS_ADMIN)")),
            Self::Nbd | Self::Throttle => None,
        }
    }
}

/// Where limits on block devices are set.
pub(crate) const THROTTLE_FOLDER: &str = "/sys/fs/cgroup/blkio";

fn is_installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).is_file())
}

/// Takes away what suites have left that were killed: mounts, loops, namespaces, folders. Those that run are left alone.
pub(crate) fn clean_up() {
    let is_dead = |pid: &str| !pid.is_empty() && !Path::new("/proc").join(pid).exists();
    let owner = |text: &str, prefix: &str| {
        let rest = text.split_once(prefix)?.1;
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        is_dead(&pid).then_some(pid)
    };
    let mounts = tool::output(&["cat", "/proc/mounts"]);
    let mut mounts: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    // The last one mounted first.
    mounts.reverse();
    for mount in mounts.into_iter().filter(|mount| owner(mount, FOLDER_PREFIX).is_some()) {
        tool::succeeds(&["fsfreeze", "-u", mount]);
        tool::succeeds(&["umount", "-l", mount]);
    }
    let loops = tool::output(&["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
    for line in loops.lines().filter(|line| owner(line, FOLDER_PREFIX).is_some()) {
        let name = line.split_whitespace().next().unwrap_or_default();
        tool::succeeds(&["losetup", "-d", name]);
    }
    for line in tool::output(&["ip", "netns", "list"]).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if name.starts_with(PREFIX) && owner(name, PREFIX).is_some() {
            tool::succeeds(&["ip", "netns", "del", name]);
        }
    }
    for line in tool::output(&["ip", "-brief", "link", "show", "type", "bridge"]).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if name.starts_with(PREFIX) && owner(name, PREFIX).is_some() {
            tool::succeeds(&["ip", "link", "del", name]);
        }
    }
    for entry in std::fs::read_dir(THROTTLE_FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(PREFIX) && owner(&name.to_string_lossy(), PREFIX).is_some() {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        if owner(&path.to_string_lossy(), FOLDER_PREFIX).is_some() {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}
