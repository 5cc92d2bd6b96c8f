//! See `cache_control` in `fuzz/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gupd_fuzz::cache_control(data));
