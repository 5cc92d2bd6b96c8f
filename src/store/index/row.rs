//! Objects as they are read from the index: a row is what was written, by its checksum, or the index is damaged.

use http::StatusCode;
use rusqlite::{Connection, Error, Result, Row, params};
use xxhash_rust::xxh3::Xxh3;

use super::check::damage;
use super::journal::ObjectEntry;
use crate::ObjectKey;
use crate::object::decode_headers;
use crate::{BlobId, MAX_VARIANTS, NewObject, Object};

/// An object's row and its blob's.
pub(crate) const ROW: &str =
    "SELECT o.id, key, selecting, status, headers, content_type, upstream, request_time, response_time,
    last_used, hash, len, disk, pinned, sum FROM objects o JOIN blobs b ON b.id = o.blob";

/// All variants of a key, newest first.
pub(super) fn find(connection: &Connection, key: &str) -> Result<Vec<Object>> {
    let mut statement = connection
        .prepare_cached(&format!("{ROW} WHERE key = ?1 ORDER BY response_time DESC, o.id DESC LIMIT ?2"))?;
    statement.query_map(params![key, MAX_VARIANTS as i64], object)?.collect()
}

/// Objects that have this body, newest first and copies last, at most `limit`: no upstream knows a copy's key.
pub(super) fn of_blob(connection: &Connection, blob: BlobId, limit: usize) -> Result<Vec<Object>> {
    let mut statement = connection.prepare_cached(&format!(
        "{ROW} WHERE b.hash = ?1 ORDER BY key GLOB '@*', response_time DESC, o.id DESC LIMIT ?2"
    ))?;
    statement.query_map(params![blob.as_bytes(), limit as i64], object)?.collect()
}

/// Objects but for copies by row behind `after`, at most `limit`.
pub(super) fn page(connection: &Connection, after: i64, limit: usize) -> Result<Vec<Object>> {
    let mut statement = connection
        .prepare_cached(&format!("{ROW} WHERE o.id > ?1 AND key NOT GLOB '@*' ORDER BY o.id LIMIT ?2"))?;
    statement.query_map(params![after, limit as i64], object)?.collect()
}

/// Keys of all copies.
pub(super) fn copies(connection: &Connection) -> Result<Vec<ObjectKey>> {
    let mut statement = connection
        .prepare_cached("SELECT DISTINCT key FROM objects WHERE key >= '@' AND key < 'A' ORDER BY key")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// An object as it was written, of a row of [`ROW`].
pub(crate) fn object(row: &Row<'_>) -> Result<Object> {
    let put = stored(row)?;
    Ok(put.new.into_object(put.id, put.blob, put.len, row.get(9)?))
}

/// Shows every object, in the order of their ids. Reads everything.
pub(super) fn each(connection: &Connection, mut show: impl FnMut(ObjectEntry) -> Result<()>) -> Result<()> {
    let mut statement = connection.prepare(&format!("{ROW} ORDER BY o.id"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        show(stored(row)?)?;
    }
    Ok(())
}

/// A row as it was written: anything else is damage.
pub(super) fn stored(row: &Row<'_>) -> Result<ObjectEntry> {
    let put = read(row)?;
    if row.get::<_, i64>(14)? == sum(&put) { Ok(put) } else { Err(damage("a row's checksum differs")) }
}

/// The same without its checksum.
pub(super) fn read(row: &Row<'_>) -> Result<ObjectEntry> {
    let headers = decode_headers(row.get_ref(4)?.as_blob()?);
    let new = NewObject {
        key: row.get(1)?,
        selecting: row.get(2)?,
        status: StatusCode::from_u16(row.get(3)?).map_err(|_| damage("a row's status is none"))?,
        headers: headers.ok_or_else(|| damage("a row's header fields do not decode"))?,
        content_type: row.get(5)?,
        upstream: row.get(6)?,
        request_time: row.get(7)?,
        response_time: row.get(8)?,
    };
    Ok(ObjectEntry {
        id: row.get(0)?,
        hold: row.get(13)?,
        blob: row.get::<_, [u8; 32]>(10)?.into(),
        len: unsigned(row, 11)?,
        disk: unsigned(row, 12)?,
        new,
    })
}

/// The checksum of all that a reader relies on in an object's row and its blob's.
pub(super) fn sum(put: &ObjectEntry) -> i64 {
    let mut sum = Xxh3::new();
    sum.update(&put.new.encode());
    sum.update(put.blob.as_bytes());
    sum.update(&put.len.to_le_bytes());
    sum.digest().cast_signed()
}

/// A length or a count. Negative means that the index is damaged.
pub(crate) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    let value = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}
