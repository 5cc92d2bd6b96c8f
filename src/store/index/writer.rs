//! The index thread. It owns the writing connection and commits queued changes as one transaction. Most changes are
//! savepoints, so a failed one affects no other; new objects do without (see [`Isolation`]). Records of packs and the
//! journal are written just before the commit. After it, files of blobs without a row are moved out here, so that no
//! new blob of the same name can interleave. A damaged file is replaced here too, between two transactions.

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

use super::checkpoint::Checkpointer;
use super::gathering::Gathering;
use super::group_commit;
use super::journal::IndexJournal;
use super::rebuild::{self, OpenedIndex};
use super::row;
use super::schema::INCOMPLETE;
use super::state::IndexState;
use super::statements::{self, IndexChange};
use crate::budget::{DiskBudget, allocated_size};
use crate::folder::Folder;
use crate::pack::PackPlace;
use crate::packs::Packs;
use crate::pending_sync::PendingSync;
use crate::scratch::Scratch;
use crate::stats::Counters;
use crate::{BlobId, StoreError};
use gupd_config::clock::Clock;

/// Maximum number of changes in one transaction.
const GROUP: usize = 512;

/// Parts of the quota of which the index and its journal may have one without a charge.
const INDEX_SHARE: u64 = 64;

/// Maximum size in bytes below which a journal is never compacted.
const SMALL_JOURNAL: u64 = 16 << 20;

/// Maximum number of keys read at start: some ten milliseconds.
const KEYS_AT_START: u64 = 10_000;

/// Minimum time between two replacements of a damaged index: the next one may be damaged at once.
const REPLACE_EVERY: Duration = Duration::from_secs(10);

/// Pause after a failed replacement, as on a failing disk.
const RETRY: Duration = Duration::from_secs(1);

/// Work for the index thread.
pub(super) enum Work {
    /// Run this in a transaction.
    Change(Job),
    /// Install this compacted journal.
    Journal(CompactedJournal),
    /// Check whether the index is damaged.
    CheckDamage,
    /// Switch to the index of the store that replaced this one.
    Reopen(oneshot::Sender<Result<(), StoreError>>),
    /// Commit earlier changes, close the file and end.
    Release(oneshot::Sender<()>),
}

/// A change to run; returns the work after the commit. The flag tells whether it runs in a transaction of the group.
pub(super) type Job = Box<dyn FnOnce(&Connection, &mut Packs, bool) -> PendingCommit + Send>;

/// Isolation of a change from others of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isolation {
    /// A savepoint. SQLite copies every page that it changes.
    Savepoint,
    /// None: an error of the index fails the transaction.
    Group,
}

/// A change that has run and waits for the commit.
pub(super) struct PendingCommit {
    /// Reason for which it failed in a state that only a rollback of the transaction undoes.
    pub(super) group_failure: Option<String>,
    /// Blobs to remove, with their files, if they have no row.
    pub(super) unreferenced: Vec<BlobId>,
    /// Frames for the journal.
    pub(super) journal: Vec<u8>,
    /// Records in packs that count only if the commit succeeds.
    pub(super) appended: Vec<PackPlace>,
    /// Records in packs to mark as removed after the commit.
    pub(super) removed_records: Vec<PackPlace>,
    /// Answers the caller with the commit's failure, or with the removed files.
    pub(super) answer: Box<dyn FnOnce(Result<Vec<Scratch>, StoreError>)>,
}

/// A compacted journal, complete up to length `from` of the old one.
pub(super) struct CompactedJournal {
    pub(super) path: PathBuf,
    pub(super) from: u64,
    /// Generation of the index it was read from.
    pub(super) generation: u64,
    pub(super) done: oneshot::Sender<std::io::Result<()>>,
}

/// Dependencies of the index thread besides its connection.
pub(super) struct WriterContext {
    pub(super) folder: Arc<Folder>,
    pub(super) room: Arc<DiskBudget>,
    pub(super) counters: Arc<Counters>,
    pub(super) state: Arc<IndexState>,
    pub(super) clock: Clock,
    pub(super) pending_sync: Arc<PendingSync>,
    pub(super) gathering: Arc<Gathering>,
}

/// State of the index thread.
pub(super) struct IndexWriter {
    /// Dropped before the connection, whose end checkpoints the whole log if it is the last one.
    checkpointer: Checkpointer,
    connection: Connection,
    journal: IndexJournal,
    packs: Packs,
    context: WriterContext,
    not_before: Option<Instant>,
}

