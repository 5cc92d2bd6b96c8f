//! Writing of a blob, from creation to commit. A [`BlobWriter`] belongs to one fill. It owns the unfinished bytes,
//! their reserved room and their journal, hands out the segments that write them, and creates the object when every
//! byte is present. A writer dropped before its commit leaves a file for the next fill of the object if it has
//! a journal; otherwise the bytes are gone. The fill notifies the readers.
//!
//! A body of at most a chunk is in memory until its commit, is written once, and is synced with others within a second
//! (see `pending_sync`). One smaller than a block becomes a record of a pack (see `pack`), on the index thread. For
//! larger ones than a chunk, the commit order is: trailer, fdatasync, then on the index thread the rename and the row.
//! A crash in between leaves a whole blob without a row, which the sweep removes; never a row without its bytes.
//! Nothing is synced before the commit. A power failure therefore costs the bytes that the system has not written yet,
//! and no more (see `journal`).

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use sha2::Digest;
use tokio::task::spawn_blocking;

use super::blocks::BlockMap;
use super::budget::{Reservation, allocated_size};
use super::draft::{Draft, DraftRoom, HashedPrefix};
use super::error::{ReadError, StoreError};
use super::folder::Folder;
use super::id::BlobId;
use super::index::{BlobRow, IndexChange};
use super::memory::{ChunkKey, MemoryId};
use super::object::{EncodedObject, NewObject, Object};
use super::pack::{self, PACKED_BELOW};
use super::partial::PartialBlob;
use super::partial_body::PartialBody;
use super::read::BodySource;
use super::scratch::Scratch;
use super::segment::Segment;
use super::trailer::{self, RECORD_MAX};
use super::unfinished::UnfinishedFill;
use super::{BLOCK, CHUNK, Store, journal};

/// Maximum number of concurrent writes and syncs of all fills. Each write occupies a thread and a chunk buffer
/// that is allocated regardless of the memory limit. A few keep a disk busy; hundreds of fills that end together
/// would take hundreds of MiB.
pub(super) const DISK_WRITES: usize = 16;

/// Row of an object that is in memory only; the index never gives it.
const NO_ROW: i64 = 0;

/// A blob being written.
pub struct BlobWriter {
    draft: Arc<Draft>,
    /// `None` while a segment owns it, or after that segment was lost.
    prefix: Option<HashedPrefix>,
}

/// Result of a commit.
#[derive(Debug)]
pub struct CommittedObject {
    /// The object in the index.
    pub object: Object,
    /// Its body.
    pub source: BodySource,
    /// True if the same bytes were stored already; this copy is removed.
    pub deduplicated: bool,
}

impl Store {
    /// Begins a blob. If its length is known, room for all of it is reserved now, otherwise in steps.
    ///
    /// # Errors
    /// When there is no room, or the disk fails or is known to fail.
    pub async fn begin_blob(self: &Arc<Self>, len: Option<u64>) -> Result<BlobWriter, StoreError> {
        self.health.check()?;
        self.observe_begin(self.create_draft(len).await).await
    }

    async fn create_draft(self: &Arc<Self>, len: Option<u64>) -> Result<BlobWriter, StoreError> {
        if self.is_released() {
            return self.create_unlinked_draft(len).await;
        }
        let bytes = allocated_size(trailer::file_size(len.unwrap_or(0)));
        let reservation = self.reserve(bytes).await?;
        if len.is_none_or(|len| len <= CHUNK) {
            let partial = self.create_partial_in_memory(len);
            return Ok(BlobWriter::new(Arc::clone(self), partial, Some(DraftRoom::Memory(reservation))));
        }
        let folder = Arc::clone(&self.folder);
        let (number, file, scratch) = spawn_blocking(move || folder.create(reservation)).await??;
        let body = PartialBody::in_file(file, self.counters.open_file());
        let partial = PartialBlob::new(number, body, len, BlockMap::default());
        let writer = BlobWriter::new(Arc::clone(self), partial, Some(DraftRoom::File(scratch)));
        if self.lease.register(&writer.draft).is_err() {
            let draft = Arc::clone(&writer.draft);
            spawn_blocking(move || draft.unlink()).await?;
        }
        Ok(writer)
    }

    /// Begins a blob in an unlinked file, for its readers alone.
    async fn create_unlinked_draft(self: &Arc<Self>, len: Option<u64>) -> Result<BlobWriter, StoreError> {
        if len.is_none_or(|len| len <= CHUNK) {
            return Ok(BlobWriter::new(Arc::clone(self), self.create_partial_in_memory(len), None));
        }
        let folder = Arc::clone(&self.folder);
        let (number, file) = spawn_blocking(move || folder.create_unlinked()).await??;
        let body = PartialBody::in_file(file, self.counters.open_file());
        let partial = PartialBlob::new(number, body, len, BlockMap::default());
        Ok(BlobWriter::new(Arc::clone(self), partial, None))
    }

