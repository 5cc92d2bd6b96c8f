//! Checkpoints of the index's log, SQLite's WAL, into its file. They run on a thread of their own: one takes tens of
//! milliseconds, most of it for syncs, in which the index thread would commit nothing. Invariant: the log has at most
//! the frames of [`LogLimits`] and those of one transaction, unless a reader keeps it. The complication: SQLite begins
//! the log anew only when the file has all of it, and a checkpoint beside commits leaves the newest frames. The index
//! thread does these itself, rarely, because its commits wait meanwhile.

use std::io;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use super::schema;

/// Bytes of a frame: a page of the index.
const FRAME: u64 = 4 << 10;

/// Parts of the quota of which the log may have one, within [`LEAST`] and [`MOST`] frames.
const QUOTA_SHARE: u64 = 64;

/// Lower limit of the log's maximum in frames: 16 MiB.
const LEAST: i64 = 4_000;

/// Upper limit of the log's maximum in frames: 94 MiB, those of some 20,000 small objects.
const MOST: i64 = 24_000;

/// Lengths of the log in frames.
#[derive(Clone, Copy, Debug)]
struct LogLimits {
    /// Frames without a checkpoint for which the thread begins one.
    begin: i64,
    /// Length from which on the index thread does the rest, as soon as it is `few`.
    renew: i64,
    /// Frames that the index thread checkpoints in some milliseconds.
    few: i64,
    /// Length at which the index thread waits for a running checkpoint and does the rest.
    max: i64,
}

impl LogLimits {
    /// Limits for a store of `quota` bytes.
    fn for_quota(quota: u64) -> Self {
        let share = i64::try_from(quota / QUOTA_SHARE / FRAME).unwrap_or(MOST);
        let max = share.clamp(LEAST, MOST);
        Self { begin: (max / 6).max(1_000), renew: max / 3 * 2, few: (max / 48).max(250), max }
    }
}

/// The thread that checkpoints the log.
#[derive(Debug)]
pub(super) struct Checkpointer {
    limits: LogLimits,
    /// The thread's connection, locked while it checkpoints.
    connection: Arc<Mutex<Option<Connection>>>,
    requests: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Length of the log when the index thread last had to leave frames in it; 0 if it left none.
    left_at: i64,
}

/// Number of frames in the log.
#[derive(Clone, Copy, Debug)]
struct LogFrames {
    all: i64,
    /// Frames that the index file has too.
    done: i64,
}

impl Checkpointer {
    /// Starts the thread for a store of `quota` bytes, without an index.
    pub(super) fn start(quota: u64) -> io::Result<Self> {
        let connection = Arc::<Mutex<Option<Connection>>>::default();
        let (requests, received) = sync_channel(1);
        let shared = Arc::clone(&connection);
        let thread = thread::Builder::new().name("gupd-checkpoint".to_owned()).spawn(move || {
            while received.recv().is_ok() {
                if let Some(connection) = &*lock(&shared) {
                    checkpoint(connection);
                }
            }
        })?;
        let limits = LogLimits::for_quota(quota);
        Ok(Self { limits, connection, requests: Some(requests), thread: Some(thread), left_at: 0 })
    }

    /// Uses the index at this path from now on. Without a connection to it, the index thread does all checkpoints.
    pub(super) fn attach(&mut self, index: &Path) {
        match schema::open_checkpointer(index) {
            Ok(connection) => *lock(&self.connection) = Some(connection),
            Err(error) => tracing::warn!(%error, "cannot checkpoint the index on a thread of its own"),
        }
        self.left_at = 0;
    }

    /// Waits for a running checkpoint and closes the connection.
    pub(super) fn detach(&self) {
        drop(lock(&self.connection).take());
    }

