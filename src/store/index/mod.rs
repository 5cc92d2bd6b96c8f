//! Index of objects and blobs in SQLite. It owns the database and its journal, and uses [`Folder`] only for files
//! that enter or leave together with a row. Changes queue for one writing thread; lookups run on a few reading
//! connections. Nothing here runs on an async thread.
//!
//! A damaged or missing index is rebuilt from the journal ([`rebuild`]), at start or while it serves. Until then
//! every call fails, and requests are passed through.

mod check;
mod checkpoint;
mod compact;
mod gathering;
mod group_commit;
mod journal;
mod key_filter;
mod migrate;
mod pack_compaction;
mod policy;
mod rebuild;
mod records;
mod removal;
mod restore;
mod retention;
mod row;
mod schema;
mod state;
mod statements;
mod writer;

pub(super) use self::journal::read_frames;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;

use self::gathering::Gathering;
use self::state::IndexState;
use self::writer::{IndexWriter, Isolation, PendingCommit, Work, WriterContext};
use super::budget::DiskBudget;
use super::folder::Folder;
use super::object::Object;
use super::pack::PackPlace;
use super::packs::Packs;
use super::pending_sync::PendingSync;
use super::scratch::Scratch;
use super::stats::Counters;
use super::{BlobId, StoreError};
use crate::ObjectKey;
use gupd_config::clock::Clock;

pub(super) use self::journal::NAMED_MAX;
pub(super) use self::records::NamedValue;
pub(super) use self::removal::{RemovalTarget, RemovedObjects};
pub(super) use self::row::{ROW, object, place_of, unsigned};
pub(super) use self::statements::{BATCH, BlobRow, IndexChange};

/// Maximum number of queued changes; further callers wait.
const QUEUE: usize = 1024;

/// Maximum number of concurrent lookups. A lookup takes microseconds; this many saturate a disk.
const READERS: usize = 4;

/// Rows read at once in a scan: a millisecond's work, beside which lookups proceed.
const PAGE: usize = 512;

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    state: Arc<IndexState>,
    jobs: Option<mpsc::Sender<Work>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<ReadPool>,
    pending_sync: Arc<PendingSync>,
    gathering: Arc<Gathering>,
    /// The whole index was checked since the start.
    checked: AtomicBool,
}

#[derive(Debug)]
struct ReadPool {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<ReadConnection>>,
}

/// A reading connection to the index file of `generation`.
#[derive(Debug)]
struct ReadConnection {
    generation: u64,
    connection: Connection,
}

impl Index {
    /// Opens, creates or rebuilds the index and starts its thread.
    pub(super) fn open(
        folder: Arc<Folder>,
        room: Arc<DiskBudget>,
        counters: Arc<Counters>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let path = folder.index();
        let state = Arc::new(IndexState::new(Arc::clone(&folder)));
        let (pending_sync, gathering) = (Arc::<PendingSync>::default(), Arc::<Gathering>::default());
        let writer = IndexWriter::open(WriterContext {
            folder,
            room,
            counters,
            state: Arc::clone(&state),
            clock,
            pending_sync: Arc::clone(&pending_sync),
            gathering: Arc::clone(&gathering),
        })?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("gupd-index".to_owned());
        let checked = AtomicBool::new(check::is_small(&path));
        let writer = thread.spawn(move || writer.run(queue)).map_err(|source| StoreError::Io {
            doing: "start the index thread for",
            path,
            source,
        })?;
        gathering.set_thread(writer.thread());
        let readers = ReadPool { permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() };
        let (jobs, writer, readers) = (Some(jobs), Some(writer), Arc::new(readers));
        Ok(Self { state, jobs, writer, readers, pending_sync, gathering, checked })
    }

    /// Switches to the index of the store that replaced this one.
    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        let (done, reply) = oneshot::channel();
        self.send(Work::Reopen(done)).await?;
        reply.await.map_err(|_| self.stopped())??;
        self.checked.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Commits queued changes and closes the file for changes: later ones fail. Reads still work.
    pub(super) async fn release(&self) {
        self.state.keys.clear();
        let (done, reply) = oneshot::channel();
        if self.send(Work::Release(done)).await.is_ok() {
            // A thread that ended early has closed the file too.
            let _closed = reply.await;
        }
    }

