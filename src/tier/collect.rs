//! Inventory, verification and collection of a tier, for commands. Relays use the tier meanwhile.
//!
//! Invariant: a blob is removed only if no record names it and it is older than the grace time. Blobs are listed before
//! records, so a publication that runs is seen by its record or is young. One that finds an old blob in the moment of its
//! removal loses its record too, and the next relay publishes the object anew.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use super::record::{RecordError, TierRecord, hex};
use super::{Tier, record_path};
use crate::problem::{TierError, TransferDirection};
use gupd_config::clock::UnixMillis;

/// Number of records that are read at once.
const READERS: usize = 8;

/// A record of the tier.
#[derive(Clone, Debug)]
pub struct ListedObject {
    /// Name of the record: the SHA-256 of the key.
    pub name: String,
    /// Time of its publication by the storage's clock.
    pub published: UnixMillis,
    /// The record, or why it cannot be used.
    pub state: ListedState,
}

/// Whether a record can be used.
#[derive(Clone, Debug)]
pub enum ListedState {
    /// It can.
    Usable(Arc<TierRecord>),
    /// A later version of gupd wrote it.
    Later,
    /// It is damaged.
    Damaged,
}

/// Result of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectionReport {
    /// Records removed.
    pub records: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records of a later version. While there are any, no blob is removed: they may name it.
    pub later: u64,
}

/// Name, size and time of a stored file.
struct Listed {
    name: String,
    size: u64,
    modified: UnixMillis,
}

impl Tier {
    /// Reads all records, by name.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn list(&self) -> Result<Vec<ListedObject>, TierError> {
        let records = self.list_files("objects").await?;
        stream::iter(records).map(|file| self.read_listed(file)).buffered(READERS).try_collect().await
    }

    async fn read_listed(&self, file: Listed) -> Result<ListedObject, TierError> {
        let bytes = self.read_record(&file.name).await?.unwrap_or_default();
        let state = match TierRecord::decode_any(&bytes) {
            Ok(record) if super::record::name_of(&record.key) == file.name => {
                ListedState::Usable(Arc::new(record))
            }
            Err(RecordError::Later(_)) => ListedState::Later,
            Ok(_) | Err(RecordError::Malformed) => ListedState::Damaged,
        };
        Ok(ListedObject { name: file.name, published: file.modified, state })
    }

    /// Reads a whole blob, and compares it with the record. Returns false if it is damaged or missing.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn verify(self: &Arc<Self>, record: &Arc<TierRecord>) -> Result<bool, TierError> {
        let mut pieces = std::pin::pin!(self.stream(record, 0..record.length));
        let mut sha256 = Sha256::new();
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => sha256.update(&piece),
                Err(_damage) if self.is_damaged(&record.key) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(<[u8; 32]>::from(sha256.finalize()) == record.sha256)
    }

    /// Removes the records that `is_outdated` selects, and the blobs that no record names and that were written before
    /// `written_before`. With `dry_run` it only counts.
    ///
    /// # Errors
    /// If the storage fails. What was removed stays removed; the next collection continues.
    pub async fn collect(
        &self,
        is_outdated: impl Fn(&ListedObject) -> bool,
        written_before: UnixMillis,
        dry_run: bool,
    ) -> Result<CollectionReport, TierError> {
        let blobs = self.list_files("blobs").await?;
        let records = self.list().await?;
        let mut report = CollectionReport::default();
        let (mut named, mut seen) = (HashSet::new(), HashSet::new());
        for object in &records {
            seen.insert(object.name.clone());
            match &object.state {
                ListedState::Later => report.later = report.later.saturating_add(1),
                _ if is_outdated(object) => {
                    report.records = report.records.saturating_add(1);
                    if !dry_run {
                        self.remove(record_path(&object.name)).await?;
                    }
                }
                ListedState::Usable(record) => {
                    named.insert(hex(&record.sha256));
                }
                ListedState::Damaged => {}
            }
        }
        if report.later > 0 {
            return Ok(report);
        }
        let mut removed = HashSet::new();
        for blob in blobs {
            if named.contains(&blob.name) || blob.modified >= written_before {
                continue;
            }
            report.blobs = report.blobs.saturating_add(1);
            report.bytes = report.bytes.saturating_add(blob.size);
            if !dry_run {
                self.remove(object_store::path::Path::from(format!("blobs/{}", blob.name))).await?;
                removed.insert(blob.name);
            }
        }
        if !removed.is_empty() {
            self.remove_dangling(&seen, &removed).await?;
        }
        Ok(report)
    }

    /// Removes records that were written during a collection and name a blob that it removed.
    async fn remove_dangling(
        &self,
        seen: &HashSet<String>,
        removed: &HashSet<String>,
    ) -> Result<(), TierError> {
        let files = self.list_files("objects").await?;
        for file in files.into_iter().filter(|file| !seen.contains(&file.name)) {
            let object = self.read_listed(file).await?;
            if let ListedState::Usable(record) = &object.state
                && removed.contains(&hex(&record.sha256))
            {
                self.remove(record_path(&object.name)).await?;
            }
        }
        Ok(())
    }

    async fn list_files(&self, folder: &'static str) -> Result<Vec<Listed>, TierError> {
        let list = move |store: Arc<dyn ObjectStore>| async move {
            let prefix = object_store::path::Path::from(folder);
            let mut files = Vec::new();
            let mut listed = store.list(Some(&prefix));
            while let Some(meta) = listed.next().await {
                let meta = meta?;
                if let Some(name) = meta.location.filename() {
                    let (name, modified) = (name.to_owned(), meta.last_modified.timestamp_millis());
                    files.push(Listed { name, size: meta.size, modified });
                }
            }
            files.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(files)
        };
        self.run(TransferDirection::Read, list).await
    }

    async fn remove(&self, path: object_store::path::Path) -> Result<(), TierError> {
        let remove = |store: Arc<dyn ObjectStore>| async move {
            crate::read::found(store.delete(&path).await).map(|_was_there| ())
        };
        self.run(TransferDirection::Write, remove).await
    }
}
