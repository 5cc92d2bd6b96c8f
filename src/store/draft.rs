//! The unfinished blob behind a [`BlobWriter`](super::BlobWriter), shared by its segments: its bytes in memory or in a
//! file, its reserved room and its journal. The last owner decides on drop whether the file stays for a later fill or is
//! removed. Bytes in memory move to a file when the body grows beyond a chunk or memory is short.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;

use super::budget::{Reservation, allocated_size};
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
    room: Mutex<Option<DraftRoom>>,
    spilled: OnceCell<()>,
    journal: OnceLock<OpenJournal>,
    written: AtomicU64,
    /// Running writes, including those of dropped segments.
    pub(super) writes: TaskTracker,
}

/// Room of an unfinished blob.
pub(super) enum DraftRoom {
    /// Of bytes in memory, for the file that they become.
    Memory(Reservation),
    /// Of a file.
    File(Scratch),
}

impl DraftRoom {
    fn reservation(&mut self) -> &mut Reservation {
        match self {
            Self::Memory(reservation) => reservation,
            Self::File(scratch) => &mut scratch.reservation,
        }
    }
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
    pub(super) fn new(store: Arc<Store>, partial: Arc<PartialBlob>, room: Option<DraftRoom>) -> Arc<Self> {
        Arc::new(Self {
            store,
            partial,
            room: Mutex::new(room),
            spilled: OnceCell::new(),
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
        let room = self.room().take();
        drop(room);
    }

    /// Reserves more room for a body of unknown length.
    pub(super) async fn reserve_up_to(&self, len: u64) -> Result<(), StoreError> {
        if self.store.is_released() {
            return Ok(());
        }
        let has = self.room().as_mut().ok_or(StoreError::Broken)?.reservation().bytes();
        let need = allocated_size(trailer::file_size(len));
        if let Some(more) = need.checked_sub(has).filter(|more| *more > 0) {
            let reservation = match self.store.reserve(more.max(STEP)).await {
                // Too little for a whole step may suffice for these bytes.
                Err(StoreError::NoRoom { .. } | StoreError::TooLarge { .. }) => {
                    self.store.reserve(more).await?
                }
                other => other?,
            };
            self.room().as_mut().ok_or(StoreError::Broken)?.reservation().merge(reservation);
        }
        Ok(())
    }

    /// Counts bytes that the file system now accounts for itself.
    pub(super) fn record_written(&self, bytes: u64) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(DraftRoom::File(scratch)) = &mut *self.room() {
            scratch.reservation.set_written(written);
        }
    }

    /// Moves the bytes to a file if the body will have `end` bytes or more and that is too much for memory.
    pub(super) async fn spill_if_due(self: &Arc<Self>, end: u64) -> Result<(), StoreError> {
        if self.partial.body().file().is_some() {
            return Ok(());
        }
        let (is_small, is_open_ended) = (end < BLOCK, self.partial.length().is_none());
        if (is_open_ended && end >= CHUNK) || (!is_small && self.store.memory.has_tail_pressure()) {
            self.spill().await
        } else {
            Ok(())
        }
    }

    /// Moves the bytes to a file, unless they are in one.
    pub(super) async fn spill(self: &Arc<Self>) -> Result<(), StoreError> {
        if self.partial.body().file().is_some() {
            return Ok(());
        }
        self.spilled.get_or_try_init(|| self.move_to_file()).await.copied()
    }

    async fn move_to_file(self: &Arc<Self>) -> Result<(), StoreError> {
        let _permit = self.store.disk_writes.acquire().await;
        let draft = Arc::clone(self);
        spawn_blocking(move || {
            let room = draft.room().take();
            let (folder, open) = (&draft.store.folder, draft.store.counters.open_file());
            let (file, scratch) = match room {
                Some(DraftRoom::Memory(reservation)) => {
                    let (_, file, scratch) = folder.create(reservation)?;
                    (file, Some(scratch))
                }
                // Another process owns the folder.
                _ => (folder.create_unlinked()?.1, None),
            };
            let path =
                scratch.as_ref().map_or_else(|| PathBuf::from("partial"), |file| file.path().to_owned());
            let spilled = draft.partial.body().spill(file, open);
            *draft.room() = scratch.map(DraftRoom::File);
            spilled.map_err(|source| StoreError::Io { doing: "write", path, source })?;
            draft.record_written(draft.partial.written_bytes());
            if draft.store.lease.register(&draft).is_err() {
                draft.unlink();
            }
            Ok(())
        })
        .await?
    }

    pub(super) fn journal(&self) -> Option<&File> {
        self.journal.get().map(|journal| &journal.file)
    }

    /// Returns the path of the journal if a later fill could resume.
    pub(super) fn resumable_journal(&self) -> Option<PathBuf> {
        self.journal.get()?;
        match &*self.room() {
            Some(DraftRoom::File(scratch)) if scratch.has_journal() => Some(journal_path(scratch.path())),
            _ => None,
        }
    }

    /// Returns the path for messages.
    pub(super) fn path(&self) -> PathBuf {
        match &*self.room() {
            Some(DraftRoom::File(scratch)) => scratch.path().to_owned(),
            _ => PathBuf::from("partial"),
        }
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

    pub(super) fn room(&self) -> MutexGuard<'_, Option<DraftRoom>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Nothing is to do for bytes in memory.
        let Some(DraftRoom::File(scratch)) = self.room().take() else { return };
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
