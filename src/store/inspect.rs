//! Reading one blob's file from begin to end and comparing all it says of itself: its length, its trailer, each
//! block's checksum and at last the SHA-256 that is its name. What scrub, verify and export do to a file; serving
//! checks only the blocks it reads.
//!
//! It reads the disk and not the memory that once was read from it: pages are dropped from the system's cache before
//! they are read, and after it, so that a pass over the store leaves the cache to the clients. Everything here blocks.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use sha2::{Digest, Sha256};

use super::blob::{FileFault, read_trailer, read_verified};
use super::id::BlobId;
use super::trailer::{Fault, Trailer};
use super::{BLOCK, CHUNK};

/// Why a blob is not what its row says.
#[derive(Debug)]
pub(super) enum InspectionFault {
    /// Something does not agree, or the disk has lost what was there.
    Damaged(Fault),
    /// There is no file.
    Gone,
    /// It may be sound: this process cannot tell.
    Unreadable(io::Error),
}

/// A blob's file being read.
#[derive(Debug)]
pub(super) struct Inspection {
    file: File,
    id: BlobId,
    len: u64,
    trailer: Trailer,
    position: u64,
    sha256: Sha256,
    buffer: Vec<u8>,
}

impl Inspection {
    /// Opens the file and compares its trailer with the index's row.
    pub(super) fn begin(path: &Path, id: BlobId, len: u64) -> Result<Self, InspectionFault> {
        // Without its folder the whole store may be away: nothing is known of one blob then.
        let opened = File::open(path).map_err(|error| match path.parent().is_some_and(Path::exists) {
            true => InspectionFault::from(error),
            false => InspectionFault::Unreadable(error),
        });
        let file = opened?;
        forget_pages(&file, 0, None);
        let (found, trailer) = read_trailer(&file).map_err(|fault| match fault {
            // A disk that answers nothing at all may come back; a sector of one that does is lost.
            FileFault::Io(error) => InspectionFault::Unreadable(error),
            fault @ FileFault::Damaged(_) => fault.into(),
        })?;
        if trailer.id != id {
            return Err(InspectionFault::Damaged("it is another blob's file"));
        }
        if found != len {
            return Err(InspectionFault::Damaged("length differs from the index's"));
        }
        Ok(Self { file, id, len, trailer, position: 0, sha256: Sha256::new(), buffer: Vec::new() })
    }

    /// Where the next bytes begin.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, a chunk at most, with every block checked; none after the last, and then the whole is sound.
    /// Where they are damaged, the next call reads them again, and from the disk.
    pub(super) fn next(&mut self) -> Result<&[u8], InspectionFault> {
        let start = self.position;
        let len = CHUNK.min(self.len - start);
        if len == 0 {
            let digest = BlobId::from(<[u8; 32]>::from(self.sha256.finalize_reset()));
            return if digest == self.id {
                Ok(&[])
            } else {
                Err(InspectionFault::Damaged("its SHA-256 differs"))
            };
        }
        // A chunk at most.
        self.buffer.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        let first = usize::try_from(start / BLOCK).unwrap_or(usize::MAX);
        let checksums = self.trailer.checksums.get(first..).unwrap_or_default();
        let read = read_verified(&self.file, start, &mut self.buffer, checksums);
        forget_pages(&self.file, start, NonZeroU64::new(len));
        read?;
        self.sha256.update(&self.buffer);
        self.position += len;
        Ok(&self.buffer)
    }

    /// What [`Inspection::next`] gave last.
    pub(super) fn current(&self) -> &[u8] {
        &self.buffer
    }

    /// Begins anew with the same file, even if that has left the store meanwhile.
    pub(super) fn rewind(&mut self) {
        self.position = 0;
        self.sha256.reset();
    }

    /// Reads the rest, and tells of each piece's length.
    pub(super) fn finish(&mut self, mut read: impl FnMut(u64)) -> Result<(), InspectionFault> {
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

/// Best effort: a file system that keeps its pages only makes the check a weaker one.
fn forget_pages(file: &File, from: u64, len: Option<NonZeroU64>) {
    let _kept = fadvise(file, from, len, Advice::DontNeed);
}
