//! Strict bundle reader: exactly the entries of the format, in its order. No entry name is used as a path, and
//! nothing is allocated by what an entry claims. Sizes are bounded before reading: a head by its own limit, all
//! blobs together by the store's quota. A blob ends successfully only if its SHA-256 agrees. Blocks.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};
use zstd::Decoder;

use super::head::ObjectHead;
use super::{BEGIN, BeginEntry, BundleError, END, EndEntry, FORMAT, HEAD_MAX, HEADS_MAX, WINDOW_LOG};
use crate::{BlobId, CHUNK, NewObject};
use gupd_config::clock::UnixMillis;

/// Contents of a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleContents {
    /// Objects.
    pub objects: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of those blobs.
    pub bytes: u64,
}

/// Receiver of a bundle's contents.
pub(super) trait Sink {
    /// A blob of these objects begins.
    fn begin(&mut self, objects: Vec<NewObject>, id: BlobId, len: u64) -> Result<(), BundleError>;
    /// The next bytes of the blob: a chunk, or the rest.
    fn write(&mut self, bytes: Bytes) -> Result<(), BundleError>;
    /// The blob is complete and its SHA-256 agrees.
    fn end(&mut self) -> Result<(), BundleError>;
}

/// Verifies a whole bundle with at most `quota` bytes of blobs, without importing it. Calls `read` with the bytes
/// of each piece.
///
/// # Errors
/// The first fault found.
pub fn check(
    path: &Path,
    quota: u64,
    now: UnixMillis,
    read: impl FnMut(u64),
) -> Result<BundleContents, BundleError> {
    walk(path, quota, now, &mut Verifier(read))
}

/// Reads a bundle into `sink`.
pub(super) fn walk(
    path: &Path,
    quota: u64,
    now: UnixMillis,
    sink: &mut impl Sink,
) -> Result<BundleContents, BundleError> {
    let opened = File::open(path)
        .and_then(|file| Decoder::with_buffer(BufReader::with_capacity(CHUNK as usize, file)));
    let failed = |source| BundleError::File { doing: "read", path: path.to_owned(), source };
    let mut decoder = opened.map_err(failed)?;
    decoder.window_log_max(WINDOW_LOG).map_err(failed)?;
    let mut reader = BundleReader {
        quota,
        now,
        heads: Vec::new(),
        contents: BundleContents::default(),
        entry: BEGIN.to_owned(),
    };
    match reader.read_entries(&mut Archive::new(decoder), sink) {
        Ok(()) => Ok(reader.contents),
        Err(Stop::Bundle(error)) => Err(error),
        Err(Stop::Fault(fault)) => {
            Err(BundleError::Refused { path: path.to_owned(), entry: reader.entry, fault })
        }
    }
}

/// Reads an archive that is not compressed. For the fuzz targets.
pub(crate) fn read_archive(archive: &[u8], now: UnixMillis) {
    let (heads, contents) = (Vec::new(), BundleContents::default());
    let mut reader = BundleReader { quota: 1 << 20, now, heads, contents, entry: BEGIN.to_owned() };
    let _ = reader.read_entries(&mut Archive::new(archive), &mut Verifier(drop));
}

/// Heads of the next blob, and the contents so far.
struct BundleReader {
    quota: u64,
    now: UnixMillis,
    heads: Vec<((BlobId, u64), NewObject)>,
    contents: BundleContents,
    /// Printable name of the current entry.
    entry: String,
}

enum Stop {
    Bundle(BundleError),
    Fault(String),
}

impl BundleReader {
    fn read_entries<R: Read>(&mut self, archive: &mut Archive<R>, sink: &mut impl Sink) -> Result<(), Stop> {
        // Raw: the extensions of tar, which are read into memory whatever their size, are not part of the format.
        let mut entries = archive.entries().map_err(tar_fault)?.raw(true);
        let mut begun = false;
        loop {
            let Some(entry) = entries.next() else {
                return Err(Stop::fault("truncated: end.json is missing"));
            };
            let mut entry = entry.map_err(tar_fault)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            self.entry = name.escape_default().take(128).collect();
            if entry.header().entry_type() != EntryType::Regular {
                return Err(Stop::fault("not a plain file"));
            }
            let len = entry.header().entry_size().map_err(tar_fault)?;
            match name.as_str() {
                BEGIN if !begun => {
                    let BeginEntry { format, .. } = read_json(&mut entry, len)?;
                    if format != FORMAT {
                        return Err(Stop::Fault(format!(
                            "unknown format {format}: this gupd reads {FORMAT}"
                        )));
                    }
                    begun = true;
                }
                _ if !begun => return Err(Stop::fault("the first entry is not gupd-bundle.json")),
                END => {
                    self.check_end(&read_json(&mut entry, len)?)?;
                    break;
                }
                head if head.starts_with("objects/") => self.read_head(head, &read_json(&mut entry, len)?)?,
                blob => match blob.strip_prefix("blobs/").and_then(|id| id.parse().ok()) {
                    Some(id) => self.read_blob(id, len, &mut entry, sink)?,
                    None => return Err(Stop::fault("unexpected entry name")),
                },
            }
        }
        match entries.next() {
            None => Ok(()),
            Some(_) => Err(Stop::fault("another entry follows")),
        }
    }

