//! The index: which objects there are and which blobs they have. Owns the database; relies on [`Folder`] only for
//! files that enter or leave together with a row. Changes queue for one writing thread; look-ups run on a few reading
//! connections beside it. Nothing here runs on an async thread.

mod schema;
mod statements;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;

use self::writer::{Context, Job, Settled};
use super::facts::Counters;
use super::folder::{Folder, Scratch};
use super::object::Object;
use super::room::Room;
use super::{BlobId, StoreError};
use crate::clock::UnixMillis;

pub(super) use self::statements::{BATCH, Change, RemovedObjects, Which};

/// Changes waiting for the writing thread; beyond them callers wait.
const QUEUE: usize = 1024;

/// Look-ups at once. A look-up takes microseconds; this many saturate a disk.
const READERS: usize = 4;

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
}

#[derive(Debug)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Index {
    /// Opens or begins the index and starts its thread.
    pub(super) fn open(
        folder: Arc<Folder>,
        room: Arc<Room>,
        counters: Arc<Counters>,
        now: UnixMillis,
    ) -> Result<Self, StoreError> {
        let path = folder.index();
        let connection = schema::open(&path, now)?;
        let context = Context { folder, room, counters };
        writer::publish_totals(&connection, &context).map_err(|error| failed(&path, &error))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("gupd-index".to_owned());
        let thread = thread.spawn(move || writer::run(connection, queue, &context));
        let writer = thread.map_err(|source| StoreError::Io {
            doing: "start the thread of the index",
            path: path.clone(),
            source,
        })?;
        let readers = Readers { permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() };
        Ok(Self { path, jobs: Some(jobs), writer: Some(writer), readers: Arc::new(readers) })
    }

    /// All variants of a key, newest first.
    pub(super) async fn find(&self, key: &str) -> Result<Vec<Object>, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| statements::find(connection, &key)).await
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
        work: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(T, Vec<Scratch>), StoreError> {
        let (tell, told) = oneshot::channel();
        let path = self.path.clone();
        let job: Job = Box::new(move |connection| {
            let mut change = Change { connection, unreferenced: Vec::new() };
            let result = writer::savepoint(&mut change, work, |error| failed(&path, &error));
            Settled {
                unreferenced: change.unreferenced,
                // A caller that went away wants no answer.
                answer: Box::new(move |committed| {
                    drop(tell.send(committed.and_then(|taken_out| Ok((result?, taken_out)))));
                }),
            }
        });
        let stopped =
            || StoreError::Index { path: self.path.clone(), reason: "its thread has ended".to_owned() };
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).await.map_err(|_| stopped())?;
        told.await.map_err(|_| stopped())?
    }

    /// An error of one of a change's statements.
    pub(super) fn failure(&self) -> impl Fn(rusqlite::Error) -> StoreError + Send + use<> {
        let path = self.path.clone();
        move |error| failed(&path, &error)
    }

    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.readers.permits).acquire_owned().await;
        let (readers, path) = (Arc::clone(&self.readers), self.path.clone());
        spawn_blocking(move || {
            let _permit = permit;
            let idle = readers.idle().pop();
            let look = || {
                let connection = idle.map_or_else(|| schema::open_reader(&path), Ok)?;
                let result = look(&connection)?;
                readers.idle().push(connection);
                Ok(result)
            };
            look().map_err(|error: rusqlite::Error| failed(&path, &error))
        })
        .await?
    }
}

impl Drop for Index {
    /// Waits for the last transaction, so that whoever opens the folder next finds it whole.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the index's thread ended by a panic");
        }
    }
}

impl Readers {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(path: &std::path::Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Index { path: path.to_owned(), reason: error.to_string() }
}
