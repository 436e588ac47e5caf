//! The client's rules, pure: what an application's lifecycle manager decides, and what its tasks decide before and after
//! a byte crosses the network.
//!
//! Owns: batching and the sums of an attempt ([`push`]), the byte budget ([`memory`]), the truth about a shuffle
//! ([`lifecycle`]: generations, attempts, winners, epochs, commit), and exactly-once reading ([`fetch`]). Does not own:
//! sockets, clocks, randomness, payload bytes. Time comes in as a duration since an arbitrary start; ids that must be
//! random come in as arguments.

#![forbid(unsafe_code)]

pub mod push;
pub mod memory;
pub mod lifecycle;
pub mod fetch;