    fn read_head(&mut self, name: &str, head: &ObjectHead) -> Result<(), Stop> {
        if head.name() != name {
            return Err(Stop::fault("the name is not the SHA-256 of the key"));
        }
        if self.heads.len() == HEADS_MAX {
            return Err(Stop::Fault(format!("more than {HEADS_MAX} heads without a blob")));
        }
        let (blob, object) =
            (head.blob().map_err(Stop::Fault)?, head.to_object(self.now).map_err(Stop::Fault)?);
        self.heads.push((blob, object));
        Ok(())
    }

    fn read_blob(
        &mut self,
        id: BlobId,
        len: u64,
        body: &mut impl Read,
        sink: &mut impl Sink,
    ) -> Result<(), Stop> {
        if self.heads.is_empty() {
            return Err(Stop::fault("no preceding head names this blob"));
        }
        if self.heads.iter().any(|(named, _)| *named != (id, len)) {
            return Err(Stop::fault("a preceding head names another blob or length"));
        }
        let objects: Vec<NewObject> = self.heads.drain(..).map(|(_, object)| object).collect();
        let bytes = self.contents.bytes.saturating_add(len);
        if bytes > self.quota {
            return Err(Stop::Fault(format!(
                "blobs of {bytes} bytes so far exceed `store.quota` of {}",
                self.quota
            )));
        }
        self.contents.objects += objects.len() as u64;
        self.contents.blobs += 1;
        self.contents.bytes = bytes;
        sink.begin(objects, id, len)?;
        let mut digest = Sha256::new();
        let mut left = len;
        while left > 0 {
            let piece = read_piece(body, left.min(CHUNK))?;
            left -= piece.len() as u64;
            digest.update(&piece);
            sink.write(piece)?;
        }
        if BlobId::from(<[u8; 32]>::from(digest.finalize())) != id {
            return Err(Stop::fault("the SHA-256 of the bytes differs"));
        }
        Ok(sink.end()?)
    }

    fn check_end(&self, end: &EndEntry) -> Result<(), Stop> {
        if !self.heads.is_empty() {
            return Err(Stop::fault("the blob of the last head is missing"));
        }
        if *end != (EndEntry { objects: self.contents.objects, blobs: self.contents.blobs }) {
            return Err(Stop::fault("the counts of objects or blobs differ"));
        }
        Ok(())
    }
}

/// Reads exactly `len` bytes, at most a chunk.
fn read_piece(from: &mut impl Read, len: u64) -> Result<Bytes, Stop> {
    let mut bytes = BytesMut::zeroed(usize::try_from(len).unwrap_or(usize::MAX));
    from.read_exact(&mut bytes).map_err(tar_fault)?;
    Ok(bytes.freeze())
}

fn read_json<T: DeserializeOwned>(entry: &mut impl Read, len: u64) -> Result<T, Stop> {
    if len > HEAD_MAX {
        return Err(Stop::Fault(format!("{len} bytes; a head has at most {HEAD_MAX}")));
    }
    let bytes = read_piece(entry, len)?;
    serde_json::from_slice(&bytes).map_err(|error| Stop::Fault(format!("invalid JSON: {error}")))
}

fn tar_fault(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Stop::fault("truncated"),
        _ => Stop::Fault(format!("not a zstd-compressed tar: {error}")),
    }
}

impl Stop {
    fn fault(fault: &str) -> Self {
        Self::Fault(fault.to_owned())
    }
}

impl From<BundleError> for Stop {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

/// Discards the contents and reports their size.
struct Verifier<P>(P);

impl<P: FnMut(u64)> Sink for Verifier<P> {
    fn begin(&mut self, _: Vec<NewObject>, _: BlobId, _: u64) -> Result<(), BundleError> {
        Ok(())
    }

    fn write(&mut self, bytes: Bytes) -> Result<(), BundleError> {
        (self.0)(bytes.len() as u64);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BundleError> {
        Ok(())
    }
}
