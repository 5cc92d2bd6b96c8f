//! Changes that belong together, made whole or not at all: named records, copies of objects, and which objects are kept.
//! A copy is an object of its own with another's head and blob, so it stays what it is when that one is replaced or
//! removed. Its key begins with [`COPY`], and whoever publishes it says when it goes. Copies are this store's: no bundle
//! has them, and no upstream is asked for them by their keys.

use super::ObjectKey;
use super::error::StoreError;
use super::evict;
use super::index::{IndexChange, NAMED_MAX, RemovalTarget, Retention};
use super::{BlobId, Object, Store};
use gupd_config::clock::UnixMillis;

/// What the key of a copy begins with, and no other.
const COPY: char = '@';

/// A change that happens whole or not at all. It is made in the order of the fields, so a key among the copies and the
/// removed goes.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Objects to be stored once more under another key, pinned; in place of what is under it.
    pub copies: Vec<ObjectCopy>,
    /// Keys of objects that are to be kept (`true`), or no longer. What is kept does not expire, and is not evicted
    /// while anything else can go; a response in its place is kept as well. A key under which nothing is stored is no
    /// error: it is told.
    pub pins: Vec<(ObjectKey, bool)>,
    /// Named values, `None` removes one. The journal has them: they survive the loss of the index. Name and value
    /// have 512 KiB together, at most.
    pub records: Vec<(String, Option<Vec<u8>>)>,
    /// Keys of copies that go. One that is not there is no error.
    pub removed: Vec<ObjectKey>,
}

/// An object to be stored once more.
#[derive(Clone, Debug)]
pub struct ObjectCopy {
    /// [`Object::id`] of the object.
    pub object: i64,
    /// The body that it must have.
    pub blob: BlobId,
    /// The copy's key: `@`, what tells it from other copies, a space, and the object's key.
    pub key: ObjectKey,
    /// When the copy counts as last used.
    pub last_used: UnixMillis,
}

impl Object {
    /// Whether it is a copy that a [`Publication`] made.
    pub fn is_copy(&self) -> bool {
        is_copy(&self.key)
    }

    /// What marks a copy, such as `@7`, and the key of what was copied; of another object nothing, and its key.
    pub fn copy_mark(&self) -> (&str, &str) {
        match self.key.split_once(' ') {
            Some((mark, key)) if is_copy(mark) => (mark, key),
            _ => ("", &self.key),
        }
    }
}

/// Whether this is the key of a copy.
pub(super) fn is_copy(key: &str) -> bool {
    key.starts_with(COPY)
}

impl Store {
    /// Makes a change as one transaction; gives the keys to be kept under which nothing is stored.
    ///
    /// # Errors
    /// [`StoreError::NotCopied`] if an object to copy is gone or has another body, [`StoreError::RecordTooLarge`], or
    /// when the index cannot be written. Nothing is changed then.
    pub async fn publish(&self, publication: Publication) -> Result<Vec<ObjectKey>, StoreError> {
        self.health.check()?;
        publication.check()?;
        let _until_it_is_in = self.tenure.commit()?;
        let gone = publication.removed.clone();
        let failed = self.index.failure();
        let published = self.index.change(move |change| publication.make(change, failed)).await;
        let (unheld, files) = self.health.seen(published)?;
        evict::delete(files).await?;
        self.forget(gone);
        Ok(unheld)
    }

    /// All records whose names begin with `prefix`, in the order of their names.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn records(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.health.seen(self.index.records(prefix).await)
    }

    /// The keys of all copies, in their order: those that no record speaks of are left over from an index that was lost.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn copies(&self) -> Result<Vec<ObjectKey>, StoreError> {
        self.health.seen(self.index.copies().await)
    }
}

impl Publication {
    fn check(&self) -> Result<(), StoreError> {
        for (name, value) in &self.records {
            let bytes = name.len() + value.as_ref().map_or(0, Vec::len);
            if bytes > NAMED_MAX {
                return Err(StoreError::RecordTooLarge { name: name.clone(), bytes, max: NAMED_MAX });
            }
        }
        Ok(())
    }

    fn make(
        self,
        change: &mut IndexChange<'_>,
        failed: impl Fn(rusqlite::Error) -> StoreError,
    ) -> Result<Vec<ObjectKey>, StoreError> {
        for copy in self.copies {
            debug_assert!(is_copy(&copy.key), "{:?} is not the key of a copy", copy.key);
            if change.copy(&copy).map_err(&failed)?.is_none() {
                return Err(StoreError::NotCopied { key: copy.key });
            }
        }
        let mut unheld = Vec::new();
        for (key, kept) in self.pins {
            if change.hold(&key, |hold| Retention { kept, ..hold }).map_err(&failed)? == 0 && kept {
                unheld.push(key);
            }
        }
        // Behind the copies, and before what goes: a journal that was cut has no record of what is not there.
        for (name, value) in self.records {
            change.set_record(&name, value.as_deref()).map_err(&failed)?;
        }
        for key in self.removed {
            change.remove(&RemovalTarget::Key(key.to_string())).map_err(&failed)?;
        }
        Ok(unheld)
    }
}
