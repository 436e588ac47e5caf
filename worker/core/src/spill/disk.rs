//! Whether a disk takes new data, and which one a location goes to.
//!
//! | health | becomes | by |
//! |---|---|---|
//! | Healthy | Full | no space, or less than is kept free |
//! | Full | Healthy | twice as much is free again; but not at once where it says so and finds no space nevertheless |
//! | Healthy | Slow | a write that took too long, or has not come back |
//! | Slow | Healthy | a write that was quick, after a rest |
//! | any | Failed | an error that is the disk's; for good |
//!
//! A disk that takes nothing new is read from as long as that goes.

use std::time::Duration;

/// A write may take this long, and the time of [`PACE_BYTES`] a second beside it.
const WRITE_WITHIN: Duration = Duration::from_secs(2);
const PACE_BYTES: u64 = 4 * 1024 * 1024;
/// A write that has not come back by then is given up: what it was to write goes to another disk.
pub const HUNG_AFTER: Duration = Duration::from_secs(10);
/// How long a slow disk is left alone before it is tried again, and one that is full by its own count only.
const REST: Duration = Duration::from_secs(10);
/// Share of a disk that is kept free, and the most that it is.
const KEPT_FREE_SHARE: u64 = 50;
const KEPT_FREE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Whether a disk takes new data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Healthy,
    /// It has no room.
    Full,
    /// It answers too late.
    Slow,
    /// It is given up.
    Failed,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Full, Self::Slow, Self::Failed];

    /// The name used in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
    }
}

/// What is known of one disk. Times are on any one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskState {
    health: Health,
    slow_until: Duration,
    capacity_bytes: u64,
    free_bytes: u64,
    queued_bytes: u64,
    /// Writes on end that found no space.
    refusals: u32,
    /// What was free after the last of them, and until when that is no reason to try again.
    refused_with_bytes: Option<u64>,
    refused_until: Duration,
}

impl DiskState {
    /// Healthy, with this much space.
    #[must_use]
    pub fn new(capacity_bytes: u64, free_bytes: u64) -> Self {
        let mut state = Self {
            health: Health::Healthy,
            slow_until: Duration::ZERO,
            capacity_bytes: 0,
            free_bytes: 0,
            queued_bytes: 0,
            refusals: 0,
            refused_with_bytes: None,
            refused_until: Duration::ZERO,
        };
        state.space(Duration::ZERO, capacity_bytes, free_bytes);
        state
    }

    /// Whether it takes new data; a slow one is tried again after its rest.
    #[must_use]
    pub fn health(&self, now: Duration) -> Health {
        match self.health {
            Health::Slow if now >= self.slow_until => Health::Healthy,
            health => health,
        }
    }

    /// Whether it takes new data.
    #[must_use]
    pub fn takes(&self, now: Duration) -> bool {
        self.health(now) == Health::Healthy
    }

    /// Bytes in all, and bytes free, as they were asked for last.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.capacity_bytes, self.free_bytes)
    }

    /// Bytes that it can be given, beside what is kept free.
    #[must_use]
    pub fn room_bytes(&self, now: Duration) -> u64 {
        if self.takes(now) { self.free_bytes.saturating_sub(self.kept_bytes()) } else { 0 }
    }

    fn kept_bytes(&self) -> u64 {
        (self.capacity_bytes / KEPT_FREE_SHARE).min(KEPT_FREE_BYTES_MAX)
    }

    /// The disk was asked for its space.
    pub fn space(&mut self, now: Duration, capacity_bytes: u64, free_bytes: u64) {
        (self.capacity_bytes, self.free_bytes) = (capacity_bytes, free_bytes);
        let kept = self.kept_bytes();
        if self.health == Health::Healthy && free_bytes < kept {
            self.health = Health::Full;
        } else if self.health == Health::Full && free_bytes >= 2 * kept && self.may_be_tried(now) {
            self.health = Health::Healthy;
        }
    }

    /// After one refusal there may be room for less. After the next one it is not bytes that are missing, but files, or
    /// a quota: it is tried again when something was removed, or after a rest.
    fn may_be_tried(&mut self, now: Duration) -> bool {
        if self.refusals <= 1 {
            return true;
        }
        let refused_with = *self.refused_with_bytes.get_or_insert(self.free_bytes);
        self.free_bytes > refused_with || now >= self.refused_until
    }

    /// Bytes were queued for it.
    pub fn queued(&mut self, bytes: u64) {
        self.queued_bytes += bytes;
    }

    /// Bytes left its queue, written or not.
    pub fn left(&mut self, bytes: u64) {
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
    }

    /// Bytes in its queue, or being written.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// A write of so many bytes came back well.
    pub fn wrote(&mut self, now: Duration, bytes: u64, took: Duration) {
        self.refusals = 0;
        if self.health != Health::Slow && self.health != Health::Healthy {
            return;
        }
        if took > WRITE_WITHIN + Duration::from_secs(bytes / PACE_BYTES) {
            self.slow(now);
        } else if now >= self.slow_until {
            self.health = Health::Healthy;
        }
    }

    /// A write did not come back in time, or late.
    pub fn slow(&mut self, now: Duration) {
        if matches!(self.health, Health::Healthy | Health::Slow) {
            (self.health, self.slow_until) = (Health::Slow, now + REST);
        }
    }

    /// A write that was given up has not come back: until it has, the disk takes nothing.
    pub fn hang(&mut self) {
        if self.health != Health::Failed {
            (self.health, self.slow_until) = (Health::Slow, Duration::MAX);
        }
    }

    /// A write found no space.
    pub fn full(&mut self, now: Duration) {
        if self.health != Health::Failed {
            self.health = Health::Full;
            // What it said was free is not there; until it is asked again there is none.
            self.free_bytes = 0;
            self.refusals = self.refusals.saturating_add(1);
            (self.refused_with_bytes, self.refused_until) = (None, now + REST);
        }
    }

    /// An operation failed in a way that is the disk's.
    pub fn failed(&mut self) {
        self.health = Health::Failed;
    }
}

