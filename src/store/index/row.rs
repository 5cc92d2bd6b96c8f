//! Decoding of object rows. A differing checksum means that the index is damaged.

use std::collections::BTreeMap;

use http::StatusCode;
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, params};
use xxhash_rust::xxh3::Xxh3;

use super::check::corruption;
use super::journal::ObjectEntry;
use crate::ObjectKey;
use crate::object::decode_headers;
use crate::pack::PackPlace;
use crate::{BlobId, MAX_VARIANTS, NewObject, Object, RemovalStats};

/// Selects an object's row and its blob's.
pub(crate) const ROW: &str =
    "SELECT o.id, key, selecting, status, headers, content_type, upstream, request_time, response_time,
    last_used, hash, len, disk, pinned, o.sum, pack, at, size, b.sum FROM objects o JOIN blobs b ON b.id = o.blob";

/// Returns all variants of a key, newest first.
pub(super) fn find(connection: &Connection, key: &str) -> Result<Vec<Object>> {
    let mut statement = connection
        .prepare_cached(&format!("{ROW} WHERE key = ?1 ORDER BY response_time DESC, o.id DESC LIMIT ?2"))?;
    statement.query_map(params![key, MAX_VARIANTS as i64], object)?.collect()
}

/// Returns at most `limit` objects of a blob, newest first. Copies and held ones are last: no upstream knows their
/// keys.
pub(super) fn with_blob(connection: &Connection, blob: BlobId, limit: usize) -> Result<Vec<Object>> {
    let mut statement = connection.prepare_cached(&format!(
        "{ROW} WHERE b.hash = ?1 ORDER BY key GLOB '[@!]*', response_time DESC, o.id DESC LIMIT ?2"
    ))?;
    statement.query_map(params![blob.as_bytes(), limit as i64], object)?.collect()
}

/// Returns at most `limit` objects without copies, by row, after `after`.
pub(super) fn page(connection: &Connection, after: i64, limit: usize) -> Result<Vec<Object>> {
    let mut statement = connection
        .prepare_cached(&format!("{ROW} WHERE o.id > ?1 AND key NOT GLOB '@*' ORDER BY o.id LIMIT ?2"))?;
    statement.query_map(params![after, limit as i64], object)?.collect()
}

/// Returns the objects of each content type without copies, and the bytes of their bodies. Reads a whole index.
pub(super) fn by_type(connection: &Connection) -> Result<BTreeMap<String, RemovalStats>> {
    let mut statement = connection.prepare(
        "SELECT content_type, count(*), sum(len) FROM objects JOIN blobs ON blobs.id = blob
         WHERE key NOT GLOB '@*' GROUP BY content_type",
    )?;
    let row = |row: &Row<'_>| {
        Ok((row.get(0)?, RemovalStats { objects: unsigned(row, 1)?, bytes: unsigned(row, 2)? }))
    };
    statement.query_map([], row)?.collect()
}

/// Passes the key of every object to `visit`. Reads a whole index.
pub(super) fn for_each_key(connection: &Connection, mut visit: impl FnMut(&str)) -> Result<()> {
    let mut statement = connection.prepare("SELECT key FROM objects INDEXED BY objects_by_key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(row.get_ref(0)?.as_str()?);
    }
    Ok(())
}

