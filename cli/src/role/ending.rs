//! When a role ends: told by a signal, broken, or left behind by the process that started it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use mallorn_runtime::disk::Disk;
use mallorn_runtime::task::{self, Shutdown};

use crate::signals::Signals;

/// The option by which a process that starts a role ties it to its own life.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ParentArgs {
    /// Ends at once when standard input closes, and removes this folder then, and the one around it if it is empty; may be
    /// repeated
    #[arg(long, value_name = "FOLDER", hide = true)]
    until_stdin_closes: Vec<PathBuf>,
}

/// Why a role ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// A signal: it stops in good order.
    Told,
    /// It can't go on serving.
    Broken,
    /// The process that had started it is gone: nobody needs it any more.
    LeftBehind,
}

impl ParentArgs {
    /// Waits until the role should end.
    pub(super) async fn ending(&self, signals: &mut Signals, broken: &Shutdown) -> Ending {
        tokio::select! {
            biased;
            _ = signals.next() => Ending::Told,
            () = broken.wait() => Ending::Broken,
            () = self.left_behind() => Ending::LeftBehind,
        }
    }

    async fn left_behind(&self) {
        if self.until_stdin_closes.is_empty() {
            return std::future::pending().await;
        }
        // A thread that reads can't be cancelled, but it ends with the process, and that is about to end when this is
        // dropped.
        let read = task::blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())).await;
        if let Ok(Err(error)) = read {
            tracing::debug!(%error, "wait for standard input to close");
        }
    }

    /// Removes what the vanished process would have removed.
    pub(super) fn clean_up(&self) {
        for folder in &self.until_stdin_closes {
            let removed = Disk::real().remove_dir_all(folder);
            if let Err(error) = removed {
                tracing::warn!(%error, "clean up after the process that started this one");
            }
            // The last one of several that were left behind succeeds.
            let _ = folder.parent().map(fs::remove_dir::<&Path>);
        }
    }
}
