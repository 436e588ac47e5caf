//! Disks of a worker's own: file systems in files, which can be filled, frozen, shut down, throttled, or told to fail.
//!
//! Owns mounts, loop devices and the programs behind them; all of it goes when it is dropped. Does not own what is
//! written there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mallorn_runtime::disk::Disk as Files;

use crate::cluster::{PREFIX, Process};
use crate::failure::{Failure, until};
use crate::privilege::THROTTLE_FOLDER;
use crate::tool;

/// How long a program may take to show its file.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// An ext4 file system on a loop device.
#[derive(Debug)]
pub(crate) struct Disk {
    device: String,
    mount: PathBuf,
    /// What is behind the device, where it is no plain file.
    failing: Option<Failing>,
}

/// A device that fails where a file says so.
#[derive(Debug)]
struct Failing {
    folder: PathBuf,
    writes: PathBuf,
    reads: PathBuf,
    _process: Process,
}

impl Disk {
    /// So many MiB in a file of this folder.
    pub(crate) async fn new(folder: &Path, name: &str, mib: u32) -> Result<Self, Failure> {
        let image = folder.join(format!("{name}.img"));
        tool::run(&["truncate", "--size", &format!("{mib}M"), &text(&image)]).await?;
        Self::on(&image, folder.join(name), None).await
    }

    /// Uses up every file that the file system may have; how many that was.
    pub(crate) async fn fill_inodes(&self) -> Result<u32, Failure> {
        let free = tool::run(&["stat", "--file-system", "--format=%d", &text(&self.mount)]).await?;
        let free: u32 = free.trim().parse().map_err(|_| Failure::Setup(format!("stat says {free:?}")))?;
        let files: Vec<String> = (0..free).map(|number| format!("filler-{number}")).collect();
        for some in files.chunks(500) {
            let paths: Vec<String> = some.iter().map(|name| text(&self.mount.join(name))).collect();
            let arguments: Vec<&str> = std::iter::once("touch").chain(paths.iter().map(String::as_str)).collect();
            tool::run(&arguments).await?;
        }
        Ok(free)
    }

    /// So many MiB in the memory of a program that fails on demand.
    pub(crate) async fn failing(folder: &Path, name: &str, mib: u32) -> Result<Self, Failure> {
        let shown = folder.join(format!("{name}-device"));
        make(&shown)?;
        let (writes, reads) = (folder.join(format!("{name}-fail-writes")), folder.join(format!("{name}-fail-reads")));
        let image = shown.join("disk");
        let arguments = [
            text(&image),
            "--command".to_owned(),
            "nbdkit".to_owned(),
            "-s".to_owned(),
            "--filter=error".to_owned(),
            "memory".to_owned(),
            format!("{mib}M"),
            "error-pwrite=EIO".to_owned(),
            "error-pwrite-rate=100%".to_owned(),
            format!("error-pwrite-file={}", text(&writes)),
            "error-pread=EIO".to_owned(),
            "error-pread-rate=100%".to_owned(),
            format!("error-pread-file={}", text(&reads)),
        ];
        let arguments = arguments.map(Into::into);
        let process = Process::spawn("nbdfuse", Path::new("nbdfuse"), &arguments)?;
        let failing = Failing { folder: shown, writes, reads, _process: process };
        if until(SHOWN_WITHIN, async || image.exists()).await.is_none() {
            return Err(Failure::Setup("nbdfuse shows no file".to_owned()));
        }
        Self::on(&image, folder.join(name), Some(failing)).await
    }

    async fn on(image: &Path, mount: PathBuf, failing: Option<Failing>) -> Result<Self, Failure> {
        let device = tool::run(&["losetup", "--find", "--show", "--direct-io=on", &text(image)]).await?;
        let disk = Self { device: device.trim().to_owned(), mount, failing };
        tool::run(&["mkfs.ext4", "-q", "-F", &disk.device]).await?;
        make(&disk.mount)?;
        disk.mount().await?;
        Ok(disk)
    }

    async fn mount(&self) -> Result<(), Failure> {
        let options = "errors=remount-ro,noatime";
        tool::run(&["mount", "-t", "ext4", "-o", options, &self.device, &text(&self.mount)]).await.map(drop)
    }

