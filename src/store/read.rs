//! Reads of bodies: from memory at once, else verified from disk. A whole chunk is loaded and cached while memory
//! lasts. Above the memory limit a reader gets one block, and above the limit for blocks a small copy. Thousands
//! of slow clients at different positions thus stay within the bound, and none waits for memory.
//!
//! Concurrent readers of a chunk or block share one load. Loads run on a bounded number of threads; waiting for
//! one of those is waiting for the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::blob::OpenBlob;
use super::error::{ReadError, StoreError};
use super::extent::BlobExtent;
use super::id::BlobId;
use super::memory::{Buffer, ChunkKey, MemoryId};
use super::pack::PACKED_BELOW;
use super::partial::PartialBlob;
use super::{BLOCK, CHUNK, Store};

/// Maximum number of concurrent disk reads: enough to keep a disk busy, few enough for their 64 KiB buffers not
/// to matter.
pub(super) const DISK_READS: usize = 64;

/// Size of a small piece in bytes; also what a stalled socket's buffer takes at a time.
const SMALL: usize = 16 << 10;

/// Source of a body's bytes.
#[derive(Clone, Debug)]
pub enum BodySource {
    /// A committed blob.
    Blob {
        /// Its name.
        id: BlobId,
        /// Its length according to the index.
        len: u64,
    },
    /// A blob being written.
    Partial(Arc<PartialBlob>),
}

/// Source of a read, with the place of its bytes.
enum ReadTarget {
    Blob { id: BlobId, len: u64, extent: BlobExtent },
    Partial(Arc<PartialBlob>),
}

/// Result of a shared load: `None` above the memory limit.
pub(super) type LoadResult = Result<Option<Bytes>, ReadError>;

/// Key of a shared load: a chunk, or a block by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LoadKey {
    Chunk(ChunkKey),
    Block { owner: MemoryId, start: u64 },
}

impl BodySource {
    fn memory_id(&self) -> MemoryId {
        match self {
            Self::Blob { id, .. } => MemoryId::Blob(*id),
            Self::Partial(partial) => partial.memory_id(),
        }
    }

    fn chunk_key(&self, position: u64) -> ChunkKey {
        ChunkKey { owner: self.memory_id(), chunk: position / CHUNK }
    }

    /// Returns the end of the readable bytes from `position`; `position` itself if there are none.
    fn readable_end(&self, position: u64) -> u64 {
        match self {
            Self::Blob { len, .. } => position.max(*len),
            Self::Partial(partial) => partial.readable_end(position),
        }
    }

    /// Returns the body's length if it is known.
    fn len(&self) -> Option<u64> {
        match self {
            Self::Blob { len, .. } => Some(*len),
            Self::Partial(partial) => partial.length(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Blob { id, .. } => format!("blob {id}"),
            Self::Partial(partial) => partial.to_string(),
        }
    }
}

impl Store {
    /// Returns the rest of the chunk from `position` if it is in memory. Takes no lock over the body and copies
    /// nothing.
    pub fn read_cached(&self, source: &BodySource, position: u64) -> Option<Bytes> {
        if let BodySource::Partial(partial) = source
            && let Some(piece) = partial.piece_at(position)
        {
            return Some(piece);
        }
        slice_from(&self.memory.get(&source.chunk_key(position))?, position % CHUNK)
    }

    /// Returns verified bytes from `position`, at least one and at most to the chunk's end.
    ///
    /// # Errors
    /// When nothing is readable at `position`, or the bytes are damaged, missing or unreadable.
    pub async fn read(&self, source: &BodySource, position: u64) -> Result<Bytes, ReadError> {
        match self.read_cached(source, position) {
            Some(bytes) => Ok(bytes),
            // Boxed, because every fill and response has room for it and few read from disk.
            None => Box::pin(self.read_uncached(source, position)).await,
        }
    }

    async fn read_uncached(&self, source: &BodySource, position: u64) -> Result<Bytes, ReadError> {
        let readable = source.readable_end(position);
        if position >= readable {
            return Err(ReadError::OutOfRange { subject: source.describe(), position, readable });
        }
        let key = source.chunk_key(position);
        let start = key.chunk * CHUNK;
        let end = source.len().map_or(start + CHUNK, |len| len.min(start + CHUNK));
        if end <= readable && source.readable_end(start) >= end && !self.memory.is_over_limit() {
            let load = self.load_chunk(source, key, end - start);
            if let Some(chunk) = self.loads.run(LoadKey::Chunk(key), load).await? {
                return slice_from(&chunk, position - start).ok_or_else(|| self.length_mismatch(source));
            }
        }
        let start = position / BLOCK * BLOCK;
        let len = readable.min(start + BLOCK) - start;
        let load = async {
            match self.memory.try_allocate_piece(to_usize(len)) {
                Some(buffer) => self.load(source, start, buffer).await.map(|piece| Some(piece.freeze())),
                None => Ok(None),
            }
        };
        if let Some(block) = self.loads.run(LoadKey::Block { owner: key.owner, start }, load).await? {
            return slice_from(&block, position - start).ok_or_else(|| self.length_mismatch(source));
        }
        let block = self.load(source, start, vec![0; to_usize(len)]).await?;
        let from = to_usize(position - start);
        Ok(self.memory.copy_piece(&block[from..block.len().min(from + SMALL)]))
    }

