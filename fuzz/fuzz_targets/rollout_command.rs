//! See `rollout_command` in `fuzz/lib.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gupd_fuzz::rollout_command(data));