impl IndexWriter {
    /// Opens or rebuilds the index.
    pub(super) fn open(context: WriterContext) -> Result<Self, StoreError> {
        let opened = rebuild::open(&context.folder, context.clock.now(), false)?;
        let packs = open_packs(&context)?;
        publish_state(&opened, &packs, &context)?;
        let OpenedIndex { connection, journal, .. } = opened;
        fill_small_key_filter(&connection, &context.state)
            .map_err(|error| context.state.error(error.to_string()))?;
        let mut checkpointer = Checkpointer::start(context.room.quota()).map_err(|source| {
            StoreError::Io { doing: "start the checkpoint thread for", path: context.folder.index(), source }
        })?;
        checkpointer.attach(context.state.path());
        Ok(Self { checkpointer, connection, journal, packs, context, not_before: None })
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self, mut queue: Receiver<Work>) {
        let mut jobs = Vec::with_capacity(GROUP);
        let mut compacted = Vec::new();
        let (mut reopen, mut release) = (None, None);
        let mut changes = 0;
        while let Some(first) = queue.blocking_recv() {
            self.context.gathering.wait(changes, queue.len());
            let mut next = Some(first);
            while let Some(work) = next {
                match work {
                    Work::Change(job) => jobs.push(job),
                    Work::Journal(journal) => compacted.push(journal),
                    Work::CheckDamage => {}
                    Work::Reopen(done) => reopen = Some(done),
                    Work::Release(done) => release = Some(done),
                }
                next = if jobs.len() < GROUP && release.is_none() { queue.try_recv().ok() } else { None };
            }
            changes = jobs.len();
            self.replace_damaged();
            self.commit(&mut jobs);
            for CompactedJournal { path, from, generation, done } in compacted.drain(..) {
                let is_current = self.context.state.generation.load(Ordering::Acquire) == generation;
                let replaced = || std::io::Error::other("the index was replaced meanwhile");
                let installed = if is_current { self.install_journal(&path, from) } else { Err(replaced()) };
                // The caller may have gone away.
                drop(done.send(installed));
            }
            self.replace_damaged();
            if let Some(done) = reopen.take() {
                drop(done.send(self.reopen()));
            }
            if let Some(done) = release.take() {
                self.context.pending_sync.sync();
                drop((queue, self));
                // The caller may have gone away.
                let _closed = done.send(());
                return;
            }
        }
        self.context.pending_sync.sync();
    }

    fn commit(&mut self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let Self { connection, journal, packs, context, .. } = self;
        let before = journal.len();
        let mut settled = Vec::with_capacity(jobs.len());
        let committed = match connection.unchecked_transaction() {
            Ok(transaction) => {
                settled.extend(jobs.drain(..).map(|job| job(&transaction, packs, true)));
                let committed = group_commit::commit(transaction, &settled, packs, journal, &context.state);
                // Otherwise a rebuilt index would contain changes that were reported as failed.
                if committed.is_err()
                    && let Err(error) = journal.truncate(before)
                {
                    context.state.mark_journal_incomplete(&error);
                }
                committed
            }
            // Each savepoint is then a transaction of its own and reports its error.
            Err(_) => {
                settled.extend(jobs.drain(..).map(|job| job(connection, packs, false)));
                group_commit::write(connection, &settled, packs, journal, &context.state)
            }
        };
        context.state.journal.store(journal.len(), Ordering::Release);
        if journal.len() != before {
            context.pending_sync.add(journal.file());
        }
        let mut answers = Vec::with_capacity(settled.len());
        for PendingCommit { unreferenced, appended, removed_records, answer, .. } in settled {
            let removed_records = if committed.is_ok() { removed_records } else { appended };
            removed_records.into_iter().for_each(|place| packs.mark_removed(place));
            let unused = unreferenced
                .into_iter()
                .filter(|id| matches!(statements::blob_row(connection, *id), Ok(None)));
            let removed_files = unused.filter_map(|id| {
                context.folder.move_out(id, |size| context.room.reserve_existing(allocated_size(size)))
            });
            answers.push((removed_files.collect::<Vec<_>>(), answer));
        }
        // After the removed files are accounted for, before any caller learns of free room.
        if let Err(error) = publish_totals(connection, packs, context)
            && !context.state.is_damaged()
        {
            tracing::warn!(%error, "cannot read the index totals; metrics of the store are stale");
        }
        for (removed_files, answer) in answers {
            answer(match &committed {
                Ok(()) => Ok(removed_files),
                Err(failure) => Err(failure.to_error(&context.state)),
            });
        }
        // The callers do not wait for it.
        self.checkpointer.after_commit(&self.connection);
    }

    /// Installs a compacted journal after appending the newest entries of the old one.
    fn install_journal(&mut self, path: &Path, from: u64) -> std::io::Result<()> {
        self.context.folder.check().map_err(std::io::Error::other)?;
        let tail = self.journal.tail(from)?;
        let file = File::options().write(true).open(path)?;
        file.write_all_at(&tail, file.metadata()?.len())?;
        let journal = rebuild::journal_path(self.context.state.path());
        fs::rename(path, &journal)?;
        self.journal = IndexJournal::open(&journal)?;
        let len = self.journal.len();
        let at = i64::try_from(len).unwrap_or(INCOMPLETE);
        let updated = self.connection.execute("UPDATE totals SET journal = ?1", [at]);
        updated.map_err(std::io::Error::other)?;
        self.context.state.journal.store(len, Ordering::Release);
        self.context.state.complete.store(true, Ordering::Release);
        Ok(())
    }

