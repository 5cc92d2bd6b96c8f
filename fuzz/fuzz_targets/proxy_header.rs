//! See `proxy_header` in `fuzz/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gupd_fuzz::proxy_header(data));
