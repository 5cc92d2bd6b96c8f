//! A contiguous range of a blob being written, from a block boundary on. Bytes are copied once into a chunk
//! buffer, written, hashed, checksummed and made readable block by block. Several segments of one blob may be
//! written at once, each by one owner. The fill keeps their ranges apart.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use sha2::Digest;
use xxhash_rust::xxh3::Xxh3;

use super::blocks::block_of;
use super::draft::{Draft, HashedPrefix};
use super::error::StoreError;
use super::memory::{ChunkKey, ChunkMemory};
use super::partial::PartialBlob;
use super::{BLOCK, CHUNK, journal};

/// Maximum bytes hashed on an async thread: a tenth of a millisecond. More go to a blocking thread.
const INLINE_MAX: u64 = BLOCK;

/// A contiguous range of bytes being written.
pub struct Segment {
    pub(super) draft: Arc<Draft>,
    /// `None` while a write runs, and therefore after one that failed or was abandoned.
    state: Option<Box<SegmentState>>,
}

struct SegmentState {
    memory: Arc<ChunkMemory>,
    prefix: Option<HashedPrefix>,
    block: Xxh3,
    position: u64,
    /// First part of the chunk at `position`; the whole chunk if the body ends here.
    tail: Option<(ChunkKey, Bytes)>,
}

impl Segment {
    /// Creates a segment from `start`, a block boundary.
    pub(super) fn new(
        draft: Arc<Draft>,
        memory: Arc<ChunkMemory>,
        start: u64,
        prefix: Option<HashedPrefix>,
    ) -> Self {
        let state = SegmentState { memory, prefix, block: Xxh3::new(), position: start, tail: None };
        Self { draft, state: Some(Box::new(state)) }
    }

    /// Returns the partial blob that readers follow.
    pub fn partial(&self) -> &Arc<PartialBlob> {
        &self.draft.partial
    }

    /// Appends bytes and returns the position up to which they are readable. Whole aligned chunks in one call (1
    /// MiB of frames from a multiple of 1 MiB on) also enter the memory cache and need no read from disk.
    pub async fn write(&mut self, frames: Vec<Bytes>) -> Result<u64, StoreError> {
        let written = self.write_frames(frames).await;
        self.draft.store.health.observe(written)
    }

    async fn write_frames(&mut self, frames: Vec<Bytes>) -> Result<u64, StoreError> {
        let position = self.state.as_ref().ok_or(StoreError::Broken)?.position;
        let bytes = frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        // Bytes past the end would be in the file but in no account.
        if self.draft.partial.length().is_some_and(|length| position + bytes > length) {
            return Err(StoreError::Broken);
        }
        self.draft.reserve_up_to(position + bytes).await?;
        self.draft.spill_if_due(position + bytes).await?;
        let mut state = self.state.take().ok_or(StoreError::Broken)?;
        let draft = Arc::clone(&self.draft);
        if draft.partial.body().file().is_none() && bytes <= INLINE_MAX {
            state.append(&draft, frames).map_err(|_| StoreError::Broken)?;
            let state = self.state.insert(state);
            return Ok(state.readable_end(&self.draft.partial));
        }
        let _permit = self.draft.store.disk_writes.acquire().await;
        let write = move || match state.append(&draft, frames) {
            Ok(()) => Ok(state),
            Err(source) => Err(StoreError::Io { doing: "write", path: draft.path(), source }),
        };
        let state = self.state.insert(self.draft.writes.spawn_blocking(write).await??);
        if self.draft.partial.body().file().is_some() {
            self.draft.record_written(bytes);
        }
        Ok(state.readable_end(&self.draft.partial))
    }

    /// Ends a body of undeclared length, makes all of it readable and returns its length.
    pub fn end(&mut self) -> Result<u64, StoreError> {
        let state = self.state.as_mut().ok_or(StoreError::Broken)?;
        let partial = &self.draft.partial;
        if partial.length().is_none() {
            state.end(partial);
            partial.set_length(state.position);
        }
        Ok(state.position)
    }

