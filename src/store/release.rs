//! Giving the folder up to another process while this one goes on with what it has begun. Owns the change and what is
//! different from then on: the folder is read, never written. What is half-written goes on without a name, for its
//! readers alone; what no fill has its hands on is left to the other process, as at an end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Store;
use super::error::StoreError;
use super::writer::Draft;

/// Whose the folder is, and what of it is in use.
#[derive(Debug)]
pub(super) struct Tenure {
    over: AtomicBool,
    /// Half-written files that have a name.
    // Held to look and to change, never across I/O.
    drafts: Mutex<Vec<Weak<Draft>>>,
    /// Commits and repairs that run: each must have its row or its bytes before another process opens the folder.
    commits: TaskTracker,
}

impl Tenure {
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
        let unlink = move || drafts.iter().for_each(|draft| draft.lose_name());
        if let Err(error) = spawn_blocking(unlink).await {
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
