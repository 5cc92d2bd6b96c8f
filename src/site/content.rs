//! The bytes of a body: given bytes, or a function of seed and position. Generated content needs no memory, any range
//! costs the same, and a client can verify any piece.

use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::random::{GAMMA, mix};

/// Bytes that are hashed at once.
const PIECE: u64 = 64 << 10;

/// A body. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Content(ByteSource);

#[derive(Clone, Debug)]
enum ByteSource {
    Given(Bytes),
    Generated { seed: u64, length: u64 },
}

impl Content {
    /// `length` bytes that depend on `seed` and their position only.
    pub const fn generated(seed: u64, length: u64) -> Self {
        Self(ByteSource::Generated { seed, length })
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        match &self.0 {
            ByteSource::Given(bytes) => bytes.len() as u64,
            ByteSource::Generated { length, .. } => *length,
        }
    }

    /// Returns the bytes of `range`, as far as they exist.
    pub fn read(&self, range: Range<u64>) -> Bytes {
        let end = range.end.min(self.length());
        let start = range.start.min(end);
        match &self.0 {
            ByteSource::Given(bytes) => bytes.slice(start as usize..end as usize),
            ByteSource::Generated { seed, .. } => {
                let (skip, count) = ((start % 8) as usize, (end - start) as usize);
                let mut bytes = Vec::with_capacity(skip + count + 8);
                for word in start / 8..end.div_ceil(8) {
                    let word = mix(seed.wrapping_add(word.wrapping_mul(GAMMA)));
                    bytes.extend_from_slice(&word.to_le_bytes());
                }
                bytes.truncate(skip + count);
                Bytes::from(bytes).slice(skip..)
            }
        }
    }

    /// SHA-256 of all bytes.
    pub fn sha256(&self) -> [u8; 32] {
        let mut sha256 = Sha256::new();
        let mut at = 0;
        while at < self.length() {
            sha256.update(self.read(at..at + PIECE));
            at += PIECE;
        }
        sha256.finalize().into()
    }

    /// A strong validator (RFC 9110 §8.8.3) that depends on length and bytes. Only every 97th byte counts: tests
    /// publish large bodies often.
    pub(crate) fn etag(&self) -> String {
        let hash = self.read(0..u64::MAX).iter().step_by(97).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("\"{:x}-{hash:x}\"", self.length())
    }
}

impl<T: Into<Vec<u8>>> From<T> for Content {
    fn from(bytes: T) -> Self {
        Self(ByteSource::Given(Bytes::from(bytes.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_bytes_depend_on_the_position_only() {
        let content = Content::generated(1, 100_003);
        let whole = content.read(0..u64::MAX);
        assert_eq!((whole.len() as u64, whole[..].into()), (content.length(), crate::bytes(1, 100_003)));
        for (start, end) in [(0, 1), (1, 8), (7, 16), (8, 16), (4095, 8192), (100_000, 100_003)] {
            let range = start as usize..end as usize;
            assert_eq!(content.read(start..end), whole[range], "{start}..{end}");
        }
        assert_eq!(content.read(100_001..200_000), whole[100_001..]);
        assert!(content.read(100_003..100_004).is_empty());
        assert_eq!(content.sha256(), <[u8; 32]>::from(Sha256::digest(&whole)));
        assert_ne!(content.sha256(), Content::generated(2, 100_003).sha256());
    }
}
