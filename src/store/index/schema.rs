//! The index's file: its schema, how a connection is set up, and what happens to a file that is not a sound index.
//! Opening looks at a version, one row of totals and the first entry of each index, so it takes the same time with
//! a million objects as with none.
//!
//! WAL with synchronous=NORMAL: a transaction is not synced by itself, so a power loss may take the last ones back.
//! An object lost that way is fetched again; one that reappears after its removal has no file and is found out when
//! it is read. Wrong bytes cannot come of it, since every block is checked against its blob's own checksums.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::clock::UnixMillis;
use crate::store::StoreError;

/// Version of the schema below, in `user_version`.
const SCHEMA: i64 = 1;

/// Statements kept prepared for each connection: as many as there are in `statements`.
const STATEMENTS: usize = 32;

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
        blob          INTEGER NOT NULL REFERENCES blobs (id)
    ) STRICT;
    CREATE UNIQUE INDEX objects_by_key ON objects (key, selecting);
    CREATE INDEX objects_by_use ON objects (last_used);
    CREATE INDEX objects_by_blob ON objects (blob);
    CREATE TABLE totals (
        objects INTEGER NOT NULL, object_bytes INTEGER NOT NULL,
        blobs INTEGER NOT NULL, blob_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL
    ) STRICT;
    INSERT INTO totals VALUES (0, 0, 0, 0, 0);
    CREATE TRIGGER object_in AFTER INSERT ON objects BEGIN
        UPDATE totals SET objects = objects + 1,
            object_bytes = object_bytes + (SELECT len FROM blobs WHERE id = NEW.blob);
    END;
    CREATE TRIGGER object_out AFTER DELETE ON objects BEGIN
        UPDATE totals SET objects = objects - 1,
            object_bytes = object_bytes - (SELECT len FROM blobs WHERE id = OLD.blob);
    END;
    CREATE TRIGGER blob_in AFTER INSERT ON blobs BEGIN
        UPDATE totals SET blobs = blobs + 1, blob_bytes = blob_bytes + NEW.len, disk_bytes = disk_bytes + NEW.disk;
    END;
    CREATE TRIGGER blob_out AFTER DELETE ON blobs BEGIN
        UPDATE totals SET blobs = blobs - 1, blob_bytes = blob_bytes - OLD.len, disk_bytes = disk_bytes - OLD.disk;
    END;
";

/// Looks once at each table and index: what these touch is damaged at start or found sound enough to begin.
const PROBE: &str = "
    SELECT (SELECT objects FROM totals),
        (SELECT status FROM objects ORDER BY last_used LIMIT 1),
        (SELECT status FROM objects ORDER BY key, selecting LIMIT 1),
        (SELECT hash FROM blobs ORDER BY id LIMIT 1)
";

/// Opens the writing connection. A damaged file is moved aside and a new index begun.
pub(super) fn open(path: &Path, now: UnixMillis) -> Result<Connection, StoreError> {
    match open_sound(path) {
        Err(Unsound::Damaged(fault)) => {
            let aside = path.with_file_name(format!("index.damaged-{now}"));
            for suffix in ["", "-wal", "-shm"] {
                let with = |path: &Path| Path::new(&format!("{}{suffix}", path.display())).to_owned();
                if let Err(source) = std::fs::rename(with(path), with(&aside))
                    && source.kind() != std::io::ErrorKind::NotFound
                {
                    return Err(StoreError::Io {
                        doing: "move the damaged index away to",
                        path: aside,
                        source,
                    });
                }
            }
            tracing::warn!(index = %path.display(), kept = %aside.display(), %fault,
                "the index is damaged; it is kept aside and an empty one begun");
            open_sound(path).map_err(|unsound| unsound.into_error(path))
        }
        other => other.map_err(|unsound| unsound.into_error(path)),
    }
}

/// Opens a reading connection to an index that [`open`] found sound.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", -1024)?; // KiB
    Ok(connection)
}

enum Unsound {
    Damaged(String),
    Newer(i64),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Unsound {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Failed(error),
        }
    }
}

impl Unsound {
    fn into_error(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Self::Damaged(reason) => StoreError::Index { path, reason },
            Self::Newer(found) => StoreError::NewerIndex { path, found, known: SCHEMA },
            Self::Failed(error) => StoreError::Index { path, reason: error.to_string() },
        }
    }
}

fn open_sound(path: &Path) -> Result<Connection, Unsound> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -4096)?; // KiB
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match version {
        0 if tables == 0 => {
            let change = connection.transaction()?;
            change.execute_batch(TABLES)?;
            change.pragma_update(None, "user_version", SCHEMA)?;
            change.commit()?;
        }
        SCHEMA => {
            // Whatever fails here, the tables are not the ones that this version number promises.
            let probe = connection.query_row(PROBE, [], |row| row.get::<_, i64>(0));
            probe.map_err(|error| Unsound::Damaged(error.to_string()))?;
        }
        newer if newer > SCHEMA => return Err(Unsound::Newer(newer)),
        _ => return Err(Unsound::Damaged("it has tables of something else".to_owned())),
    }
    Ok(connection)
}
