//! The real binary, run as people run it.

mod support;
mod demo;
mod bad_input;
mod roles;
