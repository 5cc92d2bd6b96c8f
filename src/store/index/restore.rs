//! Changes that bring back what an index lost: from the journal's entries, from a blob's trailer, and the checksums
//! that rows of an earlier version never had.

use rusqlite::{Result, params};

use super::journal::ObjectEntry;
use super::policy::Queue;
use super::row::{ROW, read, sum};
use super::statements::{BATCH, IndexChange};
use crate::{BlobId, NewObject};
use gupd_config::clock::UnixMillis;

impl IndexChange<'_> {
    /// Enters the object of a blob's trailer, unless there is a newer one in its place; whether it was.
    pub(crate) fn adopt(
        &mut self,
        new: &NewObject,
        blob: BlobId,
        (len, disk): (u64, u64),
        now: UnixMillis,
    ) -> Result<bool> {
        if self.blob(blob)?.is_some() {
            return Ok(false);
        }
        let mut newer = self.connection.prepare_cached(
            "SELECT 1 FROM objects WHERE key = ?1 AND selecting = ?2 AND response_time >= ?3",
        )?;
        if newer.exists(params![&*new.key, new.selecting, new.response_time])? {
            self.unreferenced(blob);
            return Ok(false);
        }
        let row = self.insert_blob(blob, len, disk)?;
        self.insert_object(new, row, now)?;
        Ok(true)
    }

    /// No file without a row is an object any more.
    pub(crate) fn adopted_all(&self) -> Result<()> {
        self.connection.execute("UPDATE totals SET adopting = 0", []).map(drop)
    }

    /// Enters an object as the journal has it, in place of whatever had its id or its place. It was used before, so
    /// it begins in the main queue. The journal is told nothing.
    pub(super) fn restore(
        &mut self,
        put: &ObjectEntry,
        there: impl FnOnce(BlobId, u64) -> bool,
        place: i64,
        now: UnixMillis,
    ) -> Result<()> {
        let mut replaced = self.same_variant(&put.new)?;
        replaced.extend(self.select("SELECT id, key, blob FROM objects WHERE id = ?1", [put.id])?);
        self.delete_objects(&replaced)?;
        let blob = match self.blob(put.blob)? {
            Some(row) => Some(row),
            None if there(put.blob, put.len) => Some(self.insert_blob(put.blob, put.len, put.disk)?),
            None => None,
        };
        if let Some(blob) = blob {
            self.insert(Some(put.id), put, blob, (Queue::Main, place), now)?;
        }
        self.delete_unused_blobs(&replaced)?;
        self.journal.clear();
        Ok(())
    }

    /// Removes an object as the journal has it.
    pub(super) fn restore_removal(&mut self, object: i64) -> Result<()> {
        let rows = self.select("SELECT id, key, blob FROM objects WHERE id = ?1", [object])?;
        self.delete(rows)?;
        self.journal.clear();
        Ok(())
    }

    /// Gives every row its checksum: those of an earlier version have none.
    pub(super) fn sum_all(&self) -> Result<()> {
        let mut next =
            self.connection.prepare(&format!("{ROW} WHERE o.id > ?1 ORDER BY o.id LIMIT {BATCH}"))?;
        let mut update = self.connection.prepare("UPDATE objects SET sum = ?2 WHERE id = ?1")?;
        let mut last = i64::MIN;
        loop {
            let batch = next.query_map([last], read)?.collect::<Result<Vec<_>>>()?;
            let Some(end) = batch.last() else { return Ok(()) };
            last = end.id;
            for put in &batch {
                update.execute([put.id, sum(put)])?;
            }
        }
    }
}
