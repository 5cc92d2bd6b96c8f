//! The ledger's file: its schema, and the addition of records to it. Every write adds to rows by their keys, so two
//! processes may write at the same time, as they do during an upgrade. A file that is no ledger is put aside.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, params};

use crate::compaction;
use crate::event::{Event, EventPage, EventQuery};
use crate::event_log::{self, PendingEvents};
use crate::incidents::{self, IncidentReport};
use crate::query;
use crate::report::RatePoint;
use crate::task::SiteSample;
use gupd_config::clock::UnixMillis;
use gupd_net::traffic::{TrafficBatch, TrafficCounts};

/// Version of the schema, in `user_version`.
const SCHEMA: i64 = 1;

/// Bytes of a page, SQLite's default.
const PAGE: u64 = 4096;

/// Bytes of the write-ahead log, which count toward the maximum.
const LOG: u64 = 8 << 20;

/// Time to wait for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Name of a client or object that stands for the relay itself.
pub(crate) const RELAY: &str = "relay";

/// Name that stands for all clients or objects without a row of their own.
pub(crate) const OTHERS: &str = "others";

// Times are seconds since 1970; `step` is the length of the interval.
const TABLES: &str = "
    CREATE TABLE line (
        step INTEGER NOT NULL, at INTEGER NOT NULL, peer INTEGER NOT NULL, upstream TEXT NOT NULL, cause TEXT NOT NULL,
        content_type TEXT NOT NULL, form TEXT NOT NULL,
        transfers INTEGER NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL, followers INTEGER NOT NULL,
        PRIMARY KEY (step, at, peer, upstream, cause, content_type, form)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE clients (
        step INTEGER NOT NULL, at INTEGER NOT NULL, client TEXT NOT NULL, cause TEXT NOT NULL,
        content_type TEXT NOT NULL, from_revision TEXT NOT NULL,
        transfers INTEGER NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL, followers INTEGER NOT NULL,
        PRIMARY KEY (step, at, client, cause, content_type, from_revision)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE objects (
        step INTEGER NOT NULL, at INTEGER NOT NULL, object TEXT NOT NULL, cause TEXT NOT NULL,
        from_revision TEXT NOT NULL,
        transfers INTEGER NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL, followers INTEGER NOT NULL,
        PRIMARY KEY (step, at, object, cause, from_revision)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE waits (
        step INTEGER NOT NULL, at INTEGER NOT NULL, client TEXT NOT NULL, reason TEXT NOT NULL,
        waits INTEGER NOT NULL, millis INTEGER NOT NULL,
        PRIMARY KEY (step, at, client, reason)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE site ( -- responses to clients; all content types together have an empty one
        step INTEGER NOT NULL, at INTEGER NOT NULL, content_type TEXT NOT NULL,
        sent INTEGER NOT NULL, saved INTEGER NOT NULL, requests INTEGER NOT NULL, hits INTEGER NOT NULL,
        PRIMARY KEY (step, at, content_type)
    ) STRICT, WITHOUT ROWID;
";

// Added to files of earlier versions, which do not read it: the version of the schema stays.
const LATER_TABLES: &str = "
    CREATE TABLE IF NOT EXISTS incidents (
        step INTEGER NOT NULL, at INTEGER NOT NULL, client TEXT NOT NULL, incident TEXT NOT NULL,
        content_type TEXT NOT NULL,
        times INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (step, at, client, incident, content_type)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS client_groups (
        step INTEGER NOT NULL, at INTEGER NOT NULL, client_group TEXT NOT NULL, cause TEXT NOT NULL,
        content_type TEXT NOT NULL,
        transfers INTEGER NOT NULL, received INTEGER NOT NULL, sent INTEGER NOT NULL, followers INTEGER NOT NULL,
        PRIMARY KEY (step, at, client_group, cause, content_type)
    ) STRICT, WITHOUT ROWID;
";

/// Error of the ledger's file.
#[derive(Debug, thiserror::Error)]
#[error(
    "ledger {path}: {source}: see that gupd may write the folder of the store and that its disk has room"
)]
pub struct LedgerError {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    pub(crate) connection: Connection,
    /// Device and number of the file.
    identity: Option<(u64, u64)>,
    /// Bytes in use above which history is compacted.
    soft_limit: u64,
    /// Minute of the last compaction.
    compacted: Option<i64>,
}

impl LedgerError {
    fn new(path: &Path, source: rusqlite::Error) -> Self {
        Self { path: path.to_owned(), source: source.into() }
    }

    /// The error of a file that is not opened for this reason.
    pub(crate) fn unopened(path: &Path, reason: &str) -> Self {
        Self { path: path.to_owned(), source: reason.into() }
    }

    /// Returns the reason without path and remedy.
    pub(crate) fn reason(&self) -> String {
        self.source.to_string()
    }

    /// Returns true if the file is no ledger or damaged.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.source.downcast_ref().is_some_and(is_unreadable)
    }
}

impl Database {
    /// Opens or creates the file, of at most `max_size` bytes with its log.
    pub(crate) fn open(path: &Path, max_size: u64) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::new(path, source);
        let connection = match Self::connect(path, max_size) {
            Err(error) if is_unreadable(&error) => {
                let aside = path.with_extension("damaged");
                tracing::warn!(%error, path = %path.display(), aside = %aside.display(), "ledger unreadable; a new one begins");
                if let Err(error) = std::fs::rename(path, &aside) {
                    tracing::warn!(%error, "unreadable ledger cannot be put aside");
                }
                for log in ["db-wal", "db-shm"] {
                    // Absent after a clean end.
                    let _absent = std::fs::remove_file(path.with_extension(log));
                }
                Self::connect(path, max_size)
            }
            connected => connected,
        };
        let soft_limit = hard_limit(max_size) / 4 * 3;
        Ok(Self {
            path: path.to_owned(),
            connection: connection.map_err(failed)?,
            identity: identity(path),
            soft_limit,
            compacted: None,
        })
    }

    /// Returns true if the path still names the open file.
    pub(crate) fn is_in_place(&self) -> bool {
        identity(&self.path) == self.identity
    }

    fn connect(path: &Path, max_size: u64) -> rusqlite::Result<Connection> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "cache_size", -2048)?; // KiB
        connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
        // The sandbox has no folder for temporary files, so a large report failed ("unable to open database file").
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "max_page_count", signed(hard_limit(max_size) / PAGE))?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", SCHEMA)?;
        } else if version != SCHEMA {
            return Err(rusqlite::Error::InvalidColumnName(format!("version {version}")));
        }
        transaction.execute_batch(LATER_TABLES)?;
        event_log::create(&transaction)?;
        transaction.commit()?;
        Ok(connection)
    }

    /// Adds records and responses since the last sample, and compacts history. `now` is the time of the responses.
    pub(crate) fn write(
        &mut self,
        batch: &TrafficBatch,
        site: &SiteSample,
        now: UnixMillis,
    ) -> Result<(), LedgerError> {
        let seconds = now.div_euclid(1_000);
        let written = match self.try_write(batch, site, seconds) {
            Err(error) if is_full(&error) => {
                self.compact_harder(seconds).and_then(|()| self.try_write(batch, site, seconds))
            }
            written => written,
        };
        let compacted = written.and_then(|()| self.compact_if_due(seconds));
        compacted.map_err(|source| LedgerError::new(&self.path, source))
    }

    /// Compacts history once a minute: each report writes first, and a compaction reads all names.
    fn compact_if_due(&mut self, now: i64) -> rusqlite::Result<()> {
        let minute = Some(now.div_euclid(60));
        if self.compacted == minute && self.used_bytes()? <= self.soft_limit {
            return Ok(());
        }
        self.compacted = minute;
        match compaction::compact(&mut self.connection, now, 0) {
            Err(error) if is_full(&error) => self.compact_harder(now),
            Err(error) => Err(error),
            Ok(()) if self.used_bytes()? > self.soft_limit => self.compact_harder(now),
            Ok(()) => Ok(()),
        }
    }

    /// Writes the events that wait, and returns the new ones.
    pub(crate) fn write_events(
        &mut self,
        pending: &mut PendingEvents,
        now: UnixMillis,
    ) -> Result<Vec<Event>, LedgerError> {
        let written = match pending.write(&mut self.connection) {
            Err(error) if is_full(&error) => {
                let made = self.compact_harder(now.div_euclid(1_000));
                made.and_then(|()| pending.write(&mut self.connection))
            }
            written => written,
        };
        written.map_err(|source| self.error(source))
    }

    /// Returns events and the alarms of now.
    pub(crate) fn event_page(&self, query: EventQuery) -> Result<EventPage, LedgerError> {
        event_log::page(&self.connection, query).map_err(|source| self.error(source))
    }

    /// Returns the bytes over both lines by interval.
    pub(crate) fn rates(&self, since: UnixMillis, interval: i64) -> Result<Vec<RatePoint>, LedgerError> {
        let points = query::rates(&self.connection, since.div_euclid(1_000), interval);
        points.map_err(|source| self.error(source))
    }

    /// Returns how often each client was deferred.
    pub(crate) fn deferrals(&self, since: UnixMillis) -> Result<HashMap<String, u64>, LedgerError> {
        query::deferrals(&self.connection, since.div_euclid(1_000)).map_err(|source| self.error(source))
    }

    /// Returns the incidents of the last day.
    pub(crate) fn incidents(&self, now: UnixMillis) -> Result<IncidentReport, LedgerError> {
        incidents::report(&self.connection, now.div_euclid(1_000)).map_err(|source| self.error(source))
    }

    /// Bytes of the file that are in use.
    pub(crate) fn used_bytes(&self) -> rusqlite::Result<u64> {
        let value = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = value("page_count")? - value("freelist_count")?;
        Ok(u64::try_from(pages).unwrap_or(0) * PAGE)
    }

    pub(crate) fn error(&self, source: rusqlite::Error) -> LedgerError {
        LedgerError::new(&self.path, source)
    }

    fn compact_harder(&mut self, now: i64) -> rusqlite::Result<()> {
        for level in 1..=compaction::MAX_LEVEL {
            match compaction::compact(&mut self.connection, now, level) {
                // A higher level copies less.
                Err(error) if is_full(&error) && level < compaction::MAX_LEVEL => {}
                Err(error) => return Err(error),
                Ok(()) if self.used_bytes()? <= self.soft_limit => return Ok(()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn try_write(&mut self, batch: &TrafficBatch, site: &SiteSample, now: i64) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        add_line(&transaction, batch)?;
        add_clients(&transaction, batch)?;
        add_groups(&transaction, batch)?;
        add_objects(&transaction, batch)?;
        add_waits(&transaction, batch)?;
        add_incidents(&transaction, batch, now - now.rem_euclid(3_600))?;
        add_site(&transaction, site, now - now.rem_euclid(60))?;
        transaction.commit()
    }
}

/// Device and number of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Bytes of the file without its log.
fn hard_limit(max_size: u64) -> u64 {
    max_size.saturating_sub(LOG).max(LOG)
}

fn is_unreadable(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
        || matches!(error, rusqlite::Error::InvalidColumnName(_))
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

fn add_line(transaction: &Transaction<'_>, batch: &TrafficBatch) -> rusqlite::Result<()> {
    let mut add =
        transaction.prepare_cached(&upsert("line VALUES (60, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"))?;
    for (key, counts) in &batch.line {
        let (at, [transfers, received, sent, followers]) = (key.at.div_euclid(1_000), sums(counts));
        let (upstream, cause, content_type) = (&*key.upstream, key.cause.as_str(), &*key.content_type);
        add.execute(params![
            at,
            key.is_peer,
            upstream,
            cause,
            content_type,
            key.form,
            transfers,
            received,
            sent,
            followers
        ])?;
    }
    Ok(())
}

fn add_clients(transaction: &Transaction<'_>, batch: &TrafficBatch) -> rusqlite::Result<()> {
    let mut add =
        transaction.prepare_cached(&upsert("clients VALUES (3600, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"))?;
    for (key, counts) in &batch.clients {
        let client = key.client.map_or_else(|| RELAY.to_owned(), |client| client.to_string());
        let (at, [transfers, received, sent, followers]) = (key.at.div_euclid(1_000), sums(counts));
        let (cause, content_type, from_revision) =
            (key.cause.as_str(), &*key.content_type, &*key.from_revision);
        add.execute(params![
            at,
            client,
            cause,
            content_type,
            from_revision,
            transfers,
            received,
            sent,
            followers
        ])?;
    }
    Ok(())
}

fn add_groups(transaction: &Transaction<'_>, batch: &TrafficBatch) -> rusqlite::Result<()> {
    let mut add =
        transaction.prepare_cached(&upsert("client_groups VALUES (3600, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"))?;
    for (key, counts) in &batch.groups {
        let group = key.group.as_ref().map_or(RELAY, |group| &**group);
        let (at, [transfers, received, sent, followers]) = (key.at.div_euclid(1_000), sums(counts));
        let (cause, content_type) = (key.cause.as_str(), &*key.content_type);
        add.execute(params![at, group, cause, content_type, transfers, received, sent, followers])?;
    }
    Ok(())
}

fn add_objects(transaction: &Transaction<'_>, batch: &TrafficBatch) -> rusqlite::Result<()> {
    let mut add =
        transaction.prepare_cached(&upsert("objects VALUES (3600, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"))?;
    for (key, counts) in &batch.objects {
        let object = if key.object.is_empty() { OTHERS } else { &*key.object };
        let (at, [transfers, received, sent, followers]) = (key.at.div_euclid(1_000), sums(counts));
        let (cause, from_revision) = (key.cause.as_str(), &*key.from_revision);
        add.execute(params![at, object, cause, from_revision, transfers, received, sent, followers])?;
    }
    Ok(())
}

/// Returns the statement that adds a row of traffic.
fn upsert(row: &str) -> String {
    format!(
        "INSERT INTO {row} ON CONFLICT DO UPDATE SET transfers = transfers + excluded.transfers,
         received = received + excluded.received, sent = sent + excluded.sent, followers = followers + excluded.followers"
    )
}

fn sums(counts: &TrafficCounts) -> [i64; 4] {
    [counts.transfers, counts.received, counts.sent, counts.followers].map(signed)
}

fn add_waits(transaction: &Transaction<'_>, batch: &TrafficBatch) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO waits VALUES (3600, ?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET waits = waits + excluded.waits, millis = millis + excluded.millis",
    )?;
    for (key, counts) in &batch.waits {
        let client = key.client.map_or_else(|| OTHERS.to_owned(), |client| client.to_string());
        let (at, reason) = (key.at.div_euclid(1_000), key.reason.as_str());
        add.execute(params![at, client, reason, signed(counts.waits), signed(counts.millis)])?;
    }
    Ok(())
}

fn add_incidents(transaction: &Transaction<'_>, batch: &TrafficBatch, at: i64) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO incidents VALUES (3600, ?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET times = times + excluded.times, bytes = bytes + excluded.bytes",
    )?;
    for (key, counts) in &batch.incidents {
        let client = key.client.map_or_else(|| OTHERS.to_owned(), |client| client.to_string());
        let (incident, content_type) = (key.incident.as_str(), &*key.content_type);
        add.execute(params![at, client, incident, content_type, signed(counts.count), signed(counts.bytes)])?;
    }
    Ok(())
}

fn add_site(transaction: &Transaction<'_>, site: &SiteSample, at: i64) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO site VALUES (60, ?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET sent = sent + excluded.sent, saved = saved + excluded.saved,
             requests = requests + excluded.requests, hits = hits + excluded.hits",
    )?;
    let SiteSample { sent, saved, requests, hits, sent_by_type } = site;
    if *requests > 0 || *sent > 0 {
        add.execute(params![at, "", signed(*sent), signed(*saved), signed(*requests), signed(*hits)])?;
    }
    for (content_type, sent) in sent_by_type.iter().filter(|(_, sent)| *sent > 0) {
        add.execute(params![at, &**content_type, signed(*sent), 0, 0, 0])?;
    }
    Ok(())
}

/// SQLite has no unsigned integers.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
