//! The index: which objects there are and which blobs they have. Owns the database and its journal; relies on
//! [`Folder`] only for files that enter or leave together with a row. Changes queue for one writing thread; look-ups run
//! on a few reading connections beside it. Nothing here runs on an async thread.
//!
//! An index that is damaged or missing is made anew from the journal ([`rebuild`]), at start or while it serves; until
//! that is done every call fails, and requests are passed through.

mod check;
mod compact;
mod journal;
mod migrate;
mod policy;
mod rebuild;
mod records;
mod restore;
mod retention;
mod row;
mod schema;
mod state;
mod statements;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;

use self::state::IndexState;
use self::writer::{IndexWriter, PendingCommit, Work, WriterContext};
use super::budget::DiskBudget;
use super::folder::Folder;
use super::object::Object;
use super::scratch::Scratch;
use super::stats::Counters;
use super::{BlobId, StoreError};
use crate::ObjectKey;
use gupd_config::clock::Clock;

pub(super) use self::journal::NAMED_MAX;
pub(super) use self::records::NamedValue;
pub(super) use self::retention::Retention;
pub(super) use self::row::{ROW, object, unsigned};
pub(super) use self::statements::{BATCH, IndexChange, RemovalTarget, RemovedObjects};

/// Changes waiting for the writing thread; beyond them callers wait.
const QUEUE: usize = 1024;

/// Look-ups at once. A look-up takes microseconds; this many saturate a disk.
const READERS: usize = 4;

/// Rows read at once by who reads all: a millisecond's work, beside which look-ups go on.
const PAGE: usize = 512;

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    state: Arc<IndexState>,
    jobs: Option<mpsc::Sender<Work>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
    /// All of it was read since the start and found sound.
    checked: AtomicBool,
}

#[derive(Debug)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Reader>>,
}

/// A reading connection, to the file of that generation.
#[derive(Debug)]
struct Reader {
    generation: u64,
    connection: Connection,
}

impl Index {
    /// Opens, begins or remakes the index and starts its thread.
    pub(super) fn open(
        folder: Arc<Folder>,
        room: Arc<DiskBudget>,
        counters: Arc<Counters>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let path = folder.index();
        let state = Arc::new(IndexState::new(Arc::clone(&folder)));
        let writer =
            IndexWriter::open(WriterContext { folder, room, counters, state: Arc::clone(&state), clock })?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("gupd-index".to_owned());
        let checked = AtomicBool::new(check::is_small(&path));
        let writer = thread.spawn(move || writer.run(queue)).map_err(|source| StoreError::Io {
            doing: "start the thread of the index",
            path,
            source,
        })?;
        let readers = Readers { permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() };
        Ok(Self { state, jobs: Some(jobs), writer: Some(writer), readers: Arc::new(readers), checked })
    }

    /// Goes on with the index that is now in the place of the one that was opened.
    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        let (done, told) = oneshot::channel();
        self.send(Work::Reopen(done)).await?;
        told.await.map_err(|_| self.stopped())??;
        self.checked.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Commits what is waiting and closes the file for changes: every later one fails. Reading goes on.
    pub(super) async fn release(&self) {
        let (done, told) = oneshot::channel();
        if self.send(Work::Release(done)).await.is_ok() {
            // A thread that ends without a word has closed the file too.
            let _closed = told.await;
        }
    }

    /// What a rebuilt index still lacks, and whether files were looked at.
    pub(super) fn state(&self) -> &IndexState {
        &self.state
    }

    /// Upkeep: has a damaged file replaced, checks a large index once, writes the journal anew if that is due.
    pub(super) async fn maintain(&self) -> Result<(), StoreError> {
        if self.state.is_damaged() {
            self.send(Work::Look).await?;
        }
        if !self.checked.load(Ordering::Relaxed) {
            self.read(check::whole).await?;
            self.checked.store(true, Ordering::Relaxed);
        }
        self.compact().await
    }

