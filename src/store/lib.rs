//! Content store: blobs on disk named by their SHA-256, an SQLite index of the objects, and hot chunks in memory.
//!
//! The store owns the folder `store.dir` and locks it against a second process. It depends on `gupd_config` only.
//! It knows no HTTP beyond a response's stored head and decides nothing about freshness.
//!
//! It guarantees:
//! - An object exists only when its whole body is on disk.
//! - No byte is returned before its block's checksum was verified.
//! - `quota` and `min_free` hold, also while fills write.
//! - Memory is bounded for any number of readers.
//! - No call blocks an async thread, except [`Store::open`], which runs before there is one.
//!
//! Main types: [`Store`] is the entry point. A [`BlobWriter`] fills a blob, readers follow its [`PartialBlob`],
//! and [`Store::read`] returns verified bytes of a [`BodySource`]. Start reading at `writer.rs` for the path of a
//! new blob, at `read.rs` for reads, and at `index/mod.rs` for the index.

mod adopt;
mod blob;
mod blocks;
mod budget;
pub mod bundle;
mod draft;
mod error;
mod evict;
mod extent;
mod folder;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod held;
mod id;
mod index;
mod inspect;
mod inventory;
mod journal;
mod key;
mod lease;
mod memory;
mod metrics;
mod object;
mod pack;
mod packs;
mod partial;
mod partial_body;
mod pending_sync;
mod prefetch;
mod publication;
mod read;
mod repair;
mod restore;
mod scratch;
mod scrub;
mod segment;
mod single_flight;
mod stats;
mod trailer;
mod unfinished;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::{Notify, Semaphore};

use gupd_config as config;
use gupd_config::clock::{Clock, UnixMillis};

use self::blob::OpenBlobs;
use self::budget::{DiskBudget, RecentFreeSpace};
use self::evict::EvictedPins;
use self::folder::{Folder, FolderLock};
use self::health::HealthMonitor;
use self::index::{Index, RemovalTarget};
use self::lease::FolderLease;
use self::prefetch::PrefetchLedger;
use self::read::{DISK_READS, LoadKey, LoadResult};
use self::repair::RepairResult;
use self::single_flight::SingleFlight;
use self::stats::Counters;
use self::unfinished::UnfinishedList;
use self::writer::DISK_WRITES;

pub use self::blob::MAX_OPEN_BLOBS;
pub use self::error::{ReadError, StoreError, StoreHealth, StoreLimit};
pub use self::health::Degradation;
pub use self::id::{BlobId, InvalidBlobId};
pub use self::inventory::Inventory;
pub use self::key::ObjectKey;
pub use self::memory::{ChunkMemory, MemoryCharge, PIECES_MAX, PINNED_MAX};
pub use self::metrics::StoreMetrics;
pub use self::object::{NewObject, Object};
pub use self::partial::{BlockSnapshot, PartialBlob};
pub use self::publication::{ObjectCopy, Publication};
pub use self::read::BodySource;
pub use self::repair::RepairError;
pub use self::scrub::Scrub;
pub use self::segment::Segment;
pub use self::stats::{EvictionReason, RemovalStats, StoreStats};
pub use self::unfinished::UnfinishedFill;
pub use self::verify::{Finding, VerifySummary, verify};
pub use self::writer::{BlobWriter, CommittedObject};

/// Chunk size in bytes: the unit of memory caching and of a fill's demand.
pub const CHUNK: u64 = 1 << 20;

/// Block size in bytes: the unit of verification. A slow client's piece is verified without a chunk in memory.
pub const BLOCK: u64 = 64 << 10;

/// Maximum number of variants of one key (RFC 9111 §4.1); the oldest are removed first. Without this limit an
/// origin that varies by `User-Agent` could fill the index under one key.
pub const MAX_VARIANTS: usize = 8;

/// Maximum number of removed keys queued for the next [`Store::maintain`]. A key beyond it is found missing when
/// it is read.
const REMOVED_KEYS_MAX: usize = 1 << 16;

/// An open store.
#[derive(Debug)]
pub struct Store {
    folder: Arc<Folder>,
    room: Arc<DiskBudget>,
    free_space: Arc<RecentFreeSpace>,
    index: Index,
    memory: Arc<ChunkMemory>,
    open: Arc<OpenBlobs>,
    loads: SingleFlight<LoadKey, LoadResult>,
    repairs: SingleFlight<(BlobId, u64), RepairResult>,
    disk_reads: Semaphore,
    disk_writes: Semaphore,
    counters: Arc<Counters>,
    removed_keys: Mutex<Vec<ObjectKey>>,
    evicted_pins: EvictedPins,
    unfinished: UnfinishedList,
    prefetches: PrefetchLedger,
    health: HealthMonitor,
    lease: FolderLease,
    generation: AtomicU64,
    clock: Clock,
    /// Milliseconds.
    max_unused: AtomicU64,
    limits_changed: Notify,
    /// Declared last, so that it is released after everything above is closed, or by [`Store::release`].
    lock: Mutex<Option<FolderLock>>,
}

