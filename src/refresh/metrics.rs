//! Metrics of background requests. The store counts prefetched bytes that were never used, see its metrics.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of background requests.
#[derive(Debug)]
pub struct RefreshMetrics {
    /// Refreshes by outcome.
    pub refreshes: IntCounterVec,
    /// Catalogs requested by refreshes, by outcome.
    pub catalogs: IntCounterVec,
    /// End of the last refresh without failure in seconds since 1970; 0 if there was none.
    pub completed: IntGauge,
    /// End of the first failed refresh since the last success in seconds since 1970; 0 if there was none.
    pub failing_since: IntGauge,
    /// Start of the next scheduled refresh in seconds since 1970; 0 if there is none.
    pub next: IntGauge,
    /// Bytes of objects that were fetched before a client requested them.
    pub prefetched_bytes: IntCounter,
    /// Objects that were not prefetched, by reason.
    pub prefetch_failures: IntCounterVec,
    /// Checks of stored payloads, by outcome.
    pub payload_checks: IntCounterVec,
}

impl RefreshMetrics {
    /// Registers the metrics, at zero.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let prefetched_bytes = IntCounter::new(
            "gupd_prefetched_bytes_total",
            "Bytes of objects that were stored before any client requested them.",
        )?;
        registry.register(Box::new(prefetched_bytes.clone()))?;
        Ok(Self {
            refreshes: counters("gupd_refresh_total", "Refreshes of catalogs by outcome.", "outcome")?,
            catalogs: counters(
                "gupd_refresh_catalogs_total",
                "Catalogs requested by refreshes, by outcome.",
                "outcome",
            )?,
            completed: gauge(
                "gupd_refresh_completed_timestamp_seconds",
                "End of the last refresh without failure; 0 if there was none.",
            )?,
            failing_since: gauge(
                "gupd_refresh_failing_since_timestamp_seconds",
                "End of the first failed refresh since the last success; 0 if there was none.",
            )?,
            next: gauge(
                "gupd_refresh_next_timestamp_seconds",
                "Start of the next scheduled refresh; 0 if there is none.",
            )?,
            prefetched_bytes,
            prefetch_failures: counters(
                "gupd_prefetch_failures_total",
                "Objects that could not be prefetched, by reason.",
                "reason",
            )?,
            payload_checks: counters(
                "gupd_payload_checks_total",
                "Checks whether stored payloads have changed upstream, by outcome.",
                "outcome",
            )?,
        })
    }
}
