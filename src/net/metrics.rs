//! Metrics of client connections, upstreams, peers and the shared tier. Label sets are bounded: names from the configuration and
//! values of an enum, never a client or a path.

use std::sync::Arc;

use http::StatusCode;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};

use crate::traffic::{TrafficRecorder, TransferCause};
use crate::upstream::UpstreamFailure;

/// Class of a status code (RFC 9110 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// 1xx and below
    Informational,
    /// 2xx
    Successful,
    /// 3xx
    Redirection,
    /// 4xx
    ClientError,
    /// 5xx and above
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

    /// Returns the label in metrics.
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

/// Counters and gauges of requests to upstreams.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// Bytes of response bodies, by upstream.
    pub received_bytes: IntCounterVec,
    /// The same bytes, by cause.
    pub cause_bytes: IntCounterVec,
    /// Requests, by upstream and outcome.
    pub requests: IntCounterVec,
    /// Health, by upstream: 1 or 0.
    pub healthy: IntGaugeVec,
    /// Health checks, by upstream and outcome.
    pub checks: IntCounterVec,
}

impl UpstreamMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register_int_counter_vec_with_registry!(name, help, labels, registry)
        };
        let cause_bytes = counters(
            "gupd_wan_received_bytes_total",
            "Bytes of response bodies received over the WAN, by the cause of the transfer.",
            &["cause"],
        )?;
        for cause in TransferCause::ALL {
            cause_bytes.with_label_values(&[cause.as_str()]);
        }
        Ok(Self {
            received_bytes: counters(
                "gupd_upstream_received_bytes_total",
                "Bytes of response bodies received from upstreams over the WAN.",
                &["upstream"],
            )?,
            cause_bytes,
            requests: counters(
                "gupd_upstream_requests_total",
                "Requests sent to upstreams, by outcome (a status class or a failure).",
                &["upstream", "outcome"],
            )?,
            healthy: register_int_gauge_vec_with_registry!(
                "gupd_upstream_healthy",
                "1 if requests go to the upstream.",
                &["upstream"],
                registry
            )?,
            checks: counters(
                "gupd_upstream_checks_total",
                "Health checks of upstreams, by outcome; not counted as requests.",
                &["upstream", "outcome"],
            )?,
        })
    }
}

/// Counters and gauges of requests to peers.
#[derive(Debug)]
pub struct PeerMetrics {
    /// Requests, by peer and outcome.
    pub requests: IntCounterVec,
    /// Health, by peer: 1 or 0.
    pub healthy: IntGaugeVec,
    /// Bytes of response bodies, by peer.
    pub received_bytes: IntCounterVec,
}

impl PeerMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            requests: register_int_counter_vec_with_registry!(
                "gupd_peer_requests_total",
                "Requests sent to peers before an upstream, by outcome.",
                &["peer", "outcome"],
                registry
            )?,
            healthy: register_int_gauge_vec_with_registry!(
                "gupd_peer_healthy",
                "1 if requests go to the peer.",
                &["peer"],
                registry
            )?,
            received_bytes: register_int_counter_vec_with_registry!(
                "gupd_peer_received_bytes_total",
                "Bytes of response bodies received from peers over the LAN.",
                &["peer"],
                registry
            )?,
        })
    }
}

/// Outcome of a request to the shared tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierOutcome {
    /// It had the object.
    Served,
    /// It lacks the object.
    Absent,
    /// It failed, or gave no answer in time.
    Failed,
    /// A manager was asked meanwhile, and answered first.
    Late,
}

impl TierOutcome {
    const ALL: [Self; 4] = [Self::Served, Self::Absent, Self::Failed, Self::Late];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Late => "late",
        }
    }
}

/// Counters and gauges of requests to the shared tier.
#[derive(Debug)]
pub struct TierRequestMetrics {
    requests: IntCounterVec,
    /// Health: 1 or 0.
    pub healthy: IntGauge,
    /// Bytes of content.
    pub received_bytes: IntCounter,
}

