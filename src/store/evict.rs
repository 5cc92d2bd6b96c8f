//! Eviction and maintenance: room for new fills (victims are chosen by `index::policy`), expiry of unused
//! objects, the limits after changed settings or a filled disk, and the sweep of files without a row. All of it
//! runs in batches, between which commits run, and never on a reader's path.
//!
//! Removed files are unlinked before their room is granted to a fill, so the quota holds on disk and not only in
//! the index. Pinned objects are evicted last. Their eviction is logged once per batch and reported by
//! [`Store::take_evicted_pins`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;

use super::ObjectKey;
use super::budget::{FreeSpace, Reservation, Shortage};
use super::error::{StoreError, StoreLimit};
use super::id::BlobId;
use super::index::{BATCH, RemovalTarget, RemovedObjects};
use super::scratch::Scratch;
use super::stats::{EvictionReason, RemovalStats};
use super::{CHUNK, REMOVED_KEYS_MAX, Store};

/// Maximum number of evicted pins queued for the caller, at about 200 bytes each; further ones are only counted.
const EVICTED_PINS_MAX: usize = 4096;

/// Maximum bytes of a reservation that trusts the last measured free space.
const TRUSTS_FREE_SPACE_MAX: u64 = 4 * CHUNK;

/// Result of one batch.
struct EvictedBatch {
    objects: u64,
    /// Bytes that were charged for them, rows included.
    charged: u64,
}

/// Keys and body lengths in order of eviction.
// Locked to append and to take.
#[derive(Debug, Default)]
pub(super) struct EvictedPins(Mutex<Vec<(ObjectKey, u64)>>);

