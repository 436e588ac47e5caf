//! `mallorn_fuzz::control`, run by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mallorn_fuzz::control::target(data));