impl Store {
    /// Opens the store folder, or creates it. Blocks.
    ///
    /// The time does not depend on the number of objects, unless a damaged or missing index is rebuilt from its
    /// journal.
    ///
    /// # Errors
    /// When the folder cannot be used, another process has it, or the index is of a later version.
    pub fn open(config: &config::StoreSettings, clock: Clock) -> Result<Arc<Self>, StoreError> {
        let (folder, lock, left) = Folder::open(&config.dir)?;
        let room = DiskBudget::new(config.quota, config.min_free);
        let counters = Arc::<Counters>::default();
        let index =
            Index::open(Arc::clone(&folder), Arc::clone(&room), Arc::clone(&counters), clock.clone())?;
        let unfinished = UnfinishedList::open(left, &room, folder.free_bytes()?)?;
        Ok(Arc::new(Self {
            prefetches: PrefetchLedger::open(&folder),
            folder,
            room,
            free_space: Arc::default(),
            index,
            memory: Arc::new(ChunkMemory::new(config.memory)),
            open: Arc::new(OpenBlobs::new()),
            loads: SingleFlight::new(),
            repairs: SingleFlight::new(),
            disk_reads: Semaphore::new(DISK_READS),
            disk_writes: Semaphore::new(DISK_WRITES),
            counters,
            removed_keys: Mutex::default(),
            evicted_pins: EvictedPins::default(),
            unfinished,
            health: HealthMonitor::new(),
            lease: FolderLease::new(),
            generation: AtomicU64::new(0),
            clock,
            max_unused: AtomicU64::new(millis(config.max_unused)),
            limits_changed: Notify::new(),
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// Applies `quota`, `min_free` and `max_unused`; the other settings need a new store. The next
    /// [`Store::maintain`] evicts what exceeds a lowered limit. Running fills keep their room.
    pub fn reconfigure(&self, config: &config::StoreSettings) {
        self.room.set_limits(config.quota, config.min_free);
        self.max_unused.store(millis(config.max_unused), Ordering::Relaxed);
        self.limits_changed.notify_one();
    }

    /// Waits for the next [`Store::reconfigure`], so that its limits apply without delay.
    pub async fn wait_until_reconfigured(&self) {
        self.limits_changed.notified().await;
    }

    /// Returns the maximum number of bytes on disk.
    pub fn quota(&self) -> u64 {
        self.room.quota()
    }

    /// Returns all variants of a key, newest first, at most [`MAX_VARIANTS`].
    pub async fn lookup(&self, key: &str) -> Result<Vec<Object>, StoreError> {
        self.health.observe(self.index.find(key).await)
    }

    /// Returns a page of objects in insertion order after the row `after`, without copies; empty at the end.
    pub async fn page(&self, after: i64) -> Result<Vec<Object>, StoreError> {
        self.health.observe(self.index.page(after).await)
    }

    /// Replaces an object's header fields and times by those of a `304` (RFC 9111 §4.3.4). Does nothing if it is
    /// gone.
    pub async fn refresh(
        &self,
        stale: &Object,
        headers: &HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
    ) -> Result<(), StoreError> {
        self.health.check()?;
        let (id, key, blob) = (stale.id, stale.key.clone(), stale.blob);
        let (headers, map_error) = (headers.clone(), self.index.error_mapper());
        let work = move |change: &mut index::IndexChange<'_>| {
            change.refresh(id, (&*key, blob), &headers, request_time, response_time).map_err(map_error)
        };
        self.health.observe(self.index.change(work).await).map(drop)
    }

    /// Removes all variants of a key, and blobs that no other object has.
    pub async fn remove(&self, key: &str) -> Result<RemovalStats, StoreError> {
        let key = key.to_owned();
        Ok(self.remove_objects(move || RemovalTarget::Key(key)).await?.removed)
    }

    /// Returns device and inode of the folder: two paths with equal numbers are the same store.
    ///
    /// # Errors
    /// When the folder is gone.
    pub fn folder_id(&self) -> std::io::Result<(u64, u64)> {
        folder::read_id(self.folder.root())
    }

    /// Removes a damaged blob and all objects that have it, and returns their keys.
    pub async fn discard_blob(&self, blob: BlobId) -> Result<Vec<ObjectKey>, StoreError> {
        let removed = self.remove_objects(move || RemovalTarget::Blob(blob)).await?;
        self.open.invalidate(blob);
        self.counters.count_evicted(EvictionReason::Damaged, removed.removed, removed.types);
        Ok(removed.keys)
    }

    /// Records when objects were last used. Uses lost in a crash make eviction slightly less exact.
    pub async fn record_use(&self, uses: Vec<(i64, UnixMillis)>) -> Result<(), StoreError> {
        self.prefetches.mark_used(&uses);
        let map_error = self.index.error_mapper();
        let recorded = self.index.change(move |change| change.record_use(&uses).map_err(map_error)).await;
        self.health.observe(recorded).map(drop)
    }

    /// Checks that the store accepts changes, as far as is known.
    ///
    /// # Errors
    /// [`StoreError::Degraded`] while its disk fails.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        self.health.check()
    }

    /// Returns figures for metrics and status.
    pub fn stats(&self) -> StoreStats {
        let health = self.degradation().map_or(StoreHealth::Healthy, |degradation| degradation.health);
        let (wasted_prefetch_bytes, unused_prefetch_bytes) = self.prefetches.bytes();
        StoreStats {
            health,
            wasted_prefetch_bytes,
            unused_prefetch_bytes,
            ..self.counters.stats(self.memory.held_bytes())
        }
    }

    /// Returns the objects of each content type, without copies of catalogs, and the bytes of their bodies. Reads the
    /// whole index.
    pub async fn stored_by_type(&self) -> Result<BTreeMap<String, RemovalStats>, StoreError> {
        self.health.observe(self.index.stored_by_type().await)
    }

    /// Returns the objects of each content type that were removed since the start, other than by a client or a command,
    /// and the bytes of their bodies.
    pub fn evicted_by_type(&self) -> BTreeMap<String, RemovalStats> {
        self.counters.evicted_by_type()
    }

    /// Returns the memory that holds bodies.
    pub fn chunk_memory(&self) -> &ChunkMemory {
        &self.memory
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
