//! Ledger of prefetched objects that no client has used yet; it measures how many prefetched bytes were useful. It is
//! saved in the file `prefetched` over restarts; losing the file loses the account, not content. A use counts when it
//! is recorded, so an object removed within the same half minute may count as unused.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;

use super::ObjectKey;
use super::Store;
use super::error::StoreError;
use super::folder::Folder;
use super::object::Object;
use gupd_config::clock::UnixMillis;

/// First line of the file; another format gets another number.
const FORMAT: &str = "gupd-prefetched-1";

/// Maximum number of listed objects, at about 200 bytes each. Further ones count as used.
const MAX_OBJECTS: usize = 16_384;

/// Account of prefetched objects.
#[derive(Debug, Default)]
pub(super) struct PrefetchLedger {
    // Locked for lookups and insertions.
    unused: Mutex<UnusedPrefetches>,
    /// The file is out of date.
    changed: AtomicBool,
    /// Bytes removed unused since the start.
    wasted_bytes: AtomicU64,
}

/// Unused objects by key, and the key of each row.
#[derive(Debug, Default, PartialEq)]
struct UnusedPrefetches {
    bytes: u64,
    objects: HashMap<ObjectKey, (i64, u64)>,
    keys: HashMap<i64, ObjectKey>,
}

impl PrefetchLedger {
    /// Reads the file of an earlier process.
    pub(super) fn open(folder: &Folder) -> Self {
        let text = fs::read_to_string(folder.root().join("prefetched")).unwrap_or_default();
        Self { unused: Mutex::new(UnusedPrefetches::decode(&text)), ..Self::default() }
    }

    /// Removes used objects from the list.
    pub(super) fn mark_used(&self, uses: &[(i64, UnixMillis)]) {
        let mut unused = self.unused();
        for (id, _) in uses {
            if let Some(key) = unused.keys.get(id).cloned() {
                unused.take(&key);
                self.changed.store(true, Ordering::Release);
            }
        }
    }

    /// Counts objects under these keys as removed unused.
    pub(super) fn mark_evicted(&self, keys: &[ObjectKey]) {
        let mut unused = self.unused();
        for key in keys {
            if let Some(bytes) = unused.take(key) {
                self.wasted_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.changed.store(true, Ordering::Release);
            }
        }
    }

    /// Returns the bytes removed unused, and the bytes still unused.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.wasted_bytes.load(Ordering::Relaxed), self.unused().bytes)
    }

    /// Clears the list.
    pub(super) fn clear(&self) {
        *self.unused() = UnusedPrefetches::default();
    }

    fn add(&self, object: &Object) {
        let mut unused = self.unused();
        // A newer version replaced an unused one.
        let before = unused.take(&object.key).unwrap_or_default();
        self.wasted_bytes.fetch_add(before, Ordering::Relaxed);
        if unused.objects.len() < MAX_OBJECTS {
            unused.add(object.key.clone(), object.id, object.len);
        }
        self.changed.store(true, Ordering::Release);
    }

    fn unused(&self) -> MutexGuard<'_, UnusedPrefetches> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Records a prefetched object.
    ///
    /// # Errors
    /// When the file cannot be written. The object still counts until the process ends.
    pub async fn record_prefetch(&self, object: &Object) -> Result<(), StoreError> {
        self.prefetches.add(object);
        self.save_prefetches().await
    }

    /// Returns true if the object under `key` was prefetched and no client has used it.
    pub fn is_unused_prefetch(&self, key: &str) -> bool {
        self.prefetches.unused().objects.contains_key(key)
    }

    /// Saves the list if it changed.
    pub(super) async fn save_prefetches(&self) -> Result<(), StoreError> {
        if !self.prefetches.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let (text, folder) = (self.prefetches.unused().encode(), Arc::clone(&self.folder));
        let written = spawn_blocking(move || folder.replace_file("prefetched", &text)).await?;
        self.prefetches.changed.fetch_or(written.is_err(), Ordering::AcqRel);
        written
    }
}

impl UnusedPrefetches {
    fn add(&mut self, key: ObjectKey, id: i64, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.keys.insert(id, key.clone());
        self.objects.insert(key, (id, bytes));
    }

    /// Removes a key and returns its bytes.
    fn take(&mut self, key: &str) -> Option<u64> {
        let (id, bytes) = self.objects.remove(key)?;
        self.keys.remove(&id);
        self.bytes = self.bytes.saturating_sub(bytes);
        Some(bytes)
    }

    fn encode(&self) -> String {
        let lines = self.objects.iter().map(|(key, (id, bytes))| format!("{id} {bytes} {key}\n"));
        std::iter::once(format!("{FORMAT}\n")).chain(lines).collect()
    }

    /// Decodes the file; malformed lines are skipped.
    fn decode(text: &str) -> Self {
        let mut unused = Self::default();
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) {
            return unused;
        }
        let read = |line: &str| {
            let (id, rest) = line.split_once(' ')?;
            let (bytes, key) = rest.split_once(' ')?;
            Some((ObjectKey::from(key), id.parse().ok()?, bytes.parse().ok()?))
        };
        for (key, id, bytes) in lines.filter_map(read).take(MAX_OBJECTS) {
            unused.add(key, id, bytes);
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<ObjectKey> {
        keys.iter().map(|key| ObjectKey::from(*key)).collect()
    }

    #[test]
    fn object_evicted_unused_counts_and_used_one_does_not() {
        let ledger = PrefetchLedger::default();
        for (key, id, bytes) in [("a", 1, 10), ("b", 2, 20), ("c c", 3, 30)] {
            ledger.unused().add(ObjectKey::from(key), id, bytes);
        }
        ledger.mark_used(&[(2, 5), (9, 5)]);
        ledger.mark_evicted(&keys(&["a", "b", "other"]));
        assert_eq!(ledger.bytes(), (10, 30));
        assert_eq!(ledger.unused().keys.len(), 1);
    }

    #[test]
    fn file_round_trips_and_malformed_lines_are_skipped() {
        let mut unused = UnusedPrefetches::default();
        unused.add(ObjectKey::from("/ /a b"), 7, 70);
        unused.add(ObjectKey::from("/ /c"), 8, 80);
        let text = unused.encode();
        assert_eq!(UnusedPrefetches::decode(&text), unused);
        assert_eq!(UnusedPrefetches::decode(&format!("{text}x\n1 x y\n")), unused);
        assert_eq!(UnusedPrefetches::decode(&text.replace(FORMAT, "else")), UnusedPrefetches::default());
    }
}
