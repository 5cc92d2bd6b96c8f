//! Full verification of one blob's file: its length, its trailer, each block's checksum and finally the SHA-256
//! that is its name. The scrub, `gupd store verify` and export use it; serving verifies only the blocks it reads.
//!
//! It reads the disk, not the page cache: pages are dropped before and after each read. A pass over the store
//! thus leaves the cache to the clients. All of it blocks.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use super::blob::{FileFault, read_trailer, read_verified};
use super::extent::BlobExtent;
use super::id::BlobId;
use super::trailer::{Fault, Trailer};
use super::{BLOCK, CHUNK};

/// Fault of a blob.
#[derive(Debug)]
pub(super) enum InspectionFault {
    /// The content or the length differs, or the disk lost a sector.
    Damaged(Fault),
    /// The file is missing.
    Gone,
    /// The file cannot be read by this process and may be intact.
    Unreadable(io::Error),
}

/// A verification in progress.
#[derive(Debug)]
pub(super) struct Inspection {
    file: File,
    /// Position of the body in the file.
    start: u64,
    id: BlobId,
    len: u64,
    trailer: Trailer,
    position: u64,
    sha256: Sha256,
    buffer: Vec<u8>,
}

impl Inspection {
    /// Opens the file and compares its trailer with the index row.
    pub(super) fn open(extent: &BlobExtent, id: BlobId, len: u64) -> Result<Self, InspectionFault> {
        let path = &extent.path;
        // If the folder is missing too, the whole store may be unmounted: nothing is known about the blob.
        let opened =
            File::open(path).map_err(|error| match path.parent().is_some_and(std::path::Path::exists) {
                true => InspectionFault::from(error),
                false => InspectionFault::Unreadable(error),
            });
        let file = opened?;
        drop_page_cache(
            &file,
            extent.start,
            NonZeroU64::new(extent.end(&file)?.saturating_sub(extent.start)),
        );
        let (found, trailer) = read_trailer(&file, extent).map_err(|fault| match fault {
            // A disk that answers nothing may come back; a lost sector of a working disk does not.
            FileFault::Io(error) => InspectionFault::Unreadable(error),
            fault @ FileFault::Damaged(_) => fault.into(),
        })?;
        if trailer.id != id {
            return Err(InspectionFault::Damaged("the file is another blob's"));
        }
        if found != len {
            return Err(InspectionFault::Damaged("length differs from the index's"));
        }
        let (start, sha256) = (extent.start, Sha256::new());
        Ok(Self { file, start, id, len, trailer, position: 0, sha256, buffer: Vec::new() })
    }

    /// Returns the position of the next bytes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Returns the next bytes, at most a chunk, with every block verified. Returns none after the last byte; the
    /// blob is then valid. After damage, the next call reads the same bytes from disk again.
    pub(super) fn next(&mut self) -> Result<&[u8], InspectionFault> {
        let start = self.position;
        let len = CHUNK.min(self.len - start);
        if len == 0 {
            let digest = BlobId::from(<[u8; 32]>::from(self.sha256.finalize_reset()));
            return if digest == self.id {
                Ok(&[])
            } else {
                Err(InspectionFault::Damaged("the SHA-256 differs"))
            };
        }
        // At most a chunk.
        self.buffer.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        let first = usize::try_from(start / BLOCK).unwrap_or(usize::MAX);
        let checksums = self.trailer.checksums.get(first..).unwrap_or_default();
        let read = read_verified(&self.file, self.start + start, &mut self.buffer, checksums);
        drop_page_cache(&self.file, self.start + start, NonZeroU64::new(len));
        read?;
        self.sha256.update(&self.buffer);
        self.position += len;
        Ok(&self.buffer)
    }

    /// Returns the bytes of the last [`Inspection::next`].
    pub(super) fn current(&self) -> &[u8] {
        &self.buffer
    }

    /// Starts over with the same file, even if it left the store meanwhile.
    pub(super) fn rewind(&mut self) {
        self.position = 0;
        self.sha256.reset();
    }

    /// Reads the rest and calls `read` with the length of each piece.
    pub(super) fn read_to_end(&mut self, mut read: impl FnMut(u64)) -> Result<(), InspectionFault> {
        loop {
            let len = self.next()?.len() as u64;
            if len == 0 {
                return Ok(());
            }
            read(len);
        }
    }
}

impl From<io::Error> for InspectionFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Self::Damaged("the disk cannot read it")
            }
            _ => Self::Unreadable(error),
        }
    }
}

impl From<FileFault> for InspectionFault {
    fn from(fault: FileFault) -> Self {
        match fault {
            FileFault::Damaged(fault) => Self::Damaged(fault),
            FileFault::Io(error) => error.into(),
        }
    }
}

/// Drops pages from the cache. Best effort: a file system that keeps them only weakens the check.
fn drop_page_cache(file: &File, from: u64, len: Option<NonZeroU64>) {
    let _best_effort = fadvise(file, from, len, Advice::DontNeed);
}
