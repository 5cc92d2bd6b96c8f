//! Committed blobs on disk. Opening a blob verifies its footer and trailer, and reading verifies every block
//! before its bytes are returned. A short file, a wrong length or a name that differs from the content is
//! reported as damage. All of it blocks.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_128;

use super::BLOCK;
use super::error::ReadError;
use super::extent::BlobExtent;
use super::id::BlobId;
use super::stats::OpenFile;
use super::trailer::{FOOTER, Fault, Footer, Trailer};

/// Maximum number of open blob files: below the 1,024 descriptors a service starts with, besides its sockets.
pub const MAX_OPEN_BLOBS: u64 = 512;

/// Maximum bytes of their checksum tables. A table is 1/4096 of its blob: 16 MiB for 64 GiB of open blobs.
const TABLES_MAX: u64 = 16 << 20;

/// Idle time after which a file is closed; until then a reader of an evicted blob continues.
const OPEN_IDLE: Duration = Duration::from_secs(60);

/// An open blob.
#[derive(Debug)]
pub(super) struct OpenBlob {
    id: BlobId,
    file: File,
    /// Position of the body in the file.
    start: u64,
    len: u64,
    checksums: Box<[u128]>,
    _open: OpenFile,
}

/// Cache of open blobs.
#[derive(Debug)]
pub(super) struct OpenBlobs(moka::sync::Cache<BlobId, Arc<OpenBlob>>);

impl OpenBlobs {
    pub(super) fn new() -> Self {
        let weight = |_: &BlobId, blob: &Arc<OpenBlob>| {
            let table = size_of_val(&*blob.checksums) as u64;
            u32::try_from(table.max(TABLES_MAX / MAX_OPEN_BLOBS)).unwrap_or(u32::MAX)
        };
        let cache = moka::sync::Cache::builder().max_capacity(TABLES_MAX).weigher(weight);
        Self(cache.time_to_idle(OPEN_IDLE).build())
    }

    /// Returns true if the blob is open.
    pub(super) fn has(&self, id: BlobId) -> bool {
        self.0.contains_key(&id)
    }

    /// Returns the open blob; opens it if needed.
    pub(super) fn open(
        &self,
        extent: &BlobExtent,
        id: BlobId,
        len: u64,
        open: impl FnOnce() -> OpenFile,
    ) -> Result<Arc<OpenBlob>, ReadError> {
        let blob = match self.0.get(&id) {
            Some(blob) => blob,
            None => {
                let blob = Arc::new(OpenBlob::open(extent, id, open())?);
                self.0.insert(id, Arc::clone(&blob));
                self.0.run_pending_tasks();
                blob
            }
        };
        if blob.len == len { Ok(blob) } else { Err(damage(id, "length differs from the index's")) }
    }

    /// Drops a damaged blob from the cache, so that its replacement is opened.
    pub(super) fn invalidate(&self, id: BlobId) {
        self.0.invalidate(&id);
    }

    /// Closes unlinked files, also under active readers, to return their space to the disk.
    pub(super) fn close_unlinked(&self) {
        let removed = |blob: &OpenBlob| blob.file.metadata().is_ok_and(|file| file.nlink() == 0);
        let removed: Vec<_> = self.0.iter().filter(|(_, blob)| removed(blob)).map(|(id, _)| *id).collect();
        removed.iter().for_each(|id| self.0.invalidate(id));
        self.0.run_pending_tasks();
    }

    /// Drops all blobs: the folder was replaced.
    pub(super) fn invalidate_all(&self) {
        self.0.invalidate_all();
    }

    /// Closes idle files.
    pub(super) fn close_idle(&self) {
        self.0.run_pending_tasks();
    }
}

impl OpenBlob {
    fn open(extent: &BlobExtent, id: BlobId, open: OpenFile) -> Result<Self, ReadError> {
        let file = File::open(&extent.path).map_err(|error| read_error(id, error))?;
        let trailer = read_trailer(&file, extent).map_err(|fault| match fault {
            FileFault::Damaged(fault) => damage(id, fault),
            FileFault::Io(error) => read_error(id, error),
        })?;
        if trailer.1.id != id {
            return Err(damage(id, "the file is another blob's"));
        }
        let (start, len, checksums) = (extent.start, trailer.0, trailer.1.checksums);
        Ok(Self { id, file, start, len, checksums, _open: open })
    }

