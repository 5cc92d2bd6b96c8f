//! The relay's metrics, one registry a relay. Owns every metric's name, help and label set; labels are bounded (never
//! a client, never a path). Counters on the hot path are looked up once, here, so that a request only adds to them.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::cache::status::{CacheStatus, ResponseEnd};
use crate::config::Class;
use crate::store::Facts;

use super::guard_metrics::{Figures, GuardMetrics};
use super::health_metrics::HealthMetrics;
use super::peer_metrics::PeerMetrics;
use super::refresh_metrics::RefreshMetrics;
use super::rollout_metrics::RolloutMetrics;
use super::store_metrics::StoreMetrics;

/// Seconds. From a hit in memory (tens of microseconds) to a full set over a thin line.
const LATENCY_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

/// In the order of `Class`, which indexes the counters.
const CLASSES: [Class; 4] = [Class::Payload, Class::Catalog, Class::Private, Class::Generic];

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Every counter, gauge and histogram of one relay.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    // By `CacheStatus::LABELS`, then by class.
    requests: Vec<[IntCounter; CLASSES.len()]>,
    client_bytes: Vec<[IntCounter; CLASSES.len()]>,
    responses: [IntCounter; STATUS_CLASSES.len()],
    /// Time to the response head.
    pub head_seconds: Histogram,
    /// Time to the end of the response, or until the client went away.
    pub request_seconds: Histogram,
    /// Responses whose transfer did not reach its end, by who broke it.
    pub broken: IntCounterVec,
    /// Requests and connections refused, by reason.
    pub refused: IntCounterVec,
    /// Requests deferred to their client's turn, by group: policy, not failure.
    pub deferred: IntCounterVec,
    /// Requests for what the site's policy denies their clients, by group and content type: policy, not failure.
    pub denied: IntCounterVec,
    /// Downloads now that have a place, of those that are counted.
    pub downloads: IntGauge,
    /// Requests that wait for a place now.
    pub queued: IntGauge,
    /// Time that requests have waited for a place.
    pub queue_seconds: Histogram,
    /// Client connections now.
    pub connections: IntGauge,
    /// Client connections so far.
    pub connections_total: IntCounter,
    /// Attempts to accept that the system refused, most likely for want of file descriptors.
    pub accept_failures: IntCounter,
    /// Bytes of response bodies that came from upstreams, by upstream: what crossed the WAN.
    pub upstream_bytes: IntCounterVec,
    /// Requests to upstreams, by upstream and outcome.
    pub upstream_requests: IntCounterVec,
    /// How upstreams stand.
    pub health: HealthMetrics,
    /// Fills now.
    pub fills_running: IntGauge,
    /// Fills by how they ended.
    pub fills: IntCounterVec,
    /// Transfers that broke off and were resumed.
    pub resumes: IntCounter,
    /// Transfers that went on from another upstream.
    pub failovers: IntCounter,
    /// Content that was not what was announced, by who had announced it and what followed.
    pub digest_mismatches: IntCounterVec,
    /// Bytes clients got that did not cross the WAN for them.
    pub saved_bytes: IntCounter,
    /// What came from other relays of the site.
    pub peers: PeerMetrics,
    /// What the relay asks for by itself.
    pub refresh: RefreshMetrics,
    /// How clients are.
    pub rollout: RolloutMetrics,
    store: StoreMetrics,
    // Only where there is a guard.
    guard: OnceLock<GuardMetrics>,
    // Held while a scrape reads the store's figures, so that two at once do not both add the same.
    scraping: Mutex<()>,
}

