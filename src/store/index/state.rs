//! State shared by the index thread, the readers and the store: whether the file is damaged, the journal's
//! length, and what a rebuilt index still lacks. Only loads and stores; no lock is held over I/O.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::check;
use super::key_filter::KeyFilter;
use crate::StoreError;
use crate::budget::Reservation;
use crate::folder::Folder;

/// Shared state of the index.
#[derive(Debug)]
pub(crate) struct IndexState {
    folder: Arc<Folder>,
    path: PathBuf,
    damaged: AtomicBool,
    /// The damaged file could not be replaced; a failing disk may be the cause.
    pub(super) irreplaceable: AtomicBool,
    /// The keys that the index may have.
    pub(super) keys: KeyFilter,
    /// Number of times the file was replaced; connections to earlier files are not reused.
    pub(super) generation: AtomicU64,
    /// Length of the journal after the last transaction.
    pub(super) journal: AtomicU64,
    /// Length of the journal after its last compaction; 0 if there was none since the start.
    pub(super) compacted: AtomicU64,
    /// Removed records take more room than is charged for them.
    pub(super) packs_due: AtomicBool,
    /// Length up to which the journal is never compacted.
    pub(super) small_journal: AtomicU64,
    /// The journal has every object.
    pub(super) complete: AtomicBool,
    /// Files without a row may be objects of a lost index.
    pub(crate) adopting: AtomicBool,
    /// No sweep has examined all files since the index was opened.
    pub(crate) unswept: AtomicBool,
    /// Room reserved for those files until each has a row or is removed.
    unclaimed: Mutex<Option<Reservation>>,
}

impl IndexState {
    pub(super) fn new(folder: Arc<Folder>) -> Self {
        Self {
            path: folder.index(),
            folder,
            damaged: AtomicBool::new(false),
            irreplaceable: AtomicBool::new(false),
            keys: KeyFilter::default(),
            generation: AtomicU64::new(0),
            journal: AtomicU64::new(0),
            compacted: AtomicU64::new(0),
            packs_due: AtomicBool::new(false),
            small_journal: AtomicU64::new(u64::MAX),
            complete: AtomicBool::new(false),
            adopting: AtomicBool::new(false),
            unswept: AtomicBool::new(true),
            unclaimed: Mutex::default(),
        }
    }

    /// Returns its folder.
    pub(super) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Returns the path of the index.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Maps a statement's error for the caller, and records damage. May write a mark file, so only where blocking
    /// is allowed.
    pub(super) fn map_error(&self, error: &rusqlite::Error) -> StoreError {
        if check::is_corruption(error) && !self.damaged.swap(true, Ordering::AcqRel) {
            tracing::error!(index = %self.path.display(), %error,
                "index damaged; rebuilding it, requests are passed through uncached");
            let mark = || {
                self.folder.check()?;
                let path = suspect_path(&self.path);
                std::fs::write(&path, error.to_string()).map_err(|source| StoreError::Io {
                    doing: "write",
                    path,
                    source,
                })
            };
            if let Err(error) = mark() {
                tracing::warn!(%error, "cannot mark the index as damaged for the next start");
            }
        }
        self.error(error.to_string())
    }

    pub(super) fn error(&self, reason: String) -> StoreError {
        let path = self.path.clone();
        match (self.is_damaged(), self.irreplaceable.load(Ordering::Acquire)) {
            (true, false) => StoreError::IndexDamaged { path, reason },
            // The error comes from the empty placeholder database.
            (true, true) => {
                StoreError::Index { path, reason: "cannot be read and cannot be replaced yet".to_owned() }
            }
            (false, _) => StoreError::Index { path, reason },
        }
    }

    /// Returns true if the file is waiting to be replaced.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Returns true if the journal has every object.
    pub(super) fn is_journal_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Marks the journal incomplete: the next maintenance rewrites it.
    pub(super) fn mark_journal_incomplete(&self, error: &std::io::Error) {
        if self.complete.swap(false, Ordering::AcqRel) {
            tracing::warn!(%error, "cannot write the index journal; it is rewritten later");
        }
    }

    /// Marks the file replaced by a valid one.
    pub(super) fn mark_replaced(&self) {
        self.keys.clear();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.irreplaceable.store(false, Ordering::Release);
        self.damaged.store(false, Ordering::Release);
    }

    /// Reserves room for files without a row.
    pub(super) fn reserve_unclaimed(&self, room: Option<Reservation>) {
        self.adopting.store(room.is_some(), Ordering::Release);
        self.unswept.store(true, Ordering::Release);
        let before = std::mem::replace(&mut *self.unclaimed(), room);
        drop(before);
    }

    /// Releases room of files that now have a row or are gone.
    pub(crate) fn release_unclaimed(&self, bytes: u64) {
        if let Some(room) = &mut *self.unclaimed() {
            room.release(bytes);
        }
    }

    /// Ends the adoption: no such files are left.
    pub(crate) fn finish_adoption(&self) {
        self.adopting.store(false, Ordering::Release);
        drop(self.unclaimed().take());
    }

    fn unclaimed(&self) -> MutexGuard<'_, Option<Reservation>> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the path of the mark of an index that was found damaged while it served.
pub(super) fn suspect_path(index: &Path) -> PathBuf {
    index.with_file_name("index.suspect")
}
