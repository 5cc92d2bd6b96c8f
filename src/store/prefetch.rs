//! What was stored before any client asked for it, until one does: so that it can be told how many of those bytes were
//! of use. Owns the file `prefetched`, which outlives a restart; one that is lost costs the account, not content.
//! A use counts when it is recorded, so an object that goes within the same half minute may count as unused.

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

/// First line of the file; another form gets another number.
const FORMAT: &str = "gupd-prefetched-1";

/// Objects accounted for, at about 200 bytes each; those beyond count as used.
const MAX_OBJECTS: usize = 16_384;

/// The account.
#[derive(Debug, Default)]
pub(super) struct PrefetchLedger {
    // Held for look-ups and insertions.
    waiting: Mutex<UnusedPrefetches>,
    /// The file says something else.
    changed: AtomicBool,
    /// Bytes that went without a use, since the start.
    unused: AtomicU64,
}

/// Objects that no client has had, by key, and the key of each row.
#[derive(Debug, Default, PartialEq)]
struct UnusedPrefetches {
    bytes: u64,
    objects: HashMap<ObjectKey, (i64, u64)>,
    keys: HashMap<i64, ObjectKey>,
}

impl PrefetchLedger {
    /// Reads what an earlier process left.
    pub(super) fn open(folder: &Folder) -> Self {
        let text = fs::read_to_string(folder.root().join("prefetched")).unwrap_or_default();
        Self { waiting: Mutex::new(UnusedPrefetches::decode(&text)), ..Self::default() }
    }

    /// Notes that objects were used.
    pub(super) fn used(&self, uses: &[(i64, UnixMillis)]) {
        let mut waiting = self.waiting();
        for (id, _) in uses {
            if let Some(key) = waiting.keys.get(id).cloned() {
                waiting.take(&key);
                self.changed.store(true, Ordering::Release);
            }
        }
    }

    /// Notes that there is nothing under these keys any more, because nobody needed it.
    pub(super) fn evicted(&self, keys: &[ObjectKey]) {
        let mut waiting = self.waiting();
        for key in keys {
            if let Some(bytes) = waiting.take(key) {
                self.unused.fetch_add(bytes, Ordering::Relaxed);
                self.changed.store(true, Ordering::Release);
            }
        }
    }

    /// Bytes that went without a use, and those that still may have one.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.unused.load(Ordering::Relaxed), self.waiting().bytes)
    }

    /// Begins a new account.
    pub(super) fn forget_all(&self) {
        *self.waiting() = UnusedPrefetches::default();
    }

    fn add(&self, object: &Object) {
        let mut waiting = self.waiting();
        // A version that nobody had gave way to a newer one.
        let before = waiting.take(&object.key).unwrap_or_default();
        self.unused.fetch_add(before, Ordering::Relaxed);
        if waiting.objects.len() < MAX_OBJECTS {
            waiting.add(object.key.clone(), object.id, object.len);
        }
        self.changed.store(true, Ordering::Release);
    }

    fn waiting(&self) -> MutexGuard<'_, UnusedPrefetches> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Notes that an object was stored before any client asked for it.
    ///
    /// # Errors
    /// When that cannot be written down; it counts all the same, until the process ends.
    pub async fn record_prefetch(&self, object: &Object) -> Result<(), StoreError> {
        self.ahead.add(object);
        self.save_ahead().await
    }

    /// Whether no client has had what is stored under a key, which was stored ahead.
    pub fn is_unused_prefetch(&self, key: &str) -> bool {
        self.ahead.waiting().objects.contains_key(key)
    }

    /// Writes the account down if it has changed.
    pub(super) async fn save_ahead(&self) -> Result<(), StoreError> {
        if !self.ahead.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let (text, folder) = (self.ahead.waiting().encode(), Arc::clone(&self.folder));
        let written = spawn_blocking(move || folder.replace("prefetched", &text)).await?;
        self.ahead.changed.fetch_or(written.is_err(), Ordering::AcqRel);
        written
    }
}

impl UnusedPrefetches {
    fn add(&mut self, key: ObjectKey, id: i64, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.keys.insert(id, key.clone());
        self.objects.insert(key, (id, bytes));
    }

    /// Its bytes, if it was there.
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

    /// Lines that are none are left out.
    fn decode(text: &str) -> Self {
        let mut waiting = Self::default();
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) {
            return waiting;
        }
        let read = |line: &str| {
            let (id, rest) = line.split_once(' ')?;
            let (bytes, key) = rest.split_once(' ')?;
            Some((ObjectKey::from(key), id.parse().ok()?, bytes.parse().ok()?))
        };
        for (key, id, bytes) in lines.filter_map(read).take(MAX_OBJECTS) {
            waiting.add(key, id, bytes);
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<ObjectKey> {
        keys.iter().map(|key| ObjectKey::from(*key)).collect()
    }

    #[test]
    fn what_is_evicted_before_its_use_counts_and_what_was_used_does_not() {
        let ahead = PrefetchLedger::default();
        for (key, id, bytes) in [("a", 1, 10), ("b", 2, 20), ("c c", 3, 30)] {
            ahead.waiting().add(ObjectKey::from(key), id, bytes);
        }
        ahead.used(&[(2, 5), (9, 5)]);
        ahead.evicted(&keys(&["a", "b", "other"]));
        assert_eq!(ahead.bytes(), (10, 30));
        assert_eq!(ahead.waiting().keys.len(), 1);
    }

    #[test]
    fn the_account_reads_back_and_what_is_none_is_left_out() {
        let mut waiting = UnusedPrefetches::default();
        waiting.add(ObjectKey::from("/ /a b"), 7, 70);
        waiting.add(ObjectKey::from("/ /c"), 8, 80);
        let text = waiting.encode();
        assert_eq!(UnusedPrefetches::decode(&text), waiting);
        assert_eq!(UnusedPrefetches::decode(&format!("{text}x\n1 x y\n")), waiting);
        assert_eq!(UnusedPrefetches::decode(&text.replace(FORMAT, "else")), UnusedPrefetches::default());
    }
}
