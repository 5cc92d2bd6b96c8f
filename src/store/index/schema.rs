//! The index file: its schema, the settings of a connection, and the test of a valid index. `rebuild` replaces an
//! invalid file.
//!
//! WAL with synchronous=NORMAL does not sync each transaction, so a power failure may revert the last ones. The
//! journal restores those it still has, and other lost objects are fetched again. An object that reappears after
//! its removal has no file, which is detected when it is read. Wrong bytes are impossible, since each block has a
//! checksum in its blob; so are wrong heads, since each row has one.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{check, migrate};
use crate::StoreError;

/// Version of the schema below, in `user_version`.
pub(super) const SCHEMA: i64 = 4;

/// In `application_id`, XORed with the version: a flipped bit in the version does not make an index of a later
/// gupd.
const APPLICATION: i64 = 0x6775_7064; // "gupd"

/// Journal position of an index with an incomplete journal; see [`crate::index::journal`].
pub(super) const INCOMPLETE: i64 = i64::MAX;

/// Prepared statements cached per connection: as many as the other files have.
const STATEMENTS: usize = 64;

/// Place of temporary tables. A sandboxed relay may create no file outside the store, where SQLite would. They are
/// small: only a migration and a rebuild sort all rows.
const TEMPORARY: &str = "MEMORY";

const TABLES: &str = "
    CREATE TABLE blobs (
        id   INTEGER PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        len  INTEGER NOT NULL,
        disk INTEGER NOT NULL,
        pack INTEGER, -- these four: place of the image and its checksum, NULL for a file of its own
        at   INTEGER,
        size INTEGER,
        sum  INTEGER
    ) STRICT;
    CREATE TABLE objects (
        id            INTEGER PRIMARY KEY AUTOINCREMENT, -- a late record_use must not hit a new object
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
        pinned        INTEGER NOT NULL DEFAULT 0, -- see retention
        sum           INTEGER NOT NULL DEFAULT 0  -- XXH3-64 of the record, the hash and the length
    ) STRICT;
    CREATE TABLE totals (
        objects INTEGER NOT NULL, object_bytes INTEGER NOT NULL,
        blobs INTEGER NOT NULL, blob_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL,
        small_bytes INTEGER NOT NULL DEFAULT 0,  -- in the small queue
        held_bytes  INTEGER NOT NULL DEFAULT 0,  -- of retained objects
        journal     INTEGER NOT NULL DEFAULT 9223372036854775807, -- journal position of this index
        adopting    INTEGER NOT NULL DEFAULT 0,  -- files without a row may be lost objects
        packed_bytes INTEGER NOT NULL DEFAULT 0, -- charged for blobs in packs
        row_bytes    INTEGER NOT NULL DEFAULT 0  -- charged for the rows of objects
    ) STRICT;
    INSERT INTO totals (objects, object_bytes, blobs, blob_bytes, disk_bytes) VALUES (0, 0, 0, 0, 0);
    CREATE UNIQUE INDEX objects_by_key ON objects (key, selecting);
    CREATE INDEX objects_by_blob ON objects (blob);
";

/// Additions of version 2.
pub(super) const QUEUES: &str = "
    CREATE TABLE ghosts (id INTEGER PRIMARY KEY AUTOINCREMENT, key INTEGER NOT NULL UNIQUE) STRICT;
    CREATE INDEX objects_by_use ON objects (last_used) WHERE pinned = 0;
    CREATE INDEX objects_by_turn ON objects (queue, entered) WHERE pinned = 0;
";

/// Additions of version 3.
pub(super) const HOLDS: &str = "
    CREATE INDEX objects_kept ON objects (last_used) WHERE pinned = 2;
    CREATE TRIGGER object_moves AFTER UPDATE OF queue, pinned ON objects BEGIN
        UPDATE totals SET
            small_bytes = small_bytes + ((NEW.queue = 0 AND NEW.pinned = 0) - (OLD.queue = 0 AND OLD.pinned = 0))
                * (SELECT len FROM blobs WHERE id = NEW.blob),
            held_bytes = held_bytes + ((NEW.pinned <> 0) - (OLD.pinned <> 0))
                * (SELECT len FROM blobs WHERE id = NEW.blob);
    END;
";

/// Bytes charged for the row of an object: twice its key, which an index has too, its head, and the rest.
macro_rules! row_charge {
    ($of:literal) => {
        concat!(
            "(512 + 2 * length(CAST(",
            $of,
            "key AS BLOB)) + length(CAST(",
            $of,
            "selecting AS BLOB)) + length(",
            $of,
            "headers))"
        )
    };
}
pub(super) use row_charge;

