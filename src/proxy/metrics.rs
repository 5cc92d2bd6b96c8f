//! Metrics of requests and their responses. Counters on the hit path are resolved here once, so that a request only
//! adds to them. Label sets are bounded: never a client, never a path.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gupd_config::Class;
use gupd_http::status::{CacheResult, CacheStatus, ResponseEnd};
use gupd_net::metrics::{NetMetrics, StatusClass};
use http::{StatusCode, Version};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry,
    register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// Seconds. From a hit in memory (tens of microseconds) to a full set over a thin line.
const LATENCY_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

/// In the order of [`Class`], which indexes the counters.
const CLASSES: [Class; 4] = [Class::Payload, Class::Catalog, Class::Private, Class::Generic];

/// Protocol versions that clients use. hyper takes no other.
const PROTOCOLS: [Version; 3] = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2];

/// Returns the name of a protocol version in metrics and access lines.
pub(crate) fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Download slots and the queue for them; all zero without a limit of downloads.
#[derive(Debug)]
pub struct SlotMetrics {
    /// Downloads that hold a slot now.
    pub downloads: IntGauge,
    /// Downloads that lend their slot now, because their clients take next to nothing.
    pub lent_slots: IntGauge,
    /// Requests that wait for a slot now.
    pub queued: IntGauge,
    /// Time that requests waited for a slot.
    pub queue_seconds: Histogram,
}

impl SlotMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| register_int_gauge_with_registry!(name, help, registry);
        Ok(Self {
            downloads: gauge("gupd_downloads", "Downloads that hold a slot now; 0 without a limit.")?,
            lent_slots: gauge(
                "gupd_lent_slots",
                "Downloads whose clients take next to nothing and whose slots queued requests may use now.",
            )?,
            queued: gauge("gupd_queued_requests", "Requests that wait for a download slot now.")?,
            queue_seconds: register_seconds(
                registry,
                "gupd_queue_seconds",
                "Time that requests waited for a download slot, until they had one or were rejected.",
            )?,
        })
    }
}

/// Counters, gauges and histograms of the request pipeline.
#[derive(Debug)]
pub struct RequestMetrics {
    // By `CacheResult`, then by class.
    requests: Vec<[IntCounter; CLASSES.len()]>,
    client_bytes: Vec<[IntCounter; CLASSES.len()]>,
    content_type_bytes: IntCounterVec,
    // Resolved: the vector looks a label up under a lock.
    /// A list: every hit looks for a name, and comparing thirty is quicker than hashing one.
    by_content_type: ArcSwap<Vec<(Arc<str>, IntCounter)>>,
    responses: [IntCounter; StatusClass::ALL.len()],
    by_protocol: [IntCounter; PROTOCOLS.len()],
    /// Time to the response head.
    pub head_seconds: Histogram,
    /// Time to the end of the response, or until the client disconnected.
    pub request_seconds: Histogram,
    /// Requests and response bodies that ended in a panic.
    pub panics: IntCounter,
    /// Responses that did not reach their end, by the side that broke off.
    pub broken: IntCounterVec,
    /// Requests refused, by reason; connections refused are counted with them.
    pub refused: IntCounterVec,
    /// Requests deferred to a later time, by group: policy, not failure.
    pub deferred: IntCounterVec,
    /// Requests for content types that the policy denies, by group and content type: policy, not failure.
    pub denied: IntCounterVec,
    /// Download slots and the queue for them.
    pub slots: SlotMetrics,
    /// Bytes that clients got without crossing the WAN for them.
    pub saved_bytes: IntCounter,
    /// Takes the spans of finished requests; empty without traces.
    #[cfg(feature = "otlp")]
    pub tracer: std::sync::OnceLock<Arc<gupd_traces::Tracer>>,
}

