//! Journal of the index: one checksummed frame for every object that entered, changed or left, and for every
//! record that was set, in the order of the index's transactions. It is read only when the index is damaged,
//! missing or behind it. It then supplies what blob trailers lack: objects that share a blob, and heads refreshed
//! by a `304`.
//!
//! All changes of a transaction cost one write of a few hundred bytes just before the commit, and no sync. Like
//! the index's last transactions, its last frames survive a crash of the process, but not always one of the
//! machine; the blob trailers then fill in. A damaged frame is skipped, and the next one is found by its mark. A
//! valid frame of unknown kind comes from a later gupd and is ignored.
//!
//! ```text
//! mark (4) · length (4) · payload · XXH3-64 of length and payload (8)
//! payload: 1 · id (8) · retention (1) · SHA-256 (32) · body's length (8) · bytes on disk (8) · the object's record
//!        | 2 · id (8)
//!        | 3 · present (1) · name (4 + n) · value
//!        | 4 · SHA-256 (32) · pack (4) · position (8) · size (4)                   place of a blob, before its objects
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::retention::Retention;
use super::statements::BlobRow;
use crate::object::{FieldReader, put};
use crate::pack::PackPlace;
use crate::{BlobId, NewObject};

const MARK: [u8; 4] = *b"\xf5gj1";
const PUT: u8 = 1;
const REMOVE: u8 = 2;
const RECORD: u8 = 3;
const PLACE: u8 = 4;

/// Maximum bytes of a record's name and value: a list of three thousand catalogs. An object's record has less.
pub(crate) const NAMED_MAX: usize = 512 << 10;

/// Maximum bytes of a payload: fields, and the largest record.
const PAYLOAD_MAX: usize = 58 + NAMED_MAX;

/// Bytes of a frame besides its payload.
const FRAME: usize = 16;

/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// An object in the index, with the index's data about its blob.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ObjectEntry {
    pub(super) id: i64,
    pub(super) retention: Retention,
    pub(super) blob: BlobId,
    /// Length of the body.
    pub(super) len: u64,
    /// Bytes of the blob on disk.
    pub(super) disk: u64,
    /// Place of the blob in a pack.
    pub(super) place: Option<PackPlace>,
    pub(super) new: NewObject,
}

/// A decoded frame.
#[derive(Debug, PartialEq)]
pub(super) enum JournalEntry {
    /// The object was inserted or replaced.
    Put(Box<ObjectEntry>),
    /// The object with this id was removed.
    Remove(i64),
    /// The record was set or removed.
    Record { name: String, value: Option<Vec<u8>> },
    /// The blob is at this place from now on.
    Place(BlobId, PackPlace),
    /// A kind of a later gupd.
    Unknown,
}

/// The open file. One thread appends.
#[derive(Debug)]
pub(super) struct IndexJournal {
    file: Arc<File>,
    len: u64,
}

impl IndexJournal {
    /// Opens the file, or creates it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), len })
    }

    /// Returns its file.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Returns its length.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends frames and returns the new length. After a failure the next frames overwrite these.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<u64> {
        self.file.write_all_at(frames, self.len)?;
        self.len += frames.len() as u64;
        Ok(self.len)
    }

    /// Removes the frames from `from` on: the index did not commit them.
    pub(super) fn truncate(&mut self, from: u64) -> io::Result<()> {
        self.len = from;
        self.file.set_len(from)
    }

    /// Returns the frames from `from` on.
    pub(super) fn tail(&self, from: u64) -> io::Result<Vec<u8>> {
        let mut tail = vec![0; usize::try_from(self.len.saturating_sub(from)).unwrap_or(0)];
        self.file.read_exact_at(&mut tail, from)?;
        Ok(tail)
    }
}

impl ObjectEntry {
    /// Appends the frame, after that of the blob's place.
    pub(super) fn encode(&self, frames: &mut Vec<u8>) {
        let blob = BlobRow { row: 0, id: self.blob, len: self.len, disk: self.disk, place: self.place };
        encode_put(self.id, self.retention, &blob, &self.new.encode(), frames);
    }
}

/// Appends the frame of an object with this record, after that of its blob's place.
pub(super) fn encode_put(id: i64, retention: Retention, blob: &BlobRow, record: &[u8], frames: &mut Vec<u8>) {
    if let Some(place) = blob.place {
        encode_place(blob.id, place, frames);
    }
    let mut payload = Vec::with_capacity(58 + record.len());
    payload.push(PUT);
    payload.extend_from_slice(&id.to_le_bytes());
    payload.push(retention.bits());
    payload.extend_from_slice(blob.id.as_bytes());
    payload.extend_from_slice(&blob.len.to_le_bytes());
    payload.extend_from_slice(&blob.disk.to_le_bytes());
    payload.extend_from_slice(record);
    append_frame(frames, &payload);
}

