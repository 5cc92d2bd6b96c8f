//! The metrics of one relay. Each crate registers its own; those of the guard are added when a guard sends its counts.

use std::sync::{Arc, OnceLock};

use super::process_metrics::{ReloadMetrics, register_build_info};
use gupd_admin::Exposition;
use gupd_cache::fill::metrics::FillMetrics;
use gupd_guard::metrics::{GuardMetrics, GuardStats};
use gupd_ledger::metrics::LedgerMetrics;
use gupd_net::metrics::NetMetrics;
use gupd_proxy::metrics::RequestMetrics;
use gupd_refresh::metrics::RefreshMetrics;
use gupd_rollout::metrics::RolloutMetrics;
use gupd_tier::metrics::TierMetrics;
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
    /// Publications in the shared tier.
    pub tier: Arc<TierMetrics>,
    /// History of traffic.
    pub ledger: Arc<LedgerMetrics>,
    /// Spans.
    #[cfg(feature = "otlp")]
    pub(super) traces: Arc<gupd_traces::metrics::TraceMetrics>,
    /// Exposition of all metrics, including those of the store.
    pub exposition: Arc<Exposition>,
    pub(super) reload: ReloadMetrics,
    guard: OnceLock<GuardMetrics>,
}

impl RelayMetrics {
    /// Registers all metrics in a new registry, at zero.
    ///
    /// # Errors
    /// When two metrics have one name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        register_build_info(&registry)?;
        let net = Arc::new(NetMetrics::register(&registry)?);
        Ok(Self {
            fills: Arc::new(FillMetrics::register(&registry)?),
            requests: Arc::new(RequestMetrics::register(&registry, &net)?),
            refresh: Arc::new(RefreshMetrics::register(&registry)?),
            rollout: Arc::new(RolloutMetrics::register(&registry)?),
            tier: Arc::new(TierMetrics::register(&registry)?),
            ledger: Arc::new(LedgerMetrics::register(&registry)?),
            #[cfg(feature = "otlp")]
            traces: Arc::new(gupd_traces::metrics::TraceMetrics::register(&registry)?),
            exposition: Arc::new(Exposition::new(registry.clone(), net.connections.clone())?),
            net,
            reload: ReloadMetrics::register(&registry)?,
            guard: OnceLock::new(),
            registry,
        })
    }

    /// Records that a configuration could not be read; the old one stays in force.
    pub fn record_refused_reload(&self) {
        self.reload.record_refusal();
    }

    /// Sets the counts of the guard.
    pub fn set_guard_stats(&self, stats: &GuardStats) {
        if self.guard.get().is_none()
            && let Ok(metrics) = GuardMetrics::register(&self.registry)
        {
            // Another thread may have been first, with the same metrics.
            let _lost_race = self.guard.set(metrics);
        }
        if let Some(metrics) = self.guard.get() {
            metrics.update(stats);
        }
    }
}
