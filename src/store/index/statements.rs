//! The statements of the index as functions over a connection. Each is one index lookup or a bounded batch; none
//! scans. An [`IndexChange`] collects the blobs that may have lost their last object and the journal entries, for
//! the thread that runs the transaction.

use http::HeaderMap;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::journal::{self, ObjectEntry};
use super::key_filter::KeyFilter;
use super::policy::{self, Queue};
use super::removal::ObjectRef;
use super::retention::Retention;
use super::row::{ROW, checksum, decode_verified, place, place_checksum, record_checksum, unsigned};
use crate::object::{EncodedObject, encode_headers};
use crate::pack::PackPlace;
use crate::packs::Packs;
use crate::stats::Totals;
use crate::{BlobId, MAX_VARIANTS, NewObject, ObjectCopy, StoreError};
use gupd_config::clock::UnixMillis;

/// Maximum number of objects removed in one transaction; short enough for a commit to wait.
pub(crate) const BATCH: usize = 256;

/// A change in progress within a transaction.
pub(crate) struct IndexChange<'a> {
    pub(super) connection: &'a Connection,
    /// Blobs that may have no row left; their files are then removed.
    pub(super) unreferenced: Vec<BlobId>,
    /// Frames for the journal.
    pub(super) journal: Vec<u8>,
    /// The packs; `None` while a lost index is restored.
    pub(super) packs: Option<&'a mut Packs>,
    /// The filter that gets new keys; `None` while a lost index is restored.
    keys: Option<&'a KeyFilter>,
    /// Records appended by this change.
    pub(super) appended: Vec<PackPlace>,
    /// Records of blobs that this change removed; marked after the commit.
    pub(super) removed_records: Vec<PackPlace>,
}

/// A blob's row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlobRow {
    pub(super) row: i64,
    pub(super) id: BlobId,
    pub(super) len: u64,
    pub(super) disk: u64,
    pub(super) place: Option<PackPlace>,
}

/// A row of an object to insert.
pub(super) struct NewRow<'a> {
    pub(super) object: &'a EncodedObject,
    pub(super) blob: BlobRow,
    pub(super) retention: Retention,
    pub(super) queue: Queue,
    pub(super) last_used: UnixMillis,
}

impl BlobRow {
    /// Returns the place of the blob in a pack; `None` for a file of its own.
    pub(crate) fn place(self) -> Option<PackPlace> {
        self.place
    }

    pub(crate) fn at(self, place: Option<PackPlace>) -> Self {
        Self { place, ..self }
    }
}

pub(super) fn totals(connection: &Connection) -> Result<Totals> {
    let mut statement = connection.prepare_cached(
        "SELECT objects, object_bytes, blobs, blob_bytes, disk_bytes, packed_bytes, row_bytes FROM totals",
    )?;
    statement.query_row([], |row| {
        Ok(Totals {
            objects: unsigned(row, 0)?,
            object_bytes: unsigned(row, 1)?,
            blobs: unsigned(row, 2)?,
            blob_bytes: unsigned(row, 3)?,
            disk_bytes: unsigned(row, 4)?,
            packed_bytes: unsigned(row, 5)?,
            row_bytes: unsigned(row, 6)?,
        })
    })
}

/// A blob's row.
pub(super) fn blob_row(connection: &Connection, id: BlobId) -> Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM blobs WHERE hash = ?1")?;
    statement.query_row([id.as_bytes()], |row| row.get(0)).optional()
}

