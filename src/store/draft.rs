//! The unfinished blob behind a [`BlobWriter`](super::BlobWriter), shared by its segments: its file, its reserved room
//! and its journal. The last owner decides on drop whether the file stays for a later fill or is removed.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;

use super::budget::allocated_size;
use super::error::{ReadError, StoreError};
use super::object::NewObject;
use super::partial::PartialBlob;
use super::scratch::{Scratch, journal_path};
use super::trailer;
use super::unfinished::UnfinishedFill;
use super::{BLOCK, CHUNK, Store};

/// Room reserved at a time for a body of unknown length.
const STEP: u64 = 8 << 20;

/// An unfinished blob, shared by its segments.
pub(super) struct Draft {
    pub(super) store: Arc<Store>,
    pub(super) partial: Arc<PartialBlob>,
    /// Present until the commit or the release of the store takes it. Locked to look, never across I/O.
    scratch: Mutex<Option<Scratch>>,
    journal: OnceLock<OpenJournal>,
    written: AtomicU64,
    /// Running writes, including those of dropped segments.
    pub(super) writes: TaskTracker,
}

/// Running SHA-256 of a body's first bytes. It moves to the segment that begins where it ends.
#[derive(Default)]
pub(super) struct HashedPrefix {
    pub(super) sha256: Sha256,
    pub(super) len: u64,
}

struct OpenJournal {
    file: File,
    object: NewObject,
}

impl Draft {
    pub(super) fn new(store: Arc<Store>, partial: Arc<PartialBlob>, scratch: Option<Scratch>) -> Arc<Self> {
        Arc::new(Self {
            store,
            partial,
            scratch: Mutex::new(scratch),
            journal: OnceLock::new(),
            written: AtomicU64::new(0),
            writes: TaskTracker::new(),
        })
    }

    /// Sets the open journal of `object`.
    pub(super) fn set_journal(&self, file: File, object: NewObject) {
        let _ = self.journal.set(OpenJournal { file, object });
    }

    /// Unlinks the file and gives its room back: another process owns the folder now. Blocks.
    pub(super) fn unlink(&self) {
        let scratch = self.scratch().take();
        drop(scratch);
    }

    /// Reserves more room for a body of unknown length.
    pub(super) async fn reserve_up_to(&self, len: u64) -> Result<(), StoreError> {
        if self.store.is_released() {
            return Ok(());
        }
        let has = self.scratch().as_ref().ok_or(StoreError::Broken)?.reservation.bytes();
        let need = allocated_size(trailer::file_size(len));
        if let Some(more) = need.checked_sub(has).filter(|more| *more > 0) {
            let reservation = match self.store.reserve(more.max(STEP)).await {
                // Too little for a whole step may suffice for these bytes.
                Err(StoreError::NoRoom { .. } | StoreError::TooLarge { .. }) => {
                    self.store.reserve(more).await?
                }
                other => other?,
            };
            self.scratch().as_mut().ok_or(StoreError::Broken)?.reservation.merge(reservation);
        }
        Ok(())
    }

    /// Counts bytes that the file system now accounts for itself.
    pub(super) fn record_written(&self, bytes: u64) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(scratch) = &mut *self.scratch() {
            scratch.reservation.set_written(written);
        }
    }

    pub(super) fn journal(&self) -> Option<&File> {
        self.journal.get().map(|journal| &journal.file)
    }

    /// Returns the path of the journal if a later fill could resume.
    pub(super) fn resumable_journal(&self) -> Option<PathBuf> {
        self.journal.get()?;
        self.scratch()
            .as_ref()
            .filter(|scratch| scratch.has_journal())
            .map(|scratch| journal_path(scratch.path()))
    }

    /// Returns the path for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.scratch().as_ref().map_or_else(|| PathBuf::from("partial"), |scratch| scratch.path().to_owned())
    }

    /// Hashes the file to the chunk's end; stops at a damaged block.
    pub(super) async fn hash_next_chunk(
        &self,
        mut prefix: HashedPrefix,
        len: u64,
    ) -> Result<(HashedPrefix, Result<(), ReadError>), StoreError> {
        let partial = Arc::clone(&self.partial);
        let _permit = self.store.disk_reads.acquire().await;
        let hash = move || {
            let end = (prefix.len / CHUNK * CHUNK + CHUNK).min(len);
            let mut buffer = vec![0; BLOCK as usize];
            while prefix.len < end {
                let bytes = usize::try_from((end - prefix.len).min(BLOCK)).unwrap_or(buffer.len());
                let block = &mut buffer[..bytes];
                if let Err(error) = partial.read(prefix.len, block) {
                    return (prefix, Err(error));
                }
                prefix.sha256.update(block);
                prefix.len += bytes as u64;
            }
            (prefix, Ok(()))
        };
        Ok(spawn_blocking(hash).await?)
    }

    pub(super) fn scratch(&self) -> MutexGuard<'_, Option<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("partial", &self.partial).finish_non_exhaustive()
    }
}

impl Drop for Draft {
    /// Keeps a resumable file. Otherwise removes it on a blocking thread, or on this one if the runtime is gone.
    fn drop(&mut self) {
        let Some(scratch) = self.scratch().take() else { return };
        let journal = self.journal.take().filter(|_| scratch.has_journal());
        if let (Some(OpenJournal { object, .. }), Some(len)) = (journal, self.partial.length())
            && self.partial.written_bytes() > 0
        {
            return self.store.return_unfinished(UnfinishedFill {
                object,
                len,
                blocks: self.partial.blocks(),
                scratch,
            });
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(scratch))),
            Err(_) => drop(scratch),
        }
    }
}