/// Returns the keys of all copies.
pub(super) fn copies(connection: &Connection) -> Result<Vec<ObjectKey>> {
    let mut statement = connection
        .prepare_cached("SELECT DISTINCT key FROM objects WHERE key >= '@' AND key < 'A' ORDER BY key")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Returns all held objects: those with keys that begin with `!held `.
pub(super) fn held(connection: &Connection) -> Result<Vec<Object>> {
    let mut statement = connection
        .prepare_cached(&format!("{ROW} WHERE key >= '!held ' AND key < '!held!' ORDER BY key, o.id"))?;
    statement.query_map([], object)?.collect()
}

/// Decodes and verifies an object from a row of [`ROW`].
pub(crate) fn object(row: &Row<'_>) -> Result<Object> {
    let entry = decode_verified(row)?;
    Ok(entry.new.into_object(entry.id, entry.blob, entry.len, row.get(9)?))
}

/// Passes every object to `visit`, ordered by id. Reads the whole table.
pub(super) fn for_each(
    connection: &Connection,
    mut visit: impl FnMut(ObjectEntry) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare(&format!("{ROW} ORDER BY o.id"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(decode_verified(row)?)?;
    }
    Ok(())
}

/// Decodes and verifies a row.
pub(super) fn decode_verified(row: &Row<'_>) -> Result<ObjectEntry> {
    let entry = decode(row)?;
    if row.get::<_, i64>(14)? == checksum(&entry) {
        Ok(entry)
    } else {
        Err(corruption("a row's checksum differs"))
    }
}

/// Decodes a row without its checksum.
pub(super) fn decode(row: &Row<'_>) -> Result<ObjectEntry> {
    let headers = decode_headers(row.get_ref(4)?.as_blob()?);
    let new = NewObject {
        key: row.get(1)?,
        selecting: row.get(2)?,
        status: StatusCode::from_u16(row.get(3)?).map_err(|_| corruption("a row has an invalid status"))?,
        headers: headers.ok_or_else(|| corruption("a row's header fields do not decode"))?,
        content_type: row.get(5)?,
        upstream: row.get(6)?,
        request_time: row.get(7)?,
        response_time: row.get(8)?,
    };
    Ok(ObjectEntry {
        id: row.get(0)?,
        retention: row.get(13)?,
        blob: row.get::<_, [u8; 32]>(10)?.into(),
        len: unsigned(row, 11)?,
        disk: unsigned(row, 12)?,
        place: place(row, 15, row.get::<_, [u8; 32]>(10)?.into())?,
        new,
    })
}

/// Returns the place of a blob in a pack; `None` for one with its own file.
pub(crate) fn place_of(connection: &Connection, blob: BlobId) -> Result<Option<PackPlace>> {
    let mut statement = connection.prepare_cached("SELECT pack, at, size, sum FROM blobs WHERE hash = ?1")?;
    Ok(statement.query_row([blob.as_bytes()], |row| place(row, 0, blob)).optional()?.flatten())
}

/// Decodes and verifies the columns `pack, at, size, sum` from `first` on.
pub(super) fn place(row: &Row<'_>, first: usize, blob: BlobId) -> Result<Option<PackPlace>> {
    let Some(pack) = row.get(first)? else { return Ok(None) };
    let place = PackPlace { pack, at: unsigned(row, first + 1)?, size: row.get(first + 2)? };
    match row.get::<_, i64>(first + 3)? == place_checksum(blob, place) {
        true => Ok(Some(place)),
        false => Err(corruption("the checksum of a blob's place differs")),
    }
}

/// Returns the checksum of a blob's place.
pub(super) fn place_checksum(blob: BlobId, place: PackPlace) -> i64 {
    let mut sum = Xxh3::new();
    sum.update(blob.as_bytes());
    sum.update(&place.pack.to_le_bytes());
    sum.update(&place.at.to_le_bytes());
    sum.update(&place.size.to_le_bytes());
    sum.digest().cast_signed()
}

/// Returns the checksum of the data that readers use from an object's row and its blob's.
pub(super) fn checksum(entry: &ObjectEntry) -> i64 {
    record_checksum(&entry.new.encode(), entry.blob, entry.len)
}

/// Returns the checksum of an object's row with this record.
pub(super) fn record_checksum(record: &[u8], blob: BlobId, len: u64) -> i64 {
    let mut sum = Xxh3::new();
    sum.update(record);
    sum.update(blob.as_bytes());
    sum.update(&len.to_le_bytes());
    sum.digest().cast_signed()
}

/// Reads a length or count. A negative one means that the index is damaged.
pub(crate) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    let value = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}