    /// Switches to another folder's index at the same path.
    fn reopen(&mut self) -> Result<(), StoreError> {
        self.context.state.keys.clear();
        let opened = rebuild::open(&self.context.folder, self.context.clock.now(), false)?;
        self.packs = open_packs(&self.context)?;
        publish_state(&opened, &self.packs, &self.context)?;
        self.checkpointer.detach();
        close_replaced(std::mem::replace(&mut self.connection, opened.connection));
        self.checkpointer.attach(self.context.state.path());
        self.journal = opened.journal;
        self.context.state.mark_replaced();
        Ok(())
    }

    /// Replaces a damaged index. Lookups fail meanwhile, so requests are passed through.
    fn replace_damaged(&mut self) {
        let WriterContext { folder, state, .. } = &self.context;
        let is_due = || self.not_before.is_none_or(|at| at <= Instant::now()) && folder.check().is_ok();
        if !state.is_damaged() || !is_due() {
            return;
        }
        // Closed first: closing unlinks the -wal by name, which would be the new file's.
        let Ok(placeholder) = Connection::open_in_memory() else { return };
        self.checkpointer.detach();
        drop(std::mem::replace(&mut self.connection, placeholder));
        let now = self.context.clock.now();
        let was_irreplaceable = state.irreplaceable.load(Ordering::Acquire);
        let intact = if was_irreplaceable { rebuild::open_sound(folder, now) } else { None };
        let opened = intact.map_or_else(|| rebuild::open(folder, now, true), Ok);
        match opened.and_then(|opened| publish_state(&opened, &self.packs, &self.context).map(|()| opened)) {
            Ok(opened) => {
                self.connection = opened.connection;
                self.checkpointer.attach(state.path());
                self.journal = opened.journal;
                self.context.state.mark_replaced();
                self.not_before = Some(Instant::now() + REPLACE_EVERY);
            }
            Err(error) => {
                if !state.irreplaceable.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error,
                        "cannot replace the damaged index yet; requests are passed through uncached");
                }
                self.not_before = Some(Instant::now() + RETRY);
            }
        }
    }
}

/// Closes a connection to a replaced file. The last connection to close unlinks the -wal by name, which is the
/// new file's: SQLite compares inode numbers, and a disk keeps them when it returns as another device.
fn close_replaced(connection: Connection) {
    if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
        tracing::error!(%error, "cannot close the replaced index; it stays open");
        std::mem::forget(connection);
    }
}

/// Builds the filter of keys of a small index; that of a large one is built behind the start.
fn fill_small_key_filter(connection: &Connection, state: &IndexState) -> rusqlite::Result<()> {
    let objects = statements::totals(connection)?.objects;
    if objects <= KEYS_AT_START {
        let bits = state.keys.begin(objects);
        row::for_each_key(connection, |key| bits.add(key))?;
        state.keys.finish(bits);
    }
    Ok(())
}

fn open_packs(context: &WriterContext) -> Result<Packs, StoreError> {
    Packs::open(Arc::clone(&context.folder), context.room.quota(), Arc::clone(&context.pending_sync))
}

/// Publishes the state of an index that was just opened.
fn publish_state(opened: &OpenedIndex, packs: &Packs, context: &WriterContext) -> Result<(), StoreError> {
    let state = &context.state;
    state.journal.store(opened.journal.len(), Ordering::Release);
    state.complete.store(opened.complete, Ordering::Release);
    state.reserve_unclaimed(opened.unclaimed.map(|bytes| context.room.reserve_existing(bytes)));
    publish_totals(&opened.connection, packs, context).map_err(|error| state.error(error.to_string()))
}

/// Copies the index's totals to their frequent readers.
fn publish_totals(connection: &Connection, packs: &Packs, context: &WriterContext) -> rusqlite::Result<()> {
    let mut totals = statements::totals(connection)?;
    // Removed records take room until their pack is compacted.
    let uncharged = packs.bytes().saturating_sub(totals.packed_bytes);
    totals.disk_bytes += uncharged;
    context.state.packs_due.store(uncharged > packs.capacity(), Ordering::Release);
    let free_of_charge = context.room.quota() / INDEX_SHARE;
    context.state.small_journal.store(SMALL_JOURNAL.min(free_of_charge), Ordering::Relaxed);
    let index_bytes = totals.row_bytes.saturating_add(context.state.journal.load(Ordering::Relaxed));
    context.room.set_committed(totals.disk_bytes.saturating_add(index_bytes.saturating_sub(free_of_charge)));
    context.counters.set_totals(&totals);
    Ok(())
}

/// Runs `work` completely or not at all.
pub(super) fn run_in_savepoint<T>(
    change: &mut IndexChange<'_>,
    work: impl FnOnce(&mut IndexChange<'_>) -> Result<T, StoreError>,
    map_error: impl Fn(rusqlite::Error) -> StoreError,
) -> Result<T, StoreError> {
    let connection = change.connection;
    let execute = |sql| connection.prepare_cached(sql).and_then(|mut one| one.execute([])).map(drop);
    execute("SAVEPOINT change").map_err(&map_error)?;
    let result = work(change);
    if result.is_err() {
        change.journal.clear();
        change.removed_records = std::mem::take(&mut change.appended);
        execute("ROLLBACK TO change").map_err(&map_error)?;
    }
    execute("RELEASE change").map_err(map_error)?;
    result
}
