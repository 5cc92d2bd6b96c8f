//! The wait of a fill for its permit, and its run once it has one. A queued fill costs its upstreams nothing, so it ends
//! with its last follower, whatever `fill.finish` says. It fails as soon as its upstreams do, like the fills before it.

use http::HeaderMap;
use tokio::time::sleep;

use super::super::admission::FillPermit;
use super::super::fetch::Followers;
use super::FillTask;
use crate::fill::{FillError, FillOutcome};
use gupd_net::metrics::GaugeGuard;

impl FillTask {
    /// Runs the fill to its end.
    pub(in crate::fill) async fn run(mut self: Box<Self>) {
        let context = self.context.clone();
        #[cfg(feature = "otlp")]
        let started = std::time::Instant::now();
        let outcome = match self.wait_for_permit().await {
            Ok(permit) => {
                self.permit = Some(permit);
                let _running = GaugeGuard::increment(&context.metrics.running);
                self.fill().await
            }
            Err(Some(error)) => self.fail(error),
            Err(None) => FillOutcome::Abandoned,
        };
        let followers = self.flags.joined();
        if followers > 0
            && let Some(upstream) = self.current_upstream.get()
        {
            let outgoing = self.request.to_upstream(HeaderMap::new());
            self.upstreams.record_followers(&upstream, &outgoing, followers);
        }
        context.metrics.ended.with_label_values(&[outcome.as_str()]).inc();
        #[cfg(feature = "otlp")]
        self.record_span(outcome, started.elapsed());
    }

    /// Waits for a permit. `Err(None)` if no follower is left.
    async fn wait_for_permit(&self) -> Result<FillPermit, Option<FillError>> {
        let admitted = self.context.admission.admit(&self.request, &self.flags);
        tokio::select! {
            biased;
            () = self.context.stopping.cancelled() => Err(Some(FillError::Stopped)),
            Some(permit) = admitted => Ok(permit),
            error = self.upstreams.wait_until_unavailable(&self.request.upstream_order) => {
                Err(Some(error.into()))
            }
            () = self.wait_until_unfollowed() => Err(None),
            () = sleep(self.context.queue_timeout) => Err(Some(FillError::Busy)),
        }
    }

    /// Waits until the last follower of a client's fill has gone, and removes the fill from the register.
    async fn wait_until_unfollowed(&self) {
        // The relay's own fetches need no follower.
        if self.request.background.is_some() {
            return std::future::pending().await;
        }
        while !self.close_if_unfollowed() {
            self.attention.notified().await;
        }
    }
}