    fn create_partial_in_memory(&self, len: Option<u64>) -> Arc<PartialBlob> {
        let (number, _) = self.folder.next_path();
        PartialBlob::new(number, PartialBody::default(), len, BlockMap::default())
    }

    /// Resumes a blob that an earlier fill left unfinished.
    ///
    /// # Errors
    /// When its files cannot be opened, or the store was released.
    pub async fn resume_blob(self: &Arc<Self>, unfinished: UnfinishedFill) -> Result<BlobWriter, StoreError> {
        let UnfinishedFill { object, len, blocks, scratch } = unfinished;
        let opened = spawn_blocking(move || scratch.reopen().map(|files| (files, scratch)));
        let ((number, file, journal), scratch) = self.health.observe(opened.await?)?;
        let written = blocks.count() as u64 * BLOCK;
        let body = PartialBody::in_file(file, self.counters.open_file());
        let partial = PartialBlob::new(number, body, Some(len), blocks);
        let writer = BlobWriter::new(Arc::clone(self), partial, Some(DraftRoom::File(scratch)));
        if let Err(error) = self.lease.register(&writer.draft) {
            // Another process resumes it.
            if let Some(DraftRoom::File(scratch)) = writer.draft.room().take() {
                scratch.keep_files();
            }
            return Err(error);
        }
        writer.draft.record_written(written);
        writer.draft.set_journal(journal, object);
        Ok(writer)
    }
}

impl BlobWriter {
    fn new(store: Arc<Store>, partial: Arc<PartialBlob>, room: Option<DraftRoom>) -> Self {
        Self { draft: Draft::new(store, partial, room), prefix: Some(HashedPrefix::default()) }
    }

    /// Returns the partial blob that readers follow.
    pub fn partial(&self) -> &Arc<PartialBlob> {
        &self.draft.partial
    }

    /// Starts the journal: bytes written from now on survive this writer and the process, for the next fill of
    /// `object`. Does nothing for a body of unknown length.
    ///
    /// # Errors
    /// When the head is too large or the file cannot be written.
    pub async fn start_journal(&self, object: NewObject) -> Result<(), StoreError> {
        let Some(len) = self.partial().length().filter(|_| self.draft.journal().is_none()) else {
            return Ok(());
        };
        let begin = journal::encode_head(len, &object);
        if begin.len() > RECORD_MAX {
            return Err(StoreError::HeadTooLarge { bytes: begin.len(), max: RECORD_MAX });
        }
        if self.draft.store.is_released() {
            return Ok(());
        }
        let draft = Arc::clone(&self.draft);
        draft.spill().await?;
        let path = match &mut *draft.room() {
            Some(DraftRoom::File(scratch)) => scratch.enable_journal(),
            _ => return Err(StoreError::Broken),
        };
        let folder = Arc::clone(&draft.store.folder);
        let begun = spawn_blocking(move || folder.create_journal(&path, &begin)).await?;
        let file = draft.store.health.observe(begun)?;
        draft.set_journal(file, object);
        Ok(())
    }

    /// Returns a segment that writes from `start`, a block boundary.
    pub fn begin_segment(&mut self, start: u64) -> Segment {
        let prefix = self.prefix.take_if(|prefix| prefix.len == start);
        Segment::new(Arc::clone(&self.draft), Arc::clone(&self.draft.store.memory), start, prefix)
    }

    /// Takes back the running SHA-256 of a finished segment. One that ends within a block is of no use: the block has no
    /// checksum, so it is written again from its beginning.
    pub fn return_segment(&mut self, segment: Segment) {
        let len = self.partial().length();
        let is_usable = |prefix: &HashedPrefix| prefix.len.is_multiple_of(BLOCK) || Some(prefix.len) == len;
        self.prefix = segment.into_prefix().filter(is_usable).or(self.prefix.take());
    }

