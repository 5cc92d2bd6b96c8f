//! Memory cache of hot chunks, and the count of every byte held for bodies. moka keeps whole chunks within
//! `store.memory` and evicts the least recently used. Its default TinyLFU would refuse the newest chunk of a
//! running fill, which all followers request next.
//!
//! A chunk evicted by moka lives on while a slow client's socket holds it. Buffers are therefore counted from
//! allocation until the last holder drops them. Above the limit no whole chunk is loaded; readers get verified
//! pieces of it, and none waits for memory.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use moka::policy::EvictionPolicy;

use super::id::BlobId;
use super::{BLOCK, CHUNK};

/// Bytes that sockets and fills may hold besides `store.memory` before readers get pieces instead of chunks.
pub const PINNED_MAX: u64 = 32 << 20;

/// Bytes of 64 KiB pieces held before readers get 16 KiB pieces.
pub const PIECES_MAX: u64 = 32 << 20;

/// Bytes of all fills' tails before they are written block by block instead of chunk by chunk. Tails are small
/// allocations that the allocator does not return: with 250 concurrent fills, resident memory was twice the held
/// bytes.
const TAILS_MAX: u64 = 8 << 20;

/// Number of spare chunk buffers. They save the page faults of fresh memory and fragmentation.
const SPARE_MAX: usize = 8;

/// Overhead of a cached chunk in bytes: moka's entry, the key, the owner. Bounds the memory of many small bodies.
const ENTRY_BYTES: usize = 512;

/// Part of a small body that the allocator takes beside it, in size classes or in holes, as a divisor. Bodies of 4 KiB
/// took 1.1 KiB more with glibc, jemalloc and mimalloc.
const SMALL_OVERHEAD: usize = 4;

/// Owner of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MemoryId {
    /// A committed blob. Its name determines its bytes, so an entry never becomes stale.
    Blob(BlobId),
    /// A partial blob, by its number in this process.
    Partial(u64),
}

/// A chunk of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkKey {
    pub(super) owner: MemoryId,
    pub(super) chunk: u64,
}

/// Hashes eight bytes of a blob's digest, which are as good as random: every hit in memory hashes its key.
impl Hash for ChunkKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let owner = match self.owner {
            MemoryId::Blob(id) => id.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first)),
            MemoryId::Partial(number) => number,
        };
        state.write_u64(owner ^ self.chunk.rotate_right(16));
    }
}

/// Memory for bodies.
#[derive(Debug)]
pub struct ChunkMemory {
    chunks: moka::sync::Cache<ChunkKey, Bytes>,
    usage: Arc<MemoryUsage>,
    /// Limit in bytes above which no whole chunk is loaded.
    limit: u64,
}

#[derive(Debug, Default)]
struct MemoryUsage {
    /// Chunks and tails.
    chunks: AtomicU64,
    pieces: AtomicU64,
    tails: AtomicU64,
    spare: Mutex<Vec<Box<[u8]>>>,
}

#[derive(Clone, Copy, Debug)]
enum ChargeKind {
    Chunk,
    Piece,
    Tail,
}

/// Bytes counted as held until this is dropped.
#[derive(Debug)]
pub struct MemoryCharge {
    usage: Arc<MemoryUsage>,
    kind: ChargeKind,
    bytes: u64,
}

/// Counted buffer of fixed size.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    charge: MemoryCharge,
}