impl Store {
    /// Runs the maintenance that is due about every minute: expiry after `max_unused`, `quota`, `min_free`, and
    /// one sweep after the start. Returns the keys removed since the last call, including those evicted by
    /// [`Store::begin_blob`].
    ///
    /// # Errors
    /// When the index or the folder fails.
    pub async fn maintain(&self) -> Result<Vec<ObjectKey>, StoreError> {
        let max_unused = i64::try_from(self.max_unused.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let oldest = self.clock.now().saturating_sub(max_unused);
        while self
            .evict_batch(EvictionReason::Unused, move || RemovalTarget::UnusedSince(oldest))
            .await?
            .objects
            == BATCH as u64
        {}
        match self.room.excess(self.free_bytes().await?) {
            Some(Shortage::Quota { over }) => drop(self.evict(over, EvictionReason::Quota).await?),
            Some(Shortage::MinFree { under }) => drop(self.evict(under, EvictionReason::MinFree).await?),
            _ => {}
        }
        if self.index.state().unswept.swap(false, Ordering::AcqRel)
            && let Err(error) = self.sweep_orphans().await
        {
            self.index.state().unswept.store(true, Ordering::Release);
            return Err(error);
        }
        self.index.compact_packs().await?;
        self.index.maintain().await?;
        self.save_prefetches().await?;
        self.open.close_idle();
        Ok(self.take_removed_keys())
    }

    /// Returns the keys of objects removed since the last call, for invalidation of cached entries.
    pub fn take_removed_keys(&self) -> Vec<ObjectKey> {
        std::mem::take(&mut *self.removed_keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes blob files without a row, which a crash between rename and commit leaves behind, and returns their
    /// number. After the loss of an index, valid files get a row first.
    ///
    /// # Errors
    /// When the index or the folder fails.
    pub async fn sweep_orphans(&self) -> Result<u64, StoreError> {
        let adopting = self.index.state().adopting.load(Ordering::Acquire);
        let (mut swept, mut adopted, mut unreadable) = (0, 0, 0);
        for dir in self.folder.blob_dirs() {
            let list = move || -> Result<Vec<BlobId>, StoreError> {
                let failed = |source| StoreError::Io { doing: "list", path: dir.clone(), source };
                let files = std::fs::read_dir(&dir).map_err(failed)?;
                let names =
                    files.map(|file| Ok(file?.file_name().to_str().and_then(|name| name.parse().ok())));
                names.filter_map(Result::transpose).collect::<Result<_, _>>().map_err(failed)
            };
            let orphans = self.index.missing_blobs(spawn_blocking(list).await??).await?;
            for batch in orphans.chunks(BATCH) {
                let mut batch = batch.to_vec();
                if adopting {
                    let result = self.adopt_orphans(&batch).await?;
                    adopted += result.sound;
                    unreadable += result.unreadable;
                    batch = result.unsound;
                }
                let ((), gone) = self
                    .index
                    .change(move |change| {
                        batch.into_iter().for_each(|id| change.mark_unreferenced(id));
                        Ok(())
                    })
                    .await?;
                swept += gone.len() as u64;
                delete_files(gone).await?;
            }
        }
        if adopting {
            let result = self.adopt_records().await?;
            adopted += result.sound;
            unreadable += result.unreadable;
            if unreadable == 0 {
                self.finish_adoption().await?;
            }
            tracing::warn!(blobs = adopted, unreadable, "blobs missing from the index journal restored");
        }
        if swept > 0 {
            tracing::info!(files = swept, "blob files without an index row removed");
        }
        Ok(swept)
    }

    /// Reserves bytes on disk, and evicts what is in the way.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, StoreError> {
        let (mut freed_disk, mut is_known) = (false, bytes <= TRUSTS_FREE_SPACE_MAX);
        loop {
            let free = if std::mem::take(&mut is_known) {
                self.recent_free_bytes().await?
            } else {
                self.free_bytes().await?
            };
            match self.room.reserve(bytes, free) {
                Ok(reservation) => return Ok(reservation),
                Err(Shortage::TooLarge { quota }) => return Err(StoreError::TooLarge { need: bytes, quota }),
                // Terminates: each round removes something.
                Err(Shortage::Quota { .. } | Shortage::QuotaReserved | Shortage::MinFree { .. })
                    if self.discard_unfinished().await? => {}
                Err(Shortage::Quota { over }) if self.evict(over, EvictionReason::Quota).await? > 0 => {}
                // Only once: on a disk filled by others, further eviction would remove everything and free
                // nothing.
                Err(Shortage::MinFree { under }) if !freed_disk => {
                    freed_disk = true;
                    self.evict(under, EvictionReason::MinFree).await?;
                    let open = Arc::clone(&self.open);
                    spawn_blocking(move || open.close_unlinked()).await?;
                }
                Err(Shortage::MinFree { .. }) => {
                    return Err(StoreError::NoRoom { need: bytes, limit: StoreLimit::MinFree });
                }
                Err(Shortage::Quota { .. } | Shortage::QuotaReserved) => {
                    return Err(StoreError::NoRoom { need: bytes, limit: StoreLimit::Quota });
                }
            }
        }
    }

    /// Removes the oldest unfinished fill, which no client was served; returns true if there was one.
    async fn discard_unfinished(self: &Arc<Self>) -> Result<bool, StoreError> {
        let store = Arc::clone(self);
        Ok(spawn_blocking(move || store.discard_oldest_unfinished()).await?)
    }

    /// Evicts until `bytes` are free or nothing is left, and returns the bytes freed.
    async fn evict(&self, bytes: u64, reason: EvictionReason) -> Result<u64, StoreError> {
        let mut freed = 0;
        while freed < bytes {
            let missing = bytes - freed;
            let removed = self.evict_batch(reason, move || RemovalTarget::Bytes(missing)).await?;
            freed += removed.charged;
            if self.index.are_packs_due() {
                self.index.compact_packs().await?;
            }
            self.index.compact().await?;
            if removed.objects == 0 {
                break;
            }
        }
        Ok(freed)
    }

    async fn evict_batch(
        &self,
        reason: EvictionReason,
        target: impl FnOnce() -> RemovalTarget + Send + 'static,
    ) -> Result<EvictedBatch, StoreError> {
        let RemovedObjects { keys, removed, charged, evicted_pins, types } =
            self.remove_objects(target).await?;
        self.counters.count_evicted(reason, removed, types);
        self.report_evicted_pins(evicted_pins, reason);
        self.prefetches.mark_evicted(&keys);
        self.queue_removed_keys(keys);
        Ok(EvictedBatch { objects: removed.objects, charged })
    }

    /// Queues the keys of removed objects for [`Store::take_removed_keys`]. Keys beyond `REMOVED_KEYS_MAX` are dropped.
    pub(super) fn queue_removed_keys(&self, keys: Vec<ObjectKey>) {
        let mut queue = self.removed_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let space = REMOVED_KEYS_MAX.saturating_sub(queue.len());
        queue.extend(keys.into_iter().take(space));
    }

    /// Removes objects, and the files of blobs without other objects.
    pub(super) async fn remove_objects(
        &self,
        target: impl FnOnce() -> RemovalTarget + Send + 'static,
    ) -> Result<RemovedObjects, StoreError> {
        let failed = self.index.error_mapper();
        let removed = self.index.change(move |change| change.remove(&target()).map_err(failed)).await;
        let (removed, gone) = self.health.observe(removed)?;
        delete_files(gone).await?;
        Ok(removed)
    }

    /// Returns the free bytes of the file system, as of a few milliseconds ago.
    async fn recent_free_bytes(&self) -> Result<u64, StoreError> {
        match self.free_space.look() {
            FreeSpace::Known(free) => Ok(free),
            FreeSpace::Due(free) => {
                let (folder, space) = (Arc::clone(&self.folder), Arc::clone(&self.free_space));
                // If it fails, a later caller reads it and sees the error.
                drop(spawn_blocking(move || folder.free_bytes().map(|free| space.set(free))));
                Ok(free)
            }
            FreeSpace::Unknown => {
                let free = self.free_bytes().await?;
                self.free_space.set(free);
                Ok(free)
            }
        }
    }

    pub(super) async fn free_bytes(&self) -> Result<u64, StoreError> {
        let folder = Arc::clone(&self.folder);
        spawn_blocking(move || folder.free_bytes()).await?
    }

    /// Returns the keys and body lengths of pinned objects evicted since the last call, at most 4,096.
    pub fn take_evicted_pins(&self) -> Vec<(ObjectKey, u64)> {
        std::mem::take(&mut *self.evicted_pins.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn report_evicted_pins(&self, evicted_pins: Vec<(ObjectKey, u64)>, reason: EvictionReason) {
        if evicted_pins.is_empty() {
            return;
        }
        let (objects, bytes) = (evicted_pins.len() as u64, evicted_pins.iter().map(|(_, bytes)| bytes).sum());
        self.counters.count_evicted_pins(RemovalStats { objects, bytes });
        tracing::warn!(
            objects,
            bytes,
            limit = reason.as_str(),
            "pinned content evicted for room; raise `store.quota` or keep fewer revisions"
        );
        let mut queue = self.evicted_pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        let space = EVICTED_PINS_MAX.saturating_sub(queue.len());
        queue.extend(evicted_pins.into_iter().take(space));
    }
}

pub(super) async fn delete_files(files: Vec<Scratch>) -> Result<(), StoreError> {
    if !files.is_empty() {
        spawn_blocking(move || drop(files)).await?;
    }
    Ok(())
}
