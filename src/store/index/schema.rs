//! The index's file: its schema, how a connection is set up, and what is taken for a sound index. A file that is not
//! one is for `rebuild` to replace; nothing here does.
//!
//! WAL with synchronous=NORMAL: a transaction is not synced by itself, so a power loss may take the last ones back.
//! The journal brings back those it still has; an object lost otherwise is fetched again; one that reappears after its
//! removal has no file and is found out when it is read. Wrong bytes cannot come of it, since every block is checked
//! against its blob's own checksums, and no wrong head, since every row has one.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{check, migrate};
use crate::StoreError;

/// Version of the schema below, in `user_version`.
pub(super) const SCHEMA: i64 = 3;

/// In `application_id`, by exclusive or with the version: a flipped bit does not make an index of a later gupd.
const APPLICATION: i64 = 0x6775_7064; // "gupd"

/// Where the journal is behind the index, it has no position: see [`crate::index::journal`].
pub(super) const INCOMPLETE: i64 = i64::MAX;

/// Statements kept prepared for each connection: as many as there are in all files beside this one.
const STATEMENTS: usize = 64;

const TABLES: &str = "
    CREATE TABLE blobs (
        id   INTEGER PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        len  INTEGER NOT NULL,
        disk INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE objects (
        id            INTEGER PRIMARY KEY AUTOINCREMENT, -- a late record_use must not meet a new object
        key           TEXT NOT NULL,
        selecting     TEXT NOT NULL,
        status        INTEGER NOT NULL,
        headers       BLOB NOT NULL,
        content_type  TEXT NOT NULL,
        upstream      TEXT NOT NULL,
        request_time  INTEGER NOT NULL,
        response_time INTEGER NOT NULL,
        last_used     INTEGER NOT NULL,
        blob          INTEGER NOT NULL REFERENCES blobs (id),
        queue         INTEGER NOT NULL DEFAULT 1, -- these three: see policy
        uses          INTEGER NOT NULL DEFAULT 0,
        entered       INTEGER NOT NULL DEFAULT 0,
        pinned        INTEGER NOT NULL DEFAULT 0, -- see hold
        sum           INTEGER NOT NULL DEFAULT 0  -- XXH3-64 of the record, the hash and the length
    ) STRICT;
    CREATE TABLE totals (
        objects INTEGER NOT NULL, object_bytes INTEGER NOT NULL,
        blobs INTEGER NOT NULL, blob_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL,
        small_bytes INTEGER NOT NULL DEFAULT 0,  -- on probation
        held_bytes  INTEGER NOT NULL DEFAULT 0,  -- of objects that have no turn
        journal     INTEGER NOT NULL DEFAULT 9223372036854775807, -- how far the journal went with this index
        adopting    INTEGER NOT NULL DEFAULT 0   -- files without a row may be objects that were lost
    ) STRICT;
    INSERT INTO totals (objects, object_bytes, blobs, blob_bytes, disk_bytes) VALUES (0, 0, 0, 0, 0);
    CREATE UNIQUE INDEX objects_by_key ON objects (key, selecting);
    CREATE INDEX objects_by_blob ON objects (blob);
    CREATE TRIGGER blob_in AFTER INSERT ON blobs BEGIN
        UPDATE totals SET blobs = blobs + 1, blob_bytes = blob_bytes + NEW.len, disk_bytes = disk_bytes + NEW.disk;
    END;
    CREATE TRIGGER blob_out AFTER DELETE ON blobs BEGIN
        UPDATE totals SET blobs = blobs - 1, blob_bytes = blob_bytes - OLD.len, disk_bytes = disk_bytes - OLD.disk;
    END;
";

/// What version 2 has in place of version 1's.
pub(super) const QUEUES: &str = "
    CREATE TABLE ghosts (id INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL UNIQUE) STRICT;
    CREATE INDEX objects_by_use ON objects (last_used) WHERE pinned = 0;
    CREATE INDEX objects_by_turn ON objects (queue, entered) WHERE pinned = 0;
";

/// What version 3 has in place of version 2's.
pub(super) const HOLDS: &str = "
    CREATE INDEX objects_kept ON objects (last_used) WHERE pinned = 2;
    CREATE TRIGGER object_in AFTER INSERT ON objects BEGIN
        UPDATE totals SET objects = objects + 1,
            object_bytes = object_bytes + (SELECT len FROM blobs WHERE id = NEW.blob),
            small_bytes = small_bytes
                + (NEW.queue = 0 AND NEW.pinned = 0) * (SELECT len FROM blobs WHERE id = NEW.blob),
            held_bytes = held_bytes + (NEW.pinned <> 0) * (SELECT len FROM blobs WHERE id = NEW.blob);
    END;
    CREATE TRIGGER object_out AFTER DELETE ON objects BEGIN
        UPDATE totals SET objects = objects - 1,
            object_bytes = object_bytes - (SELECT len FROM blobs WHERE id = OLD.blob),
            small_bytes = small_bytes
                - (OLD.queue = 0 AND OLD.pinned = 0) * (SELECT len FROM blobs WHERE id = OLD.blob),
            held_bytes = held_bytes - (OLD.pinned <> 0) * (SELECT len FROM blobs WHERE id = OLD.blob);
    END;
    CREATE TRIGGER object_moves AFTER UPDATE OF queue, pinned ON objects BEGIN
        UPDATE totals SET
            small_bytes = small_bytes + ((NEW.queue = 0 AND NEW.pinned = 0) - (OLD.queue = 0 AND OLD.pinned = 0))
                * (SELECT len FROM blobs WHERE id = NEW.blob),
            held_bytes = held_bytes + ((NEW.pinned <> 0) - (OLD.pinned <> 0))
                * (SELECT len FROM blobs WHERE id = NEW.blob);
    END;
";

/// The tables of `records`, also version 3's.
pub(super) const NAMED: &str = "
    CREATE TABLE records (name TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) STRICT;
    CREATE TABLE clients (name TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Looks once at each table and index: what these touch is damaged at start or found sound enough to begin.
const PROBE: &str = "
    SELECT (SELECT objects FROM totals WHERE journal >= 0 AND adopting >= 0),
        (SELECT status FROM objects WHERE pinned = 0 ORDER BY last_used LIMIT 1),
        (SELECT uses FROM objects WHERE pinned = 0 AND queue = 1 ORDER BY entered LIMIT 1),
        (SELECT status FROM objects ORDER BY key, selecting LIMIT 1),
        (SELECT hash FROM blobs ORDER BY id LIMIT 1),
        (SELECT status FROM objects WHERE pinned = 2 ORDER BY last_used LIMIT 1),
        (SELECT count(*) FROM ghosts),
        (SELECT sum FROM records ORDER BY name LIMIT 1),
        (SELECT sum FROM clients ORDER BY name LIMIT 1)
";

/// Why a file is not a sound index.
#[derive(Debug)]
pub(super) enum IndexFault {
    /// There is nothing in it, or no file.
    Missing,
    /// It is not what was written.
    Damaged(String),
    /// A later gupd wrote it.
    Newer(i64),
    /// The system is in the way.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for IndexFault {
    /// The file's bytes are to blame for what nothing else is: the folder has been written to by now.
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Failed(error),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

impl IndexFault {
    pub(super) fn into_error(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Self::Missing => StoreError::Index { path, reason: "it is missing".to_owned() },
            Self::Damaged(reason) => StoreError::Index { path, reason },
            Self::Newer(found) => StoreError::NewerIndex { path, found, known: SCHEMA },
            Self::Failed(error) => StoreError::Index { path, reason: error.to_string() },
        }
    }
}

/// Opens the writing connection to a sound index; brings one of an earlier version to this one.
pub(super) fn open(path: &Path) -> Result<Connection, IndexFault> {
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Err(IndexFault::Missing);
    }
    let mut connection = Connection::open_with_flags(path, writing())?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -4096)?; // KiB
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    let value = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    match (value("user_version")?, value("application_id")?) {
        (1, 0) => migrate::from_1(&mut connection)?,
        (2, application) if application == APPLICATION ^ 2 => migrate::from_2(&mut connection)?,
        (SCHEMA, application) if application == APPLICATION ^ SCHEMA => {}
        (version, application) if version > SCHEMA && application == APPLICATION ^ version => {
            return Err(IndexFault::Newer(version));
        }
        _ => return Err(IndexFault::Damaged("it has tables of something else".to_owned())),
    }
    connection.query_row(PROBE, [], |row| row.get::<_, i64>(0))?;
    // So it is with an unknown format's number in its head; the folder can be written, or its lock could not be had.
    if connection.is_readonly("main")? {
        return Err(IndexFault::Damaged("it cannot be written".to_owned()));
    }
    check::at_start(&connection, path)?;
    Ok(connection)
}

/// Begins an index that is filled and then [`finish`]ed. No crash needs to survive it: whoever fills it syncs it.
pub(super) fn begin(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, writing())?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", -(64 << 10))?; // KiB: keys and hashes come in no order
    connection.execute_batch(TABLES)?;
    connection.execute_batch(NAMED)?;
    Ok(connection)
}

/// Gives an index what is quicker to make once than to keep up for each row.
pub(super) fn finish(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(QUEUES)?;
    connection.execute_batch(HOLDS)?;
    recount(connection)?;
    set_version(connection)
}

/// Has the totals of objects be those of the rows.
pub(super) fn recount(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "UPDATE totals SET (objects, object_bytes, small_bytes, held_bytes) = (
            SELECT count(*), coalesce(sum(len), 0), coalesce(sum(len * (queue = 0 AND pinned = 0)), 0),
                coalesce(sum(len * (pinned <> 0)), 0)
            FROM objects o JOIN blobs b ON b.id = o.blob)",
    )
}

/// Opens a reading connection to an index that [`open`] found sound.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", -1024)?; // KiB
    Ok(connection)
}

fn writing() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

pub(super) fn set_version(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION ^ SCHEMA)?;
    connection.pragma_update(None, "user_version", SCHEMA)
}