impl ChunkMemory {
    /// Creates a memory with at most `capacity` bytes of cached chunks.
    pub(super) fn new(capacity: u64) -> Self {
        let chunks = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, bytes: &Bytes| {
                let is_small = (bytes.len() as u64) < BLOCK;
                let overhead = ENTRY_BYTES + if is_small { bytes.len() / SMALL_OVERHEAD } else { 0 };
                u32::try_from(bytes.len() + overhead).unwrap_or(u32::MAX)
            })
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { chunks, usage: Arc::default(), limit: capacity.saturating_add(PINNED_MAX) }
    }

    /// Counts `bytes` of the tail of a fill.
    pub fn charge_tail(&self, bytes: u64) -> MemoryCharge {
        self.usage.tails.fetch_add(bytes, Ordering::Relaxed);
        self.add_charge(ChargeKind::Tail, bytes)
    }

    /// Returns true if tails of fills should be written as soon as possible.
    pub fn has_tail_pressure(&self) -> bool {
        self.is_over_limit() || self.usage.tails.load(Ordering::Relaxed) > TAILS_MAX
    }

    /// Counts `bytes` held elsewhere for bodies.
    pub fn charge(&self, bytes: u64) -> MemoryCharge {
        self.add_charge(ChargeKind::Chunk, bytes)
    }

    /// Returns true if held bytes exceed the limit for loading whole chunks.
    pub fn is_over_limit(&self) -> bool {
        self.usage.chunks.load(Ordering::Relaxed) > self.limit
    }

    /// Returns the bytes held for bodies: cached chunks, evicted chunks that are still being sent, pieces and
    /// charges.
    pub fn held_bytes(&self) -> u64 {
        self.usage.chunks.load(Ordering::Relaxed) + self.usage.pieces.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, key: &ChunkKey) -> Option<Bytes> {
        self.chunks.get(key)
    }

    /// Caches a chunk and evicts at once. moka alone would evict some operations later, which is too late at 1
    /// MiB each, and early enough for bodies below a block.
    pub(super) fn insert(&self, key: ChunkKey, bytes: Bytes) {
        let is_large = bytes.len() as u64 >= BLOCK;
        self.chunks.insert(key, bytes);
        if is_large {
            self.chunks.run_pending_tasks();
        }
    }

    /// Moves the chunks of `from` to `to`.
    pub(super) fn rename(&self, from: MemoryId, to: MemoryId, len: u64) {
        for chunk in 0..len.div_ceil(CHUNK) {
            if let Some(bytes) = self.chunks.remove(&ChunkKey { owner: from, chunk }) {
                self.chunks.insert(ChunkKey { owner: to, chunk }, bytes);
            }
        }
        self.chunks.run_pending_tasks();
    }

    /// Allocates a buffer for a chunk to write, regardless of the limit.
    pub(super) fn allocate_chunk(&self, len: usize) -> Buffer {
        self.allocate(self.charge(len as u64), len)
    }

    /// Allocates a buffer for a chunk to load, unless memory is above the limit. It is counted before it is
    /// allocated, so that any number of concurrent loads stay within the bound.
    pub(super) fn try_allocate_chunk(&self, len: usize) -> Option<Buffer> {
        let charge = self.try_charge(ChargeKind::Chunk, len as u64, self.limit)?;
        Some(self.allocate(charge, len))
    }

    /// Allocates a buffer for a piece of a chunk, unless there are too many already.
    pub(super) fn try_allocate_piece(&self, len: usize) -> Option<Buffer> {
        let charge = self.try_charge(ChargeKind::Piece, len as u64, PIECES_MAX)?;
        Some(self.allocate(charge, len))
    }

    /// Copies a small piece; the last resort, and therefore always granted.
    pub(super) fn copy_piece(&self, bytes: &[u8]) -> Bytes {
        let charge = self.add_charge(ChargeKind::Piece, bytes.len() as u64);
        Buffer { bytes: bytes.into(), charge }.freeze()
    }

    fn add_charge(&self, kind: ChargeKind, bytes: u64) -> MemoryCharge {
        self.usage.counter(kind).fetch_add(bytes, Ordering::Relaxed);
        MemoryCharge { usage: Arc::clone(&self.usage), kind, bytes }
    }

    fn try_charge(&self, kind: ChargeKind, bytes: u64, limit: u64) -> Option<MemoryCharge> {
        let counter = self.usage.counter(kind);
        let charge = |now: u64| now.checked_add(bytes).filter(|after| *after <= limit);
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).ok()?;
        Some(MemoryCharge { usage: Arc::clone(&self.usage), kind, bytes })
    }

    fn allocate(&self, charge: MemoryCharge, len: usize) -> Buffer {
        let spare = if len as u64 == CHUNK { self.usage.spare().pop() } else { None };
        Buffer { bytes: spare.unwrap_or_else(|| vec![0; len].into()), charge }
    }
}

impl MemoryUsage {
    fn counter(&self, kind: ChargeKind) -> &AtomicU64 {
        match kind {
            ChargeKind::Chunk | ChargeKind::Tail => &self.chunks,
            ChargeKind::Piece => &self.pieces,
        }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Box<[u8]>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.usage.counter(self.kind).fetch_sub(self.bytes, Ordering::Relaxed);
        if matches!(self.kind, ChargeKind::Tail) {
            self.usage.tails.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Buffer {
    /// Returns the bytes to fill.
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Makes the buffer shareable. It stays counted until its last slice is dropped.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() as u64 == CHUNK {
            let mut spare = self.charge.usage.spare();
            if spare.len() < SPARE_MAX {
                spare.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn key(chunk: u64) -> ChunkKey {
        ChunkKey { owner: MemoryId::Partial(1), chunk }
    }

    #[test]
    fn evicted_chunks_are_freed_and_stay_below_the_limit() {
        let memory = ChunkMemory::new(8 << 20);
        for chunk in 0..500 {
            memory.insert(key(chunk), memory.allocate_chunk(MIB).freeze());
            assert!(!memory.is_over_limit(), "after {chunk} chunks {} bytes are held", memory.held_bytes());
        }
        assert!(memory.get(&key(499)).is_some(), "the newest chunk is kept");
        assert!(memory.get(&key(0)).is_none());
    }

    #[test]
    fn chunk_held_outside_the_cache_still_counts() {
        let memory = ChunkMemory::new(0);
        let held: Vec<Bytes> =
            std::iter::from_fn(|| memory.try_allocate_chunk(MIB)).map(Buffer::freeze).collect();
        assert_eq!(held.len() as u64, PINNED_MAX / CHUNK);
        let slice = held[0].slice(5..6);
        drop(held);
        assert_eq!(memory.held_bytes(), CHUNK, "one byte of a chunk keeps the chunk");
        drop(slice);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[test]
    fn renamed_chunk_is_cached_under_its_new_name_only() {
        let memory = ChunkMemory::new(8 << 20);
        let to = MemoryId::Blob(BlobId::from([1; 32]));
        memory.insert(key(0), memory.allocate_chunk(MIB).freeze());
        memory.rename(MemoryId::Partial(1), to, CHUNK);
        assert!(memory.get(&key(0)).is_none());
        assert!(memory.get(&ChunkKey { owner: to, chunk: 0 }).is_some());
    }
}
