//! `mallorn_fuzz::frames`, run by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mallorn_fuzz::frames::target(data));