    pub(super) fn into_prefix(self) -> Option<HashedPrefix> {
        self.state?.prefix
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("draft", &self.draft).finish_non_exhaustive()
    }
}

impl SegmentState {
    fn append(&mut self, draft: &Draft, mut frames: Vec<Bytes>) -> std::io::Result<()> {
        let partial = &draft.partial;
        self.tail = None;
        let mut remaining: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
        let mut frames = frames.iter_mut().filter(|frame| !frame.is_empty()).peekable();
        while remaining > 0 {
            let begin = self.position;
            let len = remaining.min(CHUNK - begin % CHUNK);
            let mut buffer = self.memory.allocate_chunk(usize::try_from(len).unwrap_or(usize::MAX));
            let mut rest = buffer.as_mut();
            while let Some(frame) = frames.peek_mut()
                && !rest.is_empty()
            {
                let (into, after) = rest.split_at_mut(rest.len().min(frame.len()));
                frame.copy_to_slice(into);
                rest = after;
                if frame.is_empty() {
                    frames.next();
                }
            }
            let bytes = buffer.freeze();
            partial.body().write(begin, &bytes)?;
            if let Some(prefix) = &mut self.prefix {
                prefix.sha256.update(&bytes);
                prefix.len += len;
            }
            let mut checksums = self.checksums(&bytes);
            self.position += len;
            remaining -= len;
            let ended = partial.length() == Some(self.position);
            if ended && !self.position.is_multiple_of(BLOCK) {
                checksums.push(self.block.digest128());
            }
            let key = ChunkKey { owner: partial.memory_id(), chunk: begin / CHUNK };
            // Cache first: a reader that is notified of these bytes then finds them in memory. Bytes of a body in memory
            // are cached by the commit.
            match (begin % CHUNK, len) {
                _ if partial.body().file().is_none() => {}
                (0, len) if (len == CHUNK || ended) && !self.memory.is_over_limit() => {
                    self.memory.insert(key, bytes);
                }
                (0, 1..CHUNK) => self.tail = Some((key, bytes)),
                _ => {}
            }
            partial.publish(block_of(begin), &checksums);
            if let Some(journal) = &draft.journal()
                && !checksums.is_empty()
            {
                append_entry(journal, block_of(begin), &checksums)?;
            }
        }
        Ok(())
    }

    /// Returns the checksums of the blocks that these bytes, at `position`, complete.
    fn checksums(&mut self, mut bytes: &[u8]) -> Vec<u128> {
        let mut done = Vec::with_capacity(bytes.len() / BLOCK as usize + 1);
        let mut filled = self.position % BLOCK;
        while !bytes.is_empty() {
            let take = bytes.len().min(usize::try_from(BLOCK - filled).unwrap_or(usize::MAX));
            let (part, rest) = bytes.split_at(take);
            self.block.update(part);
            bytes = rest;
            filled += take as u64;
            if filled == BLOCK {
                done.push(self.block.digest128());
                self.block.reset();
                filled = 0;
            }
        }
        done
    }

    fn end(&mut self, partial: &PartialBlob) {
        if let Some((key, bytes)) = self.tail.take()
            && !self.memory.is_over_limit()
        {
            self.memory.insert(key, bytes);
        }
        if !self.position.is_multiple_of(BLOCK) {
            partial.publish(block_of(self.position), &[self.block.digest128()]);
        }
    }

    /// Returns the end of the last whole block, or of the body.
    fn readable_end(&self, partial: &PartialBlob) -> u64 {
        if partial.length() == Some(self.position) { self.position } else { self.position / BLOCK * BLOCK }
    }
}

/// Appends a journal entry in one write in append mode. Concurrent segments do not interleave, and a killed
/// process leaves at most one torn entry.
fn append_entry(mut journal: &File, first: usize, checksums: &[u128]) -> std::io::Result<()> {
    match journal::encode_entry(first, checksums) {
        Some(entry) => journal.write_all(&entry),
        None => Ok(()),
    }
}
