//! The store: blobs on disk named by their SHA-256, an index of the objects that have them, and their hot chunks in
//! memory. Owns the folder `store.dir` and everything in it, locked against a second process; relies on the
//! [`Clock`] and on nothing else of gupd. It knows no HTTP beyond a response's stored head, and decides nothing about
//! freshness.
//!
//! Its promises: an object exists when its whole body is on disk; no byte leaves that was not checked against its
//! block's checksum; `quota` and `min_free` hold even while filling; memory stays bounded whatever readers do. No call
//! blocks an async thread, except [`Store::open`], which is called before there is one.

mod adopt;
mod blob;
mod blocks;
mod budget;
pub mod bundle;
mod clients;
mod error;
mod evict;
mod folder;
mod health;
mod id;
mod index;
mod inspect;
mod inventory;
mod journal;
mod kept;
mod key;
mod memory;
mod metrics;
mod object;
mod partial;
mod prefetch;
mod publication;
mod read;
mod release;
mod repair;
mod scratch;
mod scrub;
mod segment;
mod single_flight;
mod stats;
mod succession;
mod trailer;
mod unfinished;
mod verify;
mod writer;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::Semaphore;

pub use self::blob::MAX_OPEN_BLOBS;
pub use self::error::{ReadError, StoreError, StoreLimit};
pub use self::health::{Degradation, StoreHealth};
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
use self::unfinished::UnfinishedList;
pub use self::verify::{Finding, VerifySummary, verify};
use self::writer::DISK_WRITES;
pub use self::writer::{BlobWriter, CommittedObject};

use self::blob::OpenBlobs;
use self::budget::DiskBudget;
use self::folder::{Folder, FolderLock};
use self::health::HealthMonitor;
use self::index::{Index, RemovalTarget};
use self::kept::EvictedPins;
use self::prefetch::PrefetchLedger;
use self::read::{DISK_READS, LoadKey, LoadResult};
use self::release::FolderLease;
use self::repair::RepairResult;
use self::single_flight::SingleFlight;
use self::stats::Counters;
use gupd_config as config;
use gupd_config::clock::{Clock, UnixMillis};

/// Bytes of a chunk: the unit of memory caching and of a fill's demand.
pub const CHUNK: u64 = 1 << 20;

/// Bytes of a block: the unit of verification, so that a slow client's piece is checked without a chunk in memory.
pub const BLOCK: u64 = 64 << 10;

/// Variants of one key (RFC 9111 §4.1), at most; the oldest give way. An origin that varies by `User-Agent` could
/// otherwise fill the index under one key.
pub const MAX_VARIANTS: usize = 8;

/// Keys of evicted objects kept for the next [`Store::maintain`]. One that is not told of is found missing when read.
const FORGOTTEN_MAX: usize = 1 << 16;

/// An open store.
#[derive(Debug)]
pub struct Store {
    folder: Arc<Folder>,
    room: Arc<DiskBudget>,
    index: Index,
    memory: Arc<ChunkMemory>,
    open: Arc<OpenBlobs>,
    loads: SingleFlight<LoadKey, LoadResult>,
    repairs: SingleFlight<(BlobId, u64), RepairResult>,
    disk_reads: Semaphore,
    disk_writes: Semaphore,
    counters: Arc<Counters>,
    forgotten: Mutex<Vec<ObjectKey>>,
    evicted_pins: EvictedPins,
    unfinished: UnfinishedList,
    ahead: PrefetchLedger,
    health: HealthMonitor,
    tenure: FolderLease,
    generation: AtomicU64,
    clock: Clock,
    max_unused: Duration,
    /// Last: given up when everything above is closed, or when the tenure ends.
    lock: Mutex<Option<FolderLock>>,
}

