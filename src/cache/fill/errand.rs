//! Following a fill for the relay's own sake: an errand reads nothing, wants everything, and lets clients go first. What
//! it began ends with it, unless a client has come; what came by then is kept, as of any fill.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Fill, FillError, Flow, Phase};
use crate::Entry;

/// Why the relay asks for something that no client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// What it has may not be good any more.
    Revalidation,
    /// What one upstream has at this moment, whatever others have, or had: it becomes part of a coherent set.
    Collect,
    /// Clients may want it later.
    Prefetch,
}

/// How a fill ended for one that wanted everything.
#[derive(Debug)]
pub enum Ended {
    /// It is stored.
    Stored(Arc<Entry>),
    /// What was stored is still good.
    NotModified(Arc<Entry>),
    /// There is a response, but none that is kept for others.
    Unkept,
    /// There is none.
    Failed(FillError),
}

/// Has everything fetched for as long as it is there.
#[derive(Debug)]
pub(super) struct WantsAll(Arc<Flow>);

impl WantsAll {
    pub(super) fn of(flow: &Arc<Flow>) -> Self {
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

impl Fill {
    /// Waits until it has ended and its object can be found, and has all of it fetched meanwhile.
    pub async fn ended(&self) -> Ended {
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
                Phase::Stored { entry } => return Ended::Stored(entry.clone()),
                Phase::NotModified { entry } => return Ended::NotModified(entry.clone()),
                Phase::Unshared { .. } => return Ended::Unkept,
                Phase::Failed { error } => return Ended::Failed(error.clone()),
            };
            if let (Some(flow), None) = (arriving, &wants) {
                wants = Some(WantsAll::of(&flow));
            }
            if phase.changed().await.is_err() {
                return if complete { Ended::Unkept } else { Ended::Failed(FillError::Stopped) };
            }
        }
    }

    /// Whether a client has asked for it.
    pub fn is_for_client(&self) -> bool {
        self.for_client.load(Ordering::Relaxed)
    }
}