    /// Reads and verifies the bytes from `start`, a block boundary.
    pub(super) fn read(&self, start: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let first = usize::try_from(start / BLOCK).unwrap_or(usize::MAX);
        let checksums = self.checksums.get(first..).unwrap_or_default();
        read_verified(&self.file, self.start + start, into, checksums).map_err(|fault| match fault {
            FileFault::Damaged(fault) => damage(self.id, fault),
            FileFault::Io(error) => read_error(self.id, error),
        })
    }

    /// Returns the bytes from the first damaged block of `range` to the last; `range` begins at a block.
    /// Unreadable blocks count as damaged: a disk remaps a bad sector when it is written.
    pub(super) fn find_damage(&self, range: Range<u64>) -> Result<Option<Range<u64>>, ReadError> {
        let mut found: Option<Range<u64>> = None;
        let mut block = vec![0; BLOCK as usize];
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + BLOCK);
            let into = &mut block[..usize::try_from(end - at).unwrap_or(0)];
            match self.read(at, into) {
                Ok(()) => {}
                Err(error) if is_block_fault(&error) => {
                    found = Some(found.map_or(at, |found| found.start)..end);
                }
                Err(error) => return Err(error),
            }
            at = end;
        }
        Ok(found)
    }

    /// Returns true if `bytes` match the stored checksums from `start`, a block boundary.
    pub(super) fn matches(&self, start: u64, bytes: &[u8]) -> bool {
        let first = usize::try_from(start / BLOCK).unwrap_or(usize::MAX);
        let mut checksums = self.checksums.get(first..).unwrap_or_default().iter();
        bytes.chunks(BLOCK as usize).all(|block| checksums.next() == Some(&xxh3_128(block)))
    }
}

fn is_block_fault(error: &ReadError) -> bool {
    match error {
        ReadError::Damaged { .. } => true,
        ReadError::Io { source, .. } => Errno::from_io_error(source) == Some(Errno::IO),
        _ => false,
    }
}

/// A fault of a file before its blob is known.
#[derive(Debug)]
pub(super) enum FileFault {
    Damaged(Fault),
    Io(io::Error),
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("the file is too short"),
            _ => Self::Io(error),
        }
    }
}

/// Reads the length of a blob's body and its trailer.
pub(super) fn read_trailer(file: &File, extent: &BlobExtent) -> Result<(u64, Trailer), FileFault> {
    let end = extent.end(file)?;
    let size = end.saturating_sub(extent.start);
    let at = size.checked_sub(FOOTER as u64).ok_or(FileFault::Damaged("the file is too short"))?;
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, extent.start + at)?;
    let footer = Footer::decode(footer, size).map_err(FileFault::Damaged)?;
    let mut trailer = vec![0; footer.trailer];
    file.read_exact_at(&mut trailer, extent.start + footer.body)?;
    Ok((footer.body, footer.trailer(&trailer).map_err(FileFault::Damaged)?))
}

/// Reads whole blocks (the last may be the body's short one) from the position `start` of a file, and compares each with
/// its checksum.
pub(super) fn read_verified(
    file: &File,
    start: u64,
    into: &mut [u8],
    checksums: &[u128],
) -> Result<(), FileFault> {
    file.read_exact_at(into, start)?;
    let blocks = into.chunks(BLOCK as usize);
    if blocks.len() > checksums.len() {
        return Err(FileFault::Damaged("a block has no checksum"));
    }
    for (block, checksum) in blocks.zip(checksums) {
        if xxh3_128(block) != *checksum {
            return Err(FileFault::Damaged("a block's checksum differs"));
        }
    }
    Ok(())
}

fn damage(id: BlobId, fault: Fault) -> ReadError {
    ReadError::Damaged { subject: format!("blob {id}"), fault }
}

fn read_error(id: BlobId, error: io::Error) -> ReadError {
    let subject = format!("blob {id}");
    match error.kind() {
        io::ErrorKind::NotFound => ReadError::Gone { subject },
        _ => ReadError::Io { subject, source: Arc::new(error) },
    }
}