    /// All variants of a key, newest first.
    pub(super) async fn find(&self, key: &str) -> Result<Vec<Object>, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| row::find(connection, &key)).await
    }

    /// A page of all objects but copies by row, behind `after`.
    pub(super) async fn page(&self, after: i64) -> Result<Vec<Object>, StoreError> {
        self.read(move |connection| row::page(connection, after, PAGE)).await
    }

    /// Keys of all copies.
    pub(super) async fn copies(&self) -> Result<Vec<ObjectKey>, StoreError> {
        self.read(row::copies).await
    }

    /// All records whose names begin with `prefix`.
    pub(super) async fn records(&self, prefix: &str) -> Result<Vec<NamedValue>, StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |connection| records::records(connection, &prefix)).await
    }

    /// A page of what is known of clients by name, behind `after`.
    pub(super) async fn clients(&self, after: &str) -> Result<Vec<NamedValue>, StoreError> {
        let after = after.to_owned();
        self.read(move |connection| records::clients(connection, &after, PAGE)).await
    }

    /// Objects that have this body, newest first, at most `limit`.
    pub(super) async fn objects_of(&self, blob: BlobId, limit: usize) -> Result<Vec<Object>, StoreError> {
        self.read(move |connection| row::of_blob(connection, blob, limit)).await
    }

    /// Those of `ids` that have no row.
    pub(super) async fn absent(&self, ids: Vec<BlobId>) -> Result<Vec<BlobId>, StoreError> {
        self.read(move |connection| {
            let absent = |id: BlobId| match statements::blob(connection, id) {
                Ok(None) => Some(Ok(id)),
                Ok(Some(_)) => None,
                Err(error) => Some(Err(error)),
            };
            ids.into_iter().filter_map(absent).collect()
        })
        .await
    }

    /// Runs a change and commits it. Gives, besides its result, the files of blobs that went with it: dropping them
    /// removes them, which may block.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut IndexChange<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, Vec<Scratch>), StoreError> {
        let (tell, told) = oneshot::channel();
        let state = Arc::clone(&self.state);
        let job = move |connection: &Connection| {
            let mut change = IndexChange::new(connection);
            let result = writer::savepoint(&mut change, work, |error| state.failed(&error));
            PendingCommit {
                unreferenced: change.unreferenced,
                journal: change.journal,
                // A caller that went away wants no answer.
                answer: Box::new(move |committed| {
                    drop(tell.send(committed.and_then(|taken_out| Ok((result?, taken_out)))));
                }),
            }
        };
        self.send(Work::Change(Box::new(job))).await?;
        told.await.map_err(|_| self.stopped())?
    }

    /// An error of one of a change's statements.
    pub(super) fn failure(&self) -> impl Fn(rusqlite::Error) -> StoreError + Send + use<> {
        let state = Arc::clone(&self.state);
        move |error| state.failed(&error)
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
                return Err(state.error("it is damaged and being rebuilt".to_owned()));
            }
            let generation = state.generation.load(Ordering::Acquire);
            let idle = readers.idle().pop().filter(|idle| idle.generation == generation);
            let look = || {
                let connection = match idle {
                    Some(idle) => idle.connection,
                    None => schema::open_reader(state.path())?,
                };
                let result = look(&connection)?;
                readers.idle().push(Reader { generation, connection });
                Ok(result)
            };
            look().map_err(|error: rusqlite::Error| state.failed(&error))
        });
        let result = read.await?;
        if result.is_err() && self.state.is_damaged() {
            // With a full queue the thread has work, and looks after it.
            self.jobs.as_ref().map(|jobs| jobs.try_send(Work::Look));
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
    /// Waits for the last transaction, so that whoever opens the folder next finds it whole.
    fn drop(&mut self) {
        self.jobs = None;
        // The writing connection is the last one then, and leaves no -wal.
        self.readers.idle().clear();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the index's thread ended by a panic");
        }
    }
}

impl Readers {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
