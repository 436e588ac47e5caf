//! `mallorn_fuzz::records`, run by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mallorn_fuzz::records::target(data));
