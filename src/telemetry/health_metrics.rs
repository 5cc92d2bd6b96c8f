//! Metrics of how upstreams stand. What each was asked, and what came of it, is in `metrics`.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Set by `upstream`.
#[derive(Debug)]
pub struct HealthMetrics {
    /// Whether each may be asked: 1 or 0.
    pub healthy: IntGaugeVec,
    /// Checks by upstream and by what came of them.
    pub checks: IntCounterVec,
}

impl HealthMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let healthy = IntGaugeVec::new(
            Opts::new(
                "gupd_upstream_healthy",
                "Whether an upstream is asked: 0 once it failed too often, until a try succeeds.",
            ),
            &["upstream"],
        )?;
        registry.register(Box::new(healthy.clone()))?;
        let checks = IntCounterVec::new(
            Opts::new(
                "gupd_upstream_checks_total",
                "Checks of upstreams by outcome (well, or what failed); not counted as requests.",
            ),
            &["upstream", "outcome"],
        )?;
        registry.register(Box::new(checks.clone()))?;
        Ok(Self { healthy, checks })
    }
}