    /// A folder on it for a worker's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.mount.join("data")
    }

    /// Writes so many MiB to it, past the cache; what the system says.
    pub(crate) async fn probe_write(&self, mib: u32) -> Result<(), String> {
        let probe = text(&self.mount.join("probe"));
        let of = format!("of={probe}");
        let wrote = tool::run(&["dd", "if=/dev/zero", &of, "bs=1M", &format!("count={mib}"), "oflag=direct"]).await;
        // Where nothing can be written, nothing can be removed.
        let _ = tool::run(&["rm", "-f", &probe]).await;
        wrote.map(drop).map_err(|error| error.to_string())
    }

    /// Reads a file of it past the cache; what the system says.
    pub(crate) async fn probe_read(&self, file: &Path) -> Result<(), String> {
        let of = format!("if={}", text(file));
        let read = tool::run(&["dd", &of, "of=/dev/null", "bs=64k", "count=1", "iflag=direct"]).await;
        read.map(drop).map_err(|error| error.to_string())
    }

    /// Whether writes, and reads, fail from here on.
    pub(crate) async fn fail(&self, writes: bool, reads: bool) -> Result<(), Failure> {
        let Some(failing) = &self.failing else { return Err(Failure::Setup("this disk can't fail".to_owned())) };
        for (file, fails) in [(&failing.writes, writes), (&failing.reads, reads)] {
            let change: &[&str] = if fails { &["touch"] } else { &["rm", "-f"] };
            tool::run(&[change, &[&text(file)]].concat()).await?;
        }
        Ok(())
    }

    /// Has the file system meet an error: it goes on to be read only.
    pub(crate) async fn trigger_error(&self) -> Result<(), Failure> {
        let name = self.device.trim_start_matches("/dev/");
        let command = format!("echo nemesis > /sys/fs/ext4/{name}/trigger_fs_error");
        tool::run(&["sh", "-c", &command]).await.map(drop)
    }

    /// Every write hangs from here on.
    pub(crate) async fn freeze(&self) -> Result<(), Failure> {
        tool::run(&["fsfreeze", "--freeze", &text(&self.mount)]).await.map(drop)
    }

    pub(crate) async fn thaw(&self) -> Result<(), Failure> {
        tool::run(&["fsfreeze", "--unfreeze", &text(&self.mount)]).await.map(drop)
    }

    /// Loses power: what was not synced does not come to the device any more.
    pub(crate) async fn lose_power(&self) -> Result<(), Failure> {
        tool::run(&["xfs_io", "-x", "-c", "shutdown", &text(&self.mount)]).await.map(drop)
    }

    /// Mounts it anew, once nobody uses it.
    pub(crate) async fn remount(&self) -> Result<(), Failure> {
        tool::run(&["umount", &text(&self.mount)]).await?;
        self.mount().await
    }

    /// Limits what a process writes to it, in bytes a second.
    pub(crate) async fn throttle(&self, pid: u32, bytes_per_s: u64) -> Result<Throttle, Failure> {
        let folder = format!("{THROTTLE_FOLDER}/{PREFIX}{}", std::process::id());
        let throttle = Throttle { folder: folder.clone() };
        tool::run(&["mkdir", "-p", &folder]).await?;
        let number = tool::run(&["lsblk", "--noheadings", "--nodeps", "--output", "MAJ:MIN", &self.device]).await?;
        let limit = format!("echo '{} {bytes_per_s}' > {folder}/blkio.throttle.write_bps_device", number.trim());
        tool::run(&["sh", "-c", &limit]).await?;
        tool::run(&["sh", "-c", &format!("echo {pid} > {folder}/cgroup.procs")]).await?;
        Ok(throttle)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mount = text(&self.mount);
        if let Some(failing) = &self.failing {
            tool::succeeds(&["rm", "-f", &text(&failing.writes), &text(&failing.reads)]);
        }
        // It is not frozen, mostly; unmounting what is frozen would hang.
        tool::succeeds(&["fsfreeze", "--unfreeze", &mount]);
        tool::succeeds(&["umount", "-l", &mount]);
        tool::succeeds(&["losetup", "-d", &self.device]);
        if let Some(failing) = &self.failing {
            tool::succeeds(&["umount", "-l", &text(&failing.folder)]);
        }
    }
}

/// A limit on a process's writes. Dropped after the process is gone, or else its folder stays until the next suite.
#[derive(Debug)]
pub(crate) struct Throttle {
    folder: String,
}

impl Throttle {
    /// No limit any more.
    pub(crate) async fn lift(&self) -> Result<(), Failure> {
        let everybody = format!("cat {0}/cgroup.procs | xargs -r -n1 > {THROTTLE_FOLDER}/cgroup.procs", self.folder);
        tool::run(&["sh", "-c", &everybody]).await.map(drop)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        tool::succeeds(&["rmdir", &self.folder]);
    }
}

fn make(folder: &Path) -> Result<(), Failure> {
    Files::real().create_dir(folder).map_err(|error| Failure::Setup(error.to_string()))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
