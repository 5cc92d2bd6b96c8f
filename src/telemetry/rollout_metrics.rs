//! Metrics of clients and of what they see. Never a client in a label: who it is, the admin address tells.

use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};

/// Set and counted by `rollout`.
#[derive(Debug)]
pub struct RolloutMetrics {
    /// Clients that are known, by their light.
    pub clients: IntGaugeVec,
    /// Sightings of clients that came while there was no room for them.
    pub sightings_lost: IntCounter,
}

impl RolloutMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let clients = IntGaugeVec::new(
            Opts::new(
                "gupd_rollout_clients",
                "Clients that are known, by how they are; as of the last minute.",
            ),
            &["light"],
        )?;
        registry.register(Box::new(clients.clone()))?;
        let sightings_lost = IntCounter::new(
            "gupd_rollout_sightings_lost_total",
            "Requests that were not taken into account for their client, because too many ended at once.",
        )?;
        registry.register(Box::new(sightings_lost.clone()))?;
        Ok(Self { clients, sightings_lost })
    }
}