/// Appends the frame that removes an object.
pub(super) fn encode_remove(object: i64, frames: &mut Vec<u8>) {
    let mut payload = vec![REMOVE];
    payload.extend_from_slice(&object.to_le_bytes());
    append_frame(frames, &payload);
}

/// Appends the frame of a blob's place.
pub(super) fn encode_place(blob: BlobId, place: PackPlace, frames: &mut Vec<u8>) {
    let mut payload = vec![PLACE];
    payload.extend_from_slice(blob.as_bytes());
    payload.extend_from_slice(&place.pack.to_le_bytes());
    payload.extend_from_slice(&place.at.to_le_bytes());
    payload.extend_from_slice(&place.size.to_le_bytes());
    append_frame(frames, &payload);
}

/// Appends the frame of a record; the caller has checked its size.
pub(super) fn encode_record(name: &str, value: Option<&[u8]>, frames: &mut Vec<u8>) {
    let mut payload = vec![RECORD, u8::from(value.is_some())];
    put(&mut payload, name.as_bytes());
    payload.extend_from_slice(value.unwrap_or_default());
    append_frame(frames, &payload);
}

fn append_frame(frames: &mut Vec<u8>, payload: &[u8]) {
    let begin = frames.len() + MARK.len();
    frames.extend_from_slice(&MARK);
    // The callers have checked the size of a record.
    frames.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    frames.extend_from_slice(payload);
    let checksum = xxh3_64(&frames[begin..]);
    frames.extend_from_slice(&checksum.to_le_bytes());
}

/// Decodes the first frame of `bytes` and returns its length; `None` if it is invalid.
fn decode(bytes: &[u8]) -> Option<(JournalEntry, usize)> {
    let mut fields = FieldReader(bytes);
    if fields.array()? != MARK {
        return None;
    }
    let payload = fields.bytes()?;
    if payload.len() > PAYLOAD_MAX {
        return None;
    }
    let checked = &bytes[MARK.len()..FRAME - 8 + payload.len()];
    if u64::from_le_bytes(fields.array()?) != xxh3_64(checked) {
        return None;
    }
    let mut fields = FieldReader(payload);
    let entry = match fields.array()? {
        [PUT] => JournalEntry::Put(Box::new(ObjectEntry {
            id: i64::from_le_bytes(fields.array()?),
            retention: Retention::from_bits(u8::from_le_bytes(fields.array()?))?,
            blob: fields.array::<32>()?.into(),
            len: u64::from_le_bytes(fields.array()?),
            disk: u64::from_le_bytes(fields.array()?),
            place: None,
            new: NewObject::decode(fields.0)?,
        })),
        [REMOVE] => JournalEntry::Remove(i64::from_le_bytes(fields.array()?)),
        [RECORD] => {
            let is_present = fields.array()? != [0];
            let name = std::str::from_utf8(fields.bytes()?).ok()?.to_owned();
            JournalEntry::Record { name, value: is_present.then(|| fields.0.to_vec()) }
        }
        [PLACE] => {
            let blob = fields.array::<32>()?.into();
            let pack = u32::from_le_bytes(fields.array()?);
            let at = u64::from_le_bytes(fields.array()?);
            JournalEntry::Place(blob, PackPlace { pack, at, size: u32::from_le_bytes(fields.array()?) })
        }
        _ => JournalEntry::Unknown,
    };
    Some((entry, payload.len() + FRAME))
}

/// Reads all frames of these bytes, and of a frame with them as its payload. For the fuzz targets.
pub(crate) fn read_frames(bytes: &[u8]) {
    let mut framed = Vec::new();
    append_frame(&mut framed, bytes);
    for bytes in [bytes, &framed] {
        let mut reader = FrameReader::new(bytes);
        while let Ok(Some(_)) = reader.next() {}
    }
}

