//! Negative entries: stored responses that say that there is no content, such as `404`, in memory only. They take no room
//! of content: their own room is bounded, and so is each client's part of it, so that a client that asks for absent names
//! displaces its own entries. A restart forgets them; they are fresh for minutes at most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use moka::policy::EvictionPolicy;

use crate::{CacheEntry, Variants};
use gupd_config::client_network;
use gupd_http::SelectingRequest;
use gupd_store::{Object, ObjectKey};

/// Memory for negative entries in bytes. Part of the 150 MiB that a relay may use beyond `store.memory`.
const CAPACITY: u64 = 8 << 20;

/// Parts of the memory of which one client may have one.
const CLIENT_SHARE: u64 = 8;

/// Maximum length of the body of a negative entry; a larger one is stored as content is.
pub(crate) const MAX_BODY: u64 = 64 << 10;

/// The negative entries by key.
#[derive(Debug)]
pub(crate) struct NegativeEntries {
    entries: moka::sync::Cache<ObjectKey, NegativeVariants>,
    usage: Arc<ClientUsage>,
    /// Number of changes of the settings; entries of earlier ones are made anew by the next lookup.
    generation: AtomicU64,
}

/// Variants of a key, and the charge for them.
#[derive(Clone, Debug)]
struct NegativeVariants {
    variants: Variants,
    client: Option<IpAddr>,
    bytes: u32,
    generation: u64,
}

/// Bytes held for each client.
// Locked to add or to subtract.
#[derive(Debug, Default)]
struct ClientUsage(Mutex<HashMap<IpAddr, u64>>);

/// Returns true for a status of a negative entry.
pub(crate) fn is_negative(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

impl NegativeEntries {
    pub(crate) fn new() -> Self {
        let usage = Arc::<ClientUsage>::default();
        let released = Arc::clone(&usage);
        let entries = moka::sync::Cache::builder()
            .max_capacity(CAPACITY)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, variants: &NegativeVariants| variants.bytes)
            .eviction_listener(move |_, variants: NegativeVariants, _| {
                released.release(variants.client, variants.bytes);
            })
            .build();
        Self { entries, usage, generation: AtomicU64::new(0) }
    }

    /// Returns the entry that the request selects.
    pub(crate) fn find(&self, key: &str, request: SelectingRequest<'_>) -> Option<Arc<CacheEntry>> {
        let found = self.entries.get(key).filter(|found| found.generation == self.generation())?;
        let selects = |entry: &&Arc<CacheEntry>| entry.selecting.selects(request, &entry.object.headers);
        found.variants.iter().find(selects).cloned()
    }

    /// Returns the variants of a key that were made under earlier settings, and their client.
    pub(crate) fn outdated(&self, key: &str) -> Option<(Variants, Option<IpAddr>)> {
        let found = self.entries.get(key).filter(|found| found.generation != self.generation())?;
        Some((found.variants, found.client))
    }

    /// Keeps an entry that the request of `client` brought. Returns false if the client has its part of the memory.
    pub(crate) fn insert(&self, entry: &Arc<CacheEntry>, client: Option<IpAddr>) -> bool {
        let key = &entry.object.key;
        let client = client.map(client_network);
        let before = self.entries.get(key);
        let generation = self.generation();
        let current = before.iter().filter(|before| before.generation == generation);
        let others = current.flat_map(|before| before.variants.iter());
        let others = others.filter(|other| other.object.selecting != entry.object.selecting);
        let variants: Variants =
            std::iter::once(entry).chain(others).take(gupd_store::MAX_VARIANTS).cloned().collect();
        let weight = |entry: &Arc<CacheEntry>| (entry.weight() as u64).saturating_add(entry.object.len);
        let bytes =
            variants.iter().map(weight).fold((key.len() as u64).saturating_mul(2), u64::saturating_add);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let replaces_own = before.is_some_and(|before| before.client == client);
        if !replaces_own && !self.usage.has_room(client, bytes) {
            return false;
        }
        self.usage.add(client, bytes);
        self.entries.insert(key.clone(), NegativeVariants { variants, client, bytes, generation });
        true
    }

    /// Removes the entries of matching objects and returns their number.
    pub(crate) fn remove_if(&self, matches: impl Fn(&Object) -> bool) -> u64 {
        let mut removed = 0;
        for (key, found) in &self.entries {
            let count = found.variants.iter().filter(|entry| matches(&entry.object)).count() as u64;
            if count > 0 {
                self.entries.invalidate(&*key);
                removed = u64::saturating_add(removed, count);
            }
        }
        removed
    }

    /// Removes a key.
    pub(crate) fn remove(&self, key: &str) {
        self.entries.invalidate(key);
    }

    /// Marks all entries as made under earlier settings.
    pub(crate) fn outdate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl ClientUsage {
    fn has_room(&self, client: Option<IpAddr>, bytes: u32) -> bool {
        let Some(client) = client else { return true };
        let used = self.lock().get(&client).copied().unwrap_or(0);
        used.saturating_add(u64::from(bytes)) <= CAPACITY / CLIENT_SHARE
    }

    fn add(&self, client: Option<IpAddr>, bytes: u32) {
        if let Some(client) = client {
            let mut clients = self.lock();
            let used = clients.entry(client).or_default();
            *used = used.saturating_add(u64::from(bytes));
        }
    }

    fn release(&self, client: Option<IpAddr>, bytes: u32) {
        let Some(client) = client else { return };
        let mut usage = self.lock();
        if let Some(used) = usage.get_mut(&client) {
            *used = used.saturating_sub(bytes.into());
            if *used == 0 {
                usage.remove(&client);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