    async fn load_chunk(&self, source: &BodySource, key: ChunkKey, len: u64) -> LoadResult {
        // Another load may have finished since this reader looked into memory.
        if let Some(chunk) = self.memory.get(&key) {
            return Ok(Some(chunk));
        }
        let Some(buffer) = self.memory.try_allocate_chunk(to_usize(len)) else { return Ok(None) };
        let chunk = self.load(source, key.chunk * CHUNK, buffer).await?.freeze();
        self.memory.insert(key, chunk.clone());
        Ok(Some(chunk))
    }

    /// Reads a buffer from disk and verifies it.
    pub(super) async fn load<B: ReadBuffer>(
        &self,
        source: &BodySource,
        start: u64,
        buffer: B,
    ) -> Result<B, ReadError> {
        let _permit = self.disk_reads.acquire().await;
        let mut result = self.load_once(source, start, buffer).await;
        // The compaction of a pack moves a blob between the lookup of its place and the read.
        if let (Err(ReadError::Gone { .. }), BodySource::Blob { len: ..PACKED_BELOW, .. }) =
            (&result.0, source)
            && let Some(buffer) = result.1.take()
        {
            result = self.load_once(source, start, buffer).await;
        }
        let (read, buffer) = result;
        read.inspect_err(|error| self.health.observe_read_error(error, source, start))?;
        buffer.ok_or_else(|| self.length_mismatch(source))
    }

    /// Reads a buffer, and returns it unless the reading thread was lost.
    async fn load_once<B: ReadBuffer>(
        &self,
        source: &BodySource,
        start: u64,
        mut buffer: B,
    ) -> (Result<(), ReadError>, Option<B>) {
        let from = match source {
            BodySource::Blob { id, len } => match self.extent(*id, *len).await {
                Ok(extent) => ReadTarget::Blob { id: *id, len: *len, extent },
                Err(error) => return (Err(error), Some(buffer)),
            },
            BodySource::Partial(partial) => ReadTarget::Partial(Arc::clone(partial)),
        };
        let (folder, open, counters) =
            (Arc::clone(&self.folder), Arc::clone(&self.open), Arc::clone(&self.counters));
        let read = move || {
            counters.disk_reads.fetch_add(1, Ordering::Relaxed);
            let result = match &from {
                ReadTarget::Blob { id, len, extent } => open
                    .open(extent, *id, *len, || counters.open_file())
                    .and_then(|blob: Arc<OpenBlob>| blob.read(start, buffer.as_mut_slice())),
                ReadTarget::Partial(partial) => partial.read(start, buffer.as_mut_slice()),
            };
            if matches!(result, Err(ReadError::Damaged { .. })) {
                counters.verification_failures.fetch_add(1, Ordering::Relaxed);
            }
            // A blob missing from a replaced folder is not gone.
            let result = match result {
                Err(ReadError::Gone { subject }) if folder.check().is_err() => {
                    Err(ReadError::Io { subject, source: Arc::new(Errno::NODEV.into()) })
                }
                result => result,
            };
            (result, Some(buffer))
        };
        let stopped =
            |error| ReadError::Io { subject: source.describe(), source: Arc::new(io::Error::other(error)) };
        spawn_blocking(read).await.unwrap_or_else(|error| (Err(stopped(error)), None))
    }

    /// Returns where a blob's bytes are. Only small blobs are in packs; an open one is not looked up again.
    pub(super) async fn extent(&self, id: BlobId, len: u64) -> Result<BlobExtent, ReadError> {
        let place = if len < PACKED_BELOW && !self.open.has(id) {
            let subject = || format!("blob {id}");
            match self.index.place(id).await {
                Ok(place) => place,
                Err(StoreError::Io { source, .. }) => {
                    return Err(ReadError::Io { subject: subject(), source: Arc::new(source) });
                }
                Err(error) => {
                    let source = Arc::new(io::Error::other(error));
                    return Err(ReadError::Io { subject: subject(), source });
                }
            }
        } else {
            None
        };
        Ok(BlobExtent::new(&self.folder, id, place))
    }

    fn length_mismatch(&self, source: &BodySource) -> ReadError {
        self.counters.verification_failures.fetch_add(1, Ordering::Relaxed);
        ReadError::Damaged { subject: source.describe(), fault: "length differs from the index's" }
    }
}

/// A buffer to read into.
pub(super) trait ReadBuffer: Send + 'static {
    fn as_mut_slice(&mut self) -> &mut [u8];
}

impl ReadBuffer for Buffer {
    fn as_mut_slice(&mut self) -> &mut [u8] {
        self.as_mut()
    }
}

impl ReadBuffer for Vec<u8> {
    fn as_mut_slice(&mut self) -> &mut [u8] {
        self
    }
}

/// Returns the bytes of a chunk from `offset`; `None` if there are none.
fn slice_from(chunk: &Bytes, offset: u64) -> Option<Bytes> {
    let offset = usize::try_from(offset).ok().filter(|offset| *offset < chunk.len())?;
    Some(chunk.slice(offset..))
}

/// Converts a size of at most one chunk.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
