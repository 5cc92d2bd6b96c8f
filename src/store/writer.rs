//! Writing a blob: bytes are copied once into a chunk's buffer, hashed, checksummed and written there, and made
//! readable block by block; the end makes the rest readable; the commit gives the file its trailer and its name. Owned
//! by one fill. What is dropped before its commit is removed, and readers of it are told by the fill.
//!
//! The commit's order: trailer, fdatasync, then on the index's thread the rename and the row. A crash between those
//! leaves a whole blob without a row, which the sweep removes; never a row without its bytes.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use xxhash_rust::xxh3::Xxh3;

use super::error::StoreError;
use super::folder::{Folder, Scratch};
use super::id::BlobId;
use super::index::Change;
use super::memory::{ChunkKey, ChunkMemory, MemoryId};
use super::object::{NewObject, Object};
use super::partial::Partial;
use super::read::Source;
use super::room::on_disk;
use super::trailer::{self, RECORD_MAX};
use super::{BLOCK, CHUNK, Store};

/// Room taken at once for a body of unknown length.
const STEP: u64 = 8 << 20;

/// Writes and syncs at once, for all fills: each write has a chunk's buffer that must be had whatever is held, and a
/// thread. A few keep a disk busy; hundreds of fills that end together would take hundreds of MiB.
pub(super) const DISK_WRITES: usize = 16;

/// A blob being written.
pub struct Writer {
    store: Arc<Store>,
    partial: Arc<Partial>,
    /// Always there until the commit takes it.
    scratch: Option<Scratch>,
    /// Not there while a write runs, and so not after one that failed or was abandoned.
    state: Option<Box<State>>,
}

/// What a commit made.
#[derive(Debug)]
pub struct Committed {
    /// The object, as the index has it.
    pub object: Object,
    /// Its body.
    pub source: Source,
    /// The same bytes were there already; the copy is removed.
    pub deduplicated: bool,
}

struct State {
    memory: Arc<ChunkMemory>,
    sha256: Sha256,
    block: Xxh3,
    position: u64,
    /// The beginning of the chunk at the position: the whole of it if the body ends here.
    tail: Option<(ChunkKey, Bytes)>,
}

impl Store {
    /// Begins a blob. With its length known, room for all of it is made now; else step by step.
    pub async fn begin(self: &Arc<Self>, expected: Option<u64>) -> Result<Writer, StoreError> {
        let bytes = on_disk(trailer::file_size(expected.unwrap_or(0)));
        let reservation = self.reserve(bytes).await?;
        let folder = Arc::clone(&self.folder);
        let (number, file, scratch) = spawn_blocking(move || folder.create(reservation)).await??;
        let state = State {
            memory: Arc::clone(&self.memory),
            sha256: Sha256::new(),
            block: Xxh3::new(),
            position: 0,
            tail: None,
        };
        Ok(Writer {
            store: Arc::clone(self),
            partial: Partial::new(number, file, self.counters.open_file()),
            scratch: Some(scratch),
            state: Some(Box::new(state)),
        })
    }
}

impl Writer {
    /// What readers read meanwhile.
    pub fn partial(&self) -> &Arc<Partial> {
        &self.partial
    }

    /// Appends bytes; gives the position up to which they can be read. Whole aligned chunks in one call (a megabyte
    /// of frames from a multiple of a megabyte on) go into memory as well and need no reading back.
    pub async fn write(&mut self, frames: Vec<Bytes>) -> Result<u64, StoreError> {
        let position = self.state.as_ref().ok_or(StoreError::Broken)?.position;
        let after = position + frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        self.make_room(after).await?;
        let _permit = self.store.disk_writes.acquire().await;
        let mut state = self.state.take().ok_or(StoreError::Broken)?;
        let (partial, path) = (Arc::clone(&self.partial), self.path().to_owned());
        let write = move || match state.append(&partial, frames) {
            Ok(()) => Ok(state),
            Err(source) => Err(StoreError::Io { doing: "write", path, source }),
        };
        self.state = Some(spawn_blocking(write).await??);
        if let Some(scratch) = &mut self.scratch {
            scratch.reservation.written(after);
        }
        Ok(self.partial.written())
    }

    /// The body's end: everything is readable now. Gives its length.
    pub async fn finish(&mut self) -> Result<u64, StoreError> {
        let state = self.state.as_mut().ok_or(StoreError::Broken)?;
        if self.partial.total().is_none() {
            state.end(&self.partial);
        }
        Ok(state.position)
    }

