//! The wire contract, seen from outside: every message survives its encoding, no bytes hurt a decoder, the bytes are
//! those of the golden files, and every page fits its message.

mod message;

mod properties;
mod bounds;
mod golden;
mod pages;
