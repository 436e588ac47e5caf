//! `mallorn_fuzz::restart`, run by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mallorn_fuzz::restart::target(data));
