//! Every statement the index runs, as a function over a connection. Each is one look-up by an index or a bounded
//! batch; none scans. Which blobs lost their last object is collected in a [`Change`], for the thread that runs the
//! transaction to take their files out afterwards.

use std::sync::Arc;

use http::StatusCode;
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, params};

use crate::clock::UnixMillis;
use crate::store::facts::{Removed, Totals};
use crate::store::object::{decode_headers, encode_headers};
use crate::store::{BlobId, MAX_VARIANTS, NewObject, Object};

/// Objects taken in one transaction by eviction: short enough for a commit to wait behind.
pub(in crate::store) const BATCH: usize = 256;

/// What a transaction has done so far.
pub(in crate::store) struct Change<'a> {
    pub(super) connection: &'a Connection,
    /// Blobs that may have no row any more, and whose files then go.
    pub(super) unreferenced: Vec<BlobId>,
}

/// An object about to be removed.
struct Found {
    id: i64,
    key: Arc<str>,
    blob: i64,
}

/// Objects that were removed.
#[derive(Debug, Default)]
pub(in crate::store) struct RemovedObjects {
    pub(in crate::store) keys: Vec<Arc<str>>,
    pub(in crate::store) removed: Removed,
}

/// Which objects to remove.
pub(in crate::store) enum Which {
    /// All variants of a key.
    Key(String),
    /// All that have this body.
    Blob(BlobId),
    /// Those last used before this time, a batch.
    UnusedSince(UnixMillis),
    /// The least recently used ones, until their blobs give back this much, a batch.
    Bytes(u64),
}

/// All variants of a key, newest first.
pub(super) fn find(connection: &Connection, key: &str) -> Result<Vec<Object>> {
    let mut statement = connection.prepare_cached(
        "SELECT o.id, key, selecting, status, headers, content_type, upstream, request_time, response_time,
                last_used, hash, len
         FROM objects o JOIN blobs b ON b.id = o.blob
         WHERE key = ?1 ORDER BY response_time DESC, o.id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![key, MAX_VARIANTS as i64], object)?;
    let objects = rows.collect::<Result<Vec<_>>>()?;
    Ok(objects.into_iter().flatten().collect())
}

/// A row's object; `None`, and so as if it were not there, if the row does not decode.
fn object(row: &Row<'_>) -> Result<Option<Object>> {
    let headers = decode_headers(row.get_ref(4)?.as_blob()?);
    let status = StatusCode::from_u16(row.get(3)?).ok();
    let id: i64 = row.get(0)?;
    let (Some(headers), Some(status)) = (headers, status) else {
        tracing::warn!(object = id, "an object's row in the index does not decode; it is fetched again");
        return Ok(None);
    };
    let new = NewObject {
        key: row.get(1)?,
        selecting: row.get(2)?,
        status,
        headers,
        content_type: row.get(5)?,
        upstream: row.get(6)?,
        request_time: row.get(7)?,
        response_time: row.get(8)?,
    };
    let last_used = row.get(9)?;
    Ok(Some(new.into_object(id, row.get::<_, [u8; 32]>(10)?.into(), unsigned(row, 11)?, last_used)))
}

pub(super) fn totals(connection: &Connection) -> Result<Totals> {
    let mut statement = connection
        .prepare_cached("SELECT objects, object_bytes, blobs, blob_bytes, disk_bytes FROM totals")?;
    statement.query_row([], |row| {
        Ok(Totals {
            objects: unsigned(row, 0)?,
            object_bytes: unsigned(row, 1)?,
            blobs: unsigned(row, 2)?,
            blob_bytes: unsigned(row, 3)?,
            disk_bytes: unsigned(row, 4)?,
        })
    })
}

/// A length or a count. Negative means that the index is damaged.
fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    let value = row.get(column)?;
    u64::try_from(value).map_err(|_| Error::IntegralValueOutOfRange(column, value))
}

/// A blob's row.
pub(super) fn blob(connection: &Connection, id: BlobId) -> Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM blobs WHERE hash = ?1")?;
    statement.query_row([id.as_bytes()], |row| row.get(0)).optional()
}