impl RequestMetrics {
    /// Registers the metrics at zero. Refusals share the counter of `net`.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry, net: &NetMetrics) -> Result<Self, prometheus::Error> {
        let counters = |name, help, labels: &[&str]| {
            register_int_counter_vec_with_registry!(name, help, labels, registry)
        };
        let counter = |name, help| register_int_counter_with_registry!(name, help, registry);
        let seconds = |name, help| register_seconds(registry, name, help);
        let responses = counters("gupd_responses_total", "Responses by status class.", &["status"])?;
        let protocols = counters(
            "gupd_protocol_requests_total",
            "Requests answered, by protocol version.",
            &["protocol"],
        )?;
        Ok(Self {
            requests: by_class(
                registry,
                "gupd_requests_total",
                "Requests answered, by cache result and content class.",
            )?,
            client_bytes: by_class(
                registry,
                "gupd_client_sent_bytes_total",
                "Bytes of response bodies sent to clients, by cache result and content class.",
            )?,
            content_type_bytes: counters(
                "gupd_content_type_sent_bytes_total",
                "Bytes of response bodies sent to clients, by content type of the path.",
                &["content_type"],
            )?,
            by_content_type: ArcSwap::default(),
            responses: StatusClass::ALL.map(|class| responses.with_label_values(&[class.as_str()])),
            panics: counter(
                "gupd_request_panics_total",
                "Requests that ended in a panic and were answered with 500 or broken off: a defect of gupd.",
            )?,
            by_protocol: PROTOCOLS.map(|version| protocols.with_label_values(&[protocol_name(version)])),
            broken: register_broken(registry)?,
            refused: net.refused.clone(),
            head_seconds: seconds("gupd_response_head_seconds", "Time from a request to its response head.")?,
            request_seconds: seconds(
                "gupd_request_seconds",
                "Time from a request to the end of its response, or until the client disconnected.",
            )?,
            deferred: counters(
                "gupd_deferred_total",
                "Requests for payloads deferred by the windows or rings of the group: policy, not failure.",
                &["group"],
            )?,
            denied: counters(
                "gupd_denied_total",
                "Requests for content that the policy denies to the client: policy, not failure.",
                &["group", "content_type"],
            )?,
            slots: SlotMetrics::register(registry)?,
            saved_bytes: counter(
                "gupd_saved_bytes_total",
                "Bytes that clients got from the store or a running fill, and that did not cross the WAN again.",
            )?,
            #[cfg(feature = "otlp")]
            tracer: std::sync::OnceLock::new(),
        })
    }

    /// Returns metrics in a registry of their own.
    #[cfg(test)]
    pub(crate) fn in_new_registry() -> Self {
        let registry = Registry::new();
        let net = NetMetrics::register(&registry);
        net.and_then(|net| Self::register(&registry, &net)).expect("names are unique")
    }

    /// Creates the series of these content types at zero. Series of earlier ones stay.
    pub fn create_content_type_series<'a>(&self, content_types: impl Iterator<Item = &'a Arc<str>>) {
        let resolved =
            content_types.map(|name| (name.clone(), self.content_type_bytes.with_label_values(&[name])));
        self.by_content_type.store(Arc::new(resolved.collect()));
    }

    /// Counts the bytes of an ended response by content type, one of the configuration.
    pub fn count_content_type(&self, content_type: Option<&str>, bytes: u64) {
        let Some(content_type) = content_type else { return };
        if let Some((_, counter)) =
            self.by_content_type.load().iter().find(|(name, _)| **name == *content_type)
        {
            counter.inc_by(bytes);
        }
    }

    /// Returns the bytes sent to clients, by content type and in all.
    pub fn sent_bytes(&self) -> (Vec<(Arc<str>, u64)>, u64) {
        let by_type = self.by_content_type.load();
        let by_type = by_type.iter().map(|(name, counter)| (name.clone(), counter.get())).collect();
        (by_type, self.client_bytes.iter().flatten().map(IntCounter::get).sum())
    }

    /// Returns the number of answered requests, and of those that were answered from the store.
    pub fn request_counts(&self) -> (u64, u64) {
        let sum = |row: &[IntCounter; CLASSES.len()]| row.iter().map(IntCounter::get).sum::<u64>();
        let hits = self.requests.get(CacheResult::Hit as usize).map_or(0, sum);
        (self.requests.iter().map(sum).sum(), hits)
    }

    /// Counts a response just before its head is sent. A refused request has no `cache`.
    pub fn count_response(&self, cache: Option<CacheStatus>, class: Class, status: StatusCode) {
        if let Some(counter) = counter(&self.requests, cache, class) {
            counter.inc();
        }
        if let Some(counter) = self.responses.get(StatusClass::of(status) as usize) {
            counter.inc();
        }
    }

    /// Counts a response by the protocol version of its request.
    pub fn count_protocol(&self, version: Version) {
        let at = PROTOCOLS.iter().position(|known| *known == version);
        if let Some(counter) = at.and_then(|at| self.by_protocol.get(at)) {
            counter.inc();
        }
    }

    /// Counts the bytes sent to a client once its response has ended. The relay had `stored` of them when it came.
    pub fn count_sent(
        &self,
        cache: Option<CacheStatus>,
        class: Class,
        bytes: u64,
        stored: u64,
        took: Duration,
    ) {
        if let Some(counter) = counter(&self.client_bytes, cache, class) {
            counter.inc_by(bytes);
        }
        self.saved_bytes.inc_by(if cache.is_some_and(CacheStatus::is_wan_free) { bytes } else { stored });
        self.request_seconds.observe(took.as_secs_f64());
    }
}

/// Registers the counter of broken transfers, and creates its series at zero.
fn register_broken(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let broken = register_int_counter_vec_with_registry!(
        "gupd_broken_transfers_total",
        "Responses that broke off, by side.",
        &["by"],
        registry
    )?;
    for by in [ResponseEnd::Client, ResponseEnd::Upstream] {
        broken.with_label_values(&[by.as_str()]);
    }
    Ok(broken)
}

/// Registers a histogram of seconds from a request on.
fn register_seconds(registry: &Registry, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
    let opts = HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
    register_histogram_with_registry!(opts, registry)
}

/// Registers a counter by cache result and class, and resolves its series.
fn by_class(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<Vec<[IntCounter; CLASSES.len()]>, prometheus::Error> {
    let counters = register_int_counter_vec_with_registry!(name, help, &["cache", "class"], registry)?;
    let row = |cache: CacheResult| {
        CLASSES.map(|class| counters.with_label_values(&[cache.as_str(), class.as_str()]))
    };
    Ok(CacheResult::ALL.map(row).into())
}

fn counter(
    counters: &[[IntCounter; CLASSES.len()]],
    cache: Option<CacheStatus>,
    class: Class,
) -> Option<&IntCounter> {
    counters.get(cache?.result() as usize)?.get(class as usize)
}
