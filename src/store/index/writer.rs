//! The index's one writer: a thread that owns the writing connection and commits what is waiting as one transaction.
//! Each change is a savepoint of its own, so one that fails takes no other with it. Just before the commit the journal
//! is told; after it the files of blobs that lost their row are taken out, here, so that it cannot cross a new blob of
//! the same name coming in. A file that turns out damaged is replaced here too, between two transactions.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;

use super::journal::IndexJournal;
use super::rebuild::{self, OpenedIndex};
use super::schema::INCOMPLETE;
use super::state::IndexState;
use super::statements::{self, IndexChange};
use crate::budget::{DiskBudget, on_disk};
use crate::folder::Folder;
use crate::scratch::Scratch;
use crate::stats::Counters;
use crate::{BlobId, StoreError};
use gupd_config::clock::Clock;

/// Changes committed together, at most.
const GROUP: usize = 256;

/// Time between two replacements of a damaged index: one may rot again at once.
const REPLACE_EVERY: Duration = Duration::from_secs(10);

/// Pause after a replacement that failed, as one does when the disk fails.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is asked.
pub(super) enum Work {
    /// Run this in a transaction.
    Change(Job),
    /// Take this file for the journal.
    Journal(CompactedJournal),
    /// See whether the index is damaged.
    Look,
    /// Go on with the index that is now in the place of this one.
    Reopen(oneshot::Sender<Result<(), StoreError>>),
    /// Commit what came before, close the file and end.
    Release(oneshot::Sender<()>),
}

/// A change to run; gives what to do after the commit.
pub(super) type Job = Box<dyn FnOnce(&Connection) -> PendingCommit + Send>;

/// A change that ran, waiting for the commit.
pub(super) struct PendingCommit {
    /// Blobs whose files go if they have no row.
    pub(super) unreferenced: Vec<BlobId>,
    /// What the journal is to say.
    pub(super) journal: Vec<u8>,
    /// Tells the caller: the commit's failure, or the files that were taken out.
    pub(super) answer: Box<dyn FnOnce(Result<Vec<Scratch>, StoreError>)>,
}

/// A journal of all objects there were when the old one had this length.
pub(super) struct CompactedJournal {
    pub(super) path: PathBuf,
    pub(super) from: u64,
    /// The index it was read from.
    pub(super) generation: u64,
    pub(super) done: oneshot::Sender<std::io::Result<()>>,
}

/// What the thread needs besides its connection.
pub(super) struct WriterContext {
    pub(super) folder: Arc<Folder>,
    pub(super) room: Arc<DiskBudget>,
    pub(super) counters: Arc<Counters>,
    pub(super) state: Arc<IndexState>,
    pub(super) clock: Clock,
}

/// The thread's own.
pub(super) struct IndexWriter {
    connection: Connection,
    journal: IndexJournal,
    context: WriterContext,
    not_before: Option<Instant>,
}

impl IndexWriter {
    /// Opens the index, or makes one.
    pub(super) fn open(context: WriterContext) -> Result<Self, StoreError> {
        let opened = rebuild::open(&context.folder, context.clock.now(), false)?;
        take_over(&opened, &context)?;
        let OpenedIndex { connection, journal, .. } = opened;
        Ok(Self { connection, journal, context, not_before: None })
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self, mut queue: Receiver<Work>) {
        let mut jobs = Vec::with_capacity(GROUP);
        let mut compacted = Vec::new();
        let (mut reopen, mut release) = (None, None);
        while let Some(first) = queue.blocking_recv() {
            let mut next = Some(first);
            while let Some(work) = next {
                match work {
                    Work::Change(job) => jobs.push(job),
                    Work::Journal(journal) => compacted.push(journal),
                    Work::Look => {}
                    Work::Reopen(done) => reopen = Some(done),
                    Work::Release(done) => release = Some(done),
                }
                next = if jobs.len() < GROUP && release.is_none() { queue.try_recv().ok() } else { None };
            }
            self.replace_damaged();
            self.commit(&mut jobs);
            for CompactedJournal { path, from, generation, done } in compacted.drain(..) {
                let current = self.context.state.generation.load(Ordering::Acquire) == generation;
                let replaced = || std::io::Error::other("the index was replaced meanwhile");
                let taken = if current { self.take_journal(&path, from) } else { Err(replaced()) };
                // A caller that went away wants no answer.
                drop(done.send(taken));
            }
            self.replace_damaged();
            if let Some(done) = reopen.take() {
                drop(done.send(self.reopen()));
            }
            if let Some(done) = release.take() {
                drop((queue, self));
                // Who asked may have gone away.
                let _closed = done.send(());
                return;
            }
        }
    }

