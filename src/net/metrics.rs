//! Metrics of connections, upstreams and peers of the site. Label sets are bounded: names from the configuration and
//! words of an enum, never a client or a path.

use crate::upstream::UpstreamFailure;
use http::StatusCode;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};

/// Class of a status code (RFC 9110 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// 1xx, and what is below.
    Informational,
    /// 2xx
    Successful,
    /// 3xx
    Redirection,
    /// 4xx
    ClientError,
    /// 5xx, and what is above.
    ServerError,
}

impl StatusClass {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Informational, Self::Successful, Self::Redirection, Self::ClientError, Self::ServerError];

    /// Returns the class of a status code.
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Successful,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    /// The one spelling used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Successful => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// Counters and gauges of the network layer.
#[derive(Debug)]
pub struct NetMetrics {
    /// Requests and connections refused, by reason.
    pub refused: IntCounterVec,
    /// Client connections open now.
    pub connections: IntGauge,
    /// Client connections accepted.
    pub connections_total: IntCounter,
    /// Attempts to accept that the system refused, most likely for want of file descriptors.
    pub accept_failures: IntCounter,
    /// Bytes of response bodies from upstreams, by upstream.
    pub upstream_bytes: IntCounterVec,
    /// Requests to upstreams, by upstream and outcome.
    pub upstream_requests: IntCounterVec,
    /// Health of upstreams, by upstream: 1 or 0.
    pub upstream_healthy: IntGaugeVec,
    /// Health checks, by upstream and outcome.
    pub upstream_checks: IntCounterVec,
    /// Requests to peers, by peer and outcome.
    pub peer_requests: IntCounterVec,
    /// Health of peers, by peer: 1 or 0.
    pub peer_healthy: IntGaugeVec,
    /// Bytes of response bodies from peers, by peer.
    pub peer_bytes: IntCounterVec,
}

impl NetMetrics {
    /// Registers all of them, at zero.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            refused: register_int_counter_vec_with_registry!(
                "gupd_refused_total",
                "Requests and connections refused, by reason.",
                &["reason"],
                registry
            )?,
            connections: register_int_gauge_with_registry!(
                "gupd_connections",
                "Client connections open now.",
                registry
            )?,
            connections_total: register_int_counter_with_registry!(
                "gupd_connections_total",
                "Client connections accepted.",
                registry
            )?,
            accept_failures: register_int_counter_with_registry!(
                "gupd_accept_failures_total",
                "Attempts to accept a connection that the system refused.",
                registry
            )?,
            upstream_bytes: register_int_counter_vec_with_registry!(
                "gupd_upstream_received_bytes_total",
                "Bytes of response bodies received from upstreams: what crossed the WAN.",
                &["upstream"],
                registry
            )?,
            upstream_requests: register_int_counter_vec_with_registry!(
                "gupd_upstream_requests_total",
                "Requests sent to upstreams, by outcome (a status class, or what failed).",
                &["upstream", "outcome"],
                registry
            )?,
            upstream_healthy: register_int_gauge_vec_with_registry!(
                "gupd_upstream_healthy",
                "Whether an upstream is asked: 0 once it failed too often, until a try succeeds.",
                &["upstream"],
                registry
            )?,
            upstream_checks: register_int_counter_vec_with_registry!(
                "gupd_upstream_checks_total",
                "Checks of upstreams by outcome (well, or what failed); not counted as requests.",
                &["upstream", "outcome"],
                registry
            )?,
            peer_requests: register_int_counter_vec_with_registry!(
                "gupd_peer_requests_total",
                "Requests sent to other relays of the site before a manager was asked, by outcome.",
                &["peer", "outcome"],
                registry
            )?,
            peer_healthy: register_int_gauge_vec_with_registry!(
                "gupd_peer_healthy",
                "Whether another relay of the site is asked: 0 while its circuit is open after a failure.",
                &["peer"],
                registry
            )?,
            peer_bytes: register_int_counter_vec_with_registry!(
                "gupd_peer_received_bytes_total",
                "Bytes of response bodies received from other relays of the site: they did not cross the WAN.",
                &["peer"],
                registry
            )?,
        })
    }

    /// Creates an upstream's series at zero.
    pub fn create_upstream_series(&self, upstream: &str) {
        self.upstream_bytes.with_label_values(&[upstream]);
        let answers = StatusClass::ALL.map(StatusClass::as_str).into_iter();
        let failures = UpstreamFailure::OF_UPSTREAM.map(UpstreamFailure::as_str);
        for outcome in answers.chain(failures) {
            self.upstream_requests.with_label_values(&[upstream, outcome]);
        }
    }

    /// Counts a request to an upstream by its response's status, or by the failure.
    pub fn count_upstream(&self, upstream: &str, outcome: Result<StatusCode, UpstreamFailure>) {
        let outcome = outcome.map_or_else(UpstreamFailure::as_str, |status| StatusClass::of(status).as_str());
        self.upstream_requests.with_label_values(&[upstream, outcome]).inc();
    }
}

/// One unit of a gauge, given back on drop, also after a panic.
#[derive(Debug)]
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    /// Adds one to `gauge`.
    pub fn increment(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