impl Change<'_> {
    /// A blob's row.
    pub(in crate::store) fn blob(&self, id: BlobId) -> Result<Option<i64>> {
        blob(self.connection, id)
    }

    /// Enters a blob whose file has come to its place.
    pub(in crate::store) fn insert_blob(&self, id: BlobId, len: u64, disk: u64) -> Result<i64> {
        let mut insert =
            self.connection.prepare_cached("INSERT INTO blobs (hash, len, disk) VALUES (?1, ?2, ?3)")?;
        insert.insert(params![id.as_bytes(), len as i64, disk as i64])
    }

    /// Has the file of this blob taken out after the transaction, unless it has a row by then.
    pub(in crate::store) fn unreferenced(&mut self, id: BlobId) {
        self.unreferenced.push(id);
    }

    /// Enters an object in place of the same variant and of variants beyond [`MAX_VARIANTS`]; gives its row.
    pub(in crate::store) fn insert_object(
        &mut self,
        new: &NewObject,
        blob: i64,
        now: UnixMillis,
    ) -> Result<i64> {
        let mut replaced = self.select(
            "SELECT id, key, blob FROM objects WHERE key = ?1 AND selecting = ?2",
            params![&*new.key, new.selecting],
        )?;
        self.delete_objects(&replaced)?;
        let surplus = self.select(
            "SELECT id, key, blob FROM objects WHERE key = ?1
             ORDER BY response_time DESC, id DESC LIMIT -1 OFFSET ?2",
            params![&*new.key, MAX_VARIANTS as i64 - 1],
        )?;
        self.delete_objects(&surplus)?;
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO objects (key, selecting, status, headers, content_type, upstream,
                                  request_time, response_time, last_used, blob)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        let id = insert.insert(params![
            &*new.key,
            new.selecting,
            new.status.as_u16(),
            encode_headers(&new.headers),
            &*new.content_type,
            &*new.upstream,
            new.request_time,
            new.response_time,
            now,
            blob,
        ])?;
        // Only now: the new object often has the blob of the one it replaces.
        replaced.extend(surplus);
        self.delete_unused_blobs(&replaced)?;
        Ok(id)
    }

    /// Changes an object's headers and times; nothing if it is gone.
    pub(in crate::store) fn refresh(
        &self,
        object: i64,
        headers: &[u8],
        request_time: UnixMillis,
        response_time: UnixMillis,
    ) -> Result<()> {
        let mut update = self.connection.prepare_cached(
            "UPDATE objects SET headers = ?2, request_time = ?3, response_time = ?4 WHERE id = ?1",
        )?;
        update.execute(params![object, headers, request_time, response_time]).map(drop)
    }

    /// Notes when objects were last used.
    pub(in crate::store) fn record_use(&self, uses: &[(i64, UnixMillis)]) -> Result<()> {
        let mut update = self.connection.prepare_cached("UPDATE objects SET last_used = ?2 WHERE id = ?1")?;
        uses.iter().try_for_each(|(object, at)| update.execute([object, at]).map(drop))
    }

    /// Removes objects, and the blobs that had no others.
    pub(in crate::store) fn remove(&mut self, which: &Which) -> Result<RemovedObjects> {
        match which {
            Which::Key(key) => {
                let rows = self.select("SELECT id, key, blob FROM objects WHERE key = ?1", [key])?;
                self.delete(rows)
            }
            Which::Blob(id) => {
                let Some(blob) = self.blob(*id)? else { return Ok(RemovedObjects::default()) };
                let rows = self.select("SELECT id, key, blob FROM objects WHERE blob = ?1", [blob])?;
                self.delete(rows)
            }
            Which::UnusedSince(time) => {
                let rows = self.select(
                    "SELECT id, key, blob FROM objects WHERE last_used < ?1 ORDER BY last_used LIMIT ?2",
                    params![time, BATCH as i64],
                )?;
                self.delete(rows)
            }
            Which::Bytes(enough) => {
                let rows = self.select(
                    "SELECT id, key, blob FROM objects ORDER BY last_used, id LIMIT ?1",
                    [BATCH as i64],
                )?;
                let mut all = RemovedObjects::default();
                for row in rows {
                    if all.removed.bytes >= *enough {
                        break;
                    }
                    let one = self.delete(vec![row])?;
                    all.keys.extend(one.keys);
                    all.removed.objects += one.removed.objects;
                    all.removed.bytes += one.removed.bytes;
                }
                Ok(all)
            }
        }
    }

    fn select(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Found>> {
        let mut select = self.connection.prepare_cached(sql)?;
        let found = |row: &Row<'_>| Ok(Found { id: row.get(0)?, key: row.get(1)?, blob: row.get(2)? });
        select.query_map(values, found)?.collect()
    }

    fn delete(&mut self, found: Vec<Found>) -> Result<RemovedObjects> {
        self.delete_objects(&found)?;
        let removed = Removed { objects: found.len() as u64, bytes: self.delete_unused_blobs(&found)? };
        Ok(RemovedObjects { keys: found.into_iter().map(|object| object.key).collect(), removed })
    }

    fn delete_objects(&self, found: &[Found]) -> Result<()> {
        let mut delete = self.connection.prepare_cached("DELETE FROM objects WHERE id = ?1")?;
        found.iter().try_for_each(|object| delete.execute([object.id]).map(drop))
    }

    /// Deletes those of the objects' blobs that have no object any more; gives their bytes on disk.
    fn delete_unused_blobs(&mut self, found: &[Found]) -> Result<u64> {
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM blobs WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM objects WHERE blob = ?1)
             RETURNING hash, disk",
        )?;
        let mut bytes = 0;
        for object in found {
            let gone =
                delete.query_row([object.blob], |row| Ok((row.get::<_, [u8; 32]>(0)?, unsigned(row, 1)?)));
            if let Some((hash, disk)) = gone.optional()? {
                self.unreferenced.push(hash.into());
                bytes += disk;
            }
        }
        Ok(bytes)
    }
}
