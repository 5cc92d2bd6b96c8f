//! Metrics of what the relay asks for by itself. How much of it was never of use, the store knows: see `store_metrics`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counted by `refresh`.
#[derive(Debug)]
pub struct RefreshMetrics {
    /// Refreshes by how they ended.
    pub refreshes: IntCounterVec,
    /// Catalogs asked for, by what came of it.
    pub catalogs: IntCounterVec,
    /// When the last one that did not fail ended; seconds since 1970, 0 if there was none.
    pub completed: IntGauge,
    /// When the next one by the schedule begins; 0 if there is none.
    pub next: IntGauge,
    /// Bytes of objects that were fetched before a client asked.
    pub prefetched_bytes: IntCounter,
}

impl RefreshMetrics {
    /// Registers all of them, at zero.
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
            "Bytes of objects that were stored before any client asked for them.",
        )?;
        registry.register(Box::new(prefetched_bytes.clone()))?;
        Ok(Self {
            refreshes: counters("gupd_refresh_total", "Refreshes of catalogs by how they ended.", "outcome")?,
            catalogs: counters(
                "gupd_refresh_catalogs_total",
                "Catalogs asked for by refreshes, by what came of it.",
                "outcome",
            )?,
            completed: gauge(
                "gupd_refresh_completed_timestamp_seconds",
                "When the last refresh without a failure ended; 0 if there was none.",
            )?,
            next: gauge(
                "gupd_refresh_next_timestamp_seconds",
                "When the next refresh by the schedule begins; 0 if there is none.",
            )?,
            prefetched_bytes,
        })
    }
}
