//! A series of runs that goes on over days.
//!
//! Owns the file that says how far it came, written after each seed, so that it may be ended at any time.

use std::fmt;
use std::path::{Path, PathBuf};

use mallorn_runtime::disk::Disk;
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;

/// Far more than a file of a series has.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// How far a series came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Series {
    /// Seeds below this one were run, from 1 on.
    next_seed: u64,
    runs: u64,
    /// Scenario and seed of each run that was wrong.
    wrong: Vec<(Scenario, u64)>,
}

/// A series, and its file.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    path: PathBuf,
    series: Series,
}

impl Progress {
    /// What a file says; a series that begins where there is none.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let disk = Disk::real();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let names = disk.list(folder).map_err(|error| error.to_string())?;
        let is_there = names.iter().any(|entry| path.file_name().is_some_and(|name| name == entry.name.as_str()));
        if !is_there {
            return Ok(Self { path: path.to_owned(), series: Series { next_seed: 1, ..Series::default() } });
        }
        let bytes = disk.read(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
        let series = serde_json::from_slice(&bytes)
            .map_err(|error| format!("{} is no series of runs: {error}; name another file", path.display()))?;
        Ok(Self { path: path.to_owned(), series })
    }

    /// The seed to go on with.
    pub(crate) fn next_seed(&self) -> u64 {
        self.series.next_seed
    }

    /// A run has ended; with the last one of its seed that is written down.
    pub(crate) fn ran(&mut self, (scenario, seed): (Scenario, u64), good: bool, is_last_of_seed: bool) {
        self.series.runs += 1;
        if !good {
            self.series.wrong.push((scenario, seed));
        }
        if !is_last_of_seed {
            return;
        }
        self.series.next_seed = seed + 1;
        let written = serde_json::to_vec_pretty(&self.series).map_err(|error| error.to_string());
        let written =
            written.and_then(|text| Disk::real().replace(&self.path, &text).map_err(|error| error.to_string()));
        if let Err(why) = written {
            println!("the series is not written down: {why}");
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Series { next_seed, runs, wrong } = &self.series;
        write!(f, "the series: {runs} runs, seeds below {next_seed}, {} wrong", wrong.len())?;
        wrong.iter().try_for_each(|(scenario, seed)| write!(f, "; {scenario} {seed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_goes_on_where_it_was_left() {
        let folder = std::env::temp_dir().join(format!("mallorn-sim-series-{}", std::process::id()));
        Disk::real().create_dir(&folder).unwrap();
        let path = folder.join("series.json");
        let mut first = Progress::read(&path).unwrap();
        assert_eq!(first.next_seed(), 1);
        first.ran((Scenario::Crash, 1), true, false);
        first.ran((Scenario::Drain, 1), false, true);
        first.ran((Scenario::Crash, 2), true, false);
        let second = Progress::read(&path).unwrap();
        assert_eq!((second.next_seed(), second.series.runs), (2, 2), "a seed that was not ended is run again");
        assert_eq!(second.series.wrong, [(Scenario::Drain, 1)]);
        Disk::real().replace(&path, b"{").unwrap();
        assert!(Progress::read(&path).unwrap_err().contains("no series"));
        Disk::real().remove_dir_all(&folder).unwrap();
    }
}
