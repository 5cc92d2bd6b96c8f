//! Metrics of rollouts. No label is a client: the admin listener reports on clients.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of rollouts.
#[derive(Debug)]
pub struct RolloutMetrics {
    /// Known clients by status.
    pub clients: IntGaugeVec,
    /// Number of the newest revision; 0 before the first.
    pub revision: IntGauge,
    /// Number of kept revisions.
    pub revisions: IntGauge,
    /// 1 during a halt.
    pub halted: IntGauge,
    /// The newest revision that a ring has begun to move its clients to.
    pub ring: IntGaugeVec,
    /// 1 while trouble in a ring keeps the next step closed.
    pub trouble: IntGaugeVec,
    /// Observations that found the tracker's queue full.
    pub observations_lost: IntCounter,
}

impl RolloutMetrics {
    /// Registers the metrics, at zero.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let clients = IntGaugeVec::new(
            Opts::new("gupd_rollout_clients", "Known clients by status, as of the last minute."),
            &["light"],
        )?;
        registry.register(Box::new(clients.clone()))?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let of_rings = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &["ring"])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let observations_lost = IntCounter::new(
            "gupd_rollout_sightings_lost_total",
            "Client observations that were lost because the queue was full.",
        )?;
        registry.register(Box::new(observations_lost.clone()))?;
        Ok(Self {
            clients,
            revision: gauge(
                "gupd_rollout_revision",
                "Number of the newest revision; 0 without rings or before the first revision.",
            )?,
            revisions: gauge("gupd_rollout_revisions", "Number of kept revisions.")?,
            halted: gauge("gupd_rollout_halted", "1 while rollouts are halted.")?,
            ring: of_rings(
                "gupd_rollout_ring_revision",
                "Number of the newest revision that a ring has begun to move its clients to.",
            )?,
            trouble: of_rings(
                "gupd_rollout_ring_trouble",
                "1 while trouble among the clients of a ring keeps the next step closed.",
            )?,
            observations_lost,
        })
    }
}
