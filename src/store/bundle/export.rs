//! BundleWriter a bundle. Relies on [`Inventory`], so it works beside a running relay. A blob is verified to its last byte
//! before its entry is begun, since an entry cannot be taken back, and checked again as it is copied. The bundle has
//! its name only when it is whole and on disk. Blocks.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tar::{Builder, EntryType, Header};
use zstd::Encoder;

use super::head::ObjectHead;
use super::{BEGIN, BeginEntry, BundleError, END, EndEntry, FORMAT, HEADS_MAX};
use crate::inspect::{Inspection, InspectionFault};
use crate::{BlobId, Inventory, Object, StoreError};
use gupd_config::clock::UnixMillis;

/// Most payloads are compressed already: a higher level costs time and gains nothing.
const LEVEL: i32 = 3;

/// What a bundle got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSummary {
    /// Objects.
    pub objects: u64,
    /// Blobs; objects may share one.
    pub blobs: u64,
    /// Bytes of those blobs.
    pub bytes: u64,
    /// Blobs that are damaged and were left out.
    pub damaged: Vec<BlobId>,
}

/// Writes the objects that came, or were confirmed by their upstream, at `since` or later. What only says that there is
/// nothing is left out: it is believed for seconds. So are copies, which mean nothing elsewhere.
///
/// # Errors
/// When the index or a blob cannot be read, or the bundle not written. There is no bundle then.
pub fn export(
    inventory: &Inventory,
    since: UnixMillis,
    now: UnixMillis,
    to: &Path,
    read: impl FnMut(u64),
) -> Result<ExportSummary, BundleError> {
    let file = |doing| {
        let path = to.to_owned();
        move |source| BundleError::File { doing, path, source }
    };
    let unfinished = TemporaryFile::create(to).map_err(file("create"))?;
    let encoder = Encoder::new(BufWriter::new(&unfinished.file), LEVEL).map_err(file("write"))?;
    let mut writing = BundleWriter {
        inventory,
        since,
        read,
        to,
        tar: Builder::new(encoder),
        done: ExportSummary::default(),
    };
    writing.json(BEGIN, &BeginEntry { format: FORMAT, created: now })?;
    for blob in inventory.blobs() {
        writing.blob(blob?)?;
    }
    writing.json(END, &EndEntry { objects: writing.done.objects, blobs: writing.done.blobs })?;
    let BundleWriter { tar, done, .. } = writing;
    let whole = tar.into_inner().and_then(Encoder::finish).and_then(|mut file| file.flush());
    whole.and_then(|()| unfinished.name(to)).map_err(file("write"))?;
    Ok(done)
}

struct BundleWriter<'a, W: Write, P> {
    inventory: &'a Inventory,
    since: UnixMillis,
    read: P,
    to: &'a Path,
    tar: Builder<W>,
    done: ExportSummary,
}

impl<W: Write, P: FnMut(u64)> BundleWriter<'_, W, P> {
    /// A blob behind the heads that have it, as often as there are too many of those.
    fn blob(&mut self, (id, len): (BlobId, u64)) -> Result<(), BundleError> {
        (self.read)(len);
        let mut after = 0;
        loop {
            let page = self.inventory.objects_of(id, after, HEADS_MAX)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            let wanted: Vec<&Object> = page
                .iter()
                .filter(|object| object.status.is_success() && object.response_time >= self.since)
                .filter(|object| !object.is_copy())
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let path = self.inventory.path(id);
            let verified = Inspection::begin(&path, id, len).and_then(|mut file| {
                file.finish(|_| {})?;
                Ok(file)
            });
            let mut file = match verified {
                Ok(file) => file,
                // Evicted meanwhile, or it will be found missing by whoever asks for it.
                Err(InspectionFault::Gone) => return Ok(()),
                Err(InspectionFault::Damaged(_)) => {
                    self.done.damaged.push(id);
                    return Ok(());
                }
                Err(InspectionFault::Unreadable(source)) => {
                    return Err(StoreError::Io { doing: "read", path, source }.into());
                }
            };
            for object in &wanted {
                let head = ObjectHead::of(object);
                self.json(&head.name(), &head)?;
            }
            file.rewind();
            self.entry(&format!("blobs/{id}"), len, &mut BlobReader { file, at: 0, len: 0 })?;
            self.done.objects += wanted.len() as u64;
            self.done.blobs += 1;
            self.done.bytes += len;
        }
    }

    fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), BundleError> {
        let json = serde_json::to_vec(value).map_err(|error| self.failed(error.into()))?;
        self.entry(name, json.len() as u64, &mut json.as_slice())
    }

    fn entry(&mut self, name: &str, len: u64, content: &mut dyn Read) -> Result<(), BundleError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(len);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, name, content).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> BundleError {
        BundleError::File { doing: "write", path: self.to.to_owned(), source }
    }
}

/// A blob's bytes, each checked before it is given.
struct BlobReader {
    file: Inspection,
    at: usize,
    len: usize,
}

impl Read for BlobReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.len {
            self.len = self.file.next().map_err(lost)?.len();
            self.at = 0;
        }
        let read = (&self.file.current()[self.at..self.len]).read(into)?;
        self.at += read;
        Ok(read)
    }
}

/// A blob that was sound a moment ago.
fn lost(why: InspectionFault) -> io::Error {
    match why {
        InspectionFault::Damaged(fault) => {
            io::Error::other(format!("a blob reads differently twice: {fault}"))
        }
        InspectionFault::Gone => io::ErrorKind::NotFound.into(),
        InspectionFault::Unreadable(error) => error,
    }
}

/// A bundle under another name until it is whole; removed if it never is.
struct TemporaryFile {
    path: PathBuf,
    file: File,
}

impl TemporaryFile {
    fn create(to: &Path) -> io::Result<Self> {
        let mut name = to.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(".unfinished");
        let path = to.with_file_name(name);
        let file = File::create(&path)?;
        Ok(Self { path, file })
    }

    fn name(&self, to: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, to)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Not there any more if it was named.
        let _named = fs::remove_file(&self.path);
    }
}
