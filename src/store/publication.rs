//! Publications: named records, copies of objects and pins that change as one transaction. A copy is an object of
//! its own with another object's head and blob, so it outlives that object. Its key begins with [`COPY`], and
//! only a publication removes it. Copies belong to this store: no bundle contains them, and no upstream is asked
//! for them by their keys.
//!
//! The client rows of the rollout are stored here too. They are in no journal: a rebuilt index has none, and each
//! client is recorded again when it comes.

use super::ObjectKey;
use super::error::StoreError;
use super::evict;
use super::index::{BATCH, IndexChange, NAMED_MAX, RemovalTarget};
use super::{BlobId, Object, Store};
use gupd_config::clock::UnixMillis;

/// First character of a copy's key, and of no other key.
const COPY: char = '@';

/// A change that is applied completely or not at all, in the order of the fields. A key in both `copies` and
/// `removed` is therefore removed.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Objects to store under another key, replacing the object there. Copies are never evicted.
    pub copies: Vec<ObjectCopy>,
    /// Keys to pin (`true`) or unpin. A pinned object does not expire and is evicted only when nothing else can
    /// be; a response that replaces it is pinned as well. Keys without an object are returned by
    /// [`Store::publish`].
    pub pins: Vec<(ObjectKey, bool)>,
    /// Named values; `None` removes one. The journal contains them, so they survive the loss of the index. Name
    /// and value have at most 512 KiB together.
    pub records: Vec<(String, Option<Vec<u8>>)>,
    /// Keys of copies to remove. A missing one is no error.
    pub removed: Vec<ObjectKey>,
}

/// An object to store under another key.
#[derive(Clone, Debug)]
pub struct ObjectCopy {
    /// [`Object::id`] of the object.
    pub object: i64,
    /// Blob that the object must have.
    pub blob: BlobId,
    /// Key of the copy: `@`, a mark that distinguishes copies, a space, and the object's key.
    pub key: ObjectKey,
    /// Time at which the copy counts as last used.
    pub last_used: UnixMillis,
}

impl Object {
    /// Returns true if a [`Publication`] made this copy.
    pub fn is_copy(&self) -> bool {
        is_copy(&self.key)
    }

    /// Splits the key of a copy into its mark, such as `@7`, and the original key; that of a held object likewise. Other
    /// objects have an empty mark.
    pub fn copy_mark(&self) -> (&str, &str) {
        match self.key.split_once(' ') {
            Some((mark, key)) if is_copy(mark) || self.is_held() => (mark, key),
            _ => ("", &self.key),
        }
    }
}

/// Returns true for the key of a copy.
pub(super) fn is_copy(key: &str) -> bool {
    key.starts_with(COPY)
}

impl Store {
    /// Applies a publication as one transaction and returns the keys to pin that have no object.
    ///
    /// # Errors
    /// [`StoreError::NotCopied`] if an object to copy is gone or has another body,
    /// [`StoreError::RecordTooLarge`], or when the index cannot be written. Nothing is changed then.
    pub async fn publish(&self, publication: Publication) -> Result<Vec<ObjectKey>, StoreError> {
        self.health.check()?;
        publication.check_sizes()?;
        let _write_token = self.lease.begin_write()?;
        let removed = publication.removed.clone();
        let map_error = self.index.error_mapper();
        let published = self.index.change(move |change| publication.apply(change, map_error)).await;
        let (missing, files) = self.health.observe(published)?;
        evict::delete_files(files).await?;
        self.queue_removed_keys(removed);
        Ok(missing)
    }

    /// Returns all records with names that begin with `prefix`, ordered by name.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn records(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.health.observe(self.index.records(prefix).await)
    }

    /// Returns the keys of all copies in order. Copies without a record are left over from a lost index.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn copies(&self) -> Result<Vec<ObjectKey>, StoreError> {
        self.health.observe(self.index.copies().await)
    }

    /// Saves client rows; `None` removes one. Writes in batches, between which other changes run. After an error,
    /// some rows may be saved.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn save_clients(&self, rows: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        self.health.check()?;
        let mut rows = rows.into_iter();
        loop {
            let batch: Vec<_> = rows.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let _write_token = self.lease.begin_write()?;
            let map_error = self.index.error_mapper();
            let save = move |change: &mut IndexChange<'_>| {
                let mut save = batch.iter();
                save.try_for_each(|(name, value)| change.set_client(name, value.as_deref()))
                    .map_err(map_error)
            };
            self.health.observe(self.index.change(save).await)?;
        }
    }

    /// Returns a page of client rows ordered by name, after the name `after`; empty at the end.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn load_clients(&self, after: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.health.observe(self.index.clients(after).await)
    }
}

impl Publication {
    fn check_sizes(&self) -> Result<(), StoreError> {
        for (name, value) in &self.records {
            let bytes = name.len() + value.as_ref().map_or(0, Vec::len);
            if bytes > NAMED_MAX {
                return Err(StoreError::RecordTooLarge { name: name.clone(), bytes, max: NAMED_MAX });
            }
        }
        Ok(())
    }

    fn apply(
        self,
        change: &mut IndexChange<'_>,
        map_error: impl Fn(rusqlite::Error) -> StoreError,
    ) -> Result<Vec<ObjectKey>, StoreError> {
        for copy in self.copies {
            debug_assert!(is_copy(&copy.key), "{:?} is not the key of a copy", copy.key);
            if change.copy(&copy).map_err(&map_error)?.is_none() {
                return Err(StoreError::NotCopied { key: copy.key });
            }
        }
        let mut missing = Vec::new();
        for (key, pinned) in self.pins {
            if change.set_pinned(&key, pinned).map_err(&map_error)? == 0 && pinned {
                missing.push(key);
            }
        }
        // After the copies and before the removals: a truncated journal then has no record of a missing copy.
        for (name, value) in self.records {
            change.set_record(&name, value.as_deref()).map_err(&map_error)?;
        }
        for key in self.removed {
            change.remove(&RemovalTarget::Key(key.to_string())).map_err(&map_error)?;
        }
        Ok(missing)
    }
}
