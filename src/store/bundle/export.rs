//! Bundle export. It reads through [`Inventory`] and therefore works beside a running relay. A blob is verified
//! completely before its entry begins, since an entry cannot be withdrawn, and verified again while it is copied.
//! The bundle gets its name only when it is whole and synced. Blocks.

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

/// Zstd level. Most payloads are compressed already: a higher level costs time and gains nothing.
const LEVEL: i32 = 3;

/// Contents of a written bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSummary {
    /// Objects.
    pub objects: u64,
    /// Blobs; objects may share one.
    pub blobs: u64,
    /// Bytes of those blobs.
    pub bytes: u64,
    /// Damaged blobs, which were left out.
    pub damaged: Vec<BlobId>,
}

/// Writes the objects that were received or revalidated at `since` or later, and calls `read` with the bytes of
/// each blob. Leaves out negative entries, which are valid for seconds, copies and held content, which belong to this store.
///
/// # Errors
/// When the index or a blob cannot be read, or the bundle cannot be written. No bundle is left then.
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
    let temporary = TemporaryFile::create(to).map_err(file("create"))?;
    let encoder = Encoder::new(BufWriter::new(&temporary.file), LEVEL).map_err(file("write"))?;
    let mut writer = BundleWriter {
        inventory,
        since,
        read,
        to,
        tar: Builder::new(encoder),
        done: ExportSummary::default(),
    };
    writer.write_json(BEGIN, &BeginEntry { format: FORMAT, created: now })?;
    for blob in inventory.blobs() {
        writer.write_blob(blob?)?;
    }
    writer.write_json(END, &EndEntry { objects: writer.done.objects, blobs: writer.done.blobs })?;
    let BundleWriter { tar, done, .. } = writer;
    let whole = tar.into_inner().and_then(Encoder::finish).and_then(|mut file| file.flush());
    whole.and_then(|()| temporary.rename(to)).map_err(file("write"))?;
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
    /// Writes a blob after the heads of its objects, once for every `HEADS_MAX` heads.
    fn write_blob(&mut self, (id, len): (BlobId, u64)) -> Result<(), BundleError> {
        (self.read)(len);
        let mut after = 0;
        loop {
            let page = self.inventory.objects_of(id, after, HEADS_MAX)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            let exported: Vec<&Object> = page
                .iter()
                .filter(|object| object.status.is_success() && object.response_time >= self.since)
                .filter(|object| !object.is_copy() && !object.is_held())
                .collect();
            if exported.is_empty() {
                continue;
            }
            let (path, opened) = self.inventory.inspect(id, len)?;
            let verified = opened.and_then(|mut file| {
                file.read_to_end(|_| {})?;
                Ok(file)
            });
            let mut file = match verified {
                Ok(file) => file,
                // Evicted meanwhile, or missing: the next request for it finds out.
                Err(InspectionFault::Gone) => return Ok(()),
                Err(InspectionFault::Damaged(_)) => {
                    self.done.damaged.push(id);
                    return Ok(());
                }
                Err(InspectionFault::Unreadable(source)) => {
                    return Err(StoreError::Io { doing: "read", path, source }.into());
                }
            };
            for object in &exported {
                let head = ObjectHead::from_object(object);
                self.write_json(&head.name(), &head)?;
            }
            file.rewind();
            self.write_entry(&format!("blobs/{id}"), len, &mut BlobReader { file, at: 0, len: 0 })?;
            self.done.objects += exported.len() as u64;
            self.done.blobs += 1;
            self.done.bytes += len;
        }
    }

    fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<(), BundleError> {
        let json = serde_json::to_vec(value).map_err(|error| self.write_error(error.into()))?;
        self.write_entry(name, json.len() as u64, &mut json.as_slice())
    }

    fn write_entry(&mut self, name: &str, len: u64, content: &mut dyn Read) -> Result<(), BundleError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(len);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, name, content).map_err(|error| self.write_error(error))
    }

    fn write_error(&self, source: io::Error) -> BundleError {
        BundleError::File { doing: "write", path: self.to.to_owned(), source }
    }
}

/// Reads a blob's bytes, each verified before it is returned.
struct BlobReader {
    file: Inspection,
    at: usize,
    len: usize,
}

impl Read for BlobReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.len {
            self.len = self.file.next().map_err(to_io_error)?.len();
            self.at = 0;
        }
        let read = (&self.file.current()[self.at..self.len]).read(into)?;
        self.at += read;
        Ok(read)
    }
}

/// Maps the fault of a blob that was valid a moment ago.
fn to_io_error(fault: InspectionFault) -> io::Error {
    match fault {
        InspectionFault::Damaged(fault) => {
            io::Error::other(format!("blob changed while it was read: {fault}"))
        }
        InspectionFault::Gone => io::ErrorKind::NotFound.into(),
        InspectionFault::Unreadable(error) => error,
    }
}

/// A bundle under a temporary name; removed on drop unless it was renamed.
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

    fn rename(&self, to: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, to)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Already renamed if the export succeeded.
        let _renamed = fs::remove_file(&self.path);
    }
}
