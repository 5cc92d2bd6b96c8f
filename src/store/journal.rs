//! Journal of a fill beside its unfinished file, so that bytes that crossed the WAN survive the process: the
//! response head, then an entry for each run of written blocks. Pure: bytes in, bytes out. Little-endian:
//!
//! ```text
//! magic (8) · format (4) · body length (8) · record (4 + n) · XXH3-128 of these (16)
//! first block (4) · blocks (4) · XXH3-128 of each block (16 each) · XXH3-128 of these (16)     repeated
//! ```
//!
//! A torn entry ends the journal. Entries may reach the disk before the blocks they describe. Such a block fails
//! its checksum and is fetched again.

use xxhash_rust::xxh3::xxh3_128;

use super::blocks::{BlockMap, blocks_of};
use super::object::{FieldReader, NewObject, put};

const MAGIC: [u8; 8] = *b"gupdfill";
const FORMAT: u32 = 1;

/// A decoded journal.
#[derive(Debug, PartialEq)]
pub(super) struct FillJournal {
    /// Length of the body.
    pub(super) len: u64,
    /// The response without its body.
    pub(super) object: NewObject,
    /// The written blocks.
    pub(super) blocks: BlockMap,
}

/// Encodes the head of a journal.
pub(super) fn encode_head(len: u64, object: &NewObject) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    put(&mut out, &object.encode());
    append_checksum(out)
}

/// Encodes an entry for blocks from `first` on. `None` past four billion blocks.
pub(super) fn encode_entry(first: usize, checksums: &[u128]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(8 + (checksums.len() + 1) * 16);
    out.extend_from_slice(&u32::try_from(first).ok()?.to_le_bytes());
    out.extend_from_slice(&u32::try_from(checksums.len()).ok()?.to_le_bytes());
    for checksum in checksums {
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    Some(append_checksum(out))
}

/// Decodes the valid part of a journal; `None` if its head is invalid.
pub(super) fn decode(bytes: &[u8]) -> Option<FillJournal> {
    let mut fields = FieldReader(bytes);
    let is_known = fields.array() == Some(MAGIC) && fields.array().map(u32::from_le_bytes) == Some(FORMAT);
    let len = fields.array().map(u64::from_le_bytes).filter(|_| is_known)?;
    let object = NewObject::decode(fields.bytes()?)?;
    verify_checksum(bytes, &mut fields)?;
    let mut journal = FillJournal { len, object, blocks: BlockMap::default() };
    while journal.read_entry(&mut fields).is_some() {}
    Some(journal)
}

impl FillJournal {
    fn read_entry(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let entry = fields.0;
        let first = usize::try_from(fields.array().map(u32::from_le_bytes)?).ok()?;
        let count = usize::try_from(fields.array().map(u32::from_le_bytes)?).ok()?;
        if first.checked_add(count)? > blocks_of(self.len) || fields.0.len() / 16 <= count {
            return None;
        }
        let checksums = (0..count).map(|_| fields.array().map(u128::from_le_bytes));
        let checksums = checksums.collect::<Option<Vec<_>>>()?;
        verify_checksum(entry, fields)?;
        self.blocks.insert(first, &checksums);
        Some(())
    }
}

fn append_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = xxh3_128(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Compares the bytes read of `from` with the checksum that follows.
fn verify_checksum(from: &[u8], fields: &mut FieldReader<'_>) -> Option<()> {
    let read = from.get(..from.len() - fields.0.len())?;
    (fields.array().map(u128::from_le_bytes)? == xxh3_128(read)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BLOCK;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    fn object() -> NewObject {
        NewObject {
            key: "/ /content".into(),
            selecting: String::new(),
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(http::header::ETAG, "\"1\"".parse().unwrap())]),
            content_type: "other".into(),
            upstream: "manager".into(),
            request_time: 1,
            response_time: 2,
        }
    }

    proptest! {
        #[test]
        fn damaged_journal_never_reports_unwritten_blocks(
            entries in proptest::collection::vec((0usize..60, 1usize..4), 0..6),
            cut: proptest::sample::Index, bit: Option<proptest::sample::Index>,
        ) {
            let len = 64 * BLOCK - 5;
            let mut bytes = encode_head(len, &object());
            let head = bytes.len();
            let mut states = vec![BlockMap::default()];
            for (at, (first, count)) in entries.iter().enumerate() {
                let checksums = vec![at as u128; *count];
                bytes.extend(encode_entry(*first, &checksums).unwrap());
                let mut blocks = states.last().unwrap().clone();
                blocks.insert(*first, &checksums);
                states.push(blocks);
            }
            let whole = decode(&bytes).unwrap();
            prop_assert_eq!((whole.len, &whole.object), (len, &object()));
            prop_assert_eq!(&whole.blocks, states.last().unwrap());
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Some(bit) = bit && !bytes.is_empty() {
                let bit = bit.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            match decode(&bytes) {
                Some(journal) => prop_assert!(states.contains(&journal.blocks)),
                None => prop_assert!(bit.is_some() || bytes.len() < head),
            }
        }
    }
}
