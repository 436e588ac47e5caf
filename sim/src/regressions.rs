//! Runs that were wrong once, in files: each whole, so that it stays what it is when seeds draw something else.
//!
//! Owns reading and writing such files, and running all that are kept.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mallorn_runtime::disk::Disk;

use crate::children::{self, Child};
use crate::run::Case;

/// Far more than a run takes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A run that was kept.
pub(crate) fn read(path: &Path) -> Result<Case, String> {
    let bytes = Disk::real().read(path, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{} is no run: {error}", path.display()))
}

/// Keeps a run.
pub(crate) fn write(path: &Path, case: &Case) -> Result<(), String> {
    let mut text = serde_json::to_string_pretty(case).map_err(|error| error.to_string())?;
    text.push('\n');
    Disk::real().replace(path, text.as_bytes()).map_err(|error| error.to_string())
}

/// Where runs are kept.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

fn files() -> Result<Vec<PathBuf>, String> {
    let entries = Disk::real().list(&folder()).map_err(|error| error.to_string())?;
    let mut names: Vec<_> =
        entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".json")).collect();
    names.sort();
    Ok(names.iter().map(|name| folder().join(name)).collect())
}

/// Runs all that are kept; whether none is wrong any more.
pub(crate) fn all() -> bool {
    let files = match files() {
        Ok(files) => files,
        Err(why) => {
            println!("{why}");
            return false;
        }
    };
    let (mut good, mut count) = (true, 0);
    children::each(
        files.into_iter(),
        |file| Child::of_file(file, None),
        |file, output| {
            count += 1;
            good &= output.good;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            print!("{name}: {}", output.text);
            ControlFlow::Continue(())
        },
    );
    println!("{count} runs that were wrong once{}", if good { "" } else { ": SOME ARE AGAIN" });
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn what_was_kept_is_the_same_run() {
        let path = std::env::temp_dir().join(format!("mallorn-sim-kept-{}.json", std::process::id()));
        for scenario in Scenario::ALL {
            for seed in 0..20 {
                let case = Case::draw(scenario, seed);
                write(&path, &case).unwrap();
                assert_eq!(read(&path).unwrap(), case);
            }
        }
        Disk::real().remove_file(&path).unwrap();
    }

    #[test]
    fn every_file_that_is_kept_says_what_it_is_kept_for() {
        for file in files().unwrap() {
            assert!(!read(&file).unwrap().why.is_empty(), "{}", file.display());
        }
    }
}
