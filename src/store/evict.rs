//! Making room and keeping within bounds: eviction for a fill that begins (which objects: `index::policy`), expiry of
//! what nobody used, the limits after a change of settings or a disk that others filled, and the sweep of files without
//! a row. All in batches between which commits get their turn, and never on a reader's path.
//!
//! RemovalStats bytes are gone before the room they took is given to anyone, so that quota holds on the disk and not only
//! in the index.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::task::spawn_blocking;

use super::ObjectKey;
use super::budget::{Reservation, Shortage};
use super::error::{StoreError, StoreLimit};
use super::id::BlobId;
use super::index::{BATCH, RemovalTarget, RemovedObjects};
use super::scratch::Scratch;
use super::stats::{EvictionReason, RemovalStats};
use super::{FORGOTTEN_MAX, Store};

impl Store {
    /// Upkeep, to be called every minute or so: expiry after `max_unused`, `quota`, `min_free`, and once after the
    /// start the sweep. Gives the keys of objects removed since the last call, by [`Store::begin`] too.
    pub async fn maintain(&self) -> Result<Vec<ObjectKey>, StoreError> {
        let max_unused = i64::try_from(self.max_unused.as_millis()).unwrap_or(i64::MAX);
        let oldest = self.clock.now().saturating_sub(max_unused);
        while self
            .evict_batch(EvictionReason::Unused, move || RemovalTarget::UnusedSince(oldest))
            .await?
            .objects
            == BATCH as u64
        {}
        match self.room.excess(self.free().await?) {
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
        self.index.maintain().await?;
        self.save_ahead().await?;
        self.open.maintain();
        Ok(self.take_removed_keys())
    }

    /// Gives the keys of objects evicted since the last call, so that they are no longer hot.
    pub fn take_removed_keys(&self) -> Vec<ObjectKey> {
        std::mem::take(&mut *self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes files of blobs without a row, which a crash between rename and commit leaves behind. After the index was
    /// lost, those that are sound get a row first. Gives the number of those removed.
    pub async fn sweep_orphans(&self) -> Result<u64, StoreError> {
        let adopting = self.index.state().adopting.load(Ordering::Acquire);
        let (mut swept, mut adopted, mut unread) = (0, 0, 0);
        for shelf in self.folder.shelves() {
            let list = move || -> Result<Vec<BlobId>, StoreError> {
                let failed = |source| StoreError::Io { doing: "list", path: shelf.clone(), source };
                let files = std::fs::read_dir(&shelf).map_err(failed)?;
                let names =
                    files.map(|file| Ok(file?.file_name().to_str().and_then(|name| name.parse().ok())));
                names.filter_map(Result::transpose).collect::<Result<_, _>>().map_err(failed)
            };
            let orphans = self.index.absent(spawn_blocking(list).await??).await?;
            for batch in orphans.chunks(BATCH) {
                let mut batch = batch.to_vec();
                if adopting {
                    let looked = self.adopt(&batch).await?;
                    adopted += looked.sound;
                    unread += looked.unread;
                    batch = looked.unsound;
                }
                let ((), gone) = self
                    .index
                    .change(move |change| {
                        batch.into_iter().for_each(|id| change.unreferenced(id));
                        Ok(())
                    })
                    .await?;
                swept += gone.len() as u64;
                delete(gone).await?;
            }
        }
        if adopting {
            if unread == 0 {
                self.adopted_all().await?;
            }
            tracing::warn!(
                blobs = adopted,
                unread,
                "the index has the blobs again that its journal did not have"
            );
        }
        if swept > 0 {
            tracing::info!(files = swept, "removed files of blobs that the index does not have");
        }
        Ok(swept)
    }

    /// Speaks for bytes on disk, evicting what is in the way.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, StoreError> {
        let mut freed_disk = false;
        loop {
            match self.room.reserve(bytes, self.free().await?) {
                Ok(reservation) => return Ok(reservation),
                Err(Shortage::TooLarge { quota }) => return Err(StoreError::TooLarge { need: bytes, quota }),
                // Ends: each round removes something.
                Err(Shortage::Quota { .. } | Shortage::QuotaReserved | Shortage::MinFree { .. })
                    if self.without_unfinished().await? => {}
                Err(Shortage::Quota { over }) if self.evict(over, EvictionReason::Quota).await? > 0 => {}
                // Once: a disk that others fill would cost everything stored and still be full.
                Err(Shortage::MinFree { under }) if !freed_disk => {
                    freed_disk = true;
                    self.evict(under, EvictionReason::MinFree).await?;
                    let open = Arc::clone(&self.open);
                    spawn_blocking(move || open.close_removed()).await?;
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

    /// Makes room at the cost of what nobody was ever served; whether there was any.
    async fn without_unfinished(self: &Arc<Self>) -> Result<bool, StoreError> {
        let store = Arc::clone(self);
        Ok(spawn_blocking(move || store.discard_oldest_unfinished()).await?)
    }

    /// Evicts until `bytes` are free or nothing is left; gives the bytes freed.
    async fn evict(&self, bytes: u64, why: EvictionReason) -> Result<u64, StoreError> {
        let mut freed = 0;
        while freed < bytes {
            let missing = bytes - freed;
            let removed = self.evict_batch(why, move || RemovalTarget::Bytes(missing)).await?;
            freed += removed.bytes;
            if removed.objects == 0 {
                break;
            }
        }
        Ok(freed)
    }

    async fn evict_batch(
        &self,
        why: EvictionReason,
        which: impl FnOnce() -> RemovalTarget + Send + 'static,
    ) -> Result<RemovalStats, StoreError> {
        let RemovedObjects { keys, removed, given_up } = self.remove_objects(which).await?;
        self.counters.count_evicted(why, removed);
        self.gave_up(given_up, why);
        self.ahead.evicted(&keys);
        self.forget(keys);
        Ok(removed)
    }

    /// Keeps the keys of removed objects for those who may have them hot.
    pub(super) fn forget(&self, keys: Vec<ObjectKey>) {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        let space = FORGOTTEN_MAX.saturating_sub(forgotten.len());
        forgotten.extend(keys.into_iter().take(space));
    }

    /// Removes objects, and from the disk the blobs only they had.
    pub(super) async fn remove_objects(
        &self,
        which: impl FnOnce() -> RemovalTarget + Send + 'static,
    ) -> Result<RemovedObjects, StoreError> {
        let failed = self.index.failure();
        let removed = self.index.change(move |change| change.remove(&which()).map_err(failed)).await;
        let (removed, gone) = self.health.seen(removed)?;
        delete(gone).await?;
        Ok(removed)
    }

    pub(super) async fn free(&self) -> Result<u64, StoreError> {
        let folder = Arc::clone(&self.folder);
        spawn_blocking(move || folder.free()).await?
    }
}

pub(super) async fn delete(files: Vec<Scratch>) -> Result<(), StoreError> {
    if !files.is_empty() {
        spawn_blocking(move || drop(files)).await?;
    }
    Ok(())
}
