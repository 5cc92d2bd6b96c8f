//! Who is being asked for something, for others to see.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::Upstream;

/// Who is being asked at this moment. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct CurrentUpstream(Arc<ArcSwapOption<Upstream>>);

impl CurrentUpstream {
    /// The one that was asked last, if anyone has been.
    pub fn get(&self) -> Option<Arc<Upstream>> {
        self.0.load_full()
    }

    pub(super) fn set(&self, upstream: &Arc<Upstream>) {
        self.0.store(Some(upstream.clone()));
    }
}