/// Reads frames in order and skips damaged ones.
pub(super) struct FrameReader<R> {
    from: R,
    window: Vec<u8>,
    at: usize,
    ended: bool,
    /// Bytes that belong to no valid frame.
    pub(super) skipped: u64,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, window: Vec::new(), at: 0, ended: false, skipped: 0 }
    }

    /// Returns the next valid frame.
    pub(super) fn next(&mut self) -> io::Result<Option<JournalEntry>> {
        loop {
            self.refill()?;
            let rest = &self.window[self.at..];
            if rest.is_empty() {
                return Ok(None);
            }
            if let Some((entry, len)) = decode(rest) {
                self.at += len;
                return Ok(Some(entry));
            }
            let next = rest[1..].windows(MARK.len()).position(|bytes| *bytes == MARK);
            // The last bytes may be the start of a mark.
            let skip = match next {
                Some(next) => 1 + next,
                None if self.ended => rest.len(),
                None => rest.len() - (MARK.len() - 1),
            };
            self.at += skip;
            self.skipped += skip as u64;
        }
    }

    /// Fills the window with at least the largest frame, unless the file ends earlier.
    fn refill(&mut self) -> io::Result<()> {
        if self.ended || self.window.len() - self.at >= PAYLOAD_MAX + FRAME {
            return Ok(());
        }
        self.window.drain(..self.at);
        self.at = 0;
        let more = (WINDOW - self.window.len()) as u64;
        self.ended = (&mut self.from).take(more).read_to_end(&mut self.window)? < more as usize;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    fn entry(id: i64) -> ObjectEntry {
        let new = NewObject {
            key: format!("all/content/{id}").into(),
            selecting: String::new(),
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            content_type: "virus-definitions".into(),
            upstream: "manager".into(),
            request_time: 1,
            response_time: 2,
        };
        let retention = Retention { permanent: id % 2 == 0, pinned: id % 3 == 0 };
        ObjectEntry { id, retention, blob: [7; 32].into(), len: 10, disk: 4096, place: None, new }
    }

    fn entries(bytes: &[u8]) -> Vec<JournalEntry> {
        let mut frames = FrameReader::new(bytes);
        std::iter::from_fn(|| frames.next().unwrap()).collect()
    }

    #[test]
    fn frames_round_trip_in_order_across_windows() {
        let mut bytes = Vec::new();
        let many = 12_000;
        for id in 0..many {
            entry(id).encode(&mut bytes);
            encode_remove(id, &mut bytes);
            encode_record(&id.to_string(), (id % 2 == 0).then_some(b"value"), &mut bytes);
        }
        assert!(bytes.len() > 2 * WINDOW);
        let record = |id: i64| JournalEntry::Record {
            name: id.to_string(),
            value: (id % 2 == 0).then(|| b"value".to_vec()),
        };
        let expected = (0..many)
            .flat_map(|id| [JournalEntry::Put(Box::new(entry(id))), JournalEntry::Remove(id), record(id)]);
        assert!(entries(&bytes).into_iter().eq(expected));
    }

    #[test]
    fn frame_of_unknown_kind_is_ignored() {
        let mut bytes = Vec::new();
        entry(1).encode(&mut bytes);
        append_frame(&mut bytes, &[77, 1, 2, 3]);
        encode_remove(1, &mut bytes);
        let mut frames = FrameReader::new(&bytes[..]);
        for expected in
            [JournalEntry::Put(Box::new(entry(1))), JournalEntry::Unknown, JournalEntry::Remove(1)]
        {
            assert_eq!(frames.next().unwrap(), Some(expected));
        }
        assert_eq!((frames.next().unwrap(), frames.skipped), (None, 0));
    }

    #[test]
    fn frame_of_first_version_is_unchanged() {
        let hex = "f5676a318600000001020000000000000001070707070707070707070707070707070707070707070707070707\
             07070707070a000000000000000010000000000000010d000000616c6c2f636f6e74656e742f32000000001100\
             000076697275732d646566696e6974696f6e73070000006d616e61676572c80001000000000000000200000000\
             00000000000000154db9a9f71989bf";
        let mut bytes = Vec::new();
        entry(2).encode(&mut bytes);
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
    }

    #[test]
    fn largest_record_round_trips() {
        let value = vec![7; NAMED_MAX - 4];
        let mut bytes = Vec::new();
        for _ in 0..3 {
            encode_record("name", Some(&value), &mut bytes);
        }
        let record = || JournalEntry::Record { name: "name".to_owned(), value: Some(value.clone()) };
        assert!(entries(&bytes).into_iter().eq([record(), record(), record()]));
    }

    proptest! {
        #[test]
        fn flipped_bit_costs_one_frame(at: proptest::sample::Index) {
            let mut bytes = Vec::new();
            (0..5).for_each(|id| entry(id).encode(&mut bytes));
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hit = bit / 8 / (bytes.len() / 5);
            let expected = (0..5).filter(|id| *id != hit).map(|id| JournalEntry::Put(Box::new(entry(id as i64))));
            prop_assert!(entries(&bytes).into_iter().eq(expected));
        }

        #[test]
        fn torn_end_costs_one_frame(cut in 1usize..100) {
            let mut bytes = Vec::new();
            (0..2).for_each(|id| entry(id).encode(&mut bytes));
            bytes.truncate(bytes.len() - cut);
            prop_assert_eq!(entries(&bytes), [JournalEntry::Put(Box::new(entry(0)))]);
        }
    }
}
