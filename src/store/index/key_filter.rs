//! Filter of the keys that the index may have, in memory: a Bloom filter of two bytes per key. A cold key is thus known to
//! be absent without a read of the index. The filter has every key in the index, from before the commit of its row on; it
//! may have others. Until it is built, and while another process owns the index, it has all keys.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use xxhash_rust::xxh3::xxh3_128;

/// Minimum capacity in keys: 2 MiB, of which the system gives only the pages in use.
const CAPACITY_MIN: u64 = 1 << 20;

/// Bits per key at full capacity: one absent key in 2,000 is read from the index.
const BITS: u64 = 16;

/// Number of bits set for a key.
const PROBES: u64 = 6;

/// Keys that the index may have.
#[derive(Debug, Default)]
pub(super) struct KeyFilter {
    // Locked to clone two pointers.
    state: RwLock<FilterState>,
}

#[derive(Debug, Default)]
struct FilterState {
    ready: Option<Arc<KeyBits>>,
    /// The filter that is being built; it gets new keys too.
    building: Option<Arc<KeyBits>>,
}

/// A Bloom filter.
#[derive(Debug)]
pub(super) struct KeyBits {
    words: Box<[AtomicU64]>,
    keys: AtomicU64,
    capacity: u64,
    /// A clear that came meanwhile; the filter lacks keys.
    is_void: AtomicBool,
}

impl KeyFilter {
    /// Returns false if the index has no such key.
    pub(super) fn may_have(&self, key: &str) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.ready.as_ref().is_none_or(|ready| ready.has(key))
    }

    /// Adds a key before its row is committed.
    pub(super) fn add(&self, key: &str) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.ready.iter().chain(&state.building).for_each(|bits| bits.add(key));
    }

    /// Returns true if the filter should be built: there is none, or more keys came than it is made for.
    pub(super) fn is_due(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.ready.as_ref().is_none_or(|ready| ready.keys.load(Ordering::Relaxed) > ready.capacity)
    }

    /// Begins a filter for `keys` keys and as many more; it gets the keys that are added from now on.
    pub(super) fn begin(&self, keys: u64) -> Arc<KeyBits> {
        let bits = Arc::new(KeyBits::new(keys.saturating_mul(2).max(CAPACITY_MIN)));
        self.state.write().unwrap_or_else(PoisonError::into_inner).building = Some(Arc::clone(&bits));
        bits
    }

    /// Uses a filter that has every key of the index.
    pub(super) fn finish(&self, bits: Arc<KeyBits>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !bits.is_void.load(Ordering::Acquire) {
            state.building = None;
            state.ready = Some(bits);
        }
    }

    /// Drops the filter: another index is used, or another process changes it.
    pub(super) fn clear(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.ready = None;
        if let Some(building) = state.building.take() {
            building.is_void.store(true, Ordering::Release);
        }
    }
}

impl KeyBits {
    fn new(capacity: u64) -> Self {
        let words = usize::try_from(capacity * BITS / 64).unwrap_or(usize::MAX);
        let words = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Self { words, keys: AtomicU64::new(0), capacity, is_void: AtomicBool::new(false) }
    }

    pub(super) fn add(&self, key: &str) {
        self.keys.fetch_add(1, Ordering::Relaxed);
        for (word, bit) in self.probes(key) {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    fn has(&self, key: &str) -> bool {
        self.probes(key).all(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    fn probes(&self, key: &str) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let hash = xxh3_128(key.as_bytes());
        let (first, step) = (hash as u64, (hash >> 64) as u64 | 1);
        let bits = self.words.len() as u64 * 64;
        (0..PROBES).filter_map(move |probe| {
            let bit = first.wrapping_add(probe.wrapping_mul(step)) % bits;
            let word = self.words.get(usize::try_from(bit / 64).ok()?)?;
            Some((word, 1 << (bit % 64)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_has_all_keys_and_few_others() {
        let filter = KeyFilter::default();
        assert!(filter.may_have("any") && filter.is_due(), "nothing is known yet");
        let bits = filter.begin(0);
        filter.add("early");
        (0..1 << 20).for_each(|key| bits.add(&key.to_string()));
        filter.finish(bits);
        filter.add("late");
        assert!(["early", "late", "0", "1048575"].iter().all(|key| filter.may_have(key)));
        let wrong = (0..100_000).filter(|key| filter.may_have(&format!("other {key}"))).count();
        assert!(wrong < 200, "{wrong} of 100,000 absent keys");
        assert!(filter.is_due(), "it is full");
        filter.clear();
        assert!(filter.may_have("any"));
    }

    #[test]
    fn filter_cleared_while_built_is_not_used() {
        let filter = KeyFilter::default();
        let bits = filter.begin(0);
        filter.clear();
        filter.finish(bits);
        assert!(filter.may_have("any"));
    }
}
