//! `mallorn config check|show|reference`, and the options by which every command finds its settings.
//!
//! Owns these options and what the three commands print. Does not own any setting: it works for whatever root the binary
//! assembles.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mallorn_runtime::config::{ConfigError, Loader, Section, effective_toml, reference_markdown};

/// Where settings come from, beside their defaults and the environment.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SettingsArgs {
    /// TOML file with settings; without this the variable MALLORN_CONFIG may name one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Sets one setting, over file and environment: worker.memory=2GiB; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub(crate) set: Vec<String>,
}

impl SettingsArgs {
    /// A loader with the file, the process environment and the assignments; a command adds its own flags.
    pub(crate) fn loader(&self) -> Loader {
        self.over(Loader::new().process_environment())
    }

    fn over(&self, loader: Loader) -> Loader {
        let loader = match &self.config {
            Some(path) => loader.file(path),
            None => loader,
        };
        self.set.iter().fold(loader, |loader, assignment| loader.assign(assignment, "--set"))
    }
}

/// Refuses what is no assignment while the command line is parsed, so that it counts as wrong usage.
fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err("write KEY=VALUE, for example worker.memory=2GiB".to_owned()),
    }
}

/// Checks, shows or documents settings
#[derive(Args, Clone, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigCommand {
    /// Says "ok", or everything that is wrong with the settings
    Check(SettingsArgs),
    /// Prints the settings in effect as TOML, each with where it came from
    Show(SettingsArgs),
    /// Prints the documentation of every setting as Markdown
    Reference,
}

/// Runs the command for settings of the kind `T`: exit code 0 if the settings are good (or nothing depends on them), 1
/// if not, with the reasons on standard error. Wrong usage has ended the program with 2 before this.
pub(crate) fn run<T: Section>(args: &ConfigArgs) -> ExitCode {
    let outcome = perform::<T>(args, SettingsArgs::loader, &mut io::stdout().lock());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output may have seen enough, as `head` does.
        Err(CommandError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed nobody wants the reason.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error("can't print: {0}")]
    Print(#[from] io::Error),
}

fn perform<T: Section>(
    args: &ConfigArgs,
    loader: impl Fn(&SettingsArgs) -> Loader,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let text = match &args.command {
        ConfigCommand::Check(settings) => {
            loader(settings).load::<T>()?;
            "ok\n".to_owned()
        }
        ConfigCommand::Show(settings) => effective_toml(&loader(settings).load::<T>()?),
        ConfigCommand::Reference => reference_markdown::<T>(),
    };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use mallorn_runtime::config::{ByteSize, Check, Invalid};
    use mallorn_runtime::settings;

    use super::*;

    settings! {
        /// A worker.
        struct WorkerConfig {
            /// Bytes for data.
            memory: ByteSize = ByteSize::gib(2),
        }
    }

    settings! {
        /// Everything.
        struct Root {
            /// A worker.
            worker: WorkerConfig,
        }
    }

    impl Check for WorkerConfig {
        fn check(&self) -> Result<(), Invalid> {
            if self.memory < ByteSize::mib(16) { Err(Invalid::new("memory", "must be at least 16MiB")) } else { Ok(()) }
        }
    }

    impl Check for Root {}

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        config: ConfigArgs,
    }

    /// What is printed, or why not; the tests' own environment must not show.
    fn printed(line: &[&str]) -> Result<String, String> {
        let program = Program::try_parse_from([&["config"], line].concat()).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        let loader = |settings: &SettingsArgs| settings.over(Loader::new());
        perform::<Root>(&program.config, loader, &mut out).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn check_says_ok_or_what_is_wrong() {
        assert_eq!(printed(&["check"]).unwrap(), "ok\n");
        assert_eq!(
            printed(&["check", "--set", "worker.memory=1KiB"]).unwrap_err(),
            "flag --set: `worker.memory` = \"1KiB\": must be at least 16MiB"
        );
        assert_eq!(
            printed(&["check", "--config", "/no/such.toml"]).unwrap_err(),
            "configuration file: /no/such.toml does not exist"
        );
    }

    #[test]
    fn show_prints_values_with_origins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.toml");
        mallorn_runtime::disk::Disk::real().replace(&path, b"\n[worker]\nmemory = '64MiB'\n").unwrap();
        let path = path.to_str().unwrap();
        let shown = printed(&["show", "--config", path]).unwrap();
        assert_eq!(shown, format!("[worker]\nmemory = \"64MiB\" # {path}:3\n"));
        let shown = printed(&["show", "--config", path, "--set", "worker.memory=1GiB"]).unwrap();
        assert_eq!(shown, "[worker]\nmemory = \"1GiB\" # flag --set\n");
    }

    #[test]
    fn reference_prints_markdown() {
        let page = printed(&["reference"]).unwrap();
        assert!(page.contains("| `memory` | size | `\"2GiB\"` | Bytes for data. |"), "{page}");
    }

    #[test]
    fn wrong_assignment_is_wrong_usage() {
        for text in ["worker.memory", "=1GiB"] {
            let error = Program::try_parse_from(["config", "check", "--set", text]).err().unwrap();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("KEY=VALUE"), "{error}");
        }
    }
}
