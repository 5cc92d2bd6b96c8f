//! A blob from its begin to its commit: owns the half-written file, the room it takes and its journal, hands out the
//! segments that write it, and makes an object of it when every byte is there. Owned by one fill. What is dropped
//! before its commit is kept for the next fill of the same object if it has a journal, else removed; readers of it are
//! told by the fill.
//!
//! The commit's order: trailer, fdatasync, then on the index's thread the rename and the row. A crash between those
//! leaves a whole blob without a row, which the sweep removes; never a row without its bytes. Until then nothing is
//! synced: see `journal` for why that costs, after a power loss, the bytes since the system last wrote and no more.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;

use super::blocks::BlockMap;
use super::budget::on_disk;
use super::error::{ReadError, StoreError};
use super::folder::Folder;
use super::id::BlobId;
use super::index::IndexChange;
use super::memory::MemoryId;
use super::object::{NewObject, Object};
use super::partial::PartialBlob;
use super::read::BodySource;
use super::scratch::{Scratch, journal_of};
use super::segment::{HashedPrefix, Segment};
use super::trailer::{self, RECORD_MAX};
use super::unfinished::UnfinishedFill;
use super::{BLOCK, CHUNK, Store, journal};

/// DiskBudget taken at once for a body of unknown length.
const STEP: u64 = 8 << 20;

/// Writes and syncs at once, for all fills: each write has a chunk's buffer that must be had whatever is held, and a
/// thread. A few keep a disk busy; hundreds of fills that end together would take hundreds of MiB.
pub(super) const DISK_WRITES: usize = 16;

/// A blob being written.
pub struct BlobWriter {
    draft: Arc<Draft>,
    /// Not there while a segment has it, and not after that segment was lost.
    prefix: Option<HashedPrefix>,
}

/// What a commit made.
#[derive(Debug)]
pub struct CommittedObject {
    /// The object, as the index has it.
    pub object: Object,
    /// Its body.
    pub source: BodySource,
    /// The same bytes were there already; the copy is removed.
    pub deduplicated: bool,
}

/// A half-written blob, shared by its segments.
pub(super) struct Draft {
    pub(super) store: Arc<Store>,
    pub(super) partial: Arc<PartialBlob>,
    /// There until the commit takes it, or the store is given up. Held to look, never across I/O.
    scratch: Mutex<Option<Scratch>>,
    journal: OnceLock<OpenJournal>,
    written: AtomicU64,
    /// Writes that run, also those whose segment is gone.
    pub(super) writes: TaskTracker,
}

struct OpenJournal {
    file: Arc<File>,
    object: NewObject,
}

impl Store {
    /// Begins a blob. With its length known, room for all of it is made now; else step by step.
    pub async fn begin_blob(self: &Arc<Self>, len: Option<u64>) -> Result<BlobWriter, StoreError> {
        self.health.check()?;
        self.seen_to_begin(self.begin_draft(len).await).await
    }

    async fn begin_draft(self: &Arc<Self>, len: Option<u64>) -> Result<BlobWriter, StoreError> {
        if self.is_released() {
            return self.begin_nameless(len).await;
        }
        let bytes = on_disk(trailer::file_size(len.unwrap_or(0)));
        let reservation = self.reserve(bytes).await?;
        let folder = Arc::clone(&self.folder);
        let (number, file, scratch) = spawn_blocking(move || folder.create(reservation)).await??;
        let partial = PartialBlob::new(number, file, len, BlockMap::default(), self.counters.open_file());
        let writer = BlobWriter::new(Arc::clone(self), partial, Some(scratch));
        if self.tenure.register(&writer.draft).is_err() {
            let draft = Arc::clone(&writer.draft);
            spawn_blocking(move || draft.lose_name()).await?;
        }
        Ok(writer)
    }

    /// Begins what only its readers will have.
    async fn begin_nameless(self: &Arc<Self>, len: Option<u64>) -> Result<BlobWriter, StoreError> {
        let folder = Arc::clone(&self.folder);
        let (number, file) = spawn_blocking(move || folder.create_nameless()).await??;
        let partial = PartialBlob::new(number, file, len, BlockMap::default(), self.counters.open_file());
        Ok(BlobWriter::new(Arc::clone(self), partial, None))
    }

    /// Goes on with a blob that an earlier fill left half-written.
    pub async fn resume_blob(self: &Arc<Self>, unfinished: UnfinishedFill) -> Result<BlobWriter, StoreError> {
        let UnfinishedFill { object, len, blocks, scratch } = unfinished;
        let opened = spawn_blocking(move || scratch.reopen().map(|files| (files, scratch)));
        let ((number, file, journal), scratch) = self.health.seen(opened.await?)?;
        let written = blocks.count() as u64 * BLOCK;
        let partial = PartialBlob::new(number, file, Some(len), blocks, self.counters.open_file());
        let writer = BlobWriter::new(Arc::clone(self), partial, Some(scratch));
        if let Err(error) = self.tenure.register(&writer.draft) {
            // Another process goes on with it.
            writer.draft.lock().take().into_iter().for_each(Scratch::leave);
            return Err(error);
        }
        writer.draft.wrote(written);
        let _ = writer.draft.journal.set(OpenJournal { file: Arc::new(journal), object });
        Ok(writer)
    }
}

