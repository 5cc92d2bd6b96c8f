//! Metrics of rollouts. No label names a client: the admin listener reports on clients.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

/// Set and counted by `rollout`.
#[derive(Debug)]
pub struct RolloutMetrics {
    /// Clients that are known, by their light.
    pub clients: IntGaugeVec,
    /// The newest revision's number; 0 before there is one.
    pub revision: IntGauge,
    /// Revisions that are kept.
    pub revisions: IntGauge,
    /// 1 while no view moves.
    pub halted: IntGauge,
    /// The newest revision that a ring has begun to move its clients to.
    pub ring: IntGaugeVec,
    /// 1 while trouble in a ring keeps the next stage closed.
    pub trouble: IntGaugeVec,
    /// Observations that found the tracker's queue full.
    pub observations_lost: IntCounter,
}

impl RolloutMetrics {
    /// Registers all of them, at zero.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let clients = IntGaugeVec::new(
            Opts::new(
                "gupd_rollout_clients",
                "Clients that are known, by how they are; as of the last minute.",
            ),
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
            "Requests that were not taken into account for their client, because too many ended at once.",
        )?;
        registry.register(Box::new(observations_lost.clone()))?;
        Ok(Self {
            clients,
            revision: gauge(
                "gupd_rollout_revision",
                "Number of the newest revision; 0 without rings, or before there is one.",
            )?,
            revisions: gauge("gupd_rollout_revisions", "Revisions that are kept.")?,
            halted: gauge("gupd_rollout_halted", "1 while rollouts are halted.")?,
            ring: of_rings(
                "gupd_rollout_ring_revision",
                "Number of the newest revision that a ring has begun to move its clients to.",
            )?,
            trouble: of_rings(
                "gupd_rollout_ring_trouble",
                "1 while trouble among the clients of a ring keeps the next stage closed.",
            )?,
            observations_lost,
        })
    }
}
