//! Prometheus metrics of the store. The store keeps its own counters and knows no metrics; [`StoreMetrics::update`]
//! copies them at every scrape.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{EvictionReason, StoreHealth, StoreStats};

/// A metric's name, its help text and its value.
type Figure = (&'static str, &'static str, fn(&StoreStats) -> u64);

const GAUGES: [Figure; 7] = [
    ("gupd_store_objects", "Objects in the store.", |stats| stats.objects),
    ("gupd_store_blobs", "Blobs in the store; objects with equal bytes share one.", |stats| stats.blobs),
    ("gupd_store_bytes", "Bytes of the store on disk.", |stats| stats.disk_bytes),
    ("gupd_memory_bytes", "Bytes of bodies in memory: cached chunks and bytes in transit.", |stats| {
        stats.memory_bytes
    }),
    ("gupd_store_open_files", "Open blob files.", |stats| stats.open_files),
    ("gupd_store_deduplicated_bytes", "Bytes saved because several objects share a blob.", |stats| {
        stats.deduplicated_bytes
    }),
    (
        "gupd_prefetch_waiting_bytes",
        "Prefetched bytes in the store that no client has requested yet.",
        |stats| stats.unused_prefetch_bytes,
    ),
];

const COUNTERS: [Figure; 7] = [
    ("gupd_store_disk_reads_total", "Disk reads of a chunk or a piece.", |stats| stats.disk_reads),
    (
        "gupd_store_verification_failures_total",
        "Reads that failed verification; their bytes were not served.",
        |stats| stats.verification_failures,
    ),
    (
        "gupd_store_repaired_bytes_total",
        "Damaged bytes on disk that were fetched again and replaced.",
        |stats| stats.repaired_bytes,
    ),
    ("gupd_store_scrubbed_bytes_total", "Bytes verified by the scrub.", |stats| stats.scrubbed_bytes),
    (
        "gupd_store_scrub_damaged_blobs_total",
        "Blobs that the scrub found damaged or missing, and removed to be fetched again.",
        |stats| stats.scrub_damaged,
    ),
    ("gupd_prefetch_unused_bytes_total", "Prefetched bytes that were removed unused.", |stats| {
        stats.wasted_prefetch_bytes
    }),
    (
        "gupd_store_given_up_bytes_total",
        "Bytes of pinned content that was evicted for room before clients of an older revision got it.",
        |stats| stats.evicted_pins.bytes,
    ),
];

/// Gauges and counters of a store.
#[derive(Debug)]
pub struct StoreMetrics {
    gauges: Vec<IntGauge>,
    counters: Vec<IntCounter>,
    quota_bytes: IntGauge,
    scrub_completed: IntGauge,
    health: IntGaugeVec,
    evicted_objects: IntCounterVec,
    evicted_bytes: IntCounterVec,
}

impl StoreMetrics {
    /// Registers all metrics with the value zero.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| register(registry, IntGauge::new(name, help)?);
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        let by_reason =
            |name, help| register(registry, IntCounterVec::new(Opts::new(name, help), &["reason"])?);
        let health = Opts::new("gupd_store_condition", "State of the store's disk: 1 for the current state.");
        Ok(Self {
            gauges: GAUGES.iter().map(|(name, help, _)| gauge(*name, *help)).collect::<Result<_, _>>()?,
            counters: COUNTERS
                .iter()
                .map(|(name, help, _)| counter(*name, *help))
                .collect::<Result<_, _>>()?,
            quota_bytes: gauge("gupd_store_quota_bytes", "Maximum bytes of the store on disk.")?,
            scrub_completed: gauge(
                "gupd_store_scrub_completed_timestamp_seconds",
                "End of the last complete scrub; 0 if there was none.",
            )?,
            health: register(registry, IntGaugeVec::new(health, &["state"])?)?,
            evicted_objects: by_reason("gupd_store_evicted_objects_total", "Objects removed, by reason.")?,
            evicted_bytes: by_reason(
                "gupd_store_evicted_bytes_total",
                "Bytes removed from disk, by reason.",
            )?,
        })
    }

    /// Copies the current figures. Counters only increase.
    pub fn update(&self, stats: &StoreStats, quota: u64) {
        for (gauge, (_, _, value)) in self.gauges.iter().zip(GAUGES) {
            gauge.set(i64::try_from(value(stats)).unwrap_or(i64::MAX));
        }
        for (counter, (_, _, value)) in self.counters.iter().zip(COUNTERS) {
            raise(counter, value(stats));
        }
        self.quota_bytes.set(i64::try_from(quota).unwrap_or(i64::MAX));
        self.scrub_completed.set(stats.scrub_completed / 1000);
        for state in StoreHealth::ALL {
            self.health.with_label_values(&[state.as_str()]).set(i64::from(stats.health == state));
        }
        for (reason, removed) in EvictionReason::ALL.into_iter().zip(stats.evicted) {
            raise(&self.evicted_objects.with_label_values(&[reason.as_str()]), removed.objects);
            raise(&self.evicted_bytes.with_label_values(&[reason.as_str()]), removed.bytes);
        }
    }
}

fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn raise(counter: &IntCounter, value: u64) {
    counter.inc_by(value.saturating_sub(counter.get()));
}