impl BlobWriter {
    fn new(store: Arc<Store>, partial: Arc<PartialBlob>, scratch: Option<Scratch>) -> Self {
        let draft = Draft {
            store,
            partial,
            scratch: Mutex::new(scratch),
            journal: OnceLock::new(),
            written: AtomicU64::new(0),
            writes: TaskTracker::new(),
        };
        Self { draft: Arc::new(draft), prefix: Some(HashedPrefix { sha256: Sha256::new(), len: 0 }) }
    }

    /// What readers read meanwhile.
    pub fn partial(&self) -> &Arc<PartialBlob> {
        &self.draft.partial
    }

    /// From now on what is written outlives this writer and the process, for the next fill of `object`.
    pub async fn start_journal(&self, object: NewObject) -> Result<(), StoreError> {
        let (Some(len), None) = (self.partial().length(), self.draft.journal.get()) else { return Ok(()) };
        let begin = journal::begin(len, &object);
        if begin.len() > RECORD_MAX {
            return Err(StoreError::HeadTooLarge { bytes: begin.len(), max: RECORD_MAX });
        }
        if self.draft.store.is_released() {
            return Ok(());
        }
        let draft = Arc::clone(&self.draft);
        let path = draft.lock().as_mut().map(Scratch::with_journal).ok_or(StoreError::Broken)?;
        let folder = Arc::clone(&draft.store.folder);
        let begun = spawn_blocking(move || folder.begin_journal(&path, &begin)).await?;
        let file = draft.store.health.seen(begun)?;
        let _ = draft.journal.set(OpenJournal { file: Arc::new(file), object });
        Ok(())
    }

    /// What is written from `start`, a block's begin, on.
    pub fn begin_segment(&mut self, start: u64) -> Segment {
        let prefix = self.prefix.take_if(|prefix| prefix.len == start);
        Segment::new(Arc::clone(&self.draft), Arc::clone(&self.draft.store.memory), start, prefix)
    }

    /// Takes back what a segment that has ended knows of the whole.
    pub fn return_segment(&mut self, segment: Segment) {
        self.prefix = segment.into_prefix().or(self.prefix.take());
    }

    /// Whether every byte is there, and each is what was written: what was not hashed as it came is read back now.
    /// Gives what is missing, or the length.
    pub async fn finish(&mut self) -> Result<Result<u64, Range<u64>>, StoreError> {
        let partial = self.partial().clone();
        let len = partial.length().ok_or(StoreError::Broken)?;
        let mut prefix = self.prefix.take().unwrap_or_else(|| HashedPrefix { sha256: Sha256::new(), len: 0 });
        while prefix.len < len {
            let at = prefix.len;
            if let Some(missing) = partial.first_gap(at..(at / CHUNK * CHUNK + CHUNK).min(len)) {
                self.prefix = Some(prefix);
                return Ok(Err(missing));
            }
            let losses = partial.loss_count();
            prefix = match self.draft.hash_on(prefix, len).await? {
                (prefix, Ok(())) => prefix,
                (prefix, Err(ReadError::Damaged { what, fault })) => {
                    tracing::warn!(what, fault, at, "fetching again what the disk did not keep");
                    partial.invalidate_chunk(prefix.len, losses);
                    prefix
                }
                (_, Err(error)) => return Err(error.into()),
            };
        }
        self.prefix = Some(prefix);
        Ok(partial.first_gap(0..len).map_or(Ok(len), Err))
    }

    /// The SHA-256 of a body that is finished.
    pub fn blob_id(&self) -> Result<BlobId, StoreError> {
        let prefix = self.prefix.as_ref().ok_or(StoreError::Broken)?;
        Ok(BlobId::from(<[u8; 32]>::from(prefix.sha256.clone().finalize())))
    }

    /// Makes an object of a body of which every byte is there.
    pub async fn commit(self, object: NewObject) -> Result<CommittedObject, StoreError> {
        let store = Arc::clone(&self.draft.store);
        store.health.seen(self.enter(object).await)
    }

