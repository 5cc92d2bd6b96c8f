//! Giving the folder up to another process while this one goes on with what it has begun. Owns the change and what is
//! different from then on: the folder is read, never written. What is half-written goes on without a name, for its
//! readers alone; the other process gets a copy of what is there of it, and what no fill has its hands on as it is.

use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::copy_file_range;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::blocks::blocks_of;
use super::error::StoreError;
use super::folder::Folder;
use super::scratch::journal_of;
use super::writer::Draft;
use super::{BLOCK, Store};

/// Bytes that are copied for the other process, at most: it waits for them, a quarter of a second on a fast disk, or not
/// at all where the file system shares blocks. What is not copied crosses the line again if it is asked for.
const COPY_MAX: u64 = 256 << 20;

/// Whose the folder is, and what of it is in use.
#[derive(Debug)]
pub(super) struct FolderLease {
    over: AtomicBool,
    /// Half-written files that have a name.
    // Held to look and to change, never across I/O.
    drafts: Mutex<Vec<Weak<Draft>>>,
    /// Commits and repairs that run: each must have its row or its bytes before another process opens the folder.
    commits: TaskTracker,
}

impl FolderLease {
    pub(super) fn new() -> Self {
        Self { over: AtomicBool::new(false), drafts: Mutex::default(), commits: TaskTracker::new() }
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Takes a draft's file to be given up in time; refused when that time is over.
    pub(super) fn register(&self, draft: &Arc<Draft>) -> Result<(), StoreError> {
        let mut drafts = self.drafts();
        if self.is_over() {
            return Err(StoreError::Released);
        }
        drafts.retain(|draft| draft.strong_count() > 0);
        drafts.push(Arc::downgrade(draft));
        Ok(())
    }

    /// Lets a commit or a repair begin, and holds the end up for as long as the token lives.
    pub(super) fn commit(&self) -> Result<TaskTrackerToken, StoreError> {
        let token = self.commits.token();
        if self.is_over() { Err(StoreError::Released) } else { Ok(token) }
    }

    /// Ends it; gives the drafts that have files.
    fn end(&self) -> Vec<Arc<Draft>> {
        let mut drafts = self.drafts();
        self.over.store(true, Ordering::Release);
        std::mem::take(&mut *drafts).iter().filter_map(Weak::upgrade).collect()
    }

    fn drafts(&self) -> MutexGuard<'_, Vec<Weak<Draft>>> {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Whether another process may have the folder by now.
    pub fn is_released(&self) -> bool {
        self.tenure.is_over()
    }

    /// Gives the folder up. When this returns, everything that was stored is in the index, and another process may open
    /// it. From then on nothing is stored, evicted or repaired here, and what is stored can still be read.
    pub async fn release(&self) {
        let drafts = self.tenure.end();
        self.tenure.commits.close();
        self.tenure.commits.wait().await;
        let folder = Arc::clone(&self.folder);
        let give_up = move || {
            let mut left = COPY_MAX;
            for draft in drafts {
                left -= leave_copy(&draft, &folder, left).unwrap_or_else(|error| {
                    tracing::warn!(%error, "half of an object may have to be fetched again");
                    0
                });
                draft.lose_name();
            }
        };
        if let Err(error) = spawn_blocking(give_up).await {
            tracing::error!(%error, "half-written files could not be given up");
        }
        if let Err(error) = self.save_ahead().await {
            tracing::warn!(%error, "what was prefetched and not used is not counted any more");
        }
        self.unfinished.leave();
        self.index.release().await;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Leaves a copy of what is there of a half-written body, and of its journal, if that is not more than `most`; gives how
/// much it is. What is written meanwhile may be missing, and is found out when it is read.
fn leave_copy(draft: &Draft, folder: &Folder, most: u64) -> io::Result<u64> {
    let (Some(len), Some(from)) = (draft.partial.length(), draft.journal_path()) else { return Ok(0) };
    let (blocks, end) = (draft.partial.blocks(), blocks_of(len));
    let bytes = blocks.count() as u64 * BLOCK;
    if bytes > most {
        return Ok(0);
    }
    let path = folder.next().1;
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
                if copy_file_range(&draft.partial.file, from, &file, to, count)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            first = blocks.find_next(behind, end, true);
        }
        fs::copy(&from, journal_of(&path)).map(drop)
    };
    copy().inspect_err(|_| {
        for unfinished in [journal_of(&path), path.clone()] {
            // It may not be there; what is left without a journal is removed at the next start.
            let _gone = fs::remove_file(unfinished);
        }
    })?;
    Ok(bytes)
}
