//! Stored responses, their freshness and the fills that produce them (RFC 9111). A hit is a map lookup and arithmetic:
//! hot entries hold the response head and its freshness in memory, without locks across I/O. Bytes and the index belong
//! to `gupd_store`. The main types are [`Cache`] (lookup, update, invalidation), [`CacheEntry`], [`fill::Fills`] (one
//! shared download for each object) and [`digest::Digests`] (verification). The cache never asks an upstream; fills do,
//! and insert their result. Start with [`Cache::find`] and [`fill::Fills::join`].

// Guaranteed by lints, not by care: content comes from the network.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects))]

pub mod digest;
mod entry;
pub mod fill;
mod negative;
pub mod publish;
mod recent;
mod selection;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, StatusCode};
use moka::policy::EvictionPolicy;

use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::Classification;
use gupd_config::{self as config, Class};
use gupd_http::internal;
use gupd_http::storable::check_storable;
use gupd_http::{Freshness, SelectingRequest, UnstorableReason, VaryFields};
use gupd_store::{BlobId, BodySource, Object, ObjectKey, RemovalStats, Store, StoreError};

pub use self::entry::CacheEntry;
use self::entry::PendingUses;
use self::negative::NegativeEntries;
use self::recent::RecentMap;
pub use self::selection::{ObjectSelection, PathGlob, age};

/// Memory for hot entries, in bytes: about 15,000 heads. Part of the 150 MiB that a relay may use beyond
/// `store.memory`.
const HOT_ENTRIES: u64 = 32 << 20;

/// Time for which equal requests for an unstorable key are not collapsed: each client asks the upstream at once,
/// instead of waiting for a response that it cannot share.
const REMEMBER_UNSTORABLE: Duration = Duration::from_secs(60);

/// Maximum number of remembered unstorable responses.
const MAX_UNSTORABLE: usize = 10_000;

/// Result of a lookup.
#[derive(Debug)]
pub enum CacheLookup {
    /// Stored response that the request selects.
    Hit(Arc<CacheEntry>),
    /// The key has only variants for other field values.
    OtherVariant {
        /// Variant of this request.
        variant: String,
    },
    /// The key has no stored response, or only responses to other spellings of the target.
    Miss,
}

/// Stored responses by key.
#[derive(Debug)]
pub struct Cache {
    hot: moka::sync::Cache<ObjectKey, Variants>,
    negative: NegativeEntries,
    /// By key and hash of the fields sent: the response to other fields may be another one.
    unstorable: RecentMap<(ObjectKey, u64), UnstorableReason>,
    store: Arc<Store>,
    rules: ArcSwap<config::CacheSettings>,
    clock: Clock,
    /// Counts removals and refreshes. A lookup that overlaps one does not make its result hot.
    changes: AtomicU64,
    /// Store generation of the hot entries.
    generation: AtomicU64,
    // Held to look for an entry and to insert the next one.
    inserting: Mutex<()>,
    pending_uses: Arc<PendingUses>,
    /// Number of calls of [`find`](Self::find), for tests.
    #[cfg(debug_assertions)]
    lookups: AtomicU64,
}

type Variants = Arc<[Arc<CacheEntry>]>;

impl Cache {
    /// Creates a cache over `store` without hot entries.
    pub fn new(rules: config::CacheSettings, store: Arc<Store>, clock: Clock) -> Self {
        let hot = moka::sync::Cache::builder()
            .max_capacity(HOT_ENTRIES)
            // moka's default policy may reject a new entry; then a fill that just ended would not be found.
            .eviction_policy(EvictionPolicy::lru())
            // No eviction listener: with one, moka locks a key for each change, which cost a tenth of a small miss.
            .weigher(|key: &ObjectKey, variants: &Variants| {
                let entries = variants.iter().map(|entry| entry.weight()).sum::<usize>();
                u32::try_from(key.len().saturating_add(entries)).unwrap_or(u32::MAX)
            })
            .build();
        let rules = ArcSwap::from_pointee(rules);
        Self {
            hot,
            negative: NegativeEntries::new(),
            unstorable: RecentMap::with_lifetime(MAX_UNSTORABLE, REMEMBER_UNSTORABLE),
            store,
            rules,
            clock,
            changes: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            inserting: Mutex::default(),
            pending_uses: Arc::default(),
            #[cfg(debug_assertions)]
            lookups: AtomicU64::new(0),
        }
    }

    /// Number of lookups so far, including those answered from memory.
    #[cfg(debug_assertions)]
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Store of the bytes and the index.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Clock used for freshness.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Looks up hot entries only, without locks or I/O. `None` if no hot entry matches the request.
    pub fn find_hot(&self, key: &str, request: SelectingRequest<'_>) -> Option<Arc<CacheEntry>> {
        let select = |variants: Variants| {
            variants.iter().find(|entry| entry.selecting.selects(request, &entry.object.headers)).cloned()
        };
        self.hot.get(key).and_then(select).or_else(|| self.negative.find(key, request))
    }

