//! The store: blobs on disk named by their SHA-256, an index of the objects that have them, and their hot chunks in
//! memory. Owns the folder `store.dir` and everything in it, locked against a second process; relies on the
//! [`Clock`] and on nothing else of gupd. It knows no HTTP beyond a response's stored head, and decides nothing about
//! freshness.
//!
//! Its promises: an object exists when its whole body is on disk; no byte leaves that was not checked against its
//! block's checksum; `quota` and `min_free` hold even while filling; memory stays bounded whatever readers do. No call
//! blocks an async thread, except [`Store::open`], which is called before there is one.

mod adopt;
mod ahead;
mod blob;
mod blocks;
pub mod bundle;
mod clients;
mod condition;
mod error;
mod evict;
mod facts;
mod flight;
mod folder;
mod id;
mod index;
mod inspect;
mod inventory;
mod journal;
mod kept;
mod memory;
mod metrics;
mod object;
mod partial;
mod publication;
mod read;
mod release;
mod repair;
mod room;
mod scratch;
mod scrub;
mod segment;
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
pub use self::condition::{Ailment, Condition};
pub use self::error::{Limit, ReadError, StoreError};
pub use self::facts::{Eviction, Facts, Removed};
pub use self::id::{BlobId, NotABlobId};
pub use self::inventory::Inventory;
pub use self::memory::{Charge, ChunkMemory, PIECES_MAX, PINNED_MAX};
pub use self::metrics::StoreMetrics;
pub use self::object::{NewObject, Object};
pub use self::partial::{Partial, Stock};
pub use self::publication::{ObjectCopy, Publication};
pub use self::read::Source;
pub use self::repair::Unrepaired;
pub use self::scrub::Scrub;
pub use self::segment::Segment;
pub use self::unfinished::Unfinished;
use self::unfinished::UnfinishedList;
pub use self::verify::{Finding, Verified, verify};
use self::writer::DISK_WRITES;
pub use self::writer::{Committed, Writer};

use self::ahead::Ahead;
use self::blob::OpenBlobs;
use self::condition::Health;
use self::facts::Counters;
use self::flight::Flights;
use self::folder::{Folder, FolderLock};
use self::index::{Hold, Index, Which};
use self::kept::GivenUp;
use self::read::{DISK_READS, Load, Loaded};
use self::release::Tenure;
use self::repair::Repaired;
use self::room::Room;
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
    room: Arc<Room>,
    index: Index,
    memory: Arc<ChunkMemory>,
    open: Arc<OpenBlobs>,
    loads: Flights<Load, Loaded>,
    repairs: Flights<(BlobId, u64), Repaired>,
    disk_reads: Semaphore,
    disk_writes: Semaphore,
    counters: Arc<Counters>,
    forgotten: Mutex<Vec<Arc<str>>>,
    given_up: GivenUp,
    unfinished: UnfinishedList,
    ahead: Ahead,
    health: Health,
    tenure: Tenure,
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
        let room = Room::new(config.quota, config.min_free);
        let counters = Arc::<Counters>::default();
        let index =
            Index::open(Arc::clone(&folder), Arc::clone(&room), Arc::clone(&counters), clock.clone())?;
        let unfinished = UnfinishedList::open(left, &room, folder.free()?)?;
        Ok(Arc::new(Self {
            ahead: Ahead::open(&folder),
            folder,
            room,
            index,
            memory: Arc::new(ChunkMemory::new(config.memory)),
            open: Arc::new(OpenBlobs::new()),
            loads: Flights::new(),
            repairs: Flights::new(),
            disk_reads: Semaphore::new(DISK_READS),
            disk_writes: Semaphore::new(DISK_WRITES),
            counters,
            forgotten: Mutex::default(),
            given_up: GivenUp::default(),
            unfinished,
            health: Health::new(),
            tenure: Tenure::new(),
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
        let work = move |change: &mut index::Change<'_>| {
            change.refresh(id, (&*key, blob), &headers, request_time, response_time).map_err(failed)
        };
        self.health.seen(self.index.change(work).await).map(drop)
    }

    /// Removes all variants of a key, and blobs that no other object has.
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.remove_objects(move || Which::Key(key)).await.map(drop)
    }

    /// Removes a damaged blob and all objects that have it; gives their keys.
    pub async fn discard(&self, blob: BlobId) -> Result<Vec<Arc<str>>, StoreError> {
        let removed = self.remove_objects(move || Which::Blob(blob)).await?;
        self.open.forget(blob);
        self.counters.evicted(Eviction::Damaged, removed.removed);
        Ok(removed.keys)
    }

    /// Writes down when objects were last used. Uses lost with the process make eviction a little less exact.
    pub async fn record_use(&self, uses: Vec<(i64, UnixMillis)>) -> Result<(), StoreError> {
        self.ahead.used(&uses);
        let failed = self.index.failure();
        let recorded = self.index.change(move |change| change.record_use(&uses).map_err(failed)).await;
        self.health.seen(recorded).map(drop)
    }

    /// Keeps what is stored under a key from eviction and expiry until [`Store::unpin`]; gives how many variants there
    /// are. A response that replaces one of them is pinned as well.
    pub async fn pin(&self, key: &str) -> Result<usize, StoreError> {
        self.set_pinned(key, true).await
    }

    /// Lets what is stored under a key go again.
    pub async fn unpin(&self, key: &str) -> Result<usize, StoreError> {
        self.set_pinned(key, false).await
    }

    async fn set_pinned(&self, key: &str, pinned: bool) -> Result<usize, StoreError> {
        let (key, failed) = (key.to_owned(), self.index.failure());
        let work = move |change: &mut index::Change<'_>| {
            change.hold(&key, |hold| Hold { pinned, ..hold }).map_err(failed)
        };
        let (variants, _) = self.index.change(work).await?;
        Ok(variants)
    }

    /// Whether it takes changes, as far as is known.
    ///
    /// # Errors
    /// When its disk ails.
    pub fn check(&self) -> Result<(), StoreError> {
        self.health.check()
    }

    /// Figures for metrics and status.
    pub fn facts(&self) -> Facts {
        let condition = self.ailment().map_or(Condition::Well, |ailment| ailment.condition);
        let (ahead_unused_bytes, ahead_bytes) = self.ahead.bytes();
        Facts { condition, ahead_unused_bytes, ahead_bytes, ..self.counters.facts(self.memory.held()) }
    }

    /// The memory that bodies are held in.
    pub fn chunk_memory(&self) -> &ChunkMemory {
        &self.memory
    }
}