    /// Verifies that every byte is present. Bytes that were not hashed on arrival are read back. Returns the
    /// length, or the first missing range.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn finish(&mut self) -> Result<Result<u64, Range<u64>>, StoreError> {
        let partial = self.partial().clone();
        let len = partial.length().ok_or(StoreError::Broken)?;
        let mut prefix = self.prefix.take().unwrap_or_default();
        while prefix.len < len {
            let at = prefix.len;
            if let Some(missing) = partial.first_gap(at..(at / CHUNK * CHUNK + CHUNK).min(len)) {
                self.prefix = Some(prefix);
                return Ok(Err(missing));
            }
            let losses = partial.loss_count();
            prefix = match self.draft.hash_next_chunk(prefix, len).await? {
                (prefix, Ok(())) => prefix,
                (prefix, Err(ReadError::Damaged { subject, fault })) => {
                    tracing::warn!(
                        file = subject,
                        fault,
                        at,
                        "unfinished file damaged; fetching the chunk again"
                    );
                    partial.invalidate_chunk(prefix.len, losses);
                    prefix
                }
                (_, Err(error)) => return Err(error.into()),
            };
        }
        self.prefix = Some(prefix);
        Ok(partial.first_gap(0..len).map_or(Ok(len), Err))
    }

    /// Returns the SHA-256 of a finished body.
    pub fn blob_id(&self) -> Result<BlobId, StoreError> {
        let prefix = self.prefix.as_ref().ok_or(StoreError::Broken)?;
        Ok(BlobId::from(<[u8; 32]>::from(prefix.sha256.clone().finalize())))
    }

    /// Commits a body of which every byte is present.
    ///
    /// # Errors
    /// When bytes are missing, the head is too large, or the file or index cannot be written.
    pub async fn commit(self, object: NewObject) -> Result<CommittedObject, StoreError> {
        let store = Arc::clone(&self.draft.store);
        // Boxed, because every fill would have room for it from its start.
        store.health.observe(Box::pin(self.store_object(object)).await)
    }

    /// Ends a fill whose content stays in memory: it gets no row and no room on disk. The source of the returned object
    /// holds its bytes.
    ///
    /// # Errors
    /// When bytes are missing, or are not in memory.
    pub fn keep_in_memory(self, object: NewObject) -> Result<CommittedObject, StoreError> {
        let partial = Arc::clone(self.partial());
        let len = partial.length().ok_or(StoreError::Broken)?;
        if partial.body().file().is_some() || partial.first_gap(0..len).is_some() {
            return Err(StoreError::Broken);
        }
        let object = object.into_object(NO_ROW, self.blob_id()?, len, self.draft.store.clock.now());
        Ok(CommittedObject { object, source: BodySource::Partial(partial), deduplicated: false })
    }

    async fn store_object(mut self, object: NewObject) -> Result<CommittedObject, StoreError> {
        let _write_token = self.draft.store.lease.begin_write()?;
        let len = self.finish().await?.map_err(|_| StoreError::Broken)?;
        let object = EncodedObject::new(object);
        let record = object.record();
        if record.len() > RECORD_MAX {
            return Err(StoreError::HeadTooLarge { bytes: record.len(), max: RECORD_MAX });
        }
        let (Some(prefix), Some(room)) = (self.prefix.take(), self.draft.room().take()) else {
            return Err(StoreError::Broken);
        };
        let checksums = self.partial().checksums(len).ok_or(StoreError::Broken)?;
        let id = BlobId::from(<[u8; 32]>::from(prefix.sha256.finalize()));
        let body = match &room {
            DraftRoom::Memory(_) => Some(self.partial().body().whole(len).ok_or(StoreError::Broken)?),
            DraftRoom::File(_) => None,
        };
        let sealed = match (room, &body) {
            (DraftRoom::Memory(reservation), Some(body))
                if len < PACKED_BELOW && !pack::contains_magic(body, record) =>
            {
                SealedBlob::Packed {
                    id,
                    len,
                    record: pack::encode(id, body, &checksums, record),
                    reservation,
                }
            }
            (room, body) => {
                let (trailer, body) = (trailer::encode(id, len, &checksums, record), body.clone());
                self.seal_file((id, len), room, body, trailer).await?
            }
        };
        let store = &self.draft.store;
        let (map_error, now) = (store.index.error_mapper(), store.clock.now());
        let ((row, deduplicated, room, object), gone) = store
            .index
            .change_in_group(move |change| {
                let (blob, deduplicated, room) = sealed.install(change, &map_error)?;
                let row = change.insert_object(&object, blob, now).map_err(&map_error)?;
                Ok((row, deduplicated, room, object))
            })
            .await?;
        let partial = self.partial();
        let (from, to) = (partial.memory_id(), MemoryId::Blob(id));
        match body {
            Some(body) if !body.is_empty() && !store.memory.is_over_limit() => {
                store.memory.insert(ChunkKey { owner: to, chunk: 0 }, body);
            }
            Some(_) => {}
            None => store.memory.rename(from, to, len),
        }
        partial.set_blob(id);
        if matches!(room, DraftRoom::File(_)) || !gone.is_empty() {
            spawn_blocking(move || drop((room, gone))).await?;
        }
        let object = object.into_new().into_object(row, id, len, now);
        Ok(CommittedObject { object, source: BodySource::Blob { id, len }, deduplicated })
    }

    /// Completes the file of a blob, which has `body` unless it was written before. A body that was in memory until now
    /// is synced with others, soon after its commit.
    async fn seal_file(
        &self,
        (id, len): (BlobId, u64),
        room: DraftRoom,
        body: Option<Bytes>,
        trailer: Vec<u8>,
    ) -> Result<SealedBlob, StoreError> {
        let (store, partial) = (&self.draft.store, Arc::clone(self.partial()));
        let (folder, pending_sync) = (Arc::clone(&store.folder), Arc::clone(store.index.pending_sync()));
        let seal = move || {
            let (created, scratch) = match room {
                DraftRoom::Memory(reservation) => {
                    let (_, file, scratch) = folder.create(reservation)?;
                    (Some(file), scratch)
                }
                DraftRoom::File(scratch) => (None, scratch),
            };
            let file = created.as_ref().or(partial.body().file()).ok_or(StoreError::Broken)?;
            let done = body
                .map_or(Ok(()), |body| file.write_all_at(&body, 0))
                .and_then(|()| file.write_all_at(&trailer, len))
                .and_then(|()| if created.is_some() { Ok(()) } else { file.sync_data() });
            match done {
                Ok(()) => {
                    created.into_iter().for_each(|file| pending_sync.add_new(file));
                    Ok(SealedBlob::File { folder, id, len, size: len + trailer.len() as u64, scratch })
                }
                Err(source) => {
                    Err(StoreError::Io { doing: "write", path: scratch.path().to_owned(), source })
                }
            }
        };
        let _permit = store.disk_writes.acquire().await;
        spawn_blocking(seal).await?
    }

    /// Waits for writes of dropped segments.
    pub async fn wait_for_writes(&self) {
        self.draft.writes.close();
        self.draft.writes.wait().await;
        self.draft.writes.reopen();
    }

    /// Suspends the fill: waits for running writes, and leaves the file to the next fill if it has a journal. Its
    /// segments are dropped by now.
    pub async fn suspend(self) {
        self.wait_for_writes().await;
    }

    /// Removes the file: it is useless to a later fill.
    pub fn discard(self) {
        if let Some(DraftRoom::File(scratch)) = &mut *self.draft.room() {
            scratch.remove_journal();
        }
    }
}

