//! Metrics of fills. Each label value comes from an enum.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// Counters and gauges of fills.
#[derive(Debug)]
pub struct FillMetrics {
    /// Fills running now.
    pub running: IntGauge,
    /// Fills by outcome.
    pub ended: IntCounterVec,
    /// Broken transfers that were resumed.
    pub resumes: IntCounter,
    /// Broken transfers that another upstream continued.
    pub failovers: IntCounter,
    /// Content that differs from its announced digest, by announcer and consequence.
    pub digest_mismatches: IntCounterVec,
    /// Content that its route does not accept, by reason and consequence.
    pub unproven: IntCounterVec,
    /// Held objects, as last counted.
    pub held_objects: IntGauge,
    /// Responses larger than the quota of the store.
    pub oversized: IntCounter,
    /// Takes the spans of finished fills; empty without traces.
    #[cfg(feature = "otlp")]
    pub tracer: std::sync::OnceLock<std::sync::Arc<gupd_traces::Tracer>>,
}

impl FillMetrics {
    /// Registers all metrics at zero.
    ///
    /// # Errors
    /// Returns an error if the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            #[cfg(feature = "otlp")]
            tracer: std::sync::OnceLock::new(),
            running: register_int_gauge_with_registry!("gupd_fills_running", "Fills running now.", registry)?,
            ended: register_int_counter_vec_with_registry!(
                "gupd_fills_total",
                "Fills by outcome.",
                &["outcome"],
                registry
            )?,
            failovers: register_int_counter_with_registry!(
                "gupd_fill_failovers_total",
                "Broken upstream transfers that another upstream continued.",
                registry
            )?,
            resumes: register_int_counter_with_registry!(
                "gupd_fill_resumes_total",
                "Broken upstream transfers that were resumed.",
                registry
            )?,
            oversized: register_int_counter_with_registry!(
                "gupd_fill_oversized_total",
                "Responses larger than store.quota, passed through uncached.",
                registry
            )?,
            unproven: register_int_counter_vec_with_registry!(
                "gupd_unproven_content_total",
                "Content that its route does not accept: without proof, or a payload that changed.",
                &["reason", "then"],
                registry
            )?,
            held_objects: register_int_gauge_with_registry!(
                "gupd_held_objects",
                "Objects that are kept aside for an administrator.",
                registry
            )?,
            digest_mismatches: register_int_counter_vec_with_registry!(
                "gupd_digest_mismatches_total",
                "Content that did not match the digest announced by its head or catalog, by announcer and consequence.",
                &["by", "then"],
                registry
            )?,
        })
    }
}
