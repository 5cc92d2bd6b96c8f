//! Removal of objects, and of blobs that lose their last one, as statements within a change of the index. The bytes of
//! a removed blob go after the commit: files by name, records of packs by their mark.

use rusqlite::{OptionalExtension, Result, Row, params};

use super::journal;
use super::policy;
use super::row::{place, unsigned};
use super::schema::row_charge;
use super::statements::{BATCH, IndexChange};
use crate::stats::RemovalStats;
use crate::{BlobId, ObjectKey};
use gupd_config::clock::UnixMillis;

/// Reference to an object to be removed.
pub(super) struct ObjectRef {
    pub(super) id: i64,
    pub(super) key: ObjectKey,
    blob: i64,
}

impl ObjectRef {
    /// Decodes the columns `id, key, blob`.
    pub(super) fn from_row(row: &Row<'_>) -> Result<Self> {
        Ok(Self { id: row.get(0)?, key: row.get(1)?, blob: row.get(2)? })
    }
}

/// Removed objects.
#[derive(Debug, Default)]
pub(crate) struct RemovedObjects {
    pub(crate) keys: Vec<ObjectKey>,
    pub(crate) removed: RemovalStats,
    /// Bytes that were charged for them, rows included.
    pub(crate) charged: u64,
    /// Pinned ones among them, and the lengths of their bodies.
    pub(crate) evicted_pins: Vec<(ObjectKey, u64)>,
    /// Content type of each, and the length of its body.
    pub(crate) types: Vec<(String, u64)>,
}

impl RemovedObjects {
    pub(super) fn add(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.evicted_pins.extend(other.evicted_pins);
        self.types.extend(other.types);
        self.removed.objects += other.removed.objects;
        self.removed.bytes += other.removed.bytes;
        self.charged += other.charged;
    }
}

/// Selection of objects to remove.
pub(crate) enum RemovalTarget {
    /// All variants of a key.
    Key(String),
    /// All objects of a blob.
    Blob(BlobId),
    /// One batch of evictable objects last used before this time.
    UnusedSince(UnixMillis),
    /// One batch of victims of the eviction policy that frees this many bytes.
    Bytes(u64),
}

impl IndexChange<'_> {
    /// Removes objects, and blobs without other objects.
    pub(crate) fn remove(&mut self, target: &RemovalTarget) -> Result<RemovedObjects> {
        match target {
            RemovalTarget::Key(key) => {
                let rows = self.select("SELECT id, key, blob FROM objects WHERE key = ?1", [key])?;
                self.delete(rows)
            }
            RemovalTarget::Blob(id) => {
                let Some(blob) = self.blob_row(*id)? else { return Ok(RemovedObjects::default()) };
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
        select.query_map(values, ObjectRef::from_row)?.collect()
    }

    pub(super) fn delete(&mut self, found: Vec<ObjectRef>) -> Result<RemovedObjects> {
        let types = self.types_of(&found)?;
        let rows = self.delete_objects(&found)?;
        let removed = RemovalStats { objects: found.len() as u64, bytes: self.delete_unused_blobs(&found)? };
        let charged = rows + removed.bytes;
        let keys = found.into_iter().map(|object| object.key).collect();
        Ok(RemovedObjects { keys, removed, charged, evicted_pins: Vec::new(), types })
    }

    /// Returns the content type of each object and the length of its body.
    fn types_of(&self, found: &[ObjectRef]) -> Result<Vec<(String, u64)>> {
        let mut select = self.connection.prepare_cached(
            "SELECT content_type, len FROM objects JOIN blobs ON blobs.id = blob WHERE objects.id = ?1",
        )?;
        let types = found.iter().map(|object| {
            select.query_row([object.id], |row| Ok((row.get(0)?, unsigned(row, 1)?))).optional()
        });
        types.filter_map(Result::transpose).collect()
    }

    /// Deletes objects, and returns the bytes that were charged for their rows.
    pub(super) fn delete_objects(&mut self, found: &[ObjectRef]) -> Result<u64> {
        let mut delete = self
            .connection
            .prepare_cached(concat!("DELETE FROM objects WHERE id = ?1 RETURNING ", row_charge!("")))?;
        let mut charged = 0;
        for object in found {
            charged += delete.query_row([object.id], |row| unsigned(row, 0)).optional()?.unwrap_or(0);
            journal::encode_remove(object.id, &mut self.journal);
        }
        Ok(charged)
    }

    /// Deletes blobs without other objects, and returns their bytes on disk.
    pub(super) fn delete_unused_blobs(&mut self, found: &[ObjectRef]) -> Result<u64> {
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM blobs WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM objects WHERE blob = ?1)
             RETURNING hash, disk, pack, at, size, sum",
        )?;
        let mut bytes = 0;
        for object in found {
            let deleted = delete.query_row([object.blob], |row| {
                let hash = BlobId::from(row.get::<_, [u8; 32]>(0)?);
                Ok((hash, unsigned(row, 1)?, place(row, 2, hash)?))
            });
            if let Some((hash, disk, place)) = deleted.optional()? {
                match place {
                    Some(place) => self.removed_records.push(place),
                    None => self.unreferenced.push(hash),
                }
                bytes += disk;
            }
        }
        Ok(bytes)
    }
}
