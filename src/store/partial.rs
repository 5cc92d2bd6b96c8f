//! A blob being written, as its readers see it. Readable are whole blocks, each with its checksum, and after the end
//! the last short one; a reader can ask for nothing else, so an unchecked byte has no way out. Its one writer is in
//! `writer`; that the writer went away is told to readers by the fill, never by a shorter body.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::BLOCK;
use super::blob::{FileFault, read_verified};
use super::error::ReadError;
use super::facts::OpenFile;
use super::id::BlobId;
use super::memory::MemoryId;

/// A blob being written.
#[derive(Debug)]
pub struct Partial {
    number: u64,
    pub(super) file: File,
    /// One for each readable block. The lock covers copying at most a chunk's sixteen.
    checksums: RwLock<Vec<u128>>,
    written: AtomicU64,
    len: OnceLock<u64>,
    blob: OnceLock<BlobId>,
    _open: OpenFile,
}

impl Partial {
    pub(super) fn new(number: u64, file: File, open: OpenFile) -> Arc<Self> {
        Arc::new(Self {
            number,
            file,
            checksums: RwLock::default(),
            written: AtomicU64::new(0),
            len: OnceLock::new(),
            blob: OnceLock::new(),
            _open: open,
        })
    }

    /// Bytes readable, from 0: whole blocks, and after the end everything.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// The body's length, once its end has come.
    pub fn total(&self) -> Option<u64> {
        self.len.get().copied()
    }

    /// Whose chunks these are in memory: its own, and after the commit the blob's.
    pub(super) fn memory_id(&self) -> MemoryId {
        self.blob.get().map_or(MemoryId::Partial(self.number), |id| MemoryId::Blob(*id))
    }

    /// Makes further bytes readable: those covered by `checksums`, up to `written`.
    pub(super) fn publish(&self, checksums: &mut Vec<u128>, written: u64) {
        self.checksums.write().unwrap_or_else(PoisonError::into_inner).append(checksums);
        self.written.store(written, Ordering::Release);
    }

    /// Marks the end. All bytes are readable by now.
    pub(super) fn end(&self) {
        let _ = self.len.set(self.written());
    }

    /// Marks the commit.
    pub(super) fn committed(&self, id: BlobId) {
        let _ = self.blob.set(id);
    }

    /// All checksums so far.
    pub(super) fn checksums(&self) -> Vec<u128> {
        self.checksums.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fills `into` with the bytes from `start`, which is at a block's begin, and checks them. Blocks.
    pub(super) fn read(&self, start: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let first = usize::try_from(start / BLOCK).unwrap_or(usize::MAX);
        let count = into.len().div_ceil(BLOCK as usize);
        let checksums = {
            let all = self.checksums.read().unwrap_or_else(PoisonError::into_inner);
            all.iter().skip(first).take(count).copied().collect::<Vec<_>>()
        };
        read_verified(&self.file, start, into, &checksums).map_err(|fault| match fault {
            FileFault::Damaged(fault) => ReadError::Damaged { what: self.to_string(), fault },
            FileFault::Io(error) => ReadError::Io { what: self.to_string(), source: Arc::new(error) },
        })
    }
}

impl std::fmt::Display for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "half-written file {}", self.number)
    }
}
