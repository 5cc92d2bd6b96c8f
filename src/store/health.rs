//! Health of the store's disk: the known degraded state, and the probe that ends it. Errors are recorded where
//! the store meets them. Only the probe clears a degraded state, so that one good read does not hide a disk that
//! takes no writes. While the disk is degraded, [`Store::begin_blob`] fails at once and callers pass responses
//! through, as for every [`StoreError`]. Blocks that an otherwise working disk never returns are given up
//! together with their blobs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::budget::Shortage;
use super::error::{ReadError, StoreError, StoreHealth, StoreLimit};
use super::id::BlobId;
use super::{BLOCK, BodySource, CHUNK, Store};

/// Number of successive probes that find only unreadable blocks, after which their blobs are removed. At one
/// probe a second this is half a minute. Linux gives a command 30 s before it resets the disk's link, and a reset
/// may bring the block back. A bad sector stays, and every miss is passed through uncached until then.
const GIVE_UP_AFTER: u32 = 30;

/// Maximum number of blobs remembered with unreadable blocks. Each costs the probe a read, which takes seconds on
/// a bad sector. Further ones are found when they are requested again.
const UNREADABLE_MAX: usize = 8;

/// A degraded state of the store's disk.
#[derive(Clone, Debug)]
pub struct Degradation {
    /// The state.
    pub health: StoreHealth,
    /// Text of the first error: subject, cause, remedy.
    pub detail: Arc<str>,
}

/// Last known state of the disk.
#[derive(Debug)]
pub(super) struct HealthMonitor {
    degradation: watch::Sender<Option<Degradation>>,
    /// Unreadable blocks, one of each blob. The disk is healthy again when they can be read or their blobs are
    /// removed.
    // Locked to copy or change, never across I/O.
    unreadable: Mutex<Vec<UnreadableBlock>>,
}

/// A block of a blob that could not be read.
#[derive(Clone, Copy, Debug)]
struct UnreadableBlock {
    id: BlobId,
    len: u64,
    start: u64,
    /// Successive probes since then that found only unreadable blocks.
    probes: u32,
}

impl HealthMonitor {
    pub(super) fn new() -> Self {
        Self { degradation: watch::Sender::new(None), unreadable: Mutex::default() }
    }

