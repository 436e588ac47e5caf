//! `mallorn_fuzz::lifecycle`, run by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mallorn_fuzz::lifecycle::target(data));
