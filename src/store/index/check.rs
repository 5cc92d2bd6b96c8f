//! Whether an index is sound all through. SQLite notices a page that cannot be one, not a flipped bit in a key; here
//! its tables are compared with its indexes, the totals with what they total, and each row with its checksum. That
//! reads the whole file, so a large index is checked after the start, while it serves.

use std::path::Path;

use rusqlite::{Connection, Error, Result, ffi};

use super::{records, row};

/// Bytes of an index that is checked before it is used: some ten thousand objects, as most sites have, in a tenth of
/// a second.
const AT_START: u64 = 16 << 20;

/// Checks an index that is not too large for it now.
pub(super) fn at_start(connection: &Connection, path: &Path) -> Result<()> {
    if is_small(path) { whole(connection) } else { Ok(()) }
}

/// Whether [`at_start`] checks an index of this size.
pub(super) fn is_small(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() <= AT_START)
}

/// Checks everything; the error says what is damaged.
pub(super) fn whole(connection: &Connection) -> Result<()> {
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(damage(&said));
    }
    let agree: bool = connection.query_row(
        "SELECT (objects, object_bytes, small_bytes, held_bytes) = (
                SELECT count(*), coalesce(sum(len), 0), coalesce(sum(len * (queue = 0 AND pinned = 0)), 0),
                    coalesce(sum(len * (pinned <> 0)), 0)
                FROM objects o JOIN blobs b ON b.id = o.blob)
            AND (blobs, blob_bytes, disk_bytes) = (
                SELECT count(*), coalesce(sum(len), 0), coalesce(sum(disk), 0) FROM blobs)
         FROM totals",
        [],
        |row| row.get(0),
    )?;
    if !agree {
        return Err(damage("the totals are not those of the rows"));
    }
    row::each(connection, |_| Ok(()))?;
    records::each(connection, |_, _| Ok(()))
}

/// An error as SQLite gives it for a page that cannot be right.
pub(super) fn damage(what: &str) -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(what.to_owned()))
}

/// Whether an error of a statement means that the file is not what was written.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(error, _) => {
            matches!(error.code, ffi::ErrorCode::DatabaseCorrupt | ffi::ErrorCode::NotADatabase)
        }
        // Columns have types and lengths signs; rows have only what was written into them.
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => true,
        _ => false,
    }
}
