//! The real binary, run as people run it.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

mod support;
mod demo;
mod bad_input;
mod roles;