impl TierRequestMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = register_int_counter_vec_with_registry!(
            "gupd_tier_requests_total",
            "Requests to the shared tier before a manager, by outcome.",
            &["outcome"],
            registry
        )?;
        for outcome in TierOutcome::ALL {
            requests.with_label_values(&[outcome.as_str()]);
        }
        Ok(Self {
            requests,
            healthy: register_int_gauge_with_registry!(
                "gupd_tier_healthy",
                "1 if requests go to the shared tier; 0 also without one.",
                registry
            )?,
            received_bytes: register_int_counter_with_registry!(
                "gupd_tier_received_bytes_total",
                "Bytes of content received from the shared tier.",
                registry
            )?,
        })
    }

    /// Counts a request.
    pub(crate) fn count(&self, outcome: TierOutcome) {
        self.requests.with_label_values(&[outcome.as_str()]).inc();
    }
}

/// Counters and gauges of the network layer.
#[derive(Debug)]
pub struct NetMetrics {
    /// Requests and connections refused, by reason.
    pub refused: IntCounterVec,
    /// Client connections open now.
    pub connections: IntGauge,
    /// Client connections that wait for a request and hold no HTTP state.
    pub idle_connections: IntGauge,
    /// Client connections accepted.
    pub connections_total: IntCounter,
    /// Failed attempts to accept, most likely for lack of file descriptors.
    pub accept_failures: IntCounter,
    /// Requests to upstreams and their health.
    pub upstream: UpstreamMetrics,
    /// Requests to peers and their health.
    pub peer: PeerMetrics,
    /// Requests to the shared tier and its health.
    pub tier: TierRequestMetrics,
    /// Expiry of certificates, by use and upstream.
    pub certificate_expiry: IntGaugeVec,
    /// Received bytes by cause, client and object, which labels cannot have.
    pub traffic: Arc<TrafficRecorder>,
}

impl NetMetrics {
    /// Registers all metrics of the network layer, at zero.
    ///
    /// # Errors
    /// If the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| register_int_counter_with_registry!(name, help, registry);
        let gauge = |name: &str, help: &str| register_int_gauge_with_registry!(name, help, registry);
        Ok(Self {
            refused: register_int_counter_vec_with_registry!(
                "gupd_refused_total",
                "Requests and connections refused, by reason.",
                &["reason"],
                registry
            )?,
            connections: gauge("gupd_connections", "Open client connections.")?,
            idle_connections: gauge(
                "gupd_idle_connections",
                "Open client connections that wait for a request.",
            )?,
            connections_total: counter("gupd_connections_total", "Client connections accepted.")?,
            accept_failures: counter("gupd_accept_failures_total", "Failed accepts of a connection.")?,
            upstream: UpstreamMetrics::register(registry)?,
            peer: PeerMetrics::register(registry)?,
            tier: TierRequestMetrics::register(registry)?,
            certificate_expiry: register_int_gauge_vec_with_registry!(
                "gupd_certificate_expiry_timestamp_seconds",
                "Expiry of the earliest certificate, by use and by name of the upstream or peer.",
                &["certificate", "upstream"],
                registry
            )?,
            traffic: Arc::default(),
        })
    }

    /// Creates an upstream's series at zero.
    pub fn create_upstream_series(&self, upstream: &str) {
        self.upstream.received_bytes.with_label_values(&[upstream]);
        let answers = StatusClass::ALL.map(StatusClass::as_str).into_iter();
        let failures = UpstreamFailure::OF_UPSTREAM.map(UpstreamFailure::as_str);
        for outcome in answers.chain(failures) {
            self.upstream.requests.with_label_values(&[upstream, outcome]);
        }
    }

    /// Counts a request to an upstream by its response's status, or by the failure.
    pub fn count_upstream(&self, upstream: &str, outcome: Result<StatusCode, UpstreamFailure>) {
        let outcome = outcome.map_or_else(UpstreamFailure::as_str, |status| StatusClass::of(status).as_str());
        self.upstream.requests.with_label_values(&[upstream, outcome]).inc();
    }
}

/// One unit of a gauge, subtracted on drop, also during a panic.
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