    /// Makes an object of a body that came to its end.
    pub async fn commit(mut self, object: NewObject) -> Result<Committed, StoreError> {
        let len = self.finish().await?;
        let record = object.encode();
        if record.len() > RECORD_MAX {
            return Err(StoreError::HeadTooLarge { bytes: record.len(), max: RECORD_MAX });
        }
        let (Some(state), Some(scratch)) = (self.state.take(), self.scratch.take()) else {
            return Err(StoreError::Broken);
        };
        let id = BlobId::from(<[u8; 32]>::from(state.sha256.finalize()));
        let partial = Arc::clone(&self.partial);
        let seal = move || {
            let trailer = trailer::encode(id, len, &partial.checksums(), &record);
            let done = partial.file.write_all_at(&trailer, len).and_then(|()| partial.file.sync_data());
            match done {
                Ok(()) => Ok((scratch, len + trailer.len() as u64)),
                Err(source) => {
                    Err(StoreError::Io { doing: "write", path: scratch.path().to_owned(), source })
                }
            }
        };
        let (scratch, size) = {
            let _permit = self.store.disk_writes.acquire().await;
            spawn_blocking(seal).await??
        };
        let enter = Enter { folder: Arc::clone(&self.store.folder), id, len, size, scratch };
        let (failed, now) = (self.store.index.failure(), self.store.clock.now());
        let new = object.clone();
        let ((row, deduplicated, scratch), gone) = self
            .store
            .index
            .change(move |change| {
                let (blob, deduplicated, scratch) = enter.run(change, &failed)?;
                let row = change.insert_object(&new, blob, now).map_err(&failed)?;
                Ok((row, deduplicated, scratch))
            })
            .await?;
        let (memory, partial) = (Arc::clone(&self.store.memory), Arc::clone(&self.partial));
        let settle = move || {
            let from = partial.memory_id();
            partial.committed(id);
            memory.rename(from, MemoryId::Blob(id), len);
            drop((scratch, gone));
        };
        spawn_blocking(settle).await?;
        let object = object.into_object(row, id, len, now);
        Ok(Committed { object, source: Source::Blob { id, len }, deduplicated })
    }

    /// Takes more room when the body is longer than it was expected to be.
    async fn make_room(&mut self, len: u64) -> Result<(), StoreError> {
        let scratch = self.scratch.as_mut().ok_or(StoreError::Broken)?;
        let need = on_disk(trailer::file_size(len));
        if let Some(more) = need.checked_sub(scratch.reservation.bytes()).filter(|more| *more > 0) {
            let reservation = match self.store.reserve(more.max(STEP)).await {
                // What is missing for a whole step may still do for these bytes.
                Err(StoreError::NoRoom { .. } | StoreError::TooLarge { .. }) => {
                    self.store.reserve(more).await?
                }
                other => other?,
            };
            scratch.reservation.join(reservation);
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        self.scratch.as_ref().map_or(Path::new("partial"), Scratch::path)
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("partial", &self.partial).finish_non_exhaustive()
    }
}

impl Drop for Writer {
    /// Removes the file without holding up the async thread, unless the runtime is gone.
    fn drop(&mut self) {
        if let Some(scratch) = self.scratch.take() {
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || drop(scratch))),
                Err(_) => drop(scratch),
            }
        }
    }
}

impl State {
    fn append(&mut self, partial: &Partial, mut frames: Vec<Bytes>) -> std::io::Result<()> {
        self.tail = None;
        let mut left: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
        let mut frames = frames.iter_mut().filter(|frame| !frame.is_empty()).peekable();
        while left > 0 {
            let begin = self.position;
            let len = left.min(CHUNK - begin % CHUNK);
            let mut buffer = self.memory.chunk(usize::try_from(len).unwrap_or(usize::MAX));
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
            partial.file.write_all_at(buffer.as_ref(), begin)?;
            self.sha256.update(buffer.as_ref());
            let mut checksums = self.checksums(buffer.as_ref());
            self.position += len;
            left -= len;
            let key = ChunkKey { of: partial.memory_id(), chunk: begin / CHUNK };
            // Into memory first: a reader that is told of these bytes finds them there.
            match (begin % CHUNK, len) {
                (0, CHUNK) if !self.memory.pressed() => self.memory.insert(key, buffer.freeze()),
                (0, 1..CHUNK) => self.tail = Some((key, buffer.freeze())),
                _ => {}
            }
            partial.publish(&mut checksums, self.position / BLOCK * BLOCK);
        }
        Ok(())
    }

    /// Checksums of the blocks that these bytes, at the position, complete.
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

    fn end(&mut self, partial: &Partial) {
        let mut last = Vec::new();
        if !self.position.is_multiple_of(BLOCK) {
            last.push(self.block.digest128());
        }
        if let Some((key, bytes)) = self.tail.take()
            && !self.memory.pressed()
        {
            self.memory.insert(key, bytes);
        }
        partial.publish(&mut last, self.position);
        partial.end();
    }
}

/// A sealed blob about to get its name and row.
struct Enter {
    folder: Arc<Folder>,
    id: BlobId,
    len: u64,
    size: u64,
    scratch: Scratch,
}

impl Enter {
    /// On the index's thread, where no other change can cross it. Gives the row, whether the bytes were there already,
    /// and the scratch, which then still has the copy.
    fn run(
        mut self,
        change: &mut Change<'_>,
        failed: impl Fn(rusqlite::Error) -> StoreError,
    ) -> Result<(i64, bool, Scratch), StoreError> {
        let path: PathBuf = self.folder.blob(self.id);
        let row = change.blob(self.id).map_err(&failed)?;
        // A file that is gone or cut short is replaced; one that rotted is found out when it is read.
        let there = std::fs::metadata(&path).is_ok_and(|file| file.len() >= self.len);
        if let Some(row) = row.filter(|_| there) {
            return Ok((row, true, self.scratch));
        }
        self.scratch.put_in(&path)?;
        // Should the transaction fail, the file has no row and goes.
        change.unreferenced(self.id);
        let row = match row {
            Some(row) => row,
            None => change.insert_blob(self.id, self.len, on_disk(self.size)).map_err(failed)?,
        };
        Ok((row, false, self.scratch))
    }
}