impl Store {
    /// Opens the folder, or begins it. Blocks. Takes no longer for a million objects, unless the index is damaged or
    /// missing and is made anew from its journal.
    pub fn open(config: &config::StoreSettings, clock: Clock) -> Result<Arc<Self>, StoreError> {
        let (folder, lock, left) = Folder::open(&config.dir)?;
        let room = DiskBudget::new(config.quota, config.min_free);
        let counters = Arc::<Counters>::default();
        let index =
            Index::open(Arc::clone(&folder), Arc::clone(&room), Arc::clone(&counters), clock.clone())?;
        let unfinished = UnfinishedList::open(left, &room, folder.free()?)?;
        Ok(Arc::new(Self {
            ahead: PrefetchLedger::open(&folder),
            folder,
            room,
            index,
            memory: Arc::new(ChunkMemory::new(config.memory)),
            open: Arc::new(OpenBlobs::new()),
            loads: SingleFlight::new(),
            repairs: SingleFlight::new(),
            disk_reads: Semaphore::new(DISK_READS),
            disk_writes: Semaphore::new(DISK_WRITES),
            counters,
            forgotten: Mutex::default(),
            evicted_pins: EvictedPins::default(),
            unfinished,
            health: HealthMonitor::new(),
            tenure: FolderLease::new(),
            generation: AtomicU64::new(0),
            clock,
            max_unused: config.max_unused,
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// All variants of a key, newest first, at most [`MAX_VARIANTS`].
    pub async fn lookup(&self, key: &str) -> Result<Vec<Object>, StoreError> {
        self.health.seen(self.index.find(key).await)
    }

    /// A page of all objects but for copies, in the order they came, behind the row `after`; empty at the end.
    pub async fn page(&self, after: i64) -> Result<Vec<Object>, StoreError> {
        self.health.seen(self.index.page(after).await)
    }

    /// Gives an object the header fields and times of a `304` (RFC 9111 §4.3.4). Nothing if it is gone.
    pub async fn refresh(
        &self,
        stale: &Object,
        headers: &HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
    ) -> Result<(), StoreError> {
        self.health.check()?;
        let (id, key, blob) = (stale.id, stale.key.clone(), stale.blob);
        let (headers, failed) = (headers.clone(), self.index.failure());
        let work = move |change: &mut index::IndexChange<'_>| {
            change.refresh(id, (&*key, blob), &headers, request_time, response_time).map_err(failed)
        };
        self.health.seen(self.index.change(work).await).map(drop)
    }

    /// Removes all variants of a key, and blobs that no other object has.
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.remove_objects(move || RemovalTarget::Key(key)).await.map(drop)
    }

    /// Removes a damaged blob and all objects that have it; gives their keys.
    pub async fn discard_blob(&self, blob: BlobId) -> Result<Vec<ObjectKey>, StoreError> {
        let removed = self.remove_objects(move || RemovalTarget::Blob(blob)).await?;
        self.open.forget(blob);
        self.counters.count_evicted(EvictionReason::Damaged, removed.removed);
        Ok(removed.keys)
    }

    /// Writes down when objects were last used. Uses lost with the process make eviction a little less exact.
    pub async fn record_use(&self, uses: Vec<(i64, UnixMillis)>) -> Result<(), StoreError> {
        self.ahead.used(&uses);
        let failed = self.index.failure();
        let recorded = self.index.change(move |change| change.record_use(&uses).map_err(failed)).await;
        self.health.seen(recorded).map(drop)
    }

    /// Whether it takes changes, as far as is known.
    ///
    /// # Errors
    /// When its disk ails.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        self.health.check()
    }

    /// Figures for metrics and status.
    pub fn stats(&self) -> StoreStats {
        let health = self.degradation().map_or(StoreHealth::Healthy, |degradation| degradation.health);
        let (wasted_prefetch_bytes, unused_prefetch_bytes) = self.ahead.bytes();
        StoreStats {
            health,
            wasted_prefetch_bytes,
            unused_prefetch_bytes,
            ..self.counters.stats(self.memory.held_bytes())
        }
    }

    /// The memory that bodies are held in.
    pub fn chunk_memory(&self) -> &ChunkMemory {
        &self.memory
    }
}
