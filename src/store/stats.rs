//! Statistics of the store. This module owns the counters; reading them is a few loads, so metrics may read at
//! any time. The index writer copies the totals here after each transaction.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gupd_config::clock::UnixMillis;

use super::error::StoreHealth;

/// Maximum number of content types with counters of their own. Rules name them; further ones count as unknown.
const MAX_TYPES: usize = 1_000;

/// Reason of a removal that no client or command requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionReason {
    /// Room for newer objects within `store.quota`.
    Quota,
    /// Free space below `store.min_free`.
    MinFree,
    /// Unused for `store.max_unused`.
    Unused,
    /// Damaged blob.
    Damaged,
}

impl EvictionReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Quota, Self::MinFree, Self::Unused, Self::Damaged];

    /// Returns the label in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::MinFree => "min_free",
            Self::Unused => "unused",
            Self::Damaged => "damaged",
        }
    }
}

/// Figures at one moment. Counters count since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Objects in the index.
    pub objects: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Bytes on disk of committed blobs, in whole file-system blocks.
    pub disk_bytes: u64,
    /// Bytes saved because several objects share a blob.
    pub deduplicated_bytes: u64,
    /// Removals in the order of [`EvictionReason::ALL`].
    pub evicted: [RemovalStats; 4],
    /// Evicted pinned objects and the bytes of their bodies; see [`super::Store::take_evicted_pins`].
    pub evicted_pins: RemovalStats,
    /// Blocks, trailers and lengths that failed verification.
    pub verification_failures: u64,
    /// Bytes replaced by repairs.
    pub repaired_bytes: u64,
    /// Disk reads of a chunk or a piece.
    pub disk_reads: u64,
    /// Bytes of bodies verified by the scrub.
    pub scrubbed_bytes: u64,
    /// Blobs that the scrub found damaged or missing.
    pub scrub_damaged: u64,
    /// End of the last complete scrub pass; 0 if there was none.
    pub scrub_completed: UnixMillis,
    /// Bytes of bodies in memory.
    pub memory_bytes: u64,
    /// Open blob files, including unfinished ones.
    pub open_files: u64,
    /// Prefetched bytes that were removed unused.
    pub wasted_prefetch_bytes: u64,
    /// Prefetched bytes in the store that are still unused.
    pub unused_prefetch_bytes: u64,
    /// State of the disk.
    pub health: StoreHealth,
}

/// A number of objects, and their bytes: of removed ones those on disk that were freed, unless stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovalStats {
    /// Number of objects.
    pub objects: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Totals of the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) objects: u64,
    pub(super) object_bytes: u64,
    pub(super) blobs: u64,
    pub(super) blob_bytes: u64,
    pub(super) disk_bytes: u64,
    /// Part of `disk_bytes` charged for blobs in packs.
    pub(super) packed_bytes: u64,
    /// Charged for the rows of objects.
    pub(super) row_bytes: u64,
}

/// Counters behind [`StoreStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    objects: AtomicU64,
    blobs: AtomicU64,
    disk_bytes: AtomicU64,
    saved_bytes: AtomicU64,
    evicted: [(AtomicU64, AtomicU64); 4],
    // Held to add a batch, or to copy.
    evicted_by_type: Mutex<BTreeMap<String, RemovalStats>>,
    given_up: (AtomicU64, AtomicU64),
    pub(super) verification_failures: AtomicU64,
    pub(super) repaired_bytes: AtomicU64,
    pub(super) disk_reads: AtomicU64,
    pub(super) scrubbed_bytes: AtomicU64,
    pub(super) scrub_damaged: AtomicU64,
    pub(super) scrub_completed: AtomicI64,
    open_files: Arc<AtomicU64>,
}

impl Counters {
    pub(super) fn set_totals(&self, totals: &Totals) {
        self.objects.store(totals.objects, Ordering::Relaxed);
        self.blobs.store(totals.blobs, Ordering::Relaxed);
        self.disk_bytes.store(totals.disk_bytes, Ordering::Relaxed);
        self.saved_bytes.store(totals.object_bytes.saturating_sub(totals.blob_bytes), Ordering::Relaxed);
    }

    /// Counts removed objects; `types` has the content type of each and the length of its body.
    pub(super) fn count_evicted(
        &self,
        reason: EvictionReason,
        removed: RemovalStats,
        types: Vec<(String, u64)>,
    ) {
        let (objects, bytes) = &self.evicted[reason as usize];
        objects.fetch_add(removed.objects, Ordering::Relaxed);
        bytes.fetch_add(removed.bytes, Ordering::Relaxed);
        let mut by_type = self.lock_types();
        for (content_type, len) in types {
            let is_known = by_type.contains_key(&content_type) || by_type.len() < MAX_TYPES;
            let sums = by_type.entry(if is_known { content_type } else { String::new() }).or_default();
            sums.objects += 1;
            sums.bytes += len;
        }
    }

    pub(super) fn evicted_by_type(&self) -> BTreeMap<String, RemovalStats> {
        self.lock_types().clone()
    }

    fn lock_types(&self) -> MutexGuard<'_, BTreeMap<String, RemovalStats>> {
        self.evicted_by_type.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_evicted_pins(&self, removed: RemovalStats) {
        let (objects, bytes) = &self.given_up;
        objects.fetch_add(removed.objects, Ordering::Relaxed);
        bytes.fetch_add(removed.bytes, Ordering::Relaxed);
    }

    pub(super) fn open_file(&self) -> OpenFile {
        self.open_files.fetch_add(1, Ordering::Relaxed);
        OpenFile(Arc::clone(&self.open_files))
    }

    pub(super) fn stats(&self, memory_bytes: u64) -> StoreStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            objects: read(&self.objects),
            blobs: read(&self.blobs),
            disk_bytes: read(&self.disk_bytes),
            deduplicated_bytes: read(&self.saved_bytes),
            evicted: self
                .evicted
                .each_ref()
                .map(|(objects, bytes)| RemovalStats { objects: read(objects), bytes: read(bytes) }),
            evicted_pins: RemovalStats { objects: read(&self.given_up.0), bytes: read(&self.given_up.1) },
            verification_failures: read(&self.verification_failures),
            repaired_bytes: read(&self.repaired_bytes),
            disk_reads: read(&self.disk_reads),
            scrubbed_bytes: read(&self.scrubbed_bytes),
            scrub_damaged: read(&self.scrub_damaged),
            scrub_completed: self.scrub_completed.load(Ordering::Relaxed),
            memory_bytes,
            open_files: read(&self.open_files),
            wasted_prefetch_bytes: 0,
            unused_prefetch_bytes: 0,
            health: StoreHealth::Healthy,
        }
    }
}

/// Counts an open file until it is dropped.
#[derive(Debug)]
pub(super) struct OpenFile(Arc<AtomicU64>);

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