/// Changes of version 4: totals of objects, with the charge for rows, in one statement for each change.
pub(super) const ROWS: &str = concat!(
    "
    CREATE TRIGGER object_in AFTER INSERT ON objects BEGIN
        UPDATE totals SET objects = objects + 1, object_bytes = object_bytes + b.len,
            small_bytes = small_bytes + (NEW.queue = 0 AND NEW.pinned = 0) * b.len,
            held_bytes = held_bytes + (NEW.pinned <> 0) * b.len, row_bytes = row_bytes + ",
    row_charge!("NEW."),
    "
            FROM (SELECT len FROM blobs WHERE id = NEW.blob) AS b;
    END;
    CREATE TRIGGER object_out AFTER DELETE ON objects BEGIN
        UPDATE totals SET objects = objects - 1, object_bytes = object_bytes - b.len,
            small_bytes = small_bytes - (OLD.queue = 0 AND OLD.pinned = 0) * b.len,
            held_bytes = held_bytes - (OLD.pinned <> 0) * b.len, row_bytes = row_bytes - ",
    row_charge!("OLD."),
    "
            FROM (SELECT len FROM blobs WHERE id = OLD.blob) AS b;
    END;
    CREATE TRIGGER row_changes AFTER UPDATE OF headers ON objects BEGIN
        UPDATE totals SET row_bytes = row_bytes + length(NEW.headers) - length(OLD.headers);
    END;
"
);

/// Additions of version 4. The stored bytes of each pack, records with their headers.
pub(super) const PACKS: &str = "
    CREATE TABLE packs (id INTEGER PRIMARY KEY, stored INTEGER NOT NULL) STRICT;
    CREATE TRIGGER blob_in AFTER INSERT ON blobs BEGIN
        UPDATE totals SET blobs = blobs + 1, blob_bytes = blob_bytes + NEW.len,
            disk_bytes = disk_bytes + NEW.disk, packed_bytes = packed_bytes + (NEW.pack IS NOT NULL) * NEW.disk;
    END;
    CREATE TRIGGER blob_out AFTER DELETE ON blobs BEGIN
        UPDATE totals SET blobs = blobs - 1, blob_bytes = blob_bytes - OLD.len,
            disk_bytes = disk_bytes - OLD.disk, packed_bytes = packed_bytes - (OLD.pack IS NOT NULL) * OLD.disk;
    END;
    CREATE TRIGGER blob_moves AFTER UPDATE OF pack, disk ON blobs BEGIN
        UPDATE totals SET disk_bytes = disk_bytes + NEW.disk - OLD.disk,
            packed_bytes = packed_bytes + (NEW.pack IS NOT NULL) * NEW.disk - (OLD.pack IS NOT NULL) * OLD.disk;
    END;
    CREATE TRIGGER record_in AFTER INSERT ON blobs WHEN NEW.pack IS NOT NULL BEGIN
        INSERT INTO packs VALUES (NEW.pack, NEW.size) ON CONFLICT DO UPDATE SET stored = stored + NEW.size;
    END;
    CREATE TRIGGER record_out AFTER DELETE ON blobs WHEN OLD.pack IS NOT NULL BEGIN
        UPDATE packs SET stored = stored - OLD.size WHERE id = OLD.pack;
    END;
    CREATE TRIGGER record_moves_in AFTER UPDATE OF pack ON blobs WHEN NEW.pack IS NOT NULL BEGIN
        INSERT INTO packs VALUES (NEW.pack, NEW.size) ON CONFLICT DO UPDATE SET stored = stored + NEW.size;
    END;
    CREATE TRIGGER record_moves_out AFTER UPDATE OF pack ON blobs WHEN OLD.pack IS NOT NULL BEGIN
        UPDATE packs SET stored = stored - OLD.size WHERE id = OLD.pack;
    END;
";

