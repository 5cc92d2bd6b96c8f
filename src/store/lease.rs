//! Ownership of the store folder over time. [`Store::release`] hands the folder to another process while this one
//! finishes its running downloads: from then on the folder is read, never written. Unfinished fills continue in
//! unlinked files for their readers. The other process gets copies of these files, and the unfinished fills that
//! nobody writes.
//!
//! [`Store::adopt_replacement`] handles the opposite case: another store is mounted at the path of this one, for
//! example after a disk failed or returned as another device. It switches folder, lock, index and open files.
//! Callers drop cached objects of the old store; see [`Store::generation`]. A folder without an index is never
//! taken for a store, since an unmounted mount point looks like one.

use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::copy_file_range;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::blocks::blocks_of;
use super::draft::Draft;
use super::error::StoreError;
use super::folder::Folder;
use super::scratch::journal_path;
use super::{BLOCK, Store};

/// Maximum number of bytes copied for the other process, which waits for them: a quarter of a second on a fast
/// disk, or no time where the file system shares blocks. The rest crosses the WAN again on request.
const COPY_MAX: u64 = 256 << 20;

/// Right to write to the folder, and the work that still uses it.
#[derive(Debug)]
pub(super) struct FolderLease {
    released: AtomicBool,
    /// Drafts with linked files.
    // Locked to read or change, never across I/O.
    drafts: Mutex<Vec<Weak<Draft>>>,
    /// Running commits and repairs. Each must finish before another process opens the folder.
    writes: TaskTracker,
}

impl FolderLease {
    pub(super) fn new() -> Self {
        Self { released: AtomicBool::new(false), drafts: Mutex::default(), writes: TaskTracker::new() }
    }

    /// Returns true after the release.
    pub(super) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// Registers a draft; the release unlinks its file.
    ///
    /// # Errors
    /// [`StoreError::Released`] after the release.
    pub(super) fn register(&self, draft: &Arc<Draft>) -> Result<(), StoreError> {
        let mut drafts = self.drafts();
        if self.is_released() {
            return Err(StoreError::Released);
        }
        drafts.retain(|draft| draft.strong_count() > 0);
        drafts.push(Arc::downgrade(draft));
        Ok(())
    }

    /// Begins a commit or a repair. The release waits until the token is dropped.
    ///
    /// # Errors
    /// [`StoreError::Released`] after the release.
    pub(super) fn begin_write(&self) -> Result<TaskTrackerToken, StoreError> {
        let token = self.writes.token();
        if self.is_released() { Err(StoreError::Released) } else { Ok(token) }
    }

    /// Ends the lease and returns the drafts with linked files.
    fn release(&self) -> Vec<Arc<Draft>> {
        let mut drafts = self.drafts();
        self.released.store(true, Ordering::Release);
        std::mem::take(&mut *drafts).iter().filter_map(Weak::upgrade).collect()
    }

    fn drafts(&self) -> MutexGuard<'_, Vec<Weak<Draft>>> {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Returns true if another process may own the folder.
    pub fn is_released(&self) -> bool {
        self.lease.is_released()
    }

    /// Releases the folder. When this returns, every stored object is in the index, and another process may open
    /// the folder. Afterwards this process stores, evicts and repairs nothing, and still reads.
    pub async fn release(&self) {
        let drafts = self.lease.release();
        self.lease.writes.close();
        self.lease.writes.wait().await;
        let folder = Arc::clone(&self.folder);
        let unlink = move || {
            let mut budget = COPY_MAX;
            for draft in drafts {
                budget -= copy_draft(&draft, &folder, budget).unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot copy an unfinished fill; it is fetched again on request");
                    0
                });
                draft.unlink();
            }
        };
        if let Err(error) = spawn_blocking(unlink).await {
            tracing::error!(%error, "cannot unlink unfinished files");
        }
        if let Err(error) = self.save_prefetches().await {
            tracing::warn!(%error, "cannot save the list of prefetched objects; their use is not counted");
        }
        self.unfinished.clear();
        self.index.release().await;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Number of times another store replaced this one. Objects of different generations are unrelated.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Switches to the store that is now mounted at this path, if there is one.
    pub(super) async fn adopt_replacement(&self) -> Result<(), StoreError> {
        let folder = Arc::clone(&self.folder);
        let Some((identity, lock)) = spawn_blocking(move || folder.find_replacement()).await?? else {
            return Ok(());
        };
        self.index.reopen().await?;
        self.folder.set_identity(identity);
        self.open.invalidate_all();
        self.unfinished.clear();
        self.prefetches.clear();
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        self.generation.fetch_add(1, Ordering::AcqRel);
        tracing::warn!("store replaced by another one mounted in its place");
        Ok(())
    }
}

/// Copies an unfinished body and its journal for the other process if it has at most `most` bytes, and returns
/// the number of bytes. Blocks written meanwhile may be missing from the copy; its reader detects that.
fn copy_draft(draft: &Draft, folder: &Folder, most: u64) -> io::Result<u64> {
    let (Some(len), Some(from), Some(body)) =
        (draft.partial.length(), draft.resumable_journal(), draft.partial.body().file())
    else {
        return Ok(0);
    };
    let (blocks, end) = (draft.partial.blocks(), blocks_of(len));
    let bytes = blocks.count() as u64 * BLOCK;
    if bytes > most {
        return Ok(0);
    }
    let path = folder.next_path().1;
    let copy = || {
        let file = File::options().write(true).create_new(true).open(&path)?;
        let mut first = blocks.find_next(0, end, true);
        while first < end {
            let behind = blocks.find_next(first, end, false);
            let (mut source, mut target) = (first as u64 * BLOCK, first as u64 * BLOCK);
            let until = len.min(behind as u64 * BLOCK);
            while source < until {
                let count = usize::try_from(until - source).unwrap_or(usize::MAX);
                let (from, to) = (Some(&mut source), Some(&mut target));
                if copy_file_range(body, from, &file, to, count)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            first = blocks.find_next(behind, end, true);
        }
        fs::copy(&from, journal_path(&path)).map(drop)
    };
    copy().inspect_err(|_| {
        for unfinished in [journal_path(&path), path.clone()] {
            // The file may not exist; a file without a journal is removed at the next start.
            let _removed = fs::remove_file(unfinished);
        }
    })?;
    Ok(bytes)
}
