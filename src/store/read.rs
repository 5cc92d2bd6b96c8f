//! Reading bodies: from memory at once, else from disk, checked. A whole chunk is loaded and kept while there is room
//! for it; under pressure a reader gets one block, and past that a small copy out of one, so that thousands of slow
//! clients at different places stay within the bound and none waits for memory.
//!
//! Chunks and blocks are loaded once for all who wait for them. Loads share a bounded number of threads; waiting for
//! one of those is waiting for the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::blob::OpenBlob;
use super::error::ReadError;
use super::id::BlobId;
use super::memory::{Buffer, ChunkKey, MemoryId};
use super::partial::PartialBlob;
use super::{BLOCK, CHUNK, Store};

/// Disk reads at once: enough to keep a disk busy, few enough that their scratch buffers (64 KiB each) do not matter.
pub(super) const DISK_READS: usize = 64;

/// Bytes of a small piece. Also what a stalled socket's buffer takes at a time.
const SMALL: usize = 16 << 10;

/// What a reader reads.
#[derive(Clone, Debug)]
pub enum BodySource {
    /// A committed blob.
    Blob {
        /// Its name.
        id: BlobId,
        /// Its length, as the index has it.
        len: u64,
    },
    /// One that is being written.
    Partial(Arc<PartialBlob>),
}

/// Result of a shared load: `None` if memory is pressed.
pub(super) type LoadResult = Result<Option<Bytes>, ReadError>;

/// A shared load: a chunk or a block, by its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LoadKey {
    Chunk(ChunkKey),
    Block { of: MemoryId, start: u64 },
}

impl BodySource {
    fn memory_id(&self) -> MemoryId {
        match self {
            Self::Blob { id, .. } => MemoryId::Blob(*id),
            Self::Partial(partial) => partial.memory_id(),
        }
    }

    fn key(&self, position: u64) -> ChunkKey {
        ChunkKey { of: self.memory_id(), chunk: position / CHUNK }
    }

    /// The end of what is readable from `position` on; `position` itself if nothing is.
    fn readable(&self, position: u64) -> u64 {
        match self {
            Self::Blob { len, .. } => position.max(*len),
            Self::Partial(partial) => partial.readable_end(position),
        }
    }

    /// The body's length if that is known.
    fn len(&self) -> Option<u64> {
        match self {
            Self::Blob { len, .. } => Some(*len),
            Self::Partial(partial) => partial.length(),
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Blob { id, .. } => format!("blob {id}"),
            Self::Partial(partial) => partial.to_string(),
        }
    }
}

impl Store {
    /// The rest of the chunk from `position`, if it is in memory. Takes no lock over the body, copies nothing.
    pub fn read_cached(&self, source: &BodySource, position: u64) -> Option<Bytes> {
        rest(&self.memory.get(&source.key(position))?, position % CHUNK)
    }

    /// Bytes from `position`: never none, never unchecked, at most to the chunk's end.
    pub async fn read(&self, source: &BodySource, position: u64) -> Result<Bytes, ReadError> {
        if let Some(bytes) = self.read_cached(source, position) {
            return Ok(bytes);
        }
        let readable = source.readable(position);
        if position >= readable {
            return Err(ReadError::OutOfRange { what: source.what(), position, readable });
        }
        let key = source.key(position);
        let start = key.chunk * CHUNK;
        let end = source.len().map_or(start + CHUNK, |len| len.min(start + CHUNK));
        if end <= readable && source.readable(start) >= end && !self.memory.is_over_limit() {
            let load = self.load_chunk(source, key, end - start);
            if let Some(chunk) = self.loads.run(LoadKey::Chunk(key), load).await? {
                return rest(&chunk, position - start).ok_or_else(|| self.short(source));
            }
        }
        let start = position / BLOCK * BLOCK;
        let len = readable.min(start + BLOCK) - start;
        let load = async {
            match self.memory.try_piece(size(len)) {
                Some(buffer) => self.load(source, start, buffer).await.map(|piece| Some(piece.freeze())),
                None => Ok(None),
            }
        };
        if let Some(block) = self.loads.run(LoadKey::Block { of: key.of, start }, load).await? {
            return rest(&block, position - start).ok_or_else(|| self.short(source));
        }
        let block = self.load(source, start, vec![0; size(len)]).await?;
        let from = size(position - start);
        Ok(self.memory.small_piece(&block[from..block.len().min(from + SMALL)]))
    }

    async fn load_chunk(&self, source: &BodySource, key: ChunkKey, len: u64) -> LoadResult {
        // Another flight may have landed between this reader's look into memory and its own start.
        if let Some(chunk) = self.memory.get(&key) {
            return Ok(Some(chunk));
        }
        let Some(buffer) = self.memory.try_chunk(size(len)) else { return Ok(None) };
        let chunk = self.load(source, key.chunk * CHUNK, buffer).await?.freeze();
        self.memory.insert(key, chunk.clone());
        Ok(Some(chunk))
    }

    /// Fills a buffer from disk and checks it.
    pub(super) async fn load<B: ReadBuffer>(
        &self,
        source: &BodySource,
        start: u64,
        mut buffer: B,
    ) -> Result<B, ReadError> {
        let _permit = self.disk_reads.acquire().await;
        let (folder, open, counters) =
            (Arc::clone(&self.folder), Arc::clone(&self.open), Arc::clone(&self.counters));
        let from = source.clone();
        let read = move || {
            counters.disk_reads.fetch_add(1, Ordering::Relaxed);
            let result = match &from {
                BodySource::Blob { id, len } => open
                    .open(&folder, *id, *len, || counters.open_file())
                    .and_then(|blob: Arc<OpenBlob>| blob.read(start, buffer.space())),
                BodySource::Partial(partial) => partial.read(start, buffer.space()),
            };
            if matches!(result, Err(ReadError::Damaged { .. })) {
                counters.verification_failures.fetch_add(1, Ordering::Relaxed);
            }
            // What is not in another folder is not gone.
            let result = match result {
                Err(ReadError::Gone { what }) if folder.check().is_err() => {
                    Err(ReadError::Io { what, source: Arc::new(Errno::NODEV.into()) })
                }
                result => result,
            };
            result.map(|()| buffer)
        };
        let stopped =
            |error| ReadError::Io { what: source.what(), source: Arc::new(io::Error::other(error)) };
        let read = spawn_blocking(read).await.map_err(stopped)?;
        read.inspect_err(|error| self.health.unread(error, source, start))
    }

    fn short(&self, source: &BodySource) -> ReadError {
        self.counters.verification_failures.fetch_add(1, Ordering::Relaxed);
        ReadError::Damaged { what: source.what(), fault: "length differs from the index's" }
    }
}

/// Something to read into.
pub(super) trait ReadBuffer: Send + 'static {
    fn space(&mut self) -> &mut [u8];
}

impl ReadBuffer for Buffer {
    fn space(&mut self) -> &mut [u8] {
        self.as_mut()
    }
}

impl ReadBuffer for Vec<u8> {
    fn space(&mut self) -> &mut [u8] {
        self
    }
}

/// What of a chunk is at `offset` and after; `None` rather than nothing.
fn rest(chunk: &Bytes, offset: u64) -> Option<Bytes> {
    let offset = usize::try_from(offset).ok().filter(|offset| *offset < chunk.len())?;
    Some(chunk.slice(offset..))
}

/// Sizes here are a chunk's at most.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