    /// Records the failure of a store operation.
    pub(super) fn observe<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result
            && let Some(health) = StoreHealth::from_error(error)
        {
            self.record(health, error);
        }
        result
    }

    /// Records a failed read.
    pub(super) fn observe_read_error(&self, error: &ReadError, source: &BodySource, start: u64) {
        let ReadError::Io { source: cause, .. } = error else { return };
        let health = StoreHealth::from_io_error(cause);
        if let (StoreHealth::Failing, BodySource::Blob { id, len }) = (health, source) {
            let mut blocks = self.unreadable();
            if blocks.len() < UNREADABLE_MAX && !blocks.iter().any(|block| block.id == *id) {
                blocks.push(UnreadableBlock { id: *id, len: *len, start, probes: 0 });
            }
        }
        self.record(health, error);
    }

    fn is(&self, health: StoreHealth) -> bool {
        self.degradation.borrow().as_ref().is_some_and(|degradation| degradation.health == health)
    }

    /// Refuses writes while they are known to fail.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match &*self.degradation.borrow() {
            None | Some(Degradation { health: StoreHealth::NoRoom, .. }) => Ok(()),
            Some(Degradation { health, .. }) => Err(StoreError::Degraded { health: *health }),
        }
    }

    /// Records a degraded state if none is known: the first error is the cause, later ones follow from it.
    fn record(&self, health: StoreHealth, error: &dyn std::error::Error) {
        if self.degradation.borrow().is_none() {
            self.set(Some(Degradation { health, detail: Arc::from(error.to_string()) }));
        }
    }

    /// Sets the state, and logs a change.
    fn set(&self, found: Option<Degradation>) {
        let has_changed = self.degradation.send_if_modified(|known| {
            let of = |degradation: &Option<Degradation>| {
                degradation.as_ref().map(|degradation| degradation.health)
            };
            let has_changed = of(known) != of(&found);
            known.clone_from(&found);
            has_changed
        });
        match found {
            Some(Degradation { health, detail }) if has_changed => {
                tracing::error!(condition = health.as_str(), %detail,
                    "store disk degraded; misses are passed through uncached");
            }
            None if has_changed => tracing::info!("store disk healthy again"),
            _ => {}
        }
    }

    fn unreadable(&self) -> MutexGuard<'_, Vec<UnreadableBlock>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Returns the degraded state, if one is known.
    pub fn degradation(&self) -> Option<Degradation> {
        self.health.degradation.borrow().clone()
    }

    /// Waits for a degraded state. The caller then runs [`Store::probe`] about once a second until the state
    /// ends.
    pub async fn wait_until_degraded(&self) {
        // The guard that `wait_for` returns must not live across an await. The sender lives as long as `self`.
        drop(self.health.degradation.subscribe().wait_for(Option::is_some).await);
    }

    /// Tests the disk and returns true if maintenance makes sense now. A healthy disk is not written to.
    pub async fn probe(&self) -> bool {
        let known = self.health.degradation.borrow().as_ref().map(|degradation| degradation.health);
        let tried = match known {
            None => self.free_bytes().await.map(drop),
            Some(known) => match self.probe_disk(known).await {
                Ok(()) => self.reread_blocks().await,
                Err(error) => {
                    self.health.unreadable().iter_mut().for_each(|block| block.probes = 0);
                    Err(error)
                }
            },
        };
        if let Err(StoreError::FolderGone { .. }) = tried
            && let Err(error) = self.adopt_replacement().await
        {
            tracing::debug!(%error, "cannot use the folder mounted in place of the store");
        }
        // Reported even if a replacement store was adopted: callers drop cached entries of the old store until
        // the next probe.
        let found = tried.err().map(|error| {
            let health = match &error {
                StoreError::NoRoom { .. } => StoreHealth::NoRoom,
                error => StoreHealth::from_error(error).unwrap_or(StoreHealth::Failing),
            };
            Degradation { health, detail: Arc::from(error.to_string()) }
        });
        let is_usable = found.as_ref().is_none_or(|found| found.health == StoreHealth::NoRoom);
        self.health.set(found);
        is_usable
    }

    async fn probe_disk(&self, known: StoreHealth) -> Result<(), StoreError> {
        let free = self.free_bytes().await?;
        // Checked before the write: a fill can make room. A store that fills its disk may lack room at any other
        // time, because it uses all of it.
        if matches!(known, StoreHealth::Full | StoreHealth::NoRoom) && self.is_out_of_room(free) {
            return Err(StoreError::NoRoom { need: CHUNK, limit: StoreLimit::MinFree });
        }
        let folder = Arc::clone(&self.folder);
        spawn_blocking(move || folder.probe_write(CHUNK)).await??;
        let failed = self.index.error_mapper();
        self.index.change(move |change| change.probe_write().map_err(failed)).await?;
        self.index.find("").await.map(drop)
    }

    /// Reads the unreadable blocks again, at most `GIVE_UP_AFTER` times on a disk that works otherwise.
    async fn reread_blocks(&self) -> Result<(), StoreError> {
        let blocks = self.health.unreadable().clone();
        let mut failed = Ok(());
        for UnreadableBlock { id, len, start, probes } in blocks {
            let block = usize::try_from(len.saturating_sub(start).min(BLOCK)).unwrap_or(0);
            match self.load(&BodySource::Blob { id, len }, start, vec![0; block]).await {
                Err(error @ ReadError::Io { .. }) if probes + 1 < GIVE_UP_AFTER => {
                    let mut unreadable = self.health.unreadable();
                    unreadable.iter_mut().filter(|block| block.id == id).for_each(|block| block.probes += 1);
                    failed = Err(error.into());
                    continue;
                }
                Err(error @ ReadError::Io { .. }) => {
                    let keys = self.discard_blob(id).await?;
                    self.queue_removed_keys(keys);
                    tracing::error!(blob = %id, at = start, %error,
                        "blob with an unreadable block removed; the next request fetches it again");
                }
                // Damaged and evicted blobs are left to their readers.
                _ => {}
            }
            self.health.unreadable().retain(|block| block.id != id);
        }
        failed
    }

    /// Records the result of starting a fill.
    pub(super) async fn observe_begin<T>(&self, begun: Result<T, StoreError>) -> Result<T, StoreError> {
        // Large content may not fit where other content does.
        if let Err(error @ StoreError::NoRoom { limit: StoreLimit::MinFree, .. }) = &begun
            && self.is_out_of_room(self.free_bytes().await?)
        {
            self.health.record(StoreHealth::NoRoom, error);
        }
        if begun.is_ok() && self.health.is(StoreHealth::NoRoom) {
            self.health.set(None);
        }
        self.health.observe(begun)
    }

    fn is_out_of_room(&self, free: u64) -> bool {
        matches!(self.room.reserve(CHUNK, free), Err(Shortage::MinFree { .. }))
    }
}
