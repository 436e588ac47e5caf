//! The golden files: the bytes of protocol version 1, written once and never changed. Each is compared in both
//! directions, so that a changed format fails here before it fails between two versions of a cluster.
//!
//! A new message gets its file by `cargo test -p mallorn-proto --test wire -- --ignored write_missing_files`, which
//! leaves every file that exists as it is.

mod batches;
mod frames;
mod control;
mod copies;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

type Decode = dyn Fn(&[u8]);

/// A value and its file.
pub(crate) struct Golden {
    /// The file's name without its ending.
    name: &'static str,
    /// What the value encodes to today.
    encoded: Vec<u8>,
    /// Panics when bytes do not decode to the value.
    decode: Box<Decode>,
}

fn all() -> Vec<Golden> {
    let mut all = frames::golden();
    all.extend(batches::golden());
    all.extend(control::golden());
    all.extend(copies::golden());
    all
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden", "v1"].iter().collect()
}

fn file(golden: &Golden) -> PathBuf {
    folder().join(golden.name).with_extension("bin")
}

#[expect(clippy::disallowed_methods, reason = "a test reads the files beside it, not a worker's disk")]
fn read(golden: &Golden) -> Vec<u8> {
    std::fs::read(file(golden)).unwrap_or_else(|error| panic!("{}: {error}", file(golden).display()))
}

#[test]
fn what_is_encoded_are_the_golden_bytes() {
    for golden in all() {
        assert_eq!(golden.encoded, read(&golden), "{}: the bytes on the wire have changed", golden.name);
    }
}

#[test]
fn the_golden_bytes_are_what_was_encoded() {
    for golden in all() {
        (golden.decode)(&read(&golden));
    }
}

#[test]
fn every_file_is_tested() {
    let named: Vec<PathBuf> = all().iter().map(file).collect();
    let files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(named.len(), files.len(), "a name twice, or a file without a value");
    assert_eq!(BTreeSet::from_iter(named), BTreeSet::from_iter(files));
}

#[test]
#[ignore = "writes the files of new values"]
fn write_missing_files() {
    for golden in all() {
        match std::fs::OpenOptions::new().write(true).create_new(true).open(file(&golden)) {
            Ok(mut file) => file.write_all(&golden.encoded).unwrap(),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{}", golden.name),
        }
    }
}
