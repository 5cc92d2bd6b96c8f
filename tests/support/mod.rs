//! What behaviour tests stand on: a manager with faults, a client that sees the bytes on the wire, and a site with a
//! relay between the two. All real sockets on loopback; nothing here sleeps to wait for something to happen.

use std::time::Duration;

pub mod client;
pub mod collector;
pub mod front;
pub mod manager;
pub mod nobody;
pub mod site;
pub mod wire;

pub use client::{Client, Ending, Request, Response, get};
pub use front::{Authority, Front, Identity};
pub use manager::{Gate, Manager, Resource};
pub use nobody::Nobody;
pub use site::Site;
pub use wire::Wire;

/// However slow the machine, what a test waits for has happened by then.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A content path that is immutable by name.
pub const PAYLOAD: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/full.zip";

/// Bytes that look random and are the same for the same seed (SplitMix64).
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
