//! Metrics of what came from other relays of the site: beside the line, so apart from upstreams.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// Counted by `upstream`.
#[derive(Debug)]
pub struct PeerMetrics {
    /// Requests to peers, by peer and outcome.
    pub requests: IntCounterVec,
    /// Whether each is asked: 1 or 0.
    pub healthy: IntGaugeVec,
    /// Bytes of response bodies that came from peers, by peer.
    pub received: IntCounterVec,
}

impl PeerMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        let healthy = IntGaugeVec::new(
            Opts::new(
                "gupd_peer_healthy",
                "Whether another relay of the site is asked: 0 while it is left alone, having failed.",
            ),
            &["peer"],
        )?;
        registry.register(Box::new(healthy.clone()))?;
        Ok(Self {
            healthy,
            requests: counters(
                "gupd_peer_requests_total",
                "Requests sent to other relays of the site before a manager was asked, by outcome.",
                &["peer", "outcome"],
            )?,
            received: counters(
                "gupd_peer_received_bytes_total",
                "Bytes of response bodies received from other relays of the site: they did not cross the WAN.",
                &["peer"],
            )?,
        })
    }
}
