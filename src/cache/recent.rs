//! A map of the most recently used entries, for facts that only fills and misses need.
//!
//! Invariant: it never has more than its maximum; the entry that was used least recently goes first. One lock, which no
//! hit takes. A concurrent cache like that of hot entries would cost 100 KiB of program for each type of entry.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashlink::LruCache;

/// Remembers at most a number of entries, each for at most a time.
pub(crate) struct RecentMap<K, V> {
    entries: Mutex<LruCache<K, (Instant, V)>>,
    lifetime: Duration,
}

impl<K: Hash + Eq, V: Clone> RecentMap<K, V> {
    /// Creates an empty map for at most `max` entries, without a bound of their time.
    pub(crate) fn new(max: usize) -> Self {
        Self::with_lifetime(max, Duration::MAX)
    }

    /// Creates an empty map for at most `max` entries, each of which is forgotten after `lifetime`.
    pub(crate) fn with_lifetime(max: usize, lifetime: Duration) -> Self {
        Self { entries: Mutex::new(LruCache::new(max)), lifetime }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let mut entries = self.lock();
        let (inserted, value) = entries.get(key)?;
        if inserted.elapsed() < self.lifetime {
            return Some(value.clone());
        }
        entries.remove(key);
        None
    }

    pub(crate) fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Inserts or replaces an entry. Returns true if there was none.
    pub(crate) fn insert(&self, key: K, value: V) -> bool {
        let replaced = self.lock().insert(key, (Instant::now(), value));
        replaced.is_none_or(|(inserted, _)| inserted.elapsed() >= self.lifetime)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.lock().remove(key);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Returns the keys, the most recently used one last.
    pub(crate) fn keys(&self) -> Vec<K>
    where
        K: Clone,
    {
        self.lock().iter().map(|(key, _)| key.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<K, (Instant, V)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> fmt::Debug for RecentMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentMap").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_entry_goes_first() {
        let map = RecentMap::new(2);
        assert!(map.insert("a".to_owned(), 1) && map.insert("b".to_owned(), 2));
        assert_eq!(map.get("a"), Some(1));
        assert!(map.insert("c".to_owned(), 3));
        assert_eq!((map.get("a"), map.get("b"), map.get("c")), (Some(1), None, Some(3)));
        assert!(!map.insert("a".to_owned(), 4));
        assert_eq!((map.get("a"), map.keys()), (Some(4), vec!["c".to_owned(), "a".to_owned()]));
        map.remove("a");
        assert!(!map.contains("a") && map.contains("c"));
        map.clear();
        assert_eq!(map.keys(), Vec::<String>::new());
    }

    #[test]
    fn entry_is_forgotten_after_its_lifetime() {
        let map = RecentMap::with_lifetime(2, Duration::ZERO);
        assert!(map.insert("a", 1));
        assert!(!map.contains("a"));
        assert!(map.insert("a", 2) && map.insert("a", 3));
    }
}
