//! Running the binary, and looking for what it has left behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mallorn_runtime::clock;
use mallorn_runtime::disk::Disk;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, Command};

/// Far longer than anything here takes, even on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);
/// How long processes that nobody waits for may take to end.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// A folder of the test's own, with the folder for temporary files in it.
pub(crate) struct Place {
    folder: TempDir,
}

/// What a command has said, and its exit code.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        Disk::real().create_dir(&place.temporary()).unwrap();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn temporary(&self) -> PathBuf {
        self.path("tmp")
    }

    /// A file with this content.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        Disk::real().replace(&path, content.as_ref()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The binary with these arguments, its output ready to be read.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mallorn"));
        command.args(arguments).env("TMPDIR", self.temporary()).current_dir(self.folder.path()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, line: &str, more: &[&str]) -> Said {
        let arguments: Vec<&str> = line.split_whitespace().chain(more.iter().copied()).collect();
        said(self.command(&arguments).output()).await
    }

    /// Runs a demo that must verify, and returns what `--json` printed. Nothing may be left of it.
    pub(crate) async fn verified(&self, line: &str, more: &[&str]) -> serde_json::Value {
        let said = self.run(&format!("demo --json {line}"), more).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        self.assert_nothing_left();
        let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(report["verified"], true);
        report
    }

    /// Runs a command that must fail with this exit code and say these words, and must leave nothing.
    pub(crate) async fn refused(&self, code: i32, words: &[&str], line: &str, more: &[&str]) -> Said {
        let said = self.run(line, more).await;
        assert_eq!(said.code, Some(code), "{line}: {said:?}");
        for words in words {
            assert!(said.err.contains(words), "{line}: expected {words:?} in {said:?}");
        }
        assert!(!said.err.contains("panicked"), "{line}: {said:?}");
        self.assert_nothing_left();
        said
    }

    /// No temporary file, and no process that was told of one.
    pub(crate) fn assert_nothing_left(&self) {
        let (files, processes) = self.left();
        assert!(files.is_empty() && processes.is_empty(), "left: {files:?}, {processes:?}");
    }

    /// Waits until nothing is left of processes that were killed.
    pub(crate) async fn nothing_left_soon(&self) {
        let gone = async {
            while self.left() != (Vec::new(), Vec::new()) {
                clock::sleep(Duration::from_millis(20)).await;
            }
        };
        if clock::timeout(GONE_WITHIN, gone).await.is_err() {
            self.assert_nothing_left();
        }
    }

    fn left(&self) -> (Vec<PathBuf>, Vec<String>) {
        let entries = std::fs::read_dir(self.temporary()).unwrap();
        let files = entries.map(|entry| entry.unwrap().path()).collect();
        (files, processes_naming(&self.temporary()))
    }
}

/// The command lines of processes in which `path` stands.
fn processes_naming(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| Disk::real().read(&process.path().join("cmdline"), 1 << 20).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(path)).collect()
}

/// Waits for a command's end.
pub(crate) async fn said(output: impl Future<Output = std::io::Result<std::process::Output>>) -> Said {
    let output = clock::timeout(WITHIN, output).await.expect("the command ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Reads lines up to one that starts with `start`, and returns it.
pub(crate) async fn line_starting<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>, start: &str) -> String {
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with(start) {
                return line;
            }
        }
        panic!("no line starts with {start:?}");
    };
    clock::timeout(WITHIN, found).await.unwrap()
}

pub(crate) fn lines<R: AsyncRead + Unpin>(stream: Option<R>) -> Lines<BufReader<R>> {
    BufReader::new(stream.unwrap()).lines()
}

/// Sends a signal by its name.
pub(crate) async fn signal(child: &Child, name: &str) {
    let command = format!("kill -{name} {}", child.id().unwrap());
    assert!(Command::new("sh").args(["-c", &command]).status().await.unwrap().success());
}

/// Waits for a child's end and returns its exit code; `None` if a signal ended it.
pub(crate) async fn exit_code(child: &mut Child) -> Option<i32> {
    clock::timeout(WITHIN, child.wait()).await.expect("the process ends").unwrap().code()
}
