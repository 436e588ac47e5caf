//! The worker's rules: who may append, where bytes lie, when a location is cut and sealed, what a read is sent.
//!
//! Owns decisions only: ids, lengths and times go in, small answers come out. Does not own sockets, tasks, locks, or the
//! bytes themselves; `mallorn-worker` does, and calls these rules inline under a location's own lock. The modules stand
//! in the order in which a byte meets them.

#![forbid(unsafe_code)]

pub mod push;
pub mod memory;
pub mod replicate;
pub mod spill;
pub mod commit;
pub mod record;
pub mod fetch;
pub mod handover;
pub mod master_link;