    /// Has a long log checkpointed. Does it here if few frames are left of a long one, or if it has its maximum length.
    pub(super) fn after_commit(&mut self, writer: &Connection) {
        let Some(LogFrames { all, done }) = run(writer, "NOOP") else { return };
        let LogLimits { begin, renew, few, max } = self.limits;
        if all < self.left_at {
            self.left_at = 0;
        }
        // After a try in vain (a reader keeps the log, or the disk fails) the next one waits for more frames.
        let may_try = self.left_at == 0 || all >= self.left_at + begin;
        let turn = match all {
            _ if !may_try => None,
            _ if all >= max => Some(lock(&self.connection)),
            _ if all >= renew && all - done <= few => try_lock(&self.connection),
            _ => None,
        };
        if turn.is_some() {
            let is_whole = checkpoint(writer).is_some_and(|frames| frames.done >= frames.all);
            self.left_at = if is_whole { 0 } else { all };
        } else if all - done >= begin
            && let Some(requests) = &self.requests
        {
            // With a full queue one is about to begin.
            let _queued = requests.try_send(());
        }
    }
}

impl Drop for Checkpointer {
    /// Waits for a running checkpoint. The connection is closed here.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("checkpoint thread panicked");
        }
    }
}

fn lock(connection: &Mutex<Option<Connection>>) -> MutexGuard<'_, Option<Connection>> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_lock(connection: &Mutex<Option<Connection>>) -> Option<MutexGuard<'_, Option<Connection>>> {
    match connection.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Checkpoints all frames that no reader needs. It waits for no reader and no commit.
fn checkpoint(connection: &Connection) -> Option<LogFrames> {
    run(connection, "PASSIVE")
}

/// Runs a checkpoint of this mode; `NOOP` only counts. Returns `None` if it failed: the index thread learns of a
/// failing disk by its next commit.
fn run(connection: &Connection, mode: &str) -> Option<LogFrames> {
    let frames = connection
        .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
        .and_then(|mut run| run.query_row([], |row| Ok(LogFrames { all: row.get(1)?, done: row.get(2)? })));
    frames.inspect_err(|error| tracing::debug!(%error, mode, "cannot checkpoint the index")).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::time::Duration;

    use tempfile::TempDir;

    use super::super::check;
    use super::super::statements::IndexChange;
    use super::*;

    const SMALL: LogLimits = LogLimits { begin: 20, renew: 60, few: 20, max: 100 };

    /// Maximum frames of one of the transactions below.
    const TRANSACTION: i64 = 20;

    fn index() -> (TempDir, PathBuf, Connection) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("index.db");
        schema::finish(&schema::create(&path).unwrap()).unwrap();
        let writer = schema::open(&path).unwrap();
        (dir, path, writer)
    }

    fn small_checkpointer(path: &Path) -> Checkpointer {
        let mut checkpointer = Checkpointer::start(0).unwrap();
        checkpointer.limits = SMALL;
        checkpointer.attach(path);
        checkpointer
    }

    fn commit(writer: &Connection, number: u32) {
        let transaction = writer.unchecked_transaction().unwrap();
        let change = IndexChange::new(&transaction);
        change.set_client(&number.to_string(), Some(&number.to_le_bytes())).unwrap();
        transaction.commit().unwrap();
    }

    fn count(path: &Path) -> u32 {
        let reader = schema::open_reader(path).unwrap();
        check::check_all(&reader).unwrap();
        reader.query_row("SELECT count(*) FROM clients", [], |row| row.get(0)).unwrap()
    }
    fn log_length(writer: &Connection) -> i64 {
        run(writer, "NOOP").unwrap().all
    }

    #[test]
    fn log_has_a_small_part_of_the_quota() {
        for (quota, max) in
            [(0, LEAST), (1 << 30, 4_096), (2 << 30, 8_192), (6 << 30, MOST), (u64::MAX, MOST)]
        {
            let limits = LogLimits::for_quota(quota);
            assert_eq!(limits.max, max, "{quota}");
            assert!(limits.few < limits.begin && limits.begin + limits.few < limits.renew, "{limits:?}");
            assert!(limits.renew + limits.begin < max, "{limits:?}");
        }
    }

    #[test]
    fn log_stays_within_its_maximum_on_a_slow_disk() {
        let (_dir, path, writer) = index();
        let mut checkpointer = small_checkpointer(&path);
        // A checkpoint that does not end.
        let connection = Arc::clone(&checkpointer.connection);
        let running = lock(&connection);
        let (sent, lengths) = mpsc::channel();
        let thread = thread::spawn(move || {
            for number in 0..200 {
                commit(&writer, number);
                sent.send(log_length(&writer)).unwrap();
                checkpointer.after_commit(&writer);
            }
        });
        let longest = lengths.iter().find(|length| *length >= SMALL.max).unwrap();
        assert!(longest < SMALL.max + TRANSACTION, "{longest} frames");
        let next = lengths.recv_timeout(Duration::from_millis(100));
        assert_eq!(next, Err(RecvTimeoutError::Timeout), "a commit did not wait");
        drop(running);
        assert!(lengths.iter().all(|length| length < SMALL.max + TRANSACTION));
        thread.join().unwrap();
        assert_eq!(count(&path), 200);
    }

    #[test]
    fn log_begins_anew_while_commits_continue() {
        let (_dir, path, writer) = index();
        let mut checkpointer = small_checkpointer(&path);
        let mut renewals = 0;
        let mut before = 0;
        for number in 0..500 {
            commit(&writer, number);
            let length = log_length(&writer);
            assert!(length < SMALL.max + TRANSACTION, "{length} frames");
            renewals += u32::from(length < before);
            before = length;
            checkpointer.after_commit(&writer);
        }
        assert!(renewals >= 3, "{renewals} times");
        drop(checkpointer);
        assert_eq!(count(&path), 500);
    }

    #[test]
    fn reader_that_keeps_the_log_delays_no_commit() {
        let (_dir, path, writer) = index();
        let mut checkpointer = small_checkpointer(&path);
        let mut reader = schema::open_reader(&path).unwrap();
        let snapshot = reader.transaction().unwrap();
        let rows = |reader: &Connection| -> u32 {
            reader.query_row("SELECT count(*) FROM clients", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(rows(&snapshot), 0);
        let mut number = 0;
        let mut commit_next = |checkpointer: &mut Checkpointer| {
            commit(&writer, number);
            checkpointer.after_commit(&writer);
            number += 1;
            log_length(&writer)
        };
        while commit_next(&mut checkpointer) < 3 * SMALL.max {}
        assert_eq!(rows(&snapshot), 0);
        drop(snapshot);
        let later = (0..=SMALL.begin).map(|_| commit_next(&mut checkpointer)).min();
        assert!(later < Some(SMALL.max), "{later:?} frames");
        drop(checkpointer);
        assert_eq!(count(&path), number);
    }

    #[test]
    fn crash_in_a_checkpoint_loses_no_commit() {
        const PAGE: usize = 4096;
        let (dir, path, writer) = index();
        let checkpointer = small_checkpointer(&path);
        (0..300).for_each(|number| commit(&writer, number));
        let before = fs::read(&path).unwrap();
        let frames = checkpoint(lock(&checkpointer.connection).as_ref().unwrap()).unwrap();
        assert!(frames.all > 0 && frames.done == frames.all, "{frames:?}");
        let (after, log) = (fs::read(&path).unwrap(), fs::read(dir.path().join("index.db-wal")).unwrap());
        let pages = after.chunks(PAGE).enumerate();
        assert!(pages.clone().filter(|(at, page)| before.chunks(PAGE).nth(*at) != Some(page)).count() > 3);
        // Pages are written in no order; one beyond the old end that is not written has zeros.
        for written in [0_u64, 1, 0b1010_1010, 0b1111_0000, 0x0123_4567_89ab_cdef, !1, u64::MAX] {
            let crashed = TempDir::new().unwrap();
            let page = |(at, new): (usize, &[u8])| match written >> (at % 64) & 1 {
                1 => new.to_vec(),
                _ => before.chunks(PAGE).nth(at).map_or_else(|| vec![0; PAGE], <[u8]>::to_vec),
            };
            let path = crashed.path().join("index.db");
            fs::write(&path, pages.clone().flat_map(page).collect::<Vec<_>>()).unwrap();
            fs::write(crashed.path().join("index.db-wal"), &log).unwrap();
            drop(schema::open(&path).unwrap());
            assert_eq!(count(&path), 300, "pages {written:x}");
        }
    }
}
