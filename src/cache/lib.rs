//! Finds what is stored, and says how good it is (RFC 9111). Owns the hot entries: heads of stored responses in memory
//! with their freshness worked out, so that a hit is a look-up and arithmetic. Relies on `store` for everything that
//! lasts. It never asks an upstream: `fill` does, and puts the result here.

pub mod digest;
pub mod fill;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, StatusCode};
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;

use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::Classification;
use gupd_config::{self as config, Class};
use gupd_http::{Freshness, UnstorableReason, VaryFields};
use gupd_store::{BlobId, BodySource, Object, ObjectKey, Store, StoreError};

/// Memory for hot entries, in bytes: about 15,000 heads. Part of the 150 MiB a relay may use beyond `store.memory`.
const HOT_ENTRIES: u64 = 32 << 20;

/// What an entry weighs beside its fields: the structures around them.
const ENTRY_OVERHEAD: usize = 512;

/// Keys whose last response could not be shared are not collapsed for this long: each client asks for itself at once,
/// instead of waiting in turn for a response that will not be for it.
const REMEMBER_UNSTORABLE: Duration = Duration::from_secs(60);

/// How many such keys are remembered.
const MAX_UNSTORABLE: u64 = 10_000;

/// Last uses kept for the index between two flushes, of entries that left memory; more are forgotten, and those objects
/// look a little older to eviction than they are.
const MAX_PENDING_USES: usize = 100_000;

/// A stored response, ready to be judged and sent.
#[derive(Debug)]
pub struct CacheEntry {
    /// As the index has it.
    pub object: Object,
    /// How long it is good.
    pub freshness: Freshness,
    /// What selects it among its key's variants.
    pub selecting: VaryFields,
    /// Class and content type of its path.
    pub classification: Classification,
    /// Its fields as clients get them, made when first needed: a hit copies a map instead of building one.
    pub client_headers: OnceLock<HeaderMap>,
    recorded_use: AtomicI64,
    used: AtomicBool,
}

/// What is stored under a key.
#[derive(Debug)]
pub enum CacheLookup {
    /// A response this request selects.
    Hit(Arc<CacheEntry>),
    /// Responses, but for requests with other field values (`Vary`).
    OtherVariant {
        /// What this request is told apart by.
        variant: String,
    },
    /// Nothing.
    Miss,
}

/// Stored responses by key.
#[derive(Debug)]
pub struct Cache {
    hot: moka::sync::Cache<ObjectKey, Variants>,
    unstorable: moka::sync::Cache<ObjectKey, UnstorableReason>,
    store: Arc<Store>,
    rules: ArcSwap<config::CacheSettings>,
    clock: Clock,
    /// Counts removals and refreshes, so that what was read from the index before one is not made hot after it.
    changes: AtomicU64,
    /// The store's that hot entries are of.
    generation: AtomicU64,
    // Held to push or take, never across I/O.
    pending_uses: Arc<Mutex<Vec<(i64, UnixMillis)>>>,
    /// Calls of [`find`](Self::find): tests count them.
    #[cfg(debug_assertions)]
    lookups: AtomicU64,
}

type Variants = Arc<[Arc<CacheEntry>]>;

impl Cache {
    /// A cache over `store`; nothing is hot yet.
    pub fn new(rules: config::CacheSettings, store: Arc<Store>, clock: Clock) -> Self {
        let pending_uses = Arc::new(Mutex::new(Vec::new()));
        let leaving = pending_uses.clone();
        let hot = moka::sync::Cache::builder()
            .max_capacity(HOT_ENTRIES)
            // moka's default may refuse a new entry, and then a fill that just ended could not be found.
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &ObjectKey, variants: &Variants| {
                let entries = variants.iter().map(|entry| entry.weight()).sum::<usize>();
                u32::try_from(key.len() + entries).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, variants: Variants, _| {
                let mut uses = leaving.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MAX_PENDING_USES.saturating_sub(uses.len());
                uses.extend(variants.iter().filter_map(|entry| entry.unrecorded_use()).take(room));
            })
            .build();
        let unstorable = moka::sync::Cache::builder()
            .max_capacity(MAX_UNSTORABLE)
            .time_to_live(REMEMBER_UNSTORABLE)
            .build();
        let rules = ArcSwap::from_pointee(rules);
        Self {
            hot,
            unstorable,
            store,
            rules,
            clock,
            changes: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            pending_uses,
            #[cfg(debug_assertions)]
            lookups: AtomicU64::new(0),
        }
    }

