//! Who feeds a fill, or may, for those who consider following it: what waits for its upstream must not be what that
//! waits for.

use std::sync::Arc;

use super::{FillHandle, Phase};
use gupd_config::UpstreamId;
use gupd_net::upstream::Upstream;

impl FillHandle {
    /// The upstreams that it asks, by priority.
    pub fn upstream_order(&self) -> &[UpstreamId] {
        &self.upstream_order
    }

    /// The upstream that it has asked last.
    pub fn current_upstream(&self) -> Option<Arc<Upstream>> {
        self.asking.get()
    }

    /// Waits until it is known, and tells, whether a manager feeds it. What another relay of the site feeds may wait for
    /// whoever asks.
    pub async fn is_from_manager(&self) -> bool {
        let mut phase = self.phase.clone();
        let decided = phase.wait_for(|phase| !matches!(phase, Phase::Asking)).await;
        match decided.as_deref() {
            Ok(Phase::Receiving { flow, .. } | Phase::Complete { flow, .. }) => !flow.is_from_peer(),
            Ok(Phase::Stored { .. } | Phase::NotModified { .. }) => true,
            Ok(Phase::Asking | Phase::Unshared { .. } | Phase::Failed { .. }) | Err(_) => false,
        }
    }
}
