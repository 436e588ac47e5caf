//! `mallorn_fuzz::data_port`, run by libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mallorn_fuzz::data_port::target(data));