/// Picks a disk for a location that has none: of those that take data the one that owes least of what it has free. The
/// `turn` of the caller decides between equals.
#[must_use]
pub fn pick(disks: &[DiskState], now: Duration, turn: usize) -> Option<usize> {
    let taking = disks.iter().enumerate().filter(|(_, disk)| disk.takes(now));
    let load = |disk: &DiskState| u128::from(disk.queued_bytes) * 1_000_000 / u128::from(disk.free_bytes.max(1));
    let count = disks.len();
    taking.min_by_key(|(index, disk)| (load(disk), (index + count - turn % count) % count)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn a_full_disk_comes_back_when_there_is_room_and_a_failed_one_never() {
        let mut disk = DiskState::new(10 * GIB, GIB);
        assert!(disk.takes(SECOND));
        disk.space(SECOND, 10 * GIB, GIB / 10);
        assert_eq!(disk.health(SECOND), Health::Full);
        disk.space(SECOND, 10 * GIB, GIB / 4);
        assert_eq!(disk.health(SECOND), Health::Full, "not with every byte that is freed");
        disk.space(SECOND, 10 * GIB, GIB);
        assert!(disk.takes(SECOND));
        disk.full(SECOND);
        assert_eq!(disk.health(SECOND), Health::Full);
        disk.failed();
        disk.space(SECOND, 10 * GIB, 10 * GIB);
        disk.wrote(SECOND, 1, Duration::ZERO);
        assert_eq!(disk.health(1000 * SECOND), Health::Failed);
    }

    #[test]
    fn a_disk_that_has_no_room_for_what_it_says_is_free_rests() {
        let mut disk = DiskState::new(10 * GIB, GIB);
        let refuse = |disk: &mut DiskState, now: Duration, free_bytes: u64| {
            disk.full(now);
            disk.space(now, 10 * GIB, free_bytes);
        };
        refuse(&mut disk, SECOND, GIB);
        assert!(disk.takes(SECOND), "there may be room for less");
        refuse(&mut disk, SECOND, GIB);
        assert_eq!(disk.health(SECOND), Health::Full, "out of files, or over a quota");
        disk.space(5 * SECOND, 10 * GIB, GIB);
        assert_eq!(disk.health(5 * SECOND), Health::Full);
        disk.space(5 * SECOND, 10 * GIB, GIB + 4096);
        assert!(disk.takes(5 * SECOND), "something was removed");
        refuse(&mut disk, 5 * SECOND, GIB + 4096);
        assert_eq!(disk.health(5 * SECOND), Health::Full);
        disk.space(5 * SECOND + REST, 10 * GIB, GIB);
        assert!(disk.takes(5 * SECOND + REST), "it is tried again");
        refuse(&mut disk, 16 * SECOND, GIB);
        assert_eq!(disk.health(16 * SECOND), Health::Full);
        disk.space(16 * SECOND + REST, 10 * GIB, GIB);
        disk.wrote(27 * SECOND, 1, Duration::ZERO);
        refuse(&mut disk, 28 * SECOND, GIB);
        assert!(disk.takes(28 * SECOND), "since then it has taken something");
    }

    #[test]
    fn a_slow_disk_rests_and_is_tried_again() {
        let mut disk = DiskState::new(GIB, GIB);
        disk.wrote(SECOND, 40 * 1024 * 1024, 11 * SECOND);
        assert!(disk.takes(SECOND), "ten seconds are right for as much");
        disk.wrote(2 * SECOND, 1024, 3 * SECOND);
        assert_eq!(disk.health(11 * SECOND), Health::Slow);
        disk.wrote(3 * SECOND, 1024, Duration::ZERO);
        assert_eq!(disk.health(11 * SECOND), Health::Slow, "one good write does not end its rest");
        assert!(disk.takes(12 * SECOND));
        disk.wrote(12 * SECOND, 1024, Duration::ZERO);
        assert_eq!(disk.health(12 * SECOND), Health::Healthy);
    }

    #[test]
    fn the_disk_that_owes_least_is_picked_and_equals_take_turns() {
        let mut disks = vec![DiskState::new(GIB, GIB), DiskState::new(GIB, GIB), DiskState::new(GIB, GIB)];
        assert_eq!((0..4).map(|turn| pick(&disks, SECOND, turn).unwrap()).collect::<Vec<_>>(), [0, 1, 2, 0]);
        disks[0].queued(GIB / 2);
        disks[1].slow(SECOND);
        assert_eq!(pick(&disks, SECOND, 0), Some(2));
        disks[2].failed();
        assert_eq!(pick(&disks, SECOND, 2), Some(0));
        assert_eq!(disks[0].room_bytes(SECOND), GIB - GIB / 50);
        disks[0].full(SECOND);
        assert_eq!(disks[0].room_bytes(SECOND), 0);
        assert_eq!(pick(&disks, SECOND, 0), None);
        assert_eq!(pick(&disks, 20 * SECOND, 0), Some(1));
        assert_eq!(pick(&[], SECOND, 0), None);
    }
}