/// Tables of `records`, also of version 3.
pub(super) const NAMED: &str = "
    CREATE TABLE records (name TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) STRICT;
    CREATE TABLE clients (name TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Reads once from each table and index: damage at the pages touched is found at start.
const PROBE: &str = "
    SELECT (SELECT objects FROM totals WHERE journal >= 0 AND adopting >= 0),
        (SELECT status FROM objects WHERE pinned = 0 ORDER BY last_used LIMIT 1),
        (SELECT uses FROM objects WHERE pinned = 0 AND queue = 1 ORDER BY entered LIMIT 1),
        (SELECT status FROM objects ORDER BY key, selecting LIMIT 1),
        (SELECT hash FROM blobs ORDER BY id LIMIT 1),
        (SELECT status FROM objects WHERE pinned = 2 ORDER BY last_used LIMIT 1),
        (SELECT count(*) FROM ghosts),
        (SELECT sum FROM records ORDER BY name LIMIT 1),
        (SELECT sum FROM clients ORDER BY name LIMIT 1),
        (SELECT stored FROM packs ORDER BY id LIMIT 1)
";

/// Fault of an index file.
#[derive(Debug)]
pub(super) enum IndexFault {
    /// The file is empty or missing.
    Missing,
    /// The file is damaged.
    Damaged(String),
    /// A later gupd wrote the file.
    Newer(i64),
    /// The system failed.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for IndexFault {
    /// Maps an unexplained error to damage of the file: the folder has been written to by now.
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
            Self::Missing => StoreError::Index { path, reason: "missing".to_owned() },
            Self::Damaged(reason) => StoreError::Index { path, reason },
            Self::Newer(found) => StoreError::NewerIndex { path, found, known: SCHEMA },
            Self::Failed(error) => StoreError::Index { path, reason: error.to_string() },
        }
    }
}

/// Opens the writing connection to a valid index; migrates one of an earlier version.
pub(super) fn open(path: &Path) -> Result<Connection, IndexFault> {
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Err(IndexFault::Missing);
    }
    let mut connection = Connection::open_with_flags(path, write_flags())?;
    prepare(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -8192)?; // KiB
    connection.pragma_update(None, "temp_store", TEMPORARY)?;
    // See the checkpoint module.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    let value = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    match (value("user_version")?, value("application_id")?) {
        (1, 0) => migrate::from_1(&mut connection)?,
        (2, application) if application == APPLICATION ^ 2 => migrate::from_2(&mut connection)?,
        (3, application) if application == APPLICATION ^ 3 => migrate::from_3(&mut connection)?,
        (SCHEMA, application) if application == APPLICATION ^ SCHEMA => {}
        (version, application) if version > SCHEMA && application == APPLICATION ^ version => {
            return Err(IndexFault::Newer(version));
        }
        _ => return Err(IndexFault::Damaged("not an index of gupd".to_owned())),
    }
    connection.query_row(PROBE, [], |row| row.get::<_, i64>(0))?;
    // Happens with an unknown format number in the header; the folder is writable, or its lock could not have
    // been taken.
    if connection.is_readonly("main")? {
        return Err(IndexFault::Damaged("not writable".to_owned()));
    }
    check::check_if_small(&connection, path)?;
    Ok(connection)
}

/// Creates an index to be filled and then [`finish`]ed. It need not survive a crash; the caller syncs it.
pub(super) fn create(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, write_flags())?;
    prepare(&connection)?;
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", -(64 << 10))?; // KiB: keys and hashes come in no order
    connection.pragma_update(None, "temp_store", TEMPORARY)?;
    connection.execute_batch(TABLES)?;
    connection.execute_batch(PACKS)?;
    connection.execute_batch(NAMED)?;
    Ok(connection)
}

/// Adds the indexes and triggers, which are quicker to build once than to maintain per row.
pub(super) fn finish(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(QUEUES)?;
    connection.execute_batch(HOLDS)?;
    connection.execute_batch(ROWS)?;
    recount(connection)?;
    set_version(connection)
}

/// Recomputes the totals of objects from the rows.
pub(super) fn recount(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(concat!(
        "UPDATE totals SET (objects, object_bytes, small_bytes, held_bytes, row_bytes) = (
            SELECT count(*), coalesce(sum(len), 0), coalesce(sum(len * (queue = 0 AND pinned = 0)), 0),
                coalesce(sum(len * (pinned <> 0)), 0), coalesce(sum(",
        row_charge!(""),
        "), 0)
            FROM objects o JOIN blobs b ON b.id = o.blob)",
    ))
}

/// Opens a reading connection to an index that [`open`] accepted.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    connection.pragma_update(None, "cache_size", -1024)?; // KiB
    connection.pragma_update(None, "temp_store", TEMPORARY)?;
    Ok(connection)
}

/// Opens a connection that only checkpoints the log of an index that [`open`] accepted. Its end leaves the log as it
/// is: another index may have the name by then.
pub(super) fn open_checkpointer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "temp_store", TEMPORARY)?;
    Ok(connection)
}

/// Keeps statements prepared. Without the stability guarantee SQLite prepares a statement again for each value that it
/// compares with the condition of a partial index: an eighth of the index thread's time.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn write_flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

pub(super) fn set_version(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION ^ SCHEMA)?;
    connection.pragma_update(None, "user_version", SCHEMA)
}
