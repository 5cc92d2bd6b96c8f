//! Hot chunks in memory, and the count of every byte held for bodies. moka keeps whole chunks within `store.memory`,
//! least recently used out first: its default TinyLFU would refuse the newest chunk of a running fill, which is the
//! one all followers are about to ask for.
//!
//! A chunk that moka let go lives on while a slow client's socket holds it, so buffers count themselves when they are
//! made and when the last holder drops them. Past the bound no whole chunk is loaded; readers get verified pieces of
//! it instead, and nobody waits for memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use moka::policy::EvictionPolicy;

use super::CHUNK;
use super::id::BlobId;

/// Bytes that sockets and fills may hold besides `store.memory` before readers get pieces instead of chunks.
pub const PINNED_MAX: u64 = 32 << 20;

/// Bytes of 64 KiB pieces held before readers get 16 KiB ones.
pub const PIECES_MAX: u64 = 32 << 20;

/// Bytes of the tails of all fills before they are written behind by blocks instead of chunks. Tails are small pieces
/// and leave the allocator in pieces that it does not give back: with 250 fills at once, those kept twice as much
/// resident as was held.
const TAILS_MAX: u64 = 16 << 20;

/// Chunk buffers kept for the next chunk: saves the page faults of fresh memory, and spares the allocator a hole.
const SPARE_MAX: usize = 8;

/// What a cached chunk costs besides its bytes: moka's entry, the key, the owner. Keeps many small bodies within bounds.
const ENTRY_BYTES: usize = 512;

/// Whose chunk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MemoryId {
    /// A committed blob. Its bytes follow from its name, so an entry never becomes wrong.
    Blob(BlobId),
    /// A half-written one, by its number in this process.
    Partial(u64),
}

/// One chunk of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChunkKey {
    pub(super) of: MemoryId,
    pub(super) chunk: u64,
}

/// Memory for bodies.
#[derive(Debug)]
pub struct ChunkMemory {
    chunks: moka::sync::Cache<ChunkKey, Bytes>,
    held: Arc<MemoryUsage>,
    /// Bytes of chunks at most before memory counts as pressed.
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

/// Bytes counted as held, until dropped.
#[derive(Debug)]
pub struct MemoryCharge {
    held: Arc<MemoryUsage>,
    kind: ChargeKind,
    bytes: u64,
}

/// A counted buffer of fixed size.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    charge: MemoryCharge,
}

