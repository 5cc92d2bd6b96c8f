//! Missing catalogs: those that the newest revision records as absent, and when clients last requested them. Catalogs
//! that clients no longer request make room for others. In memory alone: a start counts as a request for each. A
//! request takes no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;

use gupd_config::clock::UnixMillis;
use gupd_store::ObjectKey;

/// Missing catalogs and the times of their last requests.
#[derive(Debug, Default)]
pub struct MissingCatalogs(ArcSwap<HashMap<ObjectKey, AtomicI64>>);

impl MissingCatalogs {
    /// Records a client's request for a missing catalog.
    pub fn record_request(&self, key: &str, now: UnixMillis) {
        if let Some(last) = self.0.load().get(key) {
            last.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Time of the last request; `None` if the catalog was not known to be missing.
    pub fn last_request(&self, key: &str) -> Option<UnixMillis> {
        self.0.load().get(key).map(|last| last.load(Ordering::Relaxed))
    }

    /// Replaces the set. Catalogs that are new in it count as just requested.
    pub fn replace<'a>(&self, keys: impl Iterator<Item = &'a ObjectKey>, now: UnixMillis) {
        let before = self.0.load_full();
        let last = |key| before.get(key).map_or(now, |last: &AtomicI64| last.load(Ordering::Relaxed));
        let after: HashMap<_, _> = keys.map(|key| (key.clone(), AtomicI64::new(last(key)))).collect();
        let after = Arc::new(after);
        self.0.store(after.clone());
        // Requests that came while the new set was made are recorded in the old one alone.
        for (key, last) in after.iter() {
            if let Some(earlier) = before.get(key) {
                last.fetch_max(earlier.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_set_keeps_times_of_remaining_catalogs() {
        let missing = MissingCatalogs::default();
        let [a, b, c]: [ObjectKey; 3] = ["a", "b", "c"].map(ObjectKey::from);
        missing.replace([&a, &b].into_iter(), 1);
        missing.record_request("a", 5);
        missing.record_request("c", 5);
        missing.replace([&a, &c].into_iter(), 9);
        assert_eq!(["a", "b", "c"].map(|key| missing.last_request(key)), [Some(5), None, Some(9)]);
        missing.record_request("a", 3);
        assert_eq!(missing.last_request(&a), Some(5), "clocks are set back");
    }
}
