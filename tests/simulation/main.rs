//! Fills over a network that is made of nothing: every connection, byte and break is the test's, time is the runtime's
//! and goes by when everyone waits. What a seed does, it does again, but for the store: its disk is real, and so is the
//! time that takes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by a panic")]

#[path = "../support/collector.rs"]
#[allow(dead_code, unreachable_pub, reason = "a test bed offers more than one test uses")]
mod collector;
mod failover;
mod manager;
mod names;
mod network;
mod revisions;
mod site;

/// The same numbers for the same seed (SplitMix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Less than `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.roll(u64::MAX).to_le_bytes()).take(length).collect()
    }
}