impl ChunkMemory {
    /// At most `capacity` bytes of cached chunks.
    pub(super) fn new(capacity: u64) -> Self {
        let chunks = moka::sync::Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len() + ENTRY_BYTES).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { chunks, held: Arc::default(), limit: capacity.saturating_add(PINNED_MAX) }
    }

    /// Counts `bytes` of the tail of a fill.
    pub fn charge_tail(&self, bytes: u64) -> MemoryCharge {
        self.held.tails.fetch_add(bytes, Ordering::Relaxed);
        self.charge_as(ChargeKind::Tail, bytes)
    }

    /// Whether tails of fills should be written behind as soon as they can be.
    pub fn has_tail_pressure(&self) -> bool {
        self.is_over_limit() || self.held.tails.load(Ordering::Relaxed) > TAILS_MAX
    }

    /// Counts `bytes` held by others for bodies.
    pub fn charge(&self, bytes: u64) -> MemoryCharge {
        self.charge_as(ChargeKind::Chunk, bytes)
    }

    /// Whether so much is held that no whole chunk is loaded.
    pub fn is_over_limit(&self) -> bool {
        self.held.chunks.load(Ordering::Relaxed) > self.limit
    }

    /// Bytes held for bodies: cached chunks, those that left the cache and are still being sent, pieces, charges.
    pub fn held_bytes(&self) -> u64 {
        self.held.chunks.load(Ordering::Relaxed) + self.held.pieces.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, key: &ChunkKey) -> Option<Bytes> {
        self.chunks.get(key)
    }

    /// Keeps a chunk. Evicts at once what no longer fits: left to itself moka does so only some operations later,
    /// which at a megabyte each is too late.
    pub(super) fn insert(&self, key: ChunkKey, bytes: Bytes) {
        self.chunks.insert(key, bytes);
        self.chunks.run_pending_tasks();
    }

    /// Hands the chunks of `from` over to `to`.
    pub(super) fn rename(&self, from: MemoryId, to: MemoryId, len: u64) {
        for chunk in 0..len.div_ceil(CHUNK) {
            if let Some(bytes) = self.chunks.remove(&ChunkKey { of: from, chunk }) {
                self.chunks.insert(ChunkKey { of: to, chunk }, bytes);
            }
        }
        self.chunks.run_pending_tasks();
    }

    /// A buffer for a chunk on its way to disk, which must be had whatever is held.
    pub(super) fn chunk(&self, len: usize) -> Buffer {
        self.buffer(self.charge(len as u64), len)
    }

    /// A buffer for a chunk to load, unless memory is pressed. Counted before it is allocated, so that any number of
    /// loads at once stay within the bound.
    pub(super) fn try_chunk(&self, len: usize) -> Option<Buffer> {
        let charge = self.try_charge(ChargeKind::Chunk, len as u64, self.limit)?;
        Some(self.buffer(charge, len))
    }

    /// A buffer for a piece of a chunk, unless there are too many already.
    pub(super) fn try_piece(&self, len: usize) -> Option<Buffer> {
        let charge = self.try_charge(ChargeKind::Piece, len as u64, PIECES_MAX)?;
        Some(self.buffer(charge, len))
    }

    /// A copy of a small piece; the last resort, so always granted.
    pub(super) fn small_piece(&self, bytes: &[u8]) -> Bytes {
        let charge = self.charge_as(ChargeKind::Piece, bytes.len() as u64);
        Buffer { bytes: bytes.into(), charge }.freeze()
    }

    fn charge_as(&self, kind: ChargeKind, bytes: u64) -> MemoryCharge {
        self.held.counter(kind).fetch_add(bytes, Ordering::Relaxed);
        MemoryCharge { held: Arc::clone(&self.held), kind, bytes }
    }

    fn try_charge(&self, kind: ChargeKind, bytes: u64, limit: u64) -> Option<MemoryCharge> {
        let counter = self.held.counter(kind);
        let charge = |now: u64| now.checked_add(bytes).filter(|after| *after <= limit);
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).ok()?;
        Some(MemoryCharge { held: Arc::clone(&self.held), kind, bytes })
    }

    fn buffer(&self, charge: MemoryCharge, len: usize) -> Buffer {
        let spare = if len as u64 == CHUNK { self.held.spare().pop() } else { None };
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
        self.held.counter(self.kind).fetch_sub(self.bytes, Ordering::Relaxed);
        if matches!(self.kind, ChargeKind::Tail) {
            self.held.tails.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Buffer {
    /// The bytes to fill.
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Makes it shareable; it stays counted until the last slice of it is dropped.
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
            let mut spare = self.charge.held.spare();
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
        ChunkKey { of: MemoryId::Partial(1), chunk }
    }

    #[test]
    fn chunks_that_left_the_cache_are_given_back_and_do_not_press() {
        let memory = ChunkMemory::new(8 << 20);
        for chunk in 0..500 {
            memory.insert(key(chunk), memory.chunk(MIB).freeze());
            assert!(!memory.is_over_limit(), "after {chunk} chunks {} bytes are held", memory.held_bytes());
        }
        assert!(memory.get(&key(499)).is_some(), "the newest chunk is kept");
        assert!(memory.get(&key(0)).is_none());
    }

    #[test]
    fn a_chunk_held_outside_the_cache_still_counts() {
        let memory = ChunkMemory::new(0);
        let held: Vec<Bytes> = std::iter::from_fn(|| memory.try_chunk(MIB)).map(Buffer::freeze).collect();
        assert_eq!(held.len() as u64, PINNED_MAX / CHUNK);
        let slice = held[0].slice(5..6);
        drop(held);
        assert_eq!(memory.held_bytes(), CHUNK, "one byte of a chunk keeps the chunk");
        drop(slice);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[test]
    fn a_renamed_chunk_is_hot_under_its_new_name_only() {
        let memory = ChunkMemory::new(8 << 20);
        let to = MemoryId::Blob(BlobId::from([1; 32]));
        memory.insert(key(0), memory.chunk(MIB).freeze());
        memory.rename(MemoryId::Partial(1), to, CHUNK);
        assert!(memory.get(&key(0)).is_none());
        assert!(memory.get(&ChunkKey { of: to, chunk: 0 }).is_some());
    }
}
