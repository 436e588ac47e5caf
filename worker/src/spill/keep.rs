//! Commit's part of the spill: bytes on disk, then the record that names them.
//!
//! A record is written after its extents; with `synced` the extents are synced before it, and it is synced itself. A frozen
//! location's record says what was acked; the record of its seal, in the same file, counts from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mallorn_proto::durability::Durability;
use mallorn_sabotage::{self as sabotage, Sabotage};
use mallorn_worker_core::push::Life;
use mallorn_worker_core::record::{self, Name, Said, Whole};
use mallorn_worker_core::spill::disk::DiskState;

use super::files::{RecordError, ShuffleFiles, ShuffleKey, sync_dir};
use super::{Folder, Spill};
use crate::memory::location::{Location, Recorded};

/// Records of one shuffle that are written together.
struct Records {
    files: Arc<ShuffleFiles>,
    /// What they are of.
    of: Vec<Arc<Location>>,
}

/// Records that are written together at one folder.
#[derive(Default)]
struct ByShuffle(BTreeMap<ShuffleKey, Records>);

impl ByShuffle {
    fn add(&mut self, folder: &Folder, location: &Arc<Location>) {
        let files = folder.files(&location.application, location.id.shuffle);
        let records = self.0.entry(files.key()).or_insert_with(|| Records { files, of: Vec::new() });
        records.of.push(Arc::clone(location));
    }
}

impl Spill {
    /// Writes locations that are frozen or sealed, and their records; tells of each whether it has `durability` now.
    pub(crate) async fn keep(&self, locations: &[Arc<Location>], durability: Durability) -> Vec<bool> {
        let missing: Vec<_> = locations.iter().map(|location| wanted(location, durability).is_some()).collect();
        let wanted: Vec<_> = locations
            .iter()
            .zip(&missing)
            .filter(|(_, missing)| **missing)
            .map(|(location, _)| Arc::clone(location))
            .collect();
        if wanted.is_empty() {
            return missing.into_iter().map(|missing| !missing).collect();
        }
        let mut kept = self.flush(&wanted).await;
        if durability == Durability::Synced {
            self.sync(&wanted, &mut kept).await;
        }
        if !sabotage::is(Sabotage::KeptBeforeTheRecord) {
            self.record(&wanted, &mut kept, durability).await;
        }
        let mut kept = kept.into_iter();
        missing.into_iter().map(|missing| !missing || kept.next().unwrap_or(false)).collect()
    }

    /// Syncs the segments of locations that are written; one whose sync failed is not kept.
    async fn sync(&self, locations: &[Arc<Location>], kept: &mut [bool]) {
        let mut segments: BTreeMap<u16, BTreeMap<ShuffleKey, BTreeSet<u32>>> = BTreeMap::new();
        for (location, _) in locations.iter().zip(kept.iter()).filter(|(_, kept)| **kept) {
            for extent in location.lock().log.extents() {
                let of = segments.entry(extent.place.disk).or_default().entry(location.shuffle()).or_default();
                of.insert(extent.place.segment);
            }
        }
        let mut failed = BTreeSet::new();
        for (disk, shuffles) in segments {
            let Some(folder) = self.folders.get(usize::from(disk)) else { continue };
            if !self.sync_at(folder, shuffles).await {
                failed.insert(disk);
            }
        }
        for (location, kept) in locations.iter().zip(kept) {
            *kept &= !location.lock().log.extents().iter().any(|extent| failed.contains(&extent.place.disk));
        }
    }

    /// A sync that failed is never repeated as if it had not: the disk is failed.
    async fn sync_at(&self, folder: &Arc<Folder>, shuffles: BTreeMap<ShuffleKey, BTreeSet<u32>>) -> bool {
        let at = Arc::clone(folder);
        let sync = move |at: &Folder| {
            for (key, segments) in &shuffles {
                let Some(files) = at.known(*key) else { continue };
                let segments: Vec<u32> = segments.iter().copied().collect();
                match files.sync(&at.disk, &at.open, &segments) {
                    Err(_) if files.is_released() => {}
                    synced => synced?,
                }
            }
            sync_dir(&at.disk, &at.shuffles_path())
        };
        let began = self.clock.now();
        let outcome = self.run_within(folder, move || at.syncing(|| sync(&at))).await;
        let synced = self.is_done(folder, outcome);
        if synced {
            self.metrics.spill.synced(self.clock.now().saturating_sub(began));
        }
        synced
    }

    /// Whether a job was done; where it failed, the disk is judged by that.
    fn is_done(&self, folder: &Folder, outcome: Option<Result<(), RecordError>>) -> bool {
        match outcome {
            Some(Ok(())) => return true,
            Some(Err(RecordError::Sync(error))) => {
                tracing::warn!(event = "sync_failed", folder = %folder.path.display(), %error);
                folder.judge(self.clock.now(), DiskState::failed);
            }
            Some(Err(RecordError::Io(error))) => folder.erred(self.clock.now(), &error),
            Some(Err(RecordError::Released)) | None => {}
        }
        false
    }

