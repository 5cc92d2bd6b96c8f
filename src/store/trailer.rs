//! The trailer behind a blob's body in its file: the checksum of every block, the first object's record, and at
//! the very end a footer of fixed size that locates them. Pure: bytes in, bytes out. All integers are
//! little-endian.
//!
//! ```text
//! body | SHA-256 (32) · XXH3-128 of each block (16 each) · record (4 + n)
//!      | magic (8) · format (4) · block size (4) · body length (8) · trailer length (8) · XXH3-128 of both (16)
//! ```
//!
//! A change of this layout gets a new format number. A reader refuses unknown numbers.

use xxhash_rust::xxh3::Xxh3;

use super::BLOCK;
use super::id::BlobId;
use super::object::{FieldReader, put};

/// Maximum size of a record in bytes: a generous response head and its key. Every fill reserves this besides its
/// body.
pub(super) const RECORD_MAX: usize = 64 << 10;

/// Size of the footer in bytes.
pub(super) const FOOTER: usize = 48;

const MAGIC: [u8; 8] = *b"gupdblob";
const FORMAT: u32 = 1;
const BLOCK_SIZE: u32 = BLOCK as u32;
const CHECKED: usize = FOOTER - 16;

/// Short description of a mismatch, for the log.
pub(super) type Fault = &'static str;

/// A verified footer: the layout of the file.
#[derive(Debug, PartialEq)]
pub(super) struct Footer {
    /// Length of the body, which begins at 0.
    pub(super) body: u64,
    /// Length of the trailer, which begins at the end of the body.
    pub(super) trailer: usize,
    bytes: [u8; FOOTER],
}

/// A verified trailer.
#[derive(Debug, PartialEq)]
pub(super) struct Trailer {
    /// Name of the blob.
    pub(super) id: BlobId,
    /// XXH3-128 of each block, in order.
    pub(super) checksums: Box<[u128]>,
    /// Record of the first object.
    pub(super) record: Box<[u8]>,
}

/// Returns the number of blocks of a body.
pub(super) const fn blocks(len: u64) -> u64 {
    len.div_ceil(BLOCK)
}

/// Returns the maximum size of a blob file for a body of `len` bytes.
pub(super) const fn file_size(len: u64) -> u64 {
    len.saturating_add(blocks(len) * 16).saturating_add((32 + 4 + RECORD_MAX + FOOTER) as u64)
}

/// Encodes the trailer and footer of a body of `len` bytes.
pub(super) fn encode(id: BlobId, len: u64, checksums: &[u128], record: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + checksums.len() * 16 + 4 + record.len() + FOOTER);
    out.extend_from_slice(id.as_bytes());
    for checksum in checksums {
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    put(&mut out, record);
    let trailer = out.len() as u64;
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&BLOCK_SIZE.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&trailer.to_le_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_128(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

impl Footer {
    /// Decodes the footer of a file of `file` bytes.
    pub(super) fn decode(bytes: [u8; FOOTER], file: u64) -> Result<Self, Fault> {
        let mut fields = FieldReader(&bytes);
        if fields.array() != Some(MAGIC) {
            return Err("no footer");
        }
        if fields.array().map(u32::from_le_bytes) != Some(FORMAT) {
            return Err("unknown format");
        }
        if fields.array().map(u32::from_le_bytes) != Some(BLOCK_SIZE) {
            return Err("unknown block size");
        }
        let body = fields.array().map(u64::from_le_bytes).ok_or("no footer")?;
        let trailer = fields.array().map(u64::from_le_bytes).ok_or("no footer")?;
        let fits = body.checked_add(trailer).and_then(|sum| sum.checked_add(FOOTER as u64)) == Some(file);
        if !fits || file > file_size(body) {
            return Err("lengths disagree");
        }
        Ok(Self { body, trailer: usize::try_from(trailer).map_err(|_| "lengths disagree")?, bytes })
    }

    /// Decodes the trailer that this footer describes.
    pub(super) fn trailer(&self, bytes: &[u8]) -> Result<Trailer, Fault> {
        let (head, tail) = self.bytes.split_at(CHECKED);
        let mut checksum = Xxh3::new();
        checksum.update(bytes);
        checksum.update(head);
        if checksum.digest128().to_le_bytes() != tail {
            return Err("trailer's checksum differs");
        }
        let mut fields = FieldReader(bytes);
        let id = BlobId::from(fields.array::<32>().ok_or("trailer too short")?);
        let checksums = (0..blocks(self.body))
            .map(|_| fields.array().map(u128::from_le_bytes))
            .collect::<Option<_>>()
            .ok_or("trailer too short")?;
        let record = fields.bytes().ok_or("trailer too short")?.into();
        if !fields.0.is_empty() {
            return Err("trailer too long");
        }
        Ok(Trailer { id, checksums, record })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(file: &[u8], body: usize) -> Result<(Footer, Trailer), Fault> {
        let footer = file.last_chunk().ok_or("short")?;
        let footer = Footer::decode(*footer, file.len() as u64)?;
        let trailer = footer.trailer(&file[body..file.len() - FOOTER])?;
        Ok((footer, trailer))
    }

    proptest! {
        #[test]
        fn trailer_round_trips_and_any_flipped_bit_is_refused(
            blocks in 0u64..4, record in proptest::collection::vec(any::<u8>(), 0..40), at: proptest::sample::Index,
        ) {
            let id = BlobId::from([7; 32]);
            let checksums: Vec<u128> = (0..blocks).map(|block| u128::from(block) << 70).collect();
            let len = blocks * BLOCK;
            let mut file = vec![0; usize::try_from(len).unwrap()];
            file.extend(encode(id, len, &checksums, &record));
            let body = usize::try_from(len).unwrap();
            let (footer, trailer) = decode(&file, body).unwrap();
            prop_assert_eq!(footer.body, len);
            prop_assert_eq!(trailer, Trailer { id, checksums: checksums.into(), record: record.into() });
            let bit = at.index((file.len() - body) * 8);
            file[body + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&file, body).is_err(), "bit {bit}");
        }

        #[test]
        fn footer_with_other_lengths_is_refused(bytes: [u8; FOOTER], file: u64) {
            if let Ok(footer) = Footer::decode(bytes, file) {
                prop_assert_eq!(footer.body + footer.trailer as u64 + FOOTER as u64, file);
            }
        }
    }
}