    fn commit(&mut self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let Self { connection, journal, context, .. } = self;
        let before = journal.len();
        let (committed, settled) = match connection.unchecked_transaction() {
            Ok(transaction) => {
                let settled: Vec<PendingCommit> = jobs.drain(..).map(|job| job(&transaction)).collect();
                let told = tell(journal, &settled, &transaction, &context.state);
                let committed = told.and_then(|()| transaction.commit());
                // An index that is made anew would have what its callers were told has failed.
                if committed.is_err()
                    && let Err(error) = journal.take_back(before)
                {
                    context.state.incomplete(&error);
                }
                (committed, settled)
            }
            // Each savepoint is then a transaction of its own, and tells its caller what is wrong.
            Err(_) => {
                let settled: Vec<PendingCommit> = jobs.drain(..).map(|job| job(connection)).collect();
                (tell(journal, &settled, connection, &context.state), settled)
            }
        };
        context.state.journal.store(journal.len(), Ordering::Release);
        let mut answers = Vec::with_capacity(settled.len());
        for PendingCommit { unreferenced, answer, .. } in settled {
            let gone =
                unreferenced.into_iter().filter(|id| matches!(statements::blob(connection, *id), Ok(None)));
            let taken_out =
                gone.filter_map(|id| context.folder.take_out(id, |size| context.room.hold(on_disk(size))));
            answers.push((taken_out.collect::<Vec<_>>(), answer));
        }
        // After the files on their way out are accounted for, before anyone is told that there is room.
        if let Err(error) = publish_totals(connection, context)
            && !context.state.is_damaged()
        {
            tracing::warn!(%error, "cannot read the index's totals; the store's figures are late");
        }
        let failure = committed.err().map(|error| {
            context.state.failed(&error);
            error.to_string()
        });
        for (taken_out, answer) in answers {
            answer(match &failure {
                None => Ok(taken_out),
                Some(reason) => Err(context.state.error(format!("cannot commit: {reason}"))),
            });
        }
    }

    /// Puts a compacted journal in place of the old one, whose newest entries it is given first.
    fn take_journal(&mut self, path: &Path, from: u64) -> std::io::Result<()> {
        self.context.folder.check().map_err(std::io::Error::other)?;
        let tail = self.journal.tail(from)?;
        let file = File::options().write(true).open(path)?;
        file.write_all_at(&tail, file.metadata()?.len())?;
        let place = rebuild::journal(self.context.state.path());
        fs::rename(path, &place)?;
        self.journal = IndexJournal::open(&place)?;
        let len = self.journal.len();
        let at = i64::try_from(len).unwrap_or(INCOMPLETE);
        let told = self.connection.execute("UPDATE totals SET journal = ?1", [at]);
        told.map_err(std::io::Error::other)?;
        self.context.state.journal.store(len, Ordering::Release);
        self.context.state.complete.store(true, Ordering::Release);
        Ok(())
    }

