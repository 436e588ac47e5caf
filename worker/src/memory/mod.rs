//! Where shuffle data is: the arena, the locations in it, and the tables by which they are found.
//!
//! Owns the bytes and their holders. Does not own the rules (`mallorn_worker_core`) nor how bytes arrive and leave.

pub(crate) mod arena;
pub(crate) mod holdings;
pub(crate) mod location;
pub(crate) mod pressure;
pub(crate) mod store;
