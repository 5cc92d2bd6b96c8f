//! Changes that restore a lost index: from journal entries, from a blob's trailer, and the checksums that rows of
//! an earlier version lack.

use rusqlite::{Result, params};

use super::journal::ObjectEntry;
use super::policy::Queue;
use super::row::{ROW, checksum, decode};
use super::statements::{BATCH, BlobRow, IndexChange, NewRow};
use crate::object::EncodedObject;
use crate::pack::PackPlace;
use crate::{BlobId, NewObject};
use gupd_config::clock::UnixMillis;

impl IndexChange<'_> {
    /// Inserts the object of a blob's trailer, unless a newer one is stored; returns true if it was inserted.
    pub(crate) fn adopt_blob(
        &mut self,
        new: &NewObject,
        blob: BlobId,
        (len, disk): (u64, u64),
        place: Option<PackPlace>,
        now: UnixMillis,
    ) -> Result<bool> {
        if self.blob_row(blob)?.is_some() {
            return Ok(false);
        }
        let mut newer = self.connection.prepare_cached(
            "SELECT 1 FROM objects WHERE key = ?1 AND selecting = ?2 AND response_time >= ?3",
        )?;
        if newer.exists(params![&*new.key, new.selecting, new.response_time])? {
            match place {
                Some(place) => self.removed_records.push(place),
                None => self.mark_unreferenced(blob),
            }
            return Ok(false);
        }
        let blob = self.insert_blob(blob, (len, disk), place)?;
        self.insert_object(&EncodedObject::new(new.clone()), blob, now)?;
        Ok(true)
    }

    /// Records that no file without a row is an object.
    pub(crate) fn finish_adoption(&self) -> Result<()> {
        self.connection.execute("UPDATE totals SET adopting = 0", []).map(drop)
    }

    /// Restores an object from the journal, replacing any object with its id or its variant. It was used before,
    /// so it enters the main queue. Writes no journal entry.
    pub(super) fn restore(
        &mut self,
        entry: &ObjectEntry,
        is_present: impl FnOnce(&ObjectEntry) -> bool,
        position: i64,
        now: UnixMillis,
    ) -> Result<()> {
        let mut replaced = self.same_variant(&entry.new)?;
        replaced.extend(self.select("SELECT id, key, blob FROM objects WHERE id = ?1", [entry.id])?);
        self.delete_objects(&replaced)?;
        let ObjectEntry { blob: id, len, disk, place, retention, .. } = *entry;
        let blob = match self.blob_row(id)? {
            Some(row) => Some(BlobRow { row, id, len, disk, place }),
            None if is_present(entry) => Some(self.insert_blob(id, (len, disk), place)?),
            None => None,
        };
        if let Some(blob) = blob {
            let object = &EncodedObject::new(entry.new.clone());
            let row = NewRow { object, blob, retention, queue: Queue::Main, last_used: now };
            self.insert(Some(entry.id), position, &row)?;
        }
        self.delete_unused_blobs(&replaced)?;
        self.journal.clear();
        Ok(())
    }

    /// Removes an object according to the journal.
    pub(super) fn restore_removal(&mut self, object: i64) -> Result<()> {
        let rows = self.select("SELECT id, key, blob FROM objects WHERE id = ?1", [object])?;
        self.delete(rows)?;
        self.journal.clear();
        Ok(())
    }

    /// Adds a checksum to every row of an earlier version.
    pub(super) fn add_checksums(&self) -> Result<()> {
        let mut next =
            self.connection.prepare(&format!("{ROW} WHERE o.id > ?1 ORDER BY o.id LIMIT {BATCH}"))?;
        let mut update = self.connection.prepare("UPDATE objects SET sum = ?2 WHERE id = ?1")?;
        let mut last = i64::MIN;
        loop {
            let batch = next.query_map([last], decode)?.collect::<Result<Vec<_>>>()?;
            let Some(end) = batch.last() else { return Ok(()) };
            last = end.id;
            for entry in &batch {
                update.execute([entry.id, checksum(entry)])?;
            }
        }
    }
}
