//! Every statement the index runs, as a function over a connection. Each is one look-up by an index or a bounded
//! batch; none scans. RemovalTarget blobs lost their last object, and what the journal
//! is to say, is collected in a [`IndexChange`], for the thread that runs the transaction.

use http::HeaderMap;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::journal::{self, ObjectEntry};
use super::policy::{self, Queue};
use super::retention::Retention;
use super::row::{ROW, stored, sum, unsigned};
use crate::ObjectKey;
use crate::object::encode_headers;
use crate::stats::{RemovalStats, Totals};
use crate::{BlobId, MAX_VARIANTS, NewObject, ObjectCopy};
use gupd_config::clock::UnixMillis;

/// Objects taken in one transaction by eviction: short enough for a commit to wait behind.
pub(crate) const BATCH: usize = 256;

/// What a transaction has done so far.
pub(crate) struct IndexChange<'a> {
    pub(super) connection: &'a Connection,
    /// Blobs that may have no row any more, and whose files then go.
    pub(super) unreferenced: Vec<BlobId>,
    /// FrameReader for the journal.
    pub(super) journal: Vec<u8>,
}

/// An object about to be removed.
pub(super) struct ObjectRef {
    pub(super) id: i64,
    pub(super) key: ObjectKey,
    blob: i64,
}

impl ObjectRef {
    /// From the columns `id, key, blob`.
    pub(super) fn of(row: &Row<'_>) -> Result<Self> {
        Ok(Self { id: row.get(0)?, key: row.get(1)?, blob: row.get(2)? })
    }
}

/// Objects that were removed.
#[derive(Debug, Default)]
pub(crate) struct RemovedObjects {
    pub(crate) keys: Vec<ObjectKey>,
    pub(crate) removed: RemovalStats,
    /// Those of them that were kept, and the lengths of their bodies.
    pub(crate) given_up: Vec<(ObjectKey, u64)>,
}

impl RemovedObjects {
    pub(super) fn add(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.given_up.extend(other.given_up);
        self.removed.objects += other.removed.objects;
        self.removed.bytes += other.removed.bytes;
    }
}

/// RemovalTarget objects to remove.
pub(crate) enum RemovalTarget {
    /// All variants of a key.
    Key(String),
    /// All that have this body.
    Blob(BlobId),
    /// Those last used before this time that nothing holds, a batch.
    UnusedSince(UnixMillis),
    /// Those whose turn it is, until their blobs give back this much, a batch.
    Bytes(u64),
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

/// A blob's row.
pub(super) fn blob(connection: &Connection, id: BlobId) -> Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM blobs WHERE hash = ?1")?;
    statement.query_row([id.as_bytes()], |row| row.get(0)).optional()
}