    /// Returns the files that wait for their sync.
    pub(super) fn pending_sync(&self) -> &Arc<PendingSync> {
        &self.pending_sync
    }

    /// Returns the shared state of the index.
    pub(super) fn state(&self) -> &IndexState {
        &self.state
    }

    /// Runs maintenance: replaces a damaged file, checks a large index once, and compacts the journal if that is
    /// due.
    pub(super) async fn maintain(&self) -> Result<(), StoreError> {
        if self.state.is_damaged() {
            self.send(Work::CheckDamage).await?;
        }
        if !self.checked.load(Ordering::Relaxed) {
            self.read(check::check_all).await?;
            self.checked.store(true, Ordering::Relaxed);
        }
        if self.state.keys.is_due() {
            self.build_key_filter().await?;
        }
        self.compact().await
    }

    /// Builds the filter of keys from the whole index.
    async fn build_key_filter(&self) -> Result<(), StoreError> {
        let state = Arc::clone(&self.state);
        let map_error = self.error_mapper();
        // On the index thread: every change is committed before the read below, or adds its keys.
        let begin = move |change: &mut IndexChange<'_>| {
            let objects = statements::totals(change.connection).map_err(map_error)?.objects;
            Ok(state.keys.begin(objects))
        };
        let (bits, _) = self.change(begin).await?;
        let filled = Arc::clone(&bits);
        self.read(move |connection| row::for_each_key(connection, |key| filled.add(key))).await?;
        self.state.keys.finish(bits);
        Ok(())
    }

    /// Returns all variants of a key, newest first.
    pub(super) async fn find(&self, key: &str) -> Result<Vec<Object>, StoreError> {
        if !self.state.is_damaged() && !self.state.keys.may_have(key) {
            return Ok(Vec::new());
        }
        let key = key.to_owned();
        self.read(move |connection| row::find(connection, &key)).await
    }

    /// Returns a page of objects without copies, by row, after `after`.
    pub(super) async fn page(&self, after: i64) -> Result<Vec<Object>, StoreError> {
        self.read(move |connection| row::page(connection, after, PAGE)).await
    }

    /// Returns the objects of each content type without copies, and the bytes of their bodies.
    pub(super) async fn stored_by_type(&self) -> Result<BTreeMap<String, crate::RemovalStats>, StoreError> {
        self.read(row::by_type).await
    }

    /// Returns the keys of all copies.
    pub(super) async fn copies(&self) -> Result<Vec<ObjectKey>, StoreError> {
        self.read(row::copies).await
    }

    /// Returns all held objects.
    pub(super) async fn held(&self) -> Result<Vec<Object>, StoreError> {
        self.read(row::held).await
    }

    /// Returns all records with names that begin with `prefix`.
    pub(super) async fn records(&self, prefix: &str) -> Result<Vec<NamedValue>, StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |connection| records::with_prefix(connection, &prefix)).await
    }

    /// Returns a page of client rows by name, after `after`.
    pub(super) async fn clients(&self, after: &str) -> Result<Vec<NamedValue>, StoreError> {
        let after = after.to_owned();
        self.read(move |connection| records::page_clients(connection, &after, PAGE)).await
    }

    /// Returns at most `limit` objects of a blob, newest first.
    pub(super) async fn objects_of(&self, blob: BlobId, limit: usize) -> Result<Vec<Object>, StoreError> {
        self.read(move |connection| row::with_blob(connection, blob, limit)).await
    }

    /// Returns the place of a blob in a pack; `None` for one with its own file.
    pub(super) async fn place(&self, blob: BlobId) -> Result<Option<PackPlace>, StoreError> {
        self.read(move |connection| row::place_of(connection, blob)).await
    }

    /// Returns those of `ids` that have no row.
    pub(super) async fn missing_blobs(&self, ids: Vec<BlobId>) -> Result<Vec<BlobId>, StoreError> {
        self.read(move |connection| {
            let missing = |id: BlobId| match statements::blob_row(connection, id) {
                Ok(None) => Some(Ok(id)),
                Ok(Some(_)) => None,
                Err(error) => Some(Err(error)),
            };
            ids.into_iter().filter_map(missing).collect()
        })
        .await
    }

    /// Runs a change and commits it. Returns, besides its result, the files of removed blobs: dropping them
    /// unlinks them, which may block.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut IndexChange<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, Vec<Scratch>), StoreError> {
        let _urgent = self.gathering.begin_urgent();
        self.run_change(Isolation::Savepoint, work).await
    }

    /// Runs a change and commits it with others that arrive within milliseconds. An error of the index fails all of
    /// them, because a savepoint for each change costs more than the rows of an object. `work` must do everything else
    /// that can fail before it writes to the index.
    pub(super) async fn change_in_group<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut IndexChange<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, Vec<Scratch>), StoreError> {
        self.run_change(Isolation::Group, work).await
    }

    async fn run_change<T: Send + 'static>(
        &self,
        isolation: Isolation,
        work: impl FnOnce(&mut IndexChange<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, Vec<Scratch>), StoreError> {
        let (answer, reply) = oneshot::channel();
        let state = Arc::clone(&self.state);
        let job = move |connection: &Connection, packs: &mut Packs, is_grouped: bool| {
            let mut change = IndexChange::for_store(connection, packs, &state.keys);
            let is_grouped = is_grouped && isolation == Isolation::Group;
            let result = if is_grouped {
                work(&mut change)
            } else {
                writer::run_in_savepoint(&mut change, work, |error| state.map_error(&error))
            };
            let group_failure = match &result {
                Err(StoreError::Index { reason, .. } | StoreError::IndexDamaged { reason, .. })
                    if is_grouped =>
                {
                    Some(reason.clone())
                }
                _ => None,
            };
            PendingCommit {
                group_failure,
                unreferenced: change.unreferenced,
                journal: change.journal,
                appended: change.appended,
                removed_records: change.removed_records,
                // The caller may have gone away.
                answer: Box::new(move |committed| {
                    drop(answer.send(committed.and_then(|removed_files| Ok((result?, removed_files)))));
                }),
            }
        };
        self.send(Work::Change(Box::new(job))).await?;
        let changed = reply.await.map_err(|_| self.stopped())?;
        self.pending_sync.schedule();
        changed
    }

    /// Returns a function that maps errors of a change's statements.
    pub(super) fn error_mapper(&self) -> impl Fn(rusqlite::Error) -> StoreError + Send + use<> {
        let state = Arc::clone(&self.state);
        move |error| state.map_error(&error)
    }

    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.readers.permits).acquire_owned().await;
        let (readers, state) = (Arc::clone(&self.readers), Arc::clone(&self.state));
        let read = spawn_blocking(move || {
            let _permit = permit;
            if state.is_damaged() {
                return Err(state.error("damaged and being rebuilt".to_owned()));
            }
            let generation = state.generation.load(Ordering::Acquire);
            let idle = readers.idle().pop().filter(|idle| idle.generation == generation);
            let look = || {
                let connection = match idle {
                    Some(idle) => idle.connection,
                    None => schema::open_reader(state.path())?,
                };
                let result = look(&connection)?;
                readers.idle().push(ReadConnection { generation, connection });
                Ok(result)
            };
            look().map_err(|error: rusqlite::Error| state.map_error(&error))
        });
        let result = read.await?;
        if result.is_err() && self.state.is_damaged() {
            // With a full queue the thread is busy, and checks for damage afterwards.
            self.jobs.as_ref().map(|jobs| jobs.try_send(Work::CheckDamage));
        }
        result
    }

    async fn send(&self, work: Work) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().ok_or_else(|| self.stopped())?;
        jobs.send(work).await.map_err(|_| self.stopped())
    }

    fn stopped(&self) -> StoreError {
        self.state.error("its thread has ended".to_owned())
    }
}

impl Drop for Index {
    /// Waits for the last transaction, so that the folder's next owner finds it complete.
    fn drop(&mut self) {
        self.jobs = None;
        // The writing connection is then the last one and leaves no -wal.
        self.readers.idle().clear();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("index thread panicked");
        }
    }
}

impl ReadPool {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<ReadConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