    /// Goes on with another folder's index, in the place of this one's.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let opened = rebuild::open(&self.context.folder, self.context.clock.now(), false)?;
        take_over(&opened, &self.context)?;
        leave(std::mem::replace(&mut self.connection, opened.connection));
        self.journal = opened.journal;
        self.context.state.replaced();
        Ok(())
    }

    /// Makes a new index in place of a damaged one. Look-ups fail meanwhile, and so requests are passed through.
    fn replace_damaged(&mut self) {
        let WriterContext { folder, state, .. } = &self.context;
        let is_due = || self.not_before.is_none_or(|at| at <= Instant::now()) && folder.check().is_ok();
        if !state.is_damaged() || !is_due() {
            return;
        }
        // Closed first: closing removes the -wal by its name, which will be the new file's.
        let Ok(nothing) = Connection::open_in_memory() else { return };
        drop(std::mem::replace(&mut self.connection, nothing));
        let now = self.context.clock.now();
        let doubted = state.irreplaceable.load(Ordering::Acquire);
        let sound = if doubted { rebuild::open_sound(folder, now) } else { None };
        let opened = sound.map_or_else(|| rebuild::open(folder, now, true), Ok);
        match opened.and_then(|opened| take_over(&opened, &self.context).map(|()| opened)) {
            Ok(opened) => {
                self.connection = opened.connection;
                self.journal = opened.journal;
                self.context.state.replaced();
                self.not_before = Some(Instant::now() + REPLACE_EVERY);
            }
            Err(error) => {
                if !state.irreplaceable.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error,
                        "the damaged index cannot be replaced yet; requests are passed through");
                }
                self.not_before = Some(Instant::now() + RETRY);
            }
        }
    }
}

/// Closes a connection to a file that another one has taken the place of. The last to close removes the -wal by its
/// name, and that is the other one's: SQLite compares inode numbers, which a disk keeps when it comes back as another
/// device.
fn leave(connection: Connection) {
    if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
        tracing::error!(%error, "an index that was replaced is kept open");
        std::mem::forget(connection);
    }
}

/// Tells everyone what an index that was just opened has.
fn take_over(opened: &OpenedIndex, context: &WriterContext) -> Result<(), StoreError> {
    let state = &context.state;
    state.journal.store(opened.journal.len(), Ordering::Release);
    state.complete.store(opened.complete, Ordering::Release);
    state.hold_unclaimed(opened.unclaimed.map(|bytes| context.room.hold(bytes)));
    publish_totals(&opened.connection, context).map_err(|error| state.error(error.to_string()))
}

/// Copies the index's totals to those who ask for them often.
fn publish_totals(connection: &Connection, context: &WriterContext) -> rusqlite::Result<()> {
    let totals = statements::totals(connection)?;
    context.room.set_committed(totals.disk_bytes);
    context.counters.set_totals(&totals);
    Ok(())
}

/// Appends to the journal what the transaction did, and notes its length there. A journal that cannot be written costs
/// no commit: it is incomplete then, and written anew by the next upkeep.
fn tell(
    journal: &mut IndexJournal,
    settled: &[PendingCommit],
    connection: &Connection,
    state: &IndexState,
) -> rusqlite::Result<()> {
    let frames: Vec<u8> = settled.iter().flat_map(|one| one.journal.iter().copied()).collect();
    if frames.is_empty() {
        return Ok(());
    }
    let complete = state.complete.load(Ordering::Acquire);
    let at = match journal.append(&frames) {
        Ok(len) if complete => i64::try_from(len).unwrap_or(INCOMPLETE),
        Ok(_) => return Ok(()),
        Err(error) => {
            state.incomplete(&error);
            INCOMPLETE
        }
    };
    connection.prepare_cached("UPDATE totals SET journal = ?1")?.execute([at]).map(drop)
}

/// Runs `work` so that it happens whole or not at all.
pub(super) fn savepoint<T>(
    change: &mut IndexChange<'_>,
    work: impl FnOnce(&mut IndexChange<'_>) -> Result<T, StoreError>,
    failed: impl Fn(rusqlite::Error) -> StoreError,
) -> Result<T, StoreError> {
    let connection = change.connection;
    connection.execute_batch("SAVEPOINT change").map_err(&failed)?;
    let result = work(change);
    let end = if result.is_ok() {
        "RELEASE change"
    } else {
        change.journal.clear();
        "ROLLBACK TO change; RELEASE change"
    };
    connection.execute_batch(end).map_err(failed)?;
    result
}
