//! Runs the corpus, and what the tests of the protocol have written down, through the targets: without libFuzzer, on any
//! machine.
#![allow(clippy::expect_used, reason = "a failure here is the test's")]

use std::fs;
use std::path::{Path, PathBuf};

use mallorn_fuzz::{TARGETS, control};

fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = listed.map(|entry| entry.expect("a folder can be listed").path()).collect();
    files.sort();
    files
}

#[expect(clippy::disallowed_methods, reason = "a test reads the files beside it, not a worker's disk")]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn run(target: fn(&[u8]), path: &Path) {
    let (path, bytes) = (path.display().to_string(), read(path));
    let ran = std::panic::catch_unwind(|| target(&bytes));
    assert!(ran.is_ok(), "the input {path}");
}

#[test]
fn every_input_of_the_corpus_keeps_the_promises() {
    let mut folders: Vec<_> = files(&corpus());
    for (name, target) in TARGETS {
        let folder = corpus().join(name);
        folders.retain(|other| *other != folder);
        let inputs = files(&folder);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        inputs.iter().for_each(|input| run(target, input));
    }
    assert!(folders.is_empty(), "{folders:?} belong to no target");
}

/// Each as it is, and behind each first byte, by which targets choose what they take it for.
#[test]
fn golden_bytes_keep_the_promises_of_the_pure_decoders() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/golden/v1");
    for path in files(&golden) {
        let bytes = read(&path);
        for (name, target) in TARGETS {
            if !["messages", "batches", "payloads", "control", "records"].contains(&name) {
                continue;
            }
            let firsts = if name == "control" { 0..=control::MESSAGES_COUNT } else { 0..=255 };
            for first in firsts {
                let input = [&[first][..], &bytes].concat();
                let ran = std::panic::catch_unwind(|| target(&input));
                assert!(ran.is_ok(), "{name} with {first} before {}", path.display());
            }
        }
    }
}
