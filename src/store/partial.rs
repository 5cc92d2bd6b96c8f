//! A blob being written, as seen by its readers. Readable are whole blocks with a checksum, in any order, and the
//! short last block of a body of known length. Nothing else can be read, so no unverified byte is returned.
//! `segment` writes it. The fill notifies readers of a lost writer; the body never just ends early.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;

use super::blob::{FileFault, read_verified};
use super::blocks::{BlockMap, block_of, blocks_of};
use super::error::ReadError;
use super::id::BlobId;
use super::memory::MemoryId;
use super::partial_body::PartialBody;
use super::{BLOCK, CHUNK};

/// A blob being written.
#[derive(Debug)]
pub struct PartialBlob {
    number: u64,
    body: PartialBody,
    /// The readable blocks. The lock covers a look at the bits and a copy of at most sixteen checksums.
    blocks: RwLock<BlockMap>,
    /// Changes only under that lock.
    losses: AtomicU64,
    len: OnceLock<u64>,
    blob: OnceLock<BlobId>,
}

impl PartialBlob {
    pub(super) fn new(number: u64, body: PartialBody, len: Option<u64>, blocks: BlockMap) -> Arc<Self> {
        let len = len.map_or_else(OnceLock::new, OnceLock::from);
        let (blocks, losses) = (RwLock::new(blocks), AtomicU64::new(0));
        Arc::new(Self { number, body, blocks, losses, len, blob: OnceLock::new() })
    }

    /// Returns where the bytes are.
    pub(super) fn body(&self) -> &PartialBody {
        &self.body
    }

    /// Returns the readable bytes in memory from `position`; `None` if the body is in a file.
    pub(super) fn piece_at(&self, position: u64) -> Option<Bytes> {
        let piece = self.body.piece_at(position)?;
        let readable = self.readable_end(position).saturating_sub(position);
        let len = usize::try_from(readable).map_or(piece.len(), |readable| readable.min(piece.len()));
        Some(piece.slice(..len)).filter(|piece| !piece.is_empty())
    }

    /// Returns the body's length, if it is known yet.
    pub fn length(&self) -> Option<u64> {
        self.len.get().copied()
    }

    /// Returns the end of the readable bytes from `position`; `position` itself if it cannot be read.
    pub fn readable_end(&self, position: u64) -> u64 {
        self.find_edge(position, self.length().unwrap_or(u64::MAX), false)
    }

    /// Returns the first missing part of `range`, from a block boundary to the next readable block.
    pub fn first_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let start = self.find_edge(range.start, range.end, false);
        (start < range.end).then(|| start / BLOCK * BLOCK..self.find_edge(start, range.end, true))
    }

    /// Returns the number of readable bytes.
    pub fn written_bytes(&self) -> u64 {
        let blocks = self.read_blocks(BlockMap::count) as u64 * BLOCK;
        self.length().map_or(blocks, |len| blocks.min(len))
    }

    /// Returns the number of invalidated chunks. Read it before a read, for [`Self::invalidate_chunk`] if the
    /// read fails.
    pub fn loss_count(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Invalidates a damaged chunk, so that it is fetched again. Does nothing if any chunk was invalidated since
    /// `losses` was read: of two readers that hit the same damage, the second must not invalidate the refetched
    /// chunk.
    pub fn invalidate_chunk(&self, position: u64, losses: u64) {
        let start = position / CHUNK * CHUNK;
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        if self.loss_count() != losses {
            return;
        }
        self.losses.store(losses + 1, Ordering::Release);
        (block_of(start)..block_of(start + CHUNK)).for_each(|block| blocks.remove(block));
    }

    /// Returns the owner of its chunks in memory: this file, and after the commit the blob.
    pub(super) fn memory_id(&self) -> MemoryId {
        self.blob.get().map_or(MemoryId::Partial(self.number), |id| MemoryId::Blob(*id))
    }

    /// Makes blocks readable.
    pub(super) fn publish(&self, first: usize, checksums: &[u128]) {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner).insert(first, checksums);
    }

    /// Sets the length of a body that did not declare it.
    pub(super) fn set_length(&self, len: u64) {
        let _ = self.len.set(len);
    }

    /// Sets the blob after the commit.
    pub(super) fn set_blob(&self, id: BlobId) {
        let _ = self.blob.set(id);
    }

    /// Returns the number of readable bytes of `range`.
    pub fn bytes_within(&self, range: Range<u64>) -> u64 {
        self.read_blocks(|blocks| blocks.bytes_within(range))
    }

    /// Returns a snapshot of the readable blocks; `None` if there are none.
    pub fn snapshot(&self) -> Option<BlockSnapshot> {
        Some(BlockSnapshot(self.blocks())).filter(|snapshot| snapshot.0.count() > 0)
    }

    /// Copies the block map.
    pub(super) fn blocks(&self) -> BlockMap {
        self.read_blocks(BlockMap::clone)
    }

    /// Returns all checksums of a body of `len` bytes, if all blocks are readable.
    pub(super) fn checksums(&self, len: u64) -> Option<Vec<u128>> {
        self.read_blocks(|blocks| blocks.checksums(0..blocks_of(len)).map(<[u128]>::to_vec))
    }

    /// Reads and verifies the bytes from `start`, a block boundary. Blocks.
    pub(super) fn read(&self, start: u64, into: &mut [u8]) -> Result<(), ReadError> {
        if self.body.read(start, into) {
            return Ok(());
        }
        let Some(file) = self.body.file() else {
            return Err(ReadError::Damaged { subject: self.to_string(), fault: "bytes are missing" });
        };
        let first = block_of(start);
        let end = first + into.len().div_ceil(BLOCK as usize);
        let checksums = self.read_blocks(|blocks| blocks.checksums(first..end).map(<[u128]>::to_vec));
        read_verified(file, start, into, &checksums.unwrap_or_default()).map_err(|fault| match fault {
            FileFault::Damaged(fault) => ReadError::Damaged { subject: self.to_string(), fault },
            FileFault::Io(error) => ReadError::Io { subject: self.to_string(), source: Arc::new(error) },
        })
    }

    /// Returns the first position in a range with a present (or missing) block.
    fn find_edge(&self, from: u64, end: u64, present: bool) -> u64 {
        let block = self.read_blocks(|blocks| {
            let end_block = blocks_of(end);
            let found = blocks.find_next(block_of(from), end_block, present);
            if found == end_block { None } else { Some(found as u64) }
        });
        block.map_or(end, |block| block * BLOCK).clamp(from, end.max(from))
    }

    fn read_blocks<T>(&self, look: impl FnOnce(&BlockMap) -> T) -> T {
        look(&self.blocks.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Readable blocks of a blob at one moment.
#[derive(Debug)]
pub struct BlockSnapshot(BlockMap);

impl BlockSnapshot {
    /// Returns the number of bytes of `range` in the snapshot.
    pub fn bytes_within(&self, range: Range<u64>) -> u64 {
        self.0.bytes_within(range)
    }
}

impl std::fmt::Display for PartialBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partial file {}", self.number)
    }
}
