//! Reading a bundle strictly: the entries the format defines, in its order, and nothing else. No entry's name is ever
//! used as a path, nothing is allocated by what an entry claims, and what is read is bounded before it is: a head by
//! its own bound, all blobs together by the store's quota. A blob's end is told only when its SHA-256 agrees. Blocks.

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

/// What a bundle has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleContents {
    /// Objects.
    pub objects: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of those blobs.
    pub bytes: u64,
}

/// What is done with a bundle's contents.
pub(super) trait Sink {
    /// A blob begins, and these objects have it.
    fn begin(&mut self, objects: Vec<NewObject>, id: BlobId, len: u64) -> Result<(), BundleError>;
    /// Its next bytes, a chunk but for the last.
    fn write(&mut self, bytes: Bytes) -> Result<(), BundleError>;
    /// It was whole, and is what its name says.
    fn end(&mut self) -> Result<(), BundleError>;
}

/// Verifies a whole bundle, of `quota` bytes of blobs at most, and takes nothing in. Tells the bytes of blobs read.
///
/// # Errors
/// At the first thing that is wrong.
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
    let mut walk = BundleReader {
        quota,
        now,
        heads: Vec::new(),
        contents: BundleContents::default(),
        at: BEGIN.to_owned(),
    };
    match walk.entries(&mut Archive::new(decoder), sink) {
        Ok(()) => Ok(walk.contents),
        Err(Stop::Bundle(error)) => Err(error),
        Err(Stop::Fault(fault)) => Err(BundleError::Refused { path: path.to_owned(), entry: walk.at, fault }),
    }
}

/// Heads whose blob has not come yet, and what came so far.
struct BundleReader {
    quota: u64,
    now: UnixMillis,
    heads: Vec<((BlobId, u64), NewObject)>,
    contents: BundleContents,
    /// Name of the entry it is at, printable.
    at: String,
}

enum Stop {
    Bundle(BundleError),
    Fault(String),
}

impl BundleReader {
    fn entries<R: Read>(&mut self, archive: &mut Archive<R>, sink: &mut impl Sink) -> Result<(), Stop> {
        // Raw: the extensions of tar, which are read into memory whatever their size, are not part of the format.
        let mut entries = archive.entries().map_err(unreadable)?.raw(true);
        let mut begun = false;
        loop {
            let Some(entry) = entries.next() else {
                return Err(Stop::fault("it is cut: there is no end.json"));
            };
            let mut entry = entry.map_err(unreadable)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            self.at = name.escape_default().take(128).collect();
            if entry.header().entry_type() != EntryType::Regular {
                return Err(Stop::fault("it is not a plain file"));
            }
            let len = entry.header().entry_size().map_err(unreadable)?;
            match name.as_str() {
                BEGIN if !begun => {
                    let BeginEntry { format, .. } = json(&mut entry, len)?;
                    if format != FORMAT {
                        return Err(Stop::Fault(format!("its format is {format}, this gupd reads {FORMAT}")));
                    }
                    begun = true;
                }
                _ if !begun => return Err(Stop::fault("a bundle begins with gupd-bundle.json")),
                END => {
                    self.end(&json(&mut entry, len)?)?;
                    break;
                }
                head if head.starts_with("objects/") => self.head(head, &json(&mut entry, len)?)?,
                blob => match blob.strip_prefix("blobs/").and_then(|id| id.parse().ok()) {
                    Some(id) => self.blob(id, len, &mut entry, sink)?,
                    None => return Err(Stop::fault("no entry of a bundle has this name")),
                },
            }
        }
        match entries.next() {
            None => Ok(()),
            Some(_) => Err(Stop::fault("something follows it")),
        }
    }

    fn head(&mut self, name: &str, head: &ObjectHead) -> Result<(), Stop> {
        if head.name() != name {
            return Err(Stop::fault("its name is not its key's SHA-256"));
        }
        if self.heads.len() == HEADS_MAX {
            return Err(Stop::Fault(format!("it is one of more than {HEADS_MAX} heads without a blob")));
        }
        let (blob, object) = (head.blob().map_err(Stop::Fault)?, head.object(self.now).map_err(Stop::Fault)?);
        self.heads.push((blob, object));
        Ok(())
    }

    fn blob(&mut self, id: BlobId, len: u64, body: &mut impl Read, sink: &mut impl Sink) -> Result<(), Stop> {
        if self.heads.is_empty() {
            return Err(Stop::fault("no head before it names it"));
        }
        if self.heads.iter().any(|(named, _)| *named != (id, len)) {
            return Err(Stop::fault("a head before it names another blob, or another length"));
        }
        let objects: Vec<NewObject> = self.heads.drain(..).map(|(_, object)| object).collect();
        let bytes = self.contents.bytes.saturating_add(len);
        if bytes > self.quota {
            return Err(Stop::Fault(format!(
                "the blobs up to here have {bytes} bytes and `store.quota` is {}",
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
            let piece = piece(body, left.min(CHUNK))?;
            left -= piece.len() as u64;
            digest.update(&piece);
            sink.write(piece)?;
        }
        if BlobId::from(<[u8; 32]>::from(digest.finalize())) != id {
            return Err(Stop::fault("its bytes have another SHA-256"));
        }
        Ok(sink.end()?)
    }

    fn end(&self, end: &EndEntry) -> Result<(), Stop> {
        if !self.heads.is_empty() {
            return Err(Stop::fault("the last head's blob is missing"));
        }
        if *end != (EndEntry { objects: self.contents.objects, blobs: self.contents.blobs }) {
            return Err(Stop::fault("it counts other objects or blobs than there were"));
        }
        Ok(())
    }
}

/// Exactly `len` bytes, a chunk at most.
fn piece(from: &mut impl Read, len: u64) -> Result<Bytes, Stop> {
    let mut bytes = BytesMut::zeroed(usize::try_from(len).unwrap_or(usize::MAX));
    from.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes.freeze())
}

fn json<T: DeserializeOwned>(entry: &mut impl Read, len: u64) -> Result<T, Stop> {
    if len > HEAD_MAX {
        return Err(Stop::Fault(format!("it has {len} bytes, and a head has at most {HEAD_MAX}")));
    }
    let bytes = piece(entry, len)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Stop::Fault(format!("it is not what it should be: {error}")))
}

fn unreadable(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Stop::fault("it is cut"),
        _ => Stop::Fault(format!("it is no zstd-compressed tar: {error}")),
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

/// Takes nothing in.
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
