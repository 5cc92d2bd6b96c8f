//! Every metric of one relay, registered once by the crate that owns it. The guard's are added when the relay learns
//! that it has a guard.

use std::sync::{Arc, OnceLock};

use gupd_admin::Exposition;
use gupd_cache::fill::metrics::FillMetrics;
use gupd_guard::metrics::{Figures, GuardMetrics};
use gupd_net::metrics::NetMetrics;
use gupd_proxy::metrics::RequestMetrics;
use gupd_refresh::metrics::RefreshMetrics;
use gupd_rollout::metrics::RolloutMetrics;
use prometheus::Registry;

/// The metrics of a relay, by the crate that counts them.
#[derive(Debug)]
pub struct RelayMetrics {
    registry: Registry,
    /// Connections, upstreams and peers.
    pub net: Arc<NetMetrics>,
    /// Fills.
    pub fills: Arc<FillMetrics>,
    /// Requests and responses.
    pub requests: Arc<RequestMetrics>,
    /// Background refresh and prefetch.
    pub refresh: Arc<RefreshMetrics>,
    /// Revisions, rings and clients.
    pub rollout: Arc<RolloutMetrics>,
    /// The exposition of all of them, and the store's.
    pub exposition: Arc<Exposition>,
    guard: OnceLock<GuardMetrics>,
}

impl RelayMetrics {
    /// Registers everything in a new registry, at zero.
    ///
    /// # Errors
    /// Only when two metrics have one name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let net = Arc::new(NetMetrics::register(&registry)?);
        Ok(Self {
            fills: Arc::new(FillMetrics::register(&registry)?),
            requests: Arc::new(RequestMetrics::register(&registry, &net)?),
            refresh: Arc::new(RefreshMetrics::register(&registry)?),
            rollout: Arc::new(RolloutMetrics::register(&registry)?),
            exposition: Arc::new(Exposition::new(registry.clone(), net.connections.clone())?),
            net,
            guard: OnceLock::new(),
            registry,
        })
    }

    /// Shows the guard's figures from now on.
    pub fn show_guard(&self, figures: &Figures) {
        if self.guard.get().is_none()
            && let Ok(metrics) = GuardMetrics::new(&self.registry)
        {
            // Another thread may have been first; both show the same.
            let _shown = self.guard.set(metrics);
        }
        if let Some(metrics) = self.guard.get() {
            metrics.show(figures);
        }
    }
}
