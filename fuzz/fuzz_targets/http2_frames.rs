//! See `http2_frames` in `fuzz/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gupd_fuzz::http2_frames(data));