    /// Writes the records of locations whose bytes are on disk.
    async fn record(&self, locations: &[Arc<Location>], kept: &mut [bool], durability: Durability) {
        let (mut by_folder, mut placed): (BTreeMap<u16, ByShuffle>, Vec<usize>) = Default::default();
        for (index, location) in locations.iter().enumerate() {
            let is_missing = wanted(location, durability).is_some();
            let folder = if kept[index] && is_missing { self.home(location) } else { None };
            kept[index] &= !is_missing;
            let Some(folder) = folder else { continue };
            let state = location.lock();
            if state.log.life() != Life::Gone {
                // Under the lock, so that a release finds these files, and none are made after it.
                by_folder.entry(folder.index).or_default().add(folder, location);
                placed.push(index);
            }
        }
        for (disk, shuffles) in by_folder {
            let said = move |location: &Location| {
                let reached = wanted(location, durability)?;
                let state = location.lock();
                let whole = Whole::of(&state.log, durability == Durability::Synced, location.origins.clone())?;
                Some((Said::Whole(whole), reached))
            };
            let folder = &self.folders[usize::from(disk)];
            self.record_at(folder, shuffles, durability, said).await;
        }
        // Another call may have been before this one.
        placed.into_iter().for_each(|index| kept[index] = wanted(&locations[index], durability).is_none());
    }

    /// Whether a location would be found after a restart as it is now.
    pub(crate) fn is_kept(&self, location: &Location) -> bool {
        wanted(location, Durability::Written).is_none()
    }

    /// Writes down that locations were handed over, in every folder that names them, or in one where none does. Where that
    /// fails they are found again after a restart, beside the copy that was made of them, which is the same.
    pub(crate) async fn record_dropped(&self, locations: &[Arc<Location>]) {
        let at_home = |location: &Arc<Location>| self.home(location).map_or(0, |folder| 1 << folder.index);
        let named_on = |location: &Arc<Location>| {
            let known = location.lock().disk.named_on;
            if known == 0 { at_home(location) } else { known }
        };
        let named_on: Vec<u64> = locations.iter().map(named_on).collect();
        for folder in &self.folders {
            let mut shuffles = ByShuffle::default();
            for (location, named_on) in locations.iter().zip(&named_on) {
                if named_on & (1 << folder.index) != 0 {
                    shuffles.add(folder, location);
                }
            }
            if !shuffles.0.is_empty() {
                let said = |_: &Location| Some((Said::Dropped, Recorded::Nothing));
                self.record_at(folder, shuffles, Durability::Written, said).await;
            }
        }
    }

    /// Writes what is said of locations, and notes what they have reached. Both are done where one record is written after
    /// the other, so that none is followed by an older one.
    async fn record_at(
        &self,
        folder: &Arc<Folder>,
        ByShuffle(shuffles): ByShuffle,
        durability: Durability,
        said: impl Fn(&Location) -> Option<(Said, Recorded)> + Send + 'static,
    ) {
        let (at, folder_ids) = (Arc::clone(folder), self.folder_ids());
        let sync = durability == Durability::Synced;
        let write = move |at: &Folder| {
            let mut all = Vec::new();
            for Records { files, of } in shuffles.values() {
                let mut bytes = Vec::new();
                for location in of {
                    let Some((said, reached)) = said(location) else { continue };
                    let name = Name { partition: location.id.partition, epoch: location.id.epoch };
                    record::put(&mut bytes, name, &said, &folder_ids);
                    all.push((location, reached));
                }
                match files.record(&at.disk, &bytes, sync) {
                    Ok(()) | Err(RecordError::Released) => {}
                    Err(error) => return Err(error),
                }
            }
            if sync {
                sync_dir(&at.disk, &at.shuffles_path())?;
            }
            for (location, reached) in all {
                let mut state = location.lock();
                state.disk.recorded = state.disk.recorded.max(reached);
                state.disk.named_on |= 1 << at.index;
            }
            Ok(())
        };
        let job = move || if sync { at.syncing(|| write(&at)) } else { write(&at) };
        let outcome = self.run_within(folder, job).await;
        self.is_done(folder, outcome);
    }

    /// The folder that keeps a location's record: where its bytes go, or, where that takes nothing or there were none, one
    /// that does.
    fn home(&self, location: &Location) -> Option<&Arc<Folder>> {
        let mut state = location.lock();
        let now = self.clock.now();
        let at = state
            .disk
            .index
            .map(usize::from)
            .filter(|index| self.folders[*index].takes(now))
            .or_else(|| self.pick())?;
        state.disk.index = u16::try_from(at).ok();
        self.folders.get(at)
    }
}

/// What a location's record has to reach, if it has not.
fn wanted(location: &Location, durability: Durability) -> Option<Recorded> {
    let state = location.lock();
    let reached = match (state.log.life(), durability) {
        (Life::Open | Life::Gone, _) | (_, Durability::Memory) => return None,
        (Life::Frozen { .. }, _) => Recorded::Frozen,
        (Life::Sealed { .. }, Durability::Written) => Recorded::Sealed,
        (Life::Sealed { .. }, Durability::Synced) => Recorded::Synced,
    };
    (state.disk.recorded < reached).then_some(reached)
}
