//! Packs: append-only files of small blobs, so that a small object costs no file of its own. A record describes itself:
//! a header for scans, then the bytes that the blob's own file would have (body, trailer, footer). The index thread
//! alone appends, marks and removes. Records are never overwritten; a mark in the header of a removed one keeps a scan
//! from restoring it. A blob that contains a record's magic has a file of its own: behind damage, a scan would take
//! what a server wrote there for a record. Pure format here; see `packs` for the files.
//!
//! ```text
//! magic (8) · size of the image (4) · XXH3-64 of the size, lower half (4) · state (1) · zero (7) | image
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;
use xxhash_rust::xxh3::xxh3_64;

use super::BLOCK;
use super::id::BlobId;
use super::trailer;

/// Bodies with fewer bytes are stored in a pack: one block each, so one checksum.
pub(super) const PACKED_BELOW: u64 = BLOCK;

/// Size of a record's header in bytes.
pub(super) const HEADER: usize = 24;

/// Offset of the state in the header.
const STATE: u64 = 16;

const MAGIC: [u8; 8] = *b"gupdpack";
/// All bits set: no single flipped bit makes a removed record of it.
const STORED: u8 = 0xff;
const REMOVED: u8 = 0;

/// Bytes searched for the next header at a time.
const WINDOW: usize = 64 << 10;

/// Place of a blob's image in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackPlace {
    /// Number of the pack.
    pub(super) pack: u32,
    /// Position of the image in the file.
    pub(super) at: u64,
    /// Size of the image in bytes.
    pub(super) size: u32,
}

impl PackPlace {
    /// Returns the bytes of the record.
    pub(super) fn record_bytes(self) -> u64 {
        u64::from(self.size) + HEADER as u64
    }

    /// Returns the bytes charged for the record. A third more than it has, for the removed records that a pack keeps
    /// until its compaction.
    pub(super) fn charged_bytes(self) -> u64 {
        charged_bytes(self.record_bytes())
    }
}

/// Returns the bytes charged for `bytes` of records.
pub(super) const fn charged_bytes(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 3)
}

/// A record found by a scan.
#[derive(Debug, PartialEq)]
pub(super) struct ScannedRecord {
    pub(super) place: PackPlace,
    pub(super) is_removed: bool,
}

/// Returns true if a record of this blob could be mistaken for several.
pub(super) fn contains_magic(body: &[u8], object: &[u8]) -> bool {
    [body, object].iter().any(|bytes| memmem::find(bytes, &MAGIC).is_some())
}

/// Encodes a blob of one object as a record.
pub(super) fn encode(id: BlobId, body: &[u8], checksums: &[u128], object: &[u8]) -> Vec<u8> {
    let trailer = trailer::encode(id, body.len() as u64, checksums, object);
    let size = u32::try_from(body.len() + trailer.len()).unwrap_or(u32::MAX);
    let mut record = Vec::with_capacity(HEADER + body.len() + trailer.len());
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&size.to_le_bytes());
    record.extend_from_slice(&check(size).to_le_bytes());
    record.extend_from_slice(&[STORED, 0, 0, 0, 0, 0, 0, 0]);
    record.extend_from_slice(body);
    record.extend_from_slice(&trailer);
    record
}

/// Marks the record of `place` as removed.
pub(super) fn mark_removed(file: &File, place: PackPlace) -> io::Result<()> {
    file.write_all_at(&[REMOVED], place.at - HEADER as u64 + STATE)
}

/// Returns the first record at or after `from`. Bytes that are no record are skipped, so damage costs what it hits.
pub(super) fn next_record(file: &File, pack: u32, from: u64) -> io::Result<Option<ScannedRecord>> {
    let mut header = [0; HEADER];
    if read_up_to(file, &mut header, from)? == HEADER
        && header.starts_with(&MAGIC)
        && let Some((size, is_removed)) = decode_header(&header)
    {
        let place = PackPlace { pack, at: from + HEADER as u64, size };
        return Ok(Some(ScannedRecord { place, is_removed }));
    }
    let mut window = vec![0; WINDOW];
    let mut start = from;
    loop {
        let read = read_up_to(file, &mut window, start)?;
        let bytes = &window[..read];
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(HEADER).position(|bytes| bytes.starts_with(&MAGIC)) {
            at += found;
            if let Some((size, is_removed)) = decode_header(&bytes[at..]) {
                let place = PackPlace { pack, at: start + (at + HEADER) as u64, size };
                return Ok(Some(ScannedRecord { place, is_removed }));
            }
            at += 1;
        }
        if read < WINDOW {
            return Ok(None);
        }
        // The last bytes may be the start of a header.
        start += (WINDOW - (HEADER - 1)) as u64;
    }
}

fn decode_header(bytes: &[u8]) -> Option<(u32, bool)> {
    let size = u32::from_le_bytes(*bytes.get(8..12)?.first_chunk()?);
    let found = u32::from_le_bytes(*bytes.get(12..16)?.first_chunk()?);
    (found == check(size)).then(|| (size, bytes.get(16) == Some(&REMOVED)))
}

fn check(size: u32) -> u32 {
    xxh3_64(&size.to_le_bytes()) as u32
}

fn read_up_to(file: &File, into: &mut [u8], from: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], from + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("gupd-pack-{}-{:p}", std::process::id(), bytes));
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn scan(file: &File) -> Vec<ScannedRecord> {
        let mut at = 0;
        let next = || {
            let found = next_record(file, 7, at).unwrap()?;
            at = found.place.at + u64::from(found.place.size);
            Some(found)
        };
        std::iter::from_fn(next).collect()
    }

    fn records(sizes: &[usize]) -> (Vec<u8>, Vec<PackPlace>) {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for (seed, size) in (0..).zip(sizes) {
            let record = encode(BlobId::from([seed; 32]), &vec![seed; *size], &[1], b"object");
            let size = u32::try_from(record.len() - HEADER).unwrap();
            places.push(PackPlace { pack: 7, at: (bytes.len() + HEADER) as u64, size });
            bytes.extend(record);
        }
        (bytes, places)
    }

    #[test]
    fn records_are_found_in_order_with_their_marks() {
        let (bytes, places) = records(&[1, 60_000, 0, 65_000, 3]);
        let file = file(&bytes);
        mark_removed(&file, places[1]).unwrap();
        let expected: Vec<_> = (0..)
            .zip(&places)
            .map(|(n, place)| ScannedRecord { place: *place, is_removed: n == 1 })
            .collect();
        assert_eq!(scan(&file), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn flipped_bit_in_a_pack_costs_at_most_one_record(at: proptest::sample::Index) {
            let (mut bytes, places) = records(&[10, 300, 7]);
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = scan(&file(&bytes));
            prop_assert!(found.iter().filter(|found| !found.is_removed && places.contains(&found.place)).count() >= 2);
        }
    }
}