    /// Looks up hot entries, then the index.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read.
    pub async fn find(
        &self,
        key: &ObjectKey,
        request: SelectingRequest<'_>,
        classification: &Classification,
    ) -> Result<CacheLookup, StoreError> {
        #[cfg(debug_assertions)]
        self.lookups.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.find_negative(key, request, classification) {
            return Ok(CacheLookup::Hit(entry));
        }
        let variants = match self.hot.get(&**key) {
            Some(variants) => variants,
            None => self.load(key, classification).await?,
        };
        if let Some(entry) =
            variants.iter().find(|entry| entry.selecting.selects(request, &entry.object.headers))
        {
            return Ok(CacheLookup::Hit(entry.clone()));
        }
        Ok(match variants.iter().find(|other| other.selecting.target().is_none()) {
            Some(other) => {
                CacheLookup::OtherVariant { variant: other.selecting.for_request(request).encode() }
            }
            None => CacheLookup::Miss,
        })
    }

    /// Looks up negative entries, and makes those of earlier settings anew.
    fn find_negative(
        &self,
        key: &str,
        request: SelectingRequest<'_>,
        classification: &Classification,
    ) -> Option<Arc<CacheEntry>> {
        if let Some((variants, client)) = self.negative.outdated(key) {
            for old in variants.iter() {
                let Object { headers, request_time, response_time, .. } = &old.object;
                let object = old.object.with_head(headers.clone(), *request_time, *response_time);
                let entry = self.entry(object, old.selecting.clone(), classification.clone());
                self.negative.insert(&Arc::new(entry.with_body(old.body_source())), client);
            }
        }
        self.negative.find(key, request)
    }

    /// Makes a stored response available to lookups.
    pub fn insert(
        &self,
        object: Object,
        selecting: VaryFields,
        classification: Classification,
    ) -> Arc<CacheEntry> {
        let entry = Arc::new(self.entry(object, selecting, classification));
        self.negative.remove(&entry.object.key);
        let _inserting = self.inserting.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.hot.get(&*entry.object.key);
        let others = present.iter().flat_map(|variants| variants.iter());
        let others = others.filter(|other| other.object.selecting != entry.object.selecting);
        let variants = std::iter::once(&entry).chain(others).take(gupd_store::MAX_VARIANTS).cloned();
        self.hot.insert(entry.object.key.clone(), variants.collect());
        entry
    }

    /// Makes a response without content available to lookups, unless `client` has its part of the memory for such
    /// responses. `body` is in memory.
    pub(crate) fn insert_negative(
        &self,
        (object, body): (Object, BodySource),
        selecting: VaryFields,
        classification: Classification,
        client: Option<IpAddr>,
    ) -> Arc<CacheEntry> {
        let entry = Arc::new(self.entry(object, selecting, classification).with_body(body));
        self.negative.insert(&entry, client);
        self.hot.invalidate(&*entry.object.key);
        entry
    }

    /// Removes the negative entries of matching objects and returns their number.
    pub(crate) fn remove_negative_if(&self, matches: impl Fn(&Object) -> bool) -> u64 {
        self.negative.remove_if(matches)
    }

    /// Removes stored content under a key, after a negative entry has taken its place in memory.
    ///
    /// # Errors
    /// Returns an error if the index cannot be written.
    pub(crate) async fn remove_content(&self, key: &str) -> Result<(), StoreError> {
        // A lookup that overlaps the removal must not make the content hot.
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.store.remove(key).await?;
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.hot.invalidate(key);
        Ok(())
    }

