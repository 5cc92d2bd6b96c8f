//! Following a fill for the relay's own sake: an errand reads nothing, wants everything, and lets clients go first. What
//! it began ends with it, unless a client has come; what came by then is kept, as of any fill.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{FillContent, FillError, FillHandle, Phase};
use crate::CacheEntry;

/// Why the relay asks for something that no client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackgroundFetch {
    /// What it has may not be good any more.
    Revalidation,
    /// What one upstream has at this moment, whatever others have, or had: it becomes part of a coherent set.
    Collect,
    /// Clients may want it later.
    Prefetch,
}

/// How a fill ended for one that wanted everything.
#[derive(Debug)]
pub enum FillResult {
    /// It is stored.
    Stored(Arc<CacheEntry>),
    /// What was stored is still good.
    NotModified(Arc<CacheEntry>),
    /// There is a response, but none that is kept for others.
    NotKept,
    /// There is none.
    Failed(FillError),
}

/// Has everything fetched for as long as it is there.
#[derive(Debug)]
pub(super) struct WantsAll(Arc<FillContent>);

impl WantsAll {
    pub(super) fn of(flow: &Arc<FillContent>) -> Self {
        flow.errands.fetch_add(1, Ordering::AcqRel);
        flow.attention.notify_one();
        Self(flow.clone())
    }
}

impl Drop for WantsAll {
    fn drop(&mut self) {
        self.0.errands.fetch_sub(1, Ordering::AcqRel);
        self.0.attention.notify_one();
    }
}

impl FillHandle {
    /// Waits until it has ended and its object can be found, and has all of it fetched meanwhile.
    pub async fn fetch_all(&self) -> FillResult {
        let mut phase = self.phase.clone();
        let mut wants = None;
        let mut complete = false;
        loop {
            let arriving = match &*phase.borrow_and_update() {
                Phase::Asking => None,
                Phase::Receiving { flow, .. } => Some(flow.clone()),
                Phase::Complete { .. } => {
                    complete = true;
                    None
                }
                Phase::Stored { entry } => return FillResult::Stored(entry.clone()),
                Phase::NotModified { entry } => return FillResult::NotModified(entry.clone()),
                Phase::Unshared { .. } => return FillResult::NotKept,
                Phase::Failed { error } => return FillResult::Failed(error.clone()),
            };
            if let (Some(flow), None) = (arriving, &wants) {
                wants = Some(WantsAll::of(&flow));
            }
            if phase.changed().await.is_err() {
                return if complete { FillResult::NotKept } else { FillResult::Failed(FillError::Stopped) };
            }
        }
    }

    /// Whether a client has asked for it.
    pub fn is_for_client(&self) -> bool {
        self.for_client.load(Ordering::Relaxed)
    }
}