impl<'a> IndexChange<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, unreferenced: Vec::new(), journal: Vec::new() }
    }

    /// Writes what is there already: whether that can be committed says how the disk is.
    pub(crate) fn try_write(&self) -> Result<()> {
        self.connection.execute("UPDATE totals SET objects = objects", []).map(drop)
    }

    /// A blob's row.
    pub(crate) fn blob(&self, id: BlobId) -> Result<Option<i64>> {
        blob(self.connection, id)
    }

    /// Enters a blob whose file has come to its place.
    pub(crate) fn insert_blob(&self, id: BlobId, len: u64, disk: u64) -> Result<i64> {
        let mut insert =
            self.connection.prepare_cached("INSERT INTO blobs (hash, len, disk) VALUES (?1, ?2, ?3)")?;
        insert.insert(params![id.as_bytes(), len as i64, disk as i64])
    }

    /// Has the file of this blob taken out after the transaction, unless it has a row by then.
    pub(crate) fn unreferenced(&mut self, id: BlobId) {
        self.unreferenced.push(id);
    }

    /// Enters an object in place of the same variant and of variants beyond [`MAX_VARIANTS`]; gives its row.
    pub(crate) fn insert_object(&mut self, new: &NewObject, blob: i64, now: UnixMillis) -> Result<i64> {
        self.enter(new, blob, Retention::default(), now)
    }

    fn enter(&mut self, new: &NewObject, blob: i64, hold: Retention, last_used: UnixMillis) -> Result<i64> {
        let mut blob_row =
            self.connection.prepare_cached("SELECT hash, len, disk FROM blobs WHERE id = ?1")?;
        let (hash, len, disk) = blob_row.query_row([blob], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, unsigned(row, 1)?, unsigned(row, 2)?))
        })?;
        let mut replaced = self.same_variant(new)?;
        let hold = hold | self.held(&replaced)?;
        self.delete_objects(&replaced)?;
        let surplus = self.select(
            "SELECT id, key, blob FROM objects WHERE key = ?1
             ORDER BY response_time DESC, id DESC LIMIT -1 OFFSET ?2",
            params![&*new.key, MAX_VARIANTS as i64 - 1],
        )?;
        self.delete_objects(&surplus)?;
        let queue = policy::begins_in(self.connection, &new.key)?;
        let mut put = ObjectEntry { id: 0, hold, blob: hash.into(), len, disk, new: new.clone() };
        put.id = self.insert(None, &put, blob, (queue, policy::last(self.connection, queue)?), last_used)?;
        put.encode(&mut self.journal);
        // Only now: the new object often has the blob of the one it replaces.
        replaced.extend(surplus);
        self.delete_unused_blobs(&replaced)?;
        Ok(put.id)
    }

    /// Stores an object once more under another key, pinned; nothing if it is gone or has another body.
    pub(crate) fn copy(&mut self, copy: &ObjectCopy) -> Result<Option<i64>> {
        let Some(put) = self.object(copy.object)?.filter(|put| put.blob == copy.blob) else {
            return Ok(None);
        };
        let Some(blob) = self.blob(copy.blob)? else { return Ok(None) };
        let new = NewObject { key: copy.key.clone(), ..put.new };
        self.enter(&new, blob, Retention { pinned: true, kept: false }, copy.last_used).map(Some)
    }

    pub(super) fn insert(
        &self,
        id: Option<i64>,
        put: &ObjectEntry,
        blob: i64,
        (queue, entered): (Queue, i64),
        now: UnixMillis,
    ) -> Result<i64> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO objects (id, key, selecting, status, headers, content_type, upstream, request_time,
                                  response_time, last_used, blob, queue, entered, pinned, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?;
        insert.insert(params![
            id,
            &*put.new.key,
            put.new.selecting,
            put.new.status.as_u16(),
            encode_headers(&put.new.headers),
            &*put.new.content_type,
            &*put.new.upstream,
            put.new.request_time,
            put.new.response_time,
            now,
            blob,
            queue as i64,
            entered,
            put.hold,
            sum(put),
        ])
    }

    pub(super) fn same_variant(&self, new: &NewObject) -> Result<Vec<ObjectRef>> {
        self.select(
            "SELECT id, key, blob FROM objects WHERE key = ?1 AND selecting = ?2",
            params![&*new.key, new.selecting],
        )
    }

    /// Changes an object's headers and times; nothing if it is gone, or another has its id in another store.
    pub(crate) fn refresh(
        &mut self,
        object: i64,
        (key, blob): (&str, BlobId),
        headers: &HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
    ) -> Result<()> {
        let Some(mut put) = self.object(object)? else { return Ok(()) };
        if (&*put.new.key, put.blob) != (key, blob) {
            return Ok(());
        }
        put.new = NewObject { headers: headers.clone(), request_time, response_time, ..put.new };
        let mut update = self.connection.prepare_cached(
            "UPDATE objects SET headers = ?2, request_time = ?3, response_time = ?4, sum = ?5 WHERE id = ?1",
        )?;
        update.execute(params![object, encode_headers(headers), request_time, response_time, sum(&put)])?;
        put.encode(&mut self.journal);
        Ok(())
    }

    pub(super) fn object(&self, id: i64) -> Result<Option<ObjectEntry>> {
        self.connection.prepare_cached(&format!("{ROW} WHERE o.id = ?1"))?.query_row([id], stored).optional()
    }

    /// Notes when objects were last used.
    pub(crate) fn record_use(&self, uses: &[(i64, UnixMillis)]) -> Result<()> {
        let mut update = self
            .connection
            .prepare_cached("UPDATE objects SET last_used = ?2, uses = min(uses + 1, ?3) WHERE id = ?1")?;
        uses.iter().try_for_each(|(object, at)| update.execute([*object, *at, policy::USES_MAX]).map(drop))
    }

    /// Removes objects, and the blobs that had no others.
    pub(crate) fn remove(&mut self, which: &RemovalTarget) -> Result<RemovedObjects> {
        match which {
            RemovalTarget::Key(key) => {
                let rows = self.select("SELECT id, key, blob FROM objects WHERE key = ?1", [key])?;
                self.delete(rows)
            }
            RemovalTarget::Blob(id) => {
                let Some(blob) = self.blob(*id)? else { return Ok(RemovedObjects::default()) };
                let rows = self.select("SELECT id, key, blob FROM objects WHERE blob = ?1", [blob])?;
                self.delete(rows)
            }
            RemovalTarget::UnusedSince(time) => {
                let rows = self.select(
                    "SELECT id, key, blob FROM objects WHERE last_used < ?1 AND pinned = 0
                     ORDER BY last_used LIMIT ?2",
                    params![time, BATCH as i64],
                )?;
                self.delete(rows)
            }
            RemovalTarget::Bytes(enough) => policy::evict(self, *enough),
        }
    }

    pub(super) fn select(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<ObjectRef>> {
        let mut select = self.connection.prepare_cached(sql)?;
        select.query_map(values, ObjectRef::of)?.collect()
    }

    pub(super) fn delete(&mut self, found: Vec<ObjectRef>) -> Result<RemovedObjects> {
        self.delete_objects(&found)?;
        let removed = RemovalStats { objects: found.len() as u64, bytes: self.delete_unused_blobs(&found)? };
        let keys = found.into_iter().map(|object| object.key).collect();
        Ok(RemovedObjects { keys, removed, given_up: Vec::new() })
    }

    pub(super) fn delete_objects(&mut self, found: &[ObjectRef]) -> Result<()> {
        let mut delete = self.connection.prepare_cached("DELETE FROM objects WHERE id = ?1")?;
        for object in found {
            delete.execute([object.id])?;
            journal::encode_remove(object.id, &mut self.journal);
        }
        Ok(())
    }

    /// Deletes those of the objects' blobs that have no object any more; gives their bytes on disk.
    pub(super) fn delete_unused_blobs(&mut self, found: &[ObjectRef]) -> Result<u64> {
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