    /// Records the fields of a stored response as updated by a `304` (RFC 9111 §4.3.4). The caller inserts the returned
    /// object. If the index rejects the update, the update lasts while the entry is hot.
    pub(crate) async fn refresh(
        &self,
        stale: &CacheEntry,
        updated: HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
    ) -> Object {
        if let Err(error) = self.store.refresh(&stale.object, &updated, request_time, response_time).await {
            tracing::debug!(%error, key = &*stale.object.key, "cannot record a revalidation");
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        stale.object.with_head(updated, request_time, response_time)
    }

    /// Removes a key from memory and disk, because an unsafe request changed its object (RFC 9111 §4.4) or it is
    /// purged.
    ///
    /// # Errors
    /// Returns an error if the index cannot be written.
    pub async fn invalidate(&self, key: &ObjectKey) -> Result<RemovalStats, StoreError> {
        self.forget(std::slice::from_ref(key));
        let removed = self.store.remove(key).await?;
        self.forget(std::slice::from_ref(key));
        Ok(removed)
    }

    /// Removes a damaged or missing blob and every object that shares it. `key` is the key that led to it: the index no
    /// longer lists that key if its object was evicted while hot.
    ///
    /// # Errors
    /// Returns an error if the index cannot be written.
    pub async fn discard(&self, blob: BlobId, key: &ObjectKey) -> Result<(), StoreError> {
        self.discard_blob(blob).await?;
        self.forget(std::slice::from_ref(key));
        Ok(())
    }

    /// Removes a damaged blob that was found without a key, for example by a scrub.
    ///
    /// # Errors
    /// Returns an error if the index cannot be written.
    pub async fn discard_blob(&self, blob: BlobId) -> Result<(), StoreError> {
        let keys = self.store.discard_blob(blob).await?;
        self.forget(&keys);
        Ok(())
    }

    /// Computes the freshness of a response under the current settings and the rule of its path.
    pub(crate) fn freshness(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        request_time: UnixMillis,
        response_time: UnixMillis,
        classified: &Classification,
    ) -> Freshness {
        let rules = self.rules.load();
        let own = classified.negative().map(|lifetime| rules.with_negative(lifetime));
        let rules = own.as_ref().unwrap_or(&rules);
        // The name of such a payload says nothing about its bytes.
        let is_mutable = classified.class == Class::Payload && headers.contains_key(internal::MUTABLE);
        let class = if is_mutable { Class::Catalog } else { classified.class };
        Freshness::new(status, headers, request_time, response_time, class, rules)
    }

    /// Checks whether the response to a `GET` may be stored.
    pub(crate) fn check_storable(
        &self,
        request: &HeaderMap,
        status: StatusCode,
        response: &HeaderMap,
        class: Class,
    ) -> Result<(), UnstorableReason> {
        check_storable(request, status, response, class, &self.rules.load())
    }

    /// Returns true if content must match its `Content-MD5`.
    pub(crate) fn verifies_content_md5(&self) -> bool {
        self.rules.load().verify_content_md5
    }

    /// Returns true if generic content is stored with its cookies.
    pub(crate) fn stores_cookies(&self) -> bool {
        self.rules.load().store_set_cookie
    }

    /// Returns the reason why the last response under this key was not shared, if remembered. It counts for requests
    /// with the same fields alone, so that no client decides about the others. `hash_fields` is called only if needed.
    pub fn unstorable(&self, key: &ObjectKey, hash_fields: impl FnOnce() -> u64) -> Option<UnstorableReason> {
        if self.unstorable.is_empty() {
            return None;
        }
        self.unstorable.get(&(key.clone(), hash_fields()))
    }

    /// Remembers that the response to this request was not shared.
    pub(crate) fn remember_unstorable(&self, request: &fill::FillRequest, why: UnstorableReason) {
        self.unstorable.insert((request.key.clone(), request.hash_fields()), why);
    }

    /// Replaces the settings. Classes and freshness may differ, so hot entries are dropped.
    pub fn reconfigure(&self, rules: config::CacheSettings) {
        self.rules.store(Arc::new(rules));
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.hot.invalidate_all();
        self.negative.outdate();
        self.unstorable.clear();
    }

    /// Removes evicted keys from memory. Called after the store made room.
    pub(crate) fn forget_evicted(&self) {
        let removed = self.store.take_removed_keys();
        if !removed.is_empty() {
            self.forget(&removed);
        }
    }

    /// Records last uses and applies age and size limits. Call it about once a minute, and more often while the disk
    /// fails.
    ///
    /// # Errors
    /// Returns an error if the index cannot be read or written. Nothing is lost; the next call continues.
    pub async fn maintain(&self) -> Result<(), StoreError> {
        // While the disk fails, no hot entry is dropped: its object may still be readable.
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
    /// Returns an error if the index cannot be written.
    pub async fn record_uses(&self) -> Result<(), StoreError> {
        let mut uses = self.pending_uses.take();
        for (_, variants) in &self.hot {
            uses.extend(variants.iter().filter_map(|entry| entry.unrecorded_use()));
        }
        if uses.is_empty() { Ok(()) } else { self.store.record_use(uses).await }
    }

    async fn load(&self, key: &ObjectKey, classification: &Classification) -> Result<Variants, StoreError> {
        let changes = self.changes.load(Ordering::Acquire);
        let objects = self.store.lookup(key).await?;
        // An entry with an unreadable or insufficient selection must not match any request.
        let entries = objects.into_iter().filter_map(|object| {
            let selecting = VaryFields::decode(&object.selecting)?;
            if !selecting.is_sufficient(object.status, &object.headers) {
                return None;
            }
            Some(Arc::new(self.entry(object, selecting, classification.clone())))
        });
        let variants: Variants = entries.collect();
        if variants.is_empty() || self.changes.load(Ordering::Acquire) != changes {
            return Ok(variants);
        }
        // A fill may have inserted newer entries in the meantime; they stay.
        let _inserting = self.inserting.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.hot.entry(key.clone()).or_insert(variants).into_value())
    }

    fn entry(&self, object: Object, selecting: VaryFields, classification: Classification) -> CacheEntry {
        let freshness = self.freshness(
            object.status,
            &object.headers,
            object.request_time,
            object.response_time,
            &classification,
        );
        CacheEntry::new(object, freshness, selecting, classification, &self.pending_uses)
    }

    fn forget(&self, keys: &[ObjectKey]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        for key in keys {
            self.hot.invalidate(&**key);
            self.negative.remove(key);
        }
    }
}
