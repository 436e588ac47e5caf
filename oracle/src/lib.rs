//! Whether readers got what maps pushed, exactly once, as an engine sees it.
//!
//! | part | file |
//! |---|---|
//! | what maps push: units that say who pushed them | `workload` |
//! | the verdict | `oracle` |
//!
//! Owns no process, no clock and no network: it is told what clients did, and what they were told.

#![forbid(unsafe_code)]

mod oracle;
mod workload;

pub use oracle::{Asked, Checked, Delivered, Ended, Oracle, Wanted};
pub use workload::{AttemptName, Broken, UNIT_HEADER_BYTES, Unit, UnitSizes, read_units, write_unit};
