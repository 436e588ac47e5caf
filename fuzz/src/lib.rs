//! Every decoder of Mallorn, fed with arbitrary bytes: one target per family, each a function of the input.
//!
//! Owns what is asserted of each decoder beyond that it does not panic: that its memory is bounded, that what it accepts is
//! written again as it was, that it never reads past its input, that a part is not taken for the whole. `fuzz_targets/`
//! runs the targets under libFuzzer, `tests/replay.rs` runs the corpus through them on any machine. Does not own the
//! decoders.
#![allow(
    clippy::missing_panics_doc,
    reason = "a target panics when a decoder breaks its promise: that is what it is for"
)]

pub mod allocations;
pub mod feed;

pub mod frames;
pub mod messages;
pub mod batches;
pub mod payloads;
pub mod control;
pub mod door;
pub mod master;
pub mod worker;
pub mod lifecycle;
pub mod data_port;
pub mod records;
pub mod image;
pub mod restart;
pub mod settings;

/// What is run on each input.
pub type Target = fn(&[u8]);

/// Every target, by its name.
pub const TARGETS: [(&str, Target); 12] = [
    ("frames", frames::target),
    ("messages", messages::target),
    ("batches", batches::target),
    ("payloads", payloads::target),
    ("control", control::target),
    ("master", master::target),
    ("worker", worker::target),
    ("lifecycle", lifecycle::target),
    ("data_port", data_port::target),
    ("records", records::target),
    ("restart", restart::target),
    ("settings", settings::target),
];
