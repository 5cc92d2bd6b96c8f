//! What the index's threads tell each other: whether the file is damaged, how far the journal goes, what a rebuilt
//! index still lacks. Loads and stores; no lock is held over I/O.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::check;
use crate::StoreError;
use crate::budget::Reservation;
use crate::folder::Folder;

/// Shared by the writing thread, the readers and the store.
#[derive(Debug)]
pub(crate) struct IndexState {
    folder: Arc<Folder>,
    path: PathBuf,
    damaged: AtomicBool,
    /// The damaged file could not be replaced: the disk fails, and the damage may be that.
    pub(super) irreplaceable: AtomicBool,
    /// Counts the files that were the index, so that a connection to an earlier one is not used again.
    pub(super) generation: AtomicU64,
    /// The journal's length after the last transaction.
    pub(super) journal: AtomicU64,
    /// Its length when it was last written anew; 0 if it was not since the start.
    pub(super) compacted: AtomicU64,
    /// The journal has every object.
    pub(super) complete: AtomicBool,
    /// Files without a row may be objects that were lost with an index.
    pub(crate) adopting: AtomicBool,
    /// No sweep has looked at all files since the index was opened.
    pub(crate) unswept: AtomicBool,
    /// DiskBudget that those files take, until each has a row or is removed.
    unclaimed: Mutex<Option<Reservation>>,
}

impl IndexState {
    pub(super) fn new(folder: Arc<Folder>) -> Self {
        Self {
            path: folder.index(),
            folder,
            damaged: AtomicBool::new(false),
            irreplaceable: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            journal: AtomicU64::new(0),
            compacted: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            adopting: AtomicBool::new(false),
            unswept: AtomicBool::new(true),
            unclaimed: Mutex::default(),
        }
    }

    /// The folder it is in.
    pub(super) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The index's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An error of a statement, for the caller; notes if it means damage. May write a mark, so only where blocking is
    /// allowed.
    pub(super) fn failed(&self, error: &rusqlite::Error) -> StoreError {
        if check::is_damage(error) && !self.damaged.swap(true, Ordering::AcqRel) {
            tracing::error!(index = %self.path.display(), %error,
                "the index is damaged; it is rebuilt, and until then requests are passed through");
            let mark = || {
                self.folder.check()?;
                let path = suspect(&self.path);
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
            // What SQLite says then is of the nothing that is in its place.
            (true, true) => {
                StoreError::Index { path, reason: "it cannot be read, and not be replaced yet".to_owned() }
            }
            (false, _) => StoreError::Index { path, reason },
        }
    }

    /// Whether the file waits to be replaced.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// The journal is not what it is to be: the next upkeep writes it anew.
    pub(super) fn incomplete(&self, error: &std::io::Error) {
        if self.complete.swap(false, Ordering::AcqRel) {
            tracing::warn!(%error, "cannot write the index's journal; it is written anew when that works");
        }
    }

    /// There is a sound file again.
    pub(super) fn replaced(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.irreplaceable.store(false, Ordering::Release);
        self.damaged.store(false, Ordering::Release);
    }

    /// Accounts for the files without a row.
    pub(super) fn hold_unclaimed(&self, room: Option<Reservation>) {
        self.adopting.store(room.is_some(), Ordering::Release);
        self.unswept.store(true, Ordering::Release);
        let before = std::mem::replace(&mut *self.unclaimed(), room);
        drop(before);
    }

    /// One of them has a row now, or is gone.
    pub(crate) fn claimed(&self, bytes: u64) {
        if let Some(room) = &mut *self.unclaimed() {
            room.give_back(bytes);
        }
    }

    /// None are left.
    pub(crate) fn all_claimed(&self) {
        self.adopting.store(false, Ordering::Release);
        drop(self.unclaimed().take());
    }

    fn unclaimed(&self) -> MutexGuard<'_, Option<Reservation>> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mark of an index that was found damaged while it served.
pub(super) fn suspect(index: &Path) -> PathBuf {
    index.with_file_name("index.suspect")
}
