//! Full check of an index. SQLite notices an impossible page, not a flipped bit in a key. This check compares
//! tables with their indexes, totals with rows, and each row with its checksum. It reads the whole file, so a
//! large index is checked after the start, while it serves.

use std::path::Path;

use rusqlite::{Connection, Error, Result, ffi};

use super::schema::row_charge;
use super::{records, row};

/// Maximum size in bytes of an index that is checked before use: some ten thousand objects, which most sites
/// have, in 0.1 s.
const SMALL: u64 = 16 << 20;

/// Checks an index that is small enough for a check at start.
pub(super) fn check_if_small(connection: &Connection, path: &Path) -> Result<()> {
    if is_small(path) { check_all(connection) } else { Ok(()) }
}

/// Returns true if the index is small enough for a check at start.
pub(super) fn is_small(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() <= SMALL)
}

/// Checks the whole index; the error describes the damage.
pub(super) fn check_all(connection: &Connection) -> Result<()> {
    let result: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if result != "ok" {
        return Err(corruption(&result));
    }
    let totals_agree: bool = connection.query_row(
        concat!(
            "SELECT (objects, object_bytes, small_bytes, held_bytes, row_bytes) = (
                SELECT count(*), coalesce(sum(len), 0), coalesce(sum(len * (queue = 0 AND pinned = 0)), 0),
                    coalesce(sum(len * (pinned <> 0)), 0), coalesce(sum(",
            row_charge!(""),
            "), 0)
                FROM objects o JOIN blobs b ON b.id = o.blob)
            AND (blobs, blob_bytes, disk_bytes, packed_bytes) = (
                SELECT count(*), coalesce(sum(len), 0), coalesce(sum(disk), 0),
                    coalesce(sum(disk * (pack IS NOT NULL)), 0) FROM blobs)
            AND NOT EXISTS (SELECT 1 FROM packs p
                LEFT JOIN (SELECT pack, sum(size) AS found FROM blobs GROUP BY pack) b ON b.pack = p.id
                WHERE stored <> coalesce(found, 0))
         FROM totals"
        ),
        [],
        |row| row.get(0),
    )?;
    if !totals_agree {
        return Err(corruption("the totals differ from the rows"));
    }
    row::for_each(connection, |_| Ok(()))?;
    records::for_each(connection, |_, _| Ok(()))
}

/// Returns the error that SQLite uses for a corrupt page.
pub(super) fn corruption(fault: &str) -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(fault.to_owned()))
}

/// Returns true if a statement's error means that the file is damaged.
pub(super) fn is_corruption(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(error, _) => {
            matches!(error.code, ffi::ErrorCode::DatabaseCorrupt | ffi::ErrorCode::NotADatabase)
        }
        // Columns are typed and lengths are signed; rows only have written values.
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => true,
        _ => false,
    }
}