impl std::fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobWriter").field("partial", self.partial()).finish_non_exhaustive()
    }
}

/// Complete bytes of a blob about to get their row.
enum SealedBlob {
    /// A file about to get its name.
    File { folder: Arc<Folder>, id: BlobId, len: u64, size: u64, scratch: Scratch },
    /// A record about to be appended to a pack.
    Packed { id: BlobId, len: u64, record: Vec<u8>, reservation: Reservation },
}

impl SealedBlob {
    /// Installs the bytes, and then changes the index. Runs on the index thread, where no other change can interleave. Returns the row,
    /// whether the bytes were stored already, and the room to give back after the commit; a file then still has the
    /// copy.
    fn install(
        self,
        change: &mut IndexChange<'_>,
        map_error: impl Fn(rusqlite::Error) -> StoreError,
    ) -> Result<(BlobRow, bool, DraftRoom), StoreError> {
        let (id, len) = match &self {
            Self::File { id, len, .. } | Self::Packed { id, len, .. } => (*id, *len),
        };
        // Missing or truncated bytes are replaced; rotten ones are detected when they are read.
        let found = change.find_blob(id).map_err(&map_error)?;
        if let Some(row) = found
            && change.is_present(id, len, row.place())?
        {
            return Ok((row, true, self.into_room()));
        }
        let (place, charged, room) = match self {
            Self::Packed { record, reservation, .. } => {
                let place = change.append(&record)?;
                (Some(place), place.charged_bytes(), DraftRoom::Memory(reservation))
            }
            Self::File { folder, size, mut scratch, .. } => {
                scratch.rename_to(&folder.blob(id))?;
                // If the transaction fails, the file has no row and is removed.
                change.mark_unreferenced(id);
                (None, allocated_size(size), DraftRoom::File(scratch))
            }
        };
        let row = match found {
            Some(row) => change.set_place(id, place).map(|_| row.at(place)),
            None => change.insert_blob(id, (len, charged), place),
        };
        Ok((row.map_err(map_error)?, false, room))
    }

    fn into_room(self) -> DraftRoom {
        match self {
            Self::File { scratch, .. } => DraftRoom::File(scratch),
            Self::Packed { reservation, .. } => DraftRoom::Memory(reservation),
        }
    }
}