impl<'a> IndexChange<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            unreferenced: Vec::new(),
            journal: Vec::new(),
            packs: None,
            keys: None,
            appended: Vec::new(),
            removed_records: Vec::new(),
        }
    }

    /// A change of the index of an open store.
    pub(super) fn for_store(connection: &'a Connection, packs: &'a mut Packs, keys: &'a KeyFilter) -> Self {
        Self { packs: Some(packs), keys: Some(keys), ..Self::new(connection) }
    }

    /// Writes unchanged data; the success of its commit tells the state of the disk.
    pub(crate) fn probe_write(&self) -> Result<()> {
        self.connection.execute("UPDATE totals SET objects = objects", []).map(drop)
    }

    /// A blob's row.
    pub(crate) fn blob_row(&self, id: BlobId) -> Result<Option<i64>> {
        blob_row(self.connection, id)
    }

    /// Inserts a blob after its file or its record is in place.
    pub(crate) fn insert_blob(
        &self,
        id: BlobId,
        (len, disk): (u64, u64),
        place: Option<PackPlace>,
    ) -> Result<BlobRow> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO blobs (hash, len, disk, pack, at, size, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let row = insert.insert(params![
            id.as_bytes(),
            len as i64,
            disk as i64,
            place.map(|place| place.pack),
            place.map(|place| place.at as i64),
            place.map(|place| place.size),
            place.map(|place| place_checksum(id, place)),
        ])?;
        Ok(BlobRow { row, id, len, disk, place })
    }

    /// Returns a blob's row.
    pub(crate) fn find_blob(&self, id: BlobId) -> Result<Option<BlobRow>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT id, len, disk, pack, at, size, sum FROM blobs WHERE hash = ?1")?;
        let decode = |row: &Row<'_>| {
            let (len, disk) = (unsigned(row, 1)?, unsigned(row, 2)?);
            Ok(BlobRow { row: row.get(0)?, id, len, disk, place: place(row, 3, id)? })
        };
        statement.query_row([id.as_bytes()], decode).optional()
    }

    /// Records a blob's place; `None` for a file of its own. Returns false if it has no row.
    pub(crate) fn set_place(&mut self, id: BlobId, place: Option<PackPlace>) -> Result<bool> {
        if let Some(place) = place {
            journal::encode_place(id, place, &mut self.journal);
        }
        self.restore_place(id, place)
    }

    /// Records a blob's place without a journal entry.
    pub(super) fn restore_place(&self, id: BlobId, place: Option<PackPlace>) -> Result<bool> {
        let mut update = self
            .connection
            .prepare_cached("UPDATE blobs SET pack = ?2, at = ?3, size = ?4, sum = ?5 WHERE hash = ?1")?;
        let updated = update.execute(params![
            id.as_bytes(),
            place.map(|place| place.pack),
            place.map(|place| place.at as i64),
            place.map(|place| place.size),
            place.map(|place| place_checksum(id, place)),
        ])?;
        Ok(updated > 0)
    }

    /// Appends a record to a pack. It is written before the commit.
    pub(crate) fn append(&mut self, record: &[u8]) -> std::result::Result<PackPlace, StoreError> {
        let place = self.packs()?.append(record)?;
        self.appended.push(place);
        Ok(place)
    }

    /// Returns true if the bytes of a blob are on disk in full length.
    pub(crate) fn is_present(
        &mut self,
        id: BlobId,
        len: u64,
        place: Option<PackPlace>,
    ) -> std::result::Result<bool, StoreError> {
        Ok(self.packs()?.has_bytes(id, len, place))
    }

    pub(super) fn packs(&mut self) -> std::result::Result<&mut Packs, StoreError> {
        self.packs.as_deref_mut().ok_or(StoreError::Broken)
    }

    /// Has the file of this blob removed after the transaction, unless it has a row by then.
    pub(crate) fn mark_unreferenced(&mut self, id: BlobId) {
        self.unreferenced.push(id);
    }

    /// Inserts an object, replacing the same variant and variants beyond [`MAX_VARIANTS`], and returns its row.
    pub(crate) fn insert_object(
        &mut self,
        object: &EncodedObject,
        blob: BlobRow,
        now: UnixMillis,
    ) -> Result<i64> {
        self.insert_with_retention(object, blob, Retention::default(), now)
    }

    fn insert_with_retention(
        &mut self,
        object: &EncodedObject,
        blob: BlobRow,
        retention: Retention,
        last_used: UnixMillis,
    ) -> Result<i64> {
        let new = object.object();
        // Most new keys have no row to look for.
        let is_new = self.keys.is_some_and(|keys| !keys.may_have(&new.key));
        let mut replaced = if is_new { Vec::new() } else { self.same_variant(new)? };
        let retention = retention | self.combined_retention(&replaced)?;
        self.delete_objects(&replaced)?;
        if !is_new {
            let surplus = self.select(
                "SELECT id, key, blob FROM objects WHERE key = ?1
                 ORDER BY response_time DESC, id DESC LIMIT -1 OFFSET ?2",
                params![&*new.key, MAX_VARIANTS as i64 - 1],
            )?;
            self.delete_objects(&surplus)?;
            replaced.extend(surplus);
        }
        let queue = policy::initial_queue(self.connection, &new.key)?;
        let entered = policy::next_position(self.connection, queue)?;
        let id = self.insert(None, entered, &NewRow { object, blob, retention, queue, last_used })?;
        journal::encode_put(id, retention, &blob, object.record(), &mut self.journal);
        // Only now: the new object often has the blob of the replaced one.
        self.delete_unused_blobs(&replaced)?;
        Ok(id)
    }

    /// Stores an object under another key, never to be evicted. Returns `None` if it is gone or has another blob.
    pub(crate) fn copy(&mut self, copy: &ObjectCopy) -> Result<Option<i64>> {
        let Some(entry) = self.object(copy.object)?.filter(|entry| entry.blob == copy.blob) else {
            return Ok(None);
        };
        let Some(blob) = self.find_blob(copy.blob)? else { return Ok(None) };
        let object = EncodedObject::new(NewObject { key: copy.key.clone(), ..entry.new });
        let retention = Retention { permanent: true, pinned: false };
        self.insert_with_retention(&object, blob, retention, copy.last_used).map(Some)
    }

    /// Stores the blob of an object under another key and head. Returns false if the object is gone or has another blob.
    pub(crate) fn move_object(
        &mut self,
        object: i64,
        blob: BlobId,
        new: NewObject,
        now: UnixMillis,
    ) -> Result<bool> {
        if self.object(object)?.is_none_or(|entry| entry.blob != blob) {
            return Ok(false);
        }
        let Some(blob) = self.find_blob(blob)? else { return Ok(false) };
        self.insert_object(&EncodedObject::new(new), blob, now).map(|_| true)
    }

    /// Inserts a row at the position `entered` of its queue.
    pub(super) fn insert(&self, id: Option<i64>, entered: i64, row: &NewRow<'_>) -> Result<i64> {
        let NewRow { object, blob, retention, queue, last_used } = row;
        let new = object.object();
        if let Some(keys) = self.keys {
            keys.add(&new.key);
        }
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO objects (id, key, selecting, status, headers, content_type, upstream, request_time,
                                  response_time, last_used, blob, queue, entered, pinned, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?;
        insert.insert(params![
            id,
            &*new.key,
            new.selecting,
            new.status.as_u16(),
            object.headers(),
            &*new.content_type,
            &*new.upstream,
            new.request_time,
            new.response_time,
            last_used,
            blob.row,
            *queue as i64,
            entered,
            retention,
            record_checksum(object.record(), blob.id, blob.len),
        ])
    }

    pub(super) fn same_variant(&self, new: &NewObject) -> Result<Vec<ObjectRef>> {
        self.select(
            "SELECT id, key, blob FROM objects WHERE key = ?1 AND selecting = ?2",
            params![&*new.key, new.selecting],
        )
    }

    /// Replaces an object's headers and times. Does nothing if it is gone, or if another object has its id in
    /// another store.
    pub(crate) fn refresh(
        &mut self,
        object: i64,
        (key, blob): (&str, BlobId),
        headers: &HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
    ) -> Result<()> {
        let Some(mut entry) = self.object(object)? else { return Ok(()) };
        if (&*entry.new.key, entry.blob) != (key, blob) {
            return Ok(());
        }
        entry.new = NewObject { headers: headers.clone(), request_time, response_time, ..entry.new };
        let mut update = self.connection.prepare_cached(
            "UPDATE objects SET headers = ?2, request_time = ?3, response_time = ?4, sum = ?5 WHERE id = ?1",
        )?;
        update.execute(params![
            object,
            encode_headers(headers),
            request_time,
            response_time,
            checksum(&entry)
        ])?;
        entry.encode(&mut self.journal);
        Ok(())
    }

    pub(super) fn object(&self, id: i64) -> Result<Option<ObjectEntry>> {
        self.connection
            .prepare_cached(&format!("{ROW} WHERE o.id = ?1"))?
            .query_row([id], decode_verified)
            .optional()
    }

    /// Records when objects were last used.
    pub(crate) fn record_use(&self, uses: &[(i64, UnixMillis)]) -> Result<()> {
        let mut update = self
            .connection
            .prepare_cached("UPDATE objects SET last_used = ?2, uses = min(uses + 1, ?3) WHERE id = ?1")?;
        uses.iter().try_for_each(|(object, at)| update.execute([*object, *at, policy::USES_MAX]).map(drop))
    }
}