impl Metrics {
    /// A registry with all metrics at zero. Whoever owns a set of labels has its series exist before they count, so
    /// that rates exist from the first scrape on.
    ///
    /// # Errors
    /// Only when two metrics bear one name, which a test excludes.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters =
            |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let histogram = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let histogram =
                Histogram::with_opts(HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let by_class = |counters: &IntCounterVec| -> Vec<[IntCounter; CLASSES.len()]> {
            let row =
                |cache: &&str| CLASSES.map(|class| counters.with_label_values(&[*cache, class.as_str()]));
            CacheStatus::LABELS.iter().map(row).collect()
        };
        let requests = counters(
            "gupd_requests_total",
            "Requests answered, by what the cache did and by content class.",
            &["cache", "class"],
        )?;
        let client_bytes = counters(
            "gupd_client_sent_bytes_total",
            "Bytes of response bodies sent to clients, by what the cache did and by content class.",
            &["cache", "class"],
        )?;
        let responses = counters("gupd_responses_total", "Responses by status class.", &["status"])?;
        let broken = counters(
            "gupd_broken_transfers_total",
            "Responses that did not reach their end, by who broke off.",
            &["by"],
        )?;
        for by in [ResponseEnd::Client, ResponseEnd::Upstream] {
            broken.with_label_values(&[by.as_str()]);
        }
        Ok(Self {
            requests: by_class(&requests),
            client_bytes: by_class(&client_bytes),
            responses: STATUS_CLASSES.map(|class| responses.with_label_values(&[class])),
            head_seconds: histogram(
                "gupd_response_head_seconds",
                "Time from a request to its response head.",
            )?,
            request_seconds: histogram(
                "gupd_request_seconds",
                "Time from a request to the end of its response, or until the client went away.",
            )?,
            broken,
            refused: counters(
                "gupd_refused_total",
                "Requests and connections refused, by reason.",
                &["reason"],
            )?,
            deferred: counters(
                "gupd_deferred_total",
                "Requests for payloads deferred to their client's turn by the windows of its group: policy, not failure.",
                &["group"],
            )?,
            denied: counters(
                "gupd_denied_total",
                "Requests for content that the policy of the site denies to their clients: policy, not failure.",
                &["group", "content_type"],
            )?,
            downloads: gauge(
                "gupd_downloads",
                "Downloads running now that have a place; none while no count of downloads is configured.",
            )?,
            queued: gauge("gupd_queued_requests", "Requests that wait for a place to download now.")?,
            queue_seconds: histogram(
                "gupd_queue_seconds",
                "Time that requests waited for a place, until they had one or were turned away.",
            )?,
            connections: gauge("gupd_connections", "Client connections open now.")?,
            connections_total: counter("gupd_connections_total", "Client connections accepted.")?,
            accept_failures: counter(
                "gupd_accept_failures_total",
                "Attempts to accept a connection that the system refused.",
            )?,
            upstream_bytes: counters(
                "gupd_upstream_received_bytes_total",
                "Bytes of response bodies received from upstreams: what crossed the WAN.",
                &["upstream"],
            )?,
            upstream_requests: counters(
                "gupd_upstream_requests_total",
                "Requests sent to upstreams, by outcome (a status class, or what failed).",
                &["upstream", "outcome"],
            )?,
            health: HealthMetrics::register(&registry)?,
            fills_running: gauge("gupd_fills_running", "Fills running now.")?,
            fills: counters("gupd_fills_total", "Fills by how they ended.", &["outcome"])?,
            failovers: counter(
                "gupd_fill_failovers_total",
                "Broken upstream transfers that went on from another upstream.",
            )?,
            resumes: counter("gupd_fill_resumes_total", "Broken upstream transfers that were resumed.")?,
            digest_mismatches: counters(
                "gupd_digest_mismatches_total",
                "Content that was not what its digest or its catalog announced, by announcer and consequence.",
                &["by", "then"],
            )?,
            saved_bytes: counter(
                "gupd_saved_bytes_total",
                "Bytes clients got from the store or from a fill already running: bytes the WAN was spared.",
            )?,
            peers: PeerMetrics::register(&registry)?,
            refresh: RefreshMetrics::register(&registry)?,
            rollout: RolloutMetrics::register(&registry)?,
            store: StoreMetrics::register(&registry)?,
            guard: OnceLock::new(),
            scraping: Mutex::new(()),
            registry,
        })
    }

    /// Counts a response whose head is on its way. One that was refused has no `cache`.
    pub fn count_response(&self, cache: Option<CacheStatus>, class: Class, status: StatusCode) {
        if let Some(counter) = of(&self.requests, cache, class) {
            counter.inc();
        }
        let status_class = usize::from(status.as_u16() / 100).clamp(1, self.responses.len());
        self.responses[status_class - 1].inc();
    }

    /// Counts what a client was sent, once its response has ended; `stored` of it were here when it asked.
    pub fn count_sent(
        &self,
        cache: Option<CacheStatus>,
        class: Class,
        bytes: u64,
        stored: u64,
        took: Duration,
    ) {
        if let Some(counter) = of(&self.client_bytes, cache, class) {
            counter.inc_by(bytes);
        }
        self.saved_bytes.inc_by(if cache.is_some_and(CacheStatus::spares_the_wan) { bytes } else { stored });
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Has an upstream's series exist before its first request. `failures` are the words of those that may be counted.
    pub fn expect_upstream(&self, upstream: &str, failures: &[&str]) {
        self.upstream_bytes.with_label_values(&[upstream]);
        for outcome in STATUS_CLASSES.iter().chain(failures) {
            self.upstream_requests.with_label_values(&[upstream, outcome]);
        }
    }

    /// Counts a request to an upstream: its response's status, or the word for what failed.
    pub fn count_upstream(&self, upstream: &str, outcome: Result<StatusCode, &str>) {
        let class = |status: StatusCode| {
            STATUS_CLASSES[usize::from(status.as_u16() / 100).clamp(1, STATUS_CLASSES.len()) - 1]
        };
        self.upstream_requests.with_label_values(&[upstream, outcome.map_or_else(|word| word, class)]).inc();
    }

    /// Shows the guard's figures too, from now on.
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

    /// The text exposition format, with the store's figures as of now.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn expose(&self, facts: &Facts, quota: u64) -> Result<Vec<u8>, prometheus::Error> {
        let _one_scrape = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.take(facts, quota);
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Counted in a gauge until it is dropped, also by a panic.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    /// Counts one.
    pub fn one(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn of(
    counters: &[[IntCounter; CLASSES.len()]],
    cache: Option<CacheStatus>,
    class: Class,
) -> Option<&IntCounter> {
    let label = cache?.as_str();
    // Ten labels, the most frequent first.
    let at = CacheStatus::LABELS.iter().position(|known| *known == label)?;
    Some(&counters.get(at)?[class as usize])
}