    async fn enter(mut self, object: NewObject) -> Result<CommittedObject, StoreError> {
        let _until_it_has_a_row = self.draft.store.tenure.commit()?;
        let len = self.finish().await?.map_err(|_| StoreError::Broken)?;
        let record = object.encode();
        if record.len() > RECORD_MAX {
            return Err(StoreError::HeadTooLarge { bytes: record.len(), max: RECORD_MAX });
        }
        let (Some(prefix), Some(scratch)) = (self.prefix.take(), self.draft.lock().take()) else {
            return Err(StoreError::Broken);
        };
        let checksums = self.partial().checksums(len).ok_or(StoreError::Broken)?;
        let id = BlobId::from(<[u8; 32]>::from(prefix.sha256.finalize()));
        let partial = Arc::clone(self.partial());
        let store = &self.draft.store;
        let seal = move || {
            let trailer = trailer::encode(id, len, &checksums, &record);
            let done = partial.file.write_all_at(&trailer, len).and_then(|()| partial.file.sync_data());
            match done {
                Ok(()) => Ok((scratch, len + trailer.len() as u64)),
                Err(source) => {
                    Err(StoreError::Io { doing: "write", path: scratch.path().to_owned(), source })
                }
            }
        };
        let (scratch, size) = {
            let _permit = store.disk_writes.acquire().await;
            spawn_blocking(seal).await??
        };
        let enter = SealedBlob { folder: Arc::clone(&store.folder), id, len, size, scratch };
        let (failed, now) = (store.index.failure(), store.clock.now());
        let new = object.clone();
        let ((row, deduplicated, scratch), gone) = store
            .index
            .change(move |change| {
                let (blob, deduplicated, scratch) = enter.run(change, &failed)?;
                let row = change.insert_object(&new, blob, now).map_err(&failed)?;
                Ok((row, deduplicated, scratch))
            })
            .await?;
        let (memory, partial) = (Arc::clone(&store.memory), Arc::clone(self.partial()));
        let settle = move || {
            let from = partial.memory_id();
            partial.committed(id);
            memory.rename(from, MemoryId::Blob(id), len);
            drop((scratch, gone));
        };
        spawn_blocking(settle).await?;
        let object = object.into_object(row, id, len, now);
        Ok(CommittedObject { object, source: BodySource::Blob { id, len }, deduplicated })
    }

    /// Waits for writes of segments that are gone.
    pub async fn wait_for_writes(&self) {
        self.draft.writes.close();
        self.draft.writes.wait().await;
        self.draft.writes.reopen();
    }

    /// Leaves what was written to the next fill of the object, if it has a journal. Its segments are gone by now.
    pub async fn suspend(self) {
        self.wait_for_writes().await;
    }

    /// Removes what was written: it is of no use to a later fill.
    pub fn discard(self) {
        if let Some(scratch) = &mut *self.draft.lock() {
            scratch.without_journal();
        }
    }
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter").field("partial", self.partial()).finish_non_exhaustive()
    }
}

impl Draft {
    /// Goes on without a name and without a right to room: the folder is another process's. Unlinks.
    pub(super) fn lose_name(&self) {
        let scratch = self.lock().take();
        drop(scratch);
    }

    /// Takes more room for a body that does not say its length.
    pub(super) async fn make_room(&self, len: u64) -> Result<(), StoreError> {
        if self.store.is_released() {
            return Ok(());
        }
        let has = self.lock().as_ref().ok_or(StoreError::Broken)?.reservation.bytes();
        let need = on_disk(trailer::file_size(len));
        if let Some(more) = need.checked_sub(has).filter(|more| *more > 0) {
            let reservation = match self.store.reserve(more.max(STEP)).await {
                // What is missing for a whole step may still do for these bytes.
                Err(StoreError::NoRoom { .. } | StoreError::TooLarge { .. }) => {
                    self.store.reserve(more).await?
                }
                other => other?,
            };
            self.lock().as_mut().ok_or(StoreError::Broken)?.reservation.join(reservation);
        }
        Ok(())
    }

    /// Counts bytes that the file system counts itself from now on.
    pub(super) fn wrote(&self, bytes: u64) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(scratch) = &mut *self.lock() {
            scratch.reservation.written(written);
        }
    }

    pub(super) fn journal(&self) -> Option<&File> {
        self.journal.get().map(|journal| &*journal.file)
    }

    /// Where its journal is, if a later fill could go on with it.
    pub(super) fn journal_path(&self) -> Option<PathBuf> {
        self.journal.get()?;
        self.lock().as_ref().filter(|scratch| scratch.has_journal()).map(|scratch| journal_of(scratch.path()))
    }

    /// For messages.
    pub(super) fn path(&self) -> PathBuf {
        self.lock().as_ref().map_or_else(|| PathBuf::from("partial"), |scratch| scratch.path().to_owned())
    }

    /// Hashes on to the chunk's end, from the file; a block that is not what was written is forgotten.
    async fn hash_on(
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

    fn lock(&self) -> MutexGuard<'_, Option<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("partial", &self.partial).finish_non_exhaustive()
    }
}

impl Drop for Draft {
    /// Keeps what a later fill can go on with. Removes the file otherwise, without holding up the async thread unless
    /// the runtime is gone.
    fn drop(&mut self) {
        let Some(scratch) = self.lock().take() else { return };
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

/// A sealed blob about to get its name and row.
struct SealedBlob {
    folder: Arc<Folder>,
    id: BlobId,
    len: u64,
    size: u64,
    scratch: Scratch,
}

impl SealedBlob {
    /// On the index's thread, where no other change can cross it. Gives the row, whether the bytes were there already,
    /// and the scratch, which then still has the copy.
    fn run(
        mut self,
        change: &mut IndexChange<'_>,
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
