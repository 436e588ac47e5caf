//! What the kernel tells about a process, read from `/proc`.
//!
//! Owns the reading of `/proc`. On systems without it every call fails, and callers leave the numbers out.

use std::fs;
use std::path::PathBuf;

use thiserror::Error;

/// Clock ticks per second in `/proc`: `USER_HZ`, which Linux fixes at 100 for programs on every architecture we build
/// for, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time in user and system mode of all its threads, in seconds, to a hundredth.
    pub cpu_s: f64,
    /// Resident memory now; 0 once the process has ended.
    pub rss_bytes: u64,
    /// Most resident memory so far (`VmHWM`); 0 once the process has ended.
    pub peak_rss_bytes: u64,
    /// Page faults that needed no disk: memory touched for the first time, mostly.
    pub minor_faults: u64,
}

/// Why `/proc` gave no answer.
#[derive(Debug, Error)]
pub enum UsageError {
    /// There is no such process, or no `/proc`.
    #[error("can't read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not what Linux documents.
    #[error("{path} is not of the form expected", path = path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// What this process has used.
///
/// # Errors
/// Where there is no `/proc`.
pub fn usage() -> Result<Usage, UsageError> {
    usage_in("/proc/self")
}

/// What another process has used. A child that has ended but was not waited for still tells its CPU time, but no memory:
/// ask for that while it lives.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn usage_of(pid: u32) -> Result<Usage, UsageError> {
    usage_in(&format!("/proc/{pid}"))
}

/// When this process started, in seconds of Unix time, to a hundredth.
pub(super) fn start_time_s() -> Result<f64, UsageError> {
    let boot = read("/proc/stat")?;
    let boot_s = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let boot_s = boot_s.ok_or_else(|| form("/proc/stat"))?;
    let stat = read("/proc/self/stat")?;
    let ticks = stat_field(&stat, 22).ok_or_else(|| form("/proc/self/stat"))?;
    Ok(boot_s + ticks as f64 / TICKS_PER_SECOND)
}

/// How many file descriptors this process has open.
pub(super) fn open_files() -> Result<usize, UsageError> {
    let path = PathBuf::from("/proc/self/fd");
    let entries = fs::read_dir(&path).map_err(|source| UsageError::Read { path, source })?;
    // The folder itself is open while it is read.
    Ok(entries.count().saturating_sub(1))
}

fn usage_in(folder: &str) -> Result<Usage, UsageError> {
    let stat_path = format!("{folder}/stat");
    let stat = read(&stat_path)?;
    let field = |number| stat_field(&stat, number).ok_or_else(|| form(&stat_path));
    let (minor_faults, user, system) = (field(10)?, field(14)?, field(15)?);
    let status = read(&format!("{folder}/status"))?;
    let rss_bytes = status_bytes(&status, "VmRSS:");
    Ok(Usage {
        cpu_s: (user + system) as f64 / TICKS_PER_SECOND,
        rss_bytes,
        peak_rss_bytes: status_bytes(&status, "VmHWM:").max(rss_bytes),
        minor_faults,
    })
}

fn read(path: &str) -> Result<String, UsageError> {
    // The name of the program is part of these files and need not be UTF-8.
    let bytes = fs::read(path).map_err(|source| UsageError::Read { path: path.into(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn form(path: &str) -> UsageError {
    UsageError::Form { path: path.into() }
}

/// A field of `stat`, by its number in proc(5). The second field, the program's name in parentheses, may hold anything,
/// so counting starts behind the last parenthesis, where the third field is.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// A line of `status` in bytes, 0 if it is missing, as it is for a process that has ended.
fn status_bytes(status: &str, name: &str) -> u64 {
    let kib = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(0, |kib: u64| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_usage_is_plausible() {
        let before = usage().unwrap();
        let held = vec![1u8; 32 << 20];
        assert_eq!(held.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 32 << 20);
        let after = usage_of(std::process::id()).unwrap();
        assert!(after.rss_bytes > 16 << 20 && after.peak_rss_bytes >= after.rss_bytes, "{after:?}");
        assert!(after.cpu_s >= before.cpu_s && after.minor_faults > before.minor_faults);
        assert!(open_files().unwrap() >= 1);
        assert!(start_time_s().unwrap() > 1.0e9, "Unix time of this century");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = usage_of(u32::MAX).unwrap_err();
        assert!(error.to_string().starts_with("can't read /proc/4294967295/stat: "), "{error}");
    }

    #[test]
    fn stat_is_read_behind_a_hostile_program_name() {
        let stat = "7 (a) b) 1 2 (c)) S 1 7 7 0 -1 4194560 99 0 0 0 250 50 0 0 20 0 1 0 84818";
        assert_eq!(stat_field(stat, 10), Some(99));
        assert_eq!(stat_field(stat, 14), Some(250));
        assert_eq!(stat_field(stat, 15), Some(50));
        assert_eq!(stat_field(stat, 22), Some(84818));
        assert_eq!(stat_field("nonsense", 14), None);
    }

    #[test]
    fn memory_of_an_ended_process_is_zero() {
        assert_eq!(status_bytes("Name:\tcat\nVmHWM:\t    1776 kB\n", "VmHWM:"), 1776 * 1024);
        assert_eq!(status_bytes("Name:\tcat\nState:\tZ (zombie)\n", "VmHWM:"), 0);
    }
}
