//! A blob being written, as its readers see it. Readable are whole blocks, each with its checksum, in any order, and
//! of a body whose length is known its last short one; a reader can ask for nothing else, so an unchecked byte has no
//! way out. What writes it is in `segment`; that its writer went away is told to readers by the fill, never by a
//! shorter body.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::blob::{FileFault, read_verified};
use super::blocks::{BlockMap, block_of, blocks_of};
use super::error::ReadError;
use super::id::BlobId;
use super::memory::MemoryId;
use super::stats::OpenFile;
use super::{BLOCK, CHUNK};

/// A blob being written.
#[derive(Debug)]
pub struct PartialBlob {
    number: u64,
    pub(super) file: File,
    /// The readable blocks. The lock covers looking at bits and copying at most a chunk's sixteen checksums.
    blocks: RwLock<BlockMap>,
    /// Changes under that lock.
    losses: AtomicU64,
    len: OnceLock<u64>,
    blob: OnceLock<BlobId>,
    _open: OpenFile,
}

impl PartialBlob {
    pub(super) fn new(
        number: u64,
        file: File,
        len: Option<u64>,
        blocks: BlockMap,
        open: OpenFile,
    ) -> Arc<Self> {
        let len = len.map_or_else(OnceLock::new, OnceLock::from);
        let (blocks, losses) = (RwLock::new(blocks), AtomicU64::new(0));
        Arc::new(Self { number, file, blocks, losses, len, blob: OnceLock::new(), _open: open })
    }

    /// The body's length, if it is known yet.
    pub fn length(&self) -> Option<u64> {
        self.len.get().copied()
    }

    /// The end of the readable bytes from `position` on; `position` itself if that one cannot be read.
    pub fn readable_end(&self, position: u64) -> u64 {
        self.edge(position, self.length().unwrap_or(u64::MAX), false)
    }

    /// The first bytes of `range` that are not there, up to where the next ones are: from a block's begin on.
    pub fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let start = self.edge(range.start, range.end, false);
        (start < range.end).then(|| start / BLOCK * BLOCK..self.edge(start, range.end, true))
    }

    /// How many bytes are there, the last short block counted as a whole one.
    pub fn written_bytes(&self) -> u64 {
        let blocks = self.read_blocks(BlockMap::count) as u64 * BLOCK;
        self.length().map_or(blocks, |len| blocks.min(len))
    }

    /// How many chunks were taken back so far. Asked before a read, for [`Self::invalidate_chunk`] if that fails.
    pub fn loss_count(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Takes a chunk back of which a block was not what was written, so that it can be fetched again; unless one was
    /// since there were so many `losses`. Who reads damage at the same time as another must not take back what has
    /// been fetched since, but read again.
    pub fn invalidate_chunk(&self, position: u64, losses: u64) {
        let start = position / CHUNK * CHUNK;
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        if self.loss_count() != losses {
            return;
        }
        self.losses.store(losses + 1, Ordering::Release);
        (block_of(start)..block_of(start + CHUNK)).for_each(|block| blocks.remove(block));
    }

    /// Whose chunks these are in memory: its own, and after the commit the blob's.
    pub(super) fn memory_id(&self) -> MemoryId {
        self.blob.get().map_or(MemoryId::Partial(self.number), |id| MemoryId::Blob(*id))
    }

    /// Makes blocks readable.
    pub(super) fn publish(&self, first: usize, checksums: &[u128]) {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner).insert(first, checksums);
    }

    /// Marks the end of a body that did not say its length.
    pub(super) fn end(&self, len: u64) {
        let _ = self.len.set(len);
    }

    /// Marks the commit.
    pub(super) fn committed(&self, id: BlobId) {
        let _ = self.blob.set(id);
    }

    /// How many bytes of `range` are there.
    pub fn bytes_within(&self, range: Range<u64>) -> u64 {
        self.read_blocks(|blocks| blocks.bytes_within(range))
    }

    /// What is there now, to be asked later; `None` if nothing is.
    pub fn snapshot(&self) -> Option<BlockSnapshot> {
        Some(BlockSnapshot(self.blocks())).filter(|stock| stock.0.count() > 0)
    }

    /// A copy of what is there.
    pub(super) fn blocks(&self) -> BlockMap {
        self.read_blocks(BlockMap::clone)
    }

    /// All checksums of a body of `len` bytes, if all are there.
    pub(super) fn checksums(&self, len: u64) -> Option<Vec<u128>> {
        self.read_blocks(|blocks| blocks.checksums(0..blocks_of(len)).map(<[u128]>::to_vec))
    }

    /// Fills `into` with the bytes from `start`, which is at a block's begin, and checks them. Blocks.
    pub(super) fn read(&self, start: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let first = block_of(start);
        let end = first + into.len().div_ceil(BLOCK as usize);
        let checksums = self.read_blocks(|blocks| blocks.checksums(first..end).map(<[u128]>::to_vec));
        read_verified(&self.file, start, into, &checksums.unwrap_or_default()).map_err(|fault| match fault {
            FileFault::Damaged(fault) => ReadError::Damaged { what: self.to_string(), fault },
            FileFault::Io(error) => ReadError::Io { what: self.to_string(), source: Arc::new(error) },
        })
    }

    /// The first position in a range whose block is there, or is not.
    fn edge(&self, from: u64, end: u64, there: bool) -> u64 {
        let block = self.read_blocks(|blocks| {
            let most = blocks_of(end);
            let found = blocks.find_next(block_of(from), most, there);
            if found == most { None } else { Some(found as u64) }
        });
        block.map_or(end, |block| block * BLOCK).clamp(from, end.max(from))
    }

    fn read_blocks<T>(&self, look: impl FnOnce(&BlockMap) -> T) -> T {
        look(&self.blocks.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What of a blob was there at one moment.
#[derive(Debug)]
pub struct BlockSnapshot(BlockMap);

impl BlockSnapshot {
    /// How many bytes of `range`.
    pub fn bytes_within(&self, range: Range<u64>) -> u64 {
        self.0.bytes_within(range)
    }
}

impl std::fmt::Display for PartialBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "half-written file {}", self.number)
    }
}