    /// Number of lookups in the index so far, those answered from memory included.
    #[cfg(debug_assertions)]
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Where the bytes are.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The clock freshness is judged by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Looks among hot entries only: no lock, no I/O. `None` means not hot, or not for this request.
    pub fn find_hot(&self, key: &str, request: &HeaderMap) -> Option<Arc<CacheEntry>> {
        let variants = self.hot.get(key)?;
        variants.iter().find(|entry| entry.selecting.matches(request)).cloned()
    }

    /// Looks among hot entries, then in the index.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn find(
        &self,
        key: &ObjectKey,
        request: &HeaderMap,
        classification: &Classification,
    ) -> Result<CacheLookup, StoreError> {
        #[cfg(debug_assertions)]
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let variants = match self.hot.get(&**key) {
            Some(variants) => variants,
            None => self.load(key, classification).await?,
        };
        if let Some(entry) = variants.iter().find(|entry| entry.selecting.matches(request)) {
            return Ok(CacheLookup::Hit(entry.clone()));
        }
        Ok(match variants.first() {
            Some(other) => {
                CacheLookup::OtherVariant { variant: other.selecting.for_request(request).encode() }
            }
            None => CacheLookup::Miss,
        })
    }

    /// Makes a response that was just stored found from now on.
    pub fn insert(
        &self,
        object: Object,
        selecting: VaryFields,
        classification: Classification,
    ) -> Arc<CacheEntry> {
        let entry = Arc::new(self.entry(object, selecting, classification));
        self.hot.entry(entry.object.key.clone()).and_compute_with(|present| {
            let present = present.map(moka::Entry::into_value);
            let others = present.iter().flat_map(|variants| variants.iter());
            let others = others.filter(|other| other.object.selecting != entry.object.selecting);
            Op::Put(std::iter::once(&entry).chain(others).take(gupd_store::MAX_VARIANTS).cloned().collect())
        });
        entry
    }

    /// Records the fields of a stored response as a `304` has updated them (RFC 9111 §4.3.4). The caller inserts the
    /// object returned, to make it found. What the index does not take is good for as long as it is hot.
    pub async fn refresh(
        &self,
        stale: &CacheEntry,
        updated: HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
    ) -> Object {
        if let Err(error) = self.store.refresh(&stale.object, &updated, request_time, response_time).await {
            tracing::debug!(%error, key = &*stale.object.key, "a revalidation is not recorded");
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        stale.object.with_head(updated, request_time, response_time)
    }

    /// Forgets everything under a key, on disk too: an unsafe request has changed it (RFC 9111 §4.4).
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn invalidate(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.forget(std::slice::from_ref(key));
        self.store.remove(key).await?;
        self.forget(std::slice::from_ref(key));
        Ok(())
    }

    /// Removes a blob whose bytes are not what was stored, or not there, and every object that shares it. `key` is
    /// where it was found: the index does not know that any more if the object was evicted while it was hot.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn discard(&self, blob: BlobId, key: &ObjectKey) -> Result<(), StoreError> {
        self.discard_blob(blob).await?;
        self.forget(std::slice::from_ref(key));
        Ok(())
    }

    /// The same for a blob that was found damaged by itself, not under a key.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn discard_blob(&self, blob: BlobId) -> Result<(), StoreError> {
        let keys = self.store.discard_blob(blob).await?;
        self.forget(&keys);
        Ok(())
    }

    /// How long a response is good, by the rules now in force.
    pub fn freshness(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
        class: Class,
    ) -> Freshness {
        Freshness::new(status, headers, request_time, response_time, class, &self.rules.load())
    }

    /// Why the last response under this key could not be shared, if it could not.
    pub fn unstorable(&self, key: &str) -> Option<UnstorableReason> {
        self.unstorable.get(key)
    }

    /// Remembers that a response under this key could not be shared.
    pub fn remember_unstorable(&self, key: &ObjectKey, why: UnstorableReason) {
        self.unstorable.insert(key.clone(), why);
    }

    /// Takes new rules. Classes and freshness of hot entries may differ under them, so all are read anew.
    pub fn reconfigure(&self, rules: config::CacheSettings) {
        self.rules.store(Arc::new(rules));
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.hot.invalidate_all();
        self.unstorable.invalidate_all();
    }

    /// Forgets what the store has evicted, so that no request goes past it: called after room was made.
    pub fn forget_evicted(&self) {
        let removed = self.store.take_removed_keys();
        if !removed.is_empty() {
            self.forget(&removed);
        }
    }

    /// Housekeeping, to be called every minute or so, and more often while the disk fails: records last uses, removes
    /// what is too old or too much.
    ///
    /// # Errors
    /// When the index cannot be read or written; nothing is lost, the next call goes on.
    pub async fn maintain(&self) -> Result<(), StoreError> {
        // While the disk fails, what cannot be seen or removed is not given up for it.
        let is_well = self.store.probe().await;
        let generation = self.store.generation();
        if self.generation.swap(generation, Ordering::AcqRel) != generation {
            self.changes.fetch_add(1, Ordering::AcqRel);
            self.hot.invalidate_all();
        }
        if !is_well {
            return Ok(());
        }
        self.record_uses().await?;
        let removed = self.store.maintain().await?;
        self.forget(&removed);
        Ok(())
    }

    /// Writes the last uses of hot entries to the index.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn record_uses(&self) -> Result<(), StoreError> {
        let mut uses = std::mem::take(&mut *self.pending_uses.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, variants) in &self.hot {
            uses.extend(variants.iter().filter_map(|entry| entry.unrecorded_use()));
        }
        if uses.is_empty() { Ok(()) } else { self.store.record_use(uses).await }
    }

    async fn load(&self, key: &ObjectKey, classification: &Classification) -> Result<Variants, StoreError> {
        let changes = self.changes.load(Ordering::Acquire);
        let objects = self.store.lookup(key).await?;
        // One whose selection cannot be read must not match anything.
        let entries = objects.into_iter().filter_map(|object| {
            let selecting = VaryFields::decode(&object.selecting)?;
            Some(Arc::new(self.entry(object, selecting, classification.clone())))
        });
        let variants: Variants = entries.collect();
        if variants.is_empty() || self.changes.load(Ordering::Acquire) != changes {
            return Ok(variants);
        }
        // A fill may have put newer ones there meanwhile; those stay.
        Ok(self.hot.entry(key.clone()).or_insert(variants).into_value())
    }

    fn entry(&self, object: Object, selecting: VaryFields, classification: Classification) -> CacheEntry {
        CacheEntry {
            freshness: self.freshness(
                object.status,
                &object.headers,
                object.request_time,
                object.response_time,
                classification.class,
            ),
            selecting,
            client_headers: OnceLock::new(),
            recorded_use: AtomicI64::new(object.last_used()),
            used: AtomicBool::new(false),
            classification,
            object,
        }
    }

    fn forget(&self, keys: &[ObjectKey]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        for key in keys {
            self.hot.invalidate(&**key);
        }
    }
}

impl CacheEntry {
    /// Where its bytes are.
    pub fn body_source(&self) -> BodySource {
        BodySource::Blob { id: self.object.blob, len: self.object.len }
    }

    /// Whether this is asked for the first time since the entry was made hot.
    pub fn is_new(&self) -> bool {
        !self.used.load(Ordering::Relaxed) && !self.used.swap(true, Ordering::Relaxed)
    }

    /// Notes that a client got it.
    pub fn touch(&self, now: UnixMillis) {
        self.object.touch(now);
    }

    fn unrecorded_use(&self) -> Option<(i64, UnixMillis)> {
        let used = self.object.last_used();
        (self.recorded_use.swap(used, Ordering::Relaxed) != used).then_some((self.object.id, used))
    }

    fn weight(&self) -> usize {
        let fields = self.object.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64);
        // Twice: as stored, and as client_headers.
        ENTRY_OVERHEAD + 2 * fields.sum::<usize>()
    }
}
