//! Metrics of traces.

use prometheus::{IntCounter, Registry, register_int_counter_vec_with_registry};

/// Spans by their result.
#[derive(Debug)]
pub struct TraceMetrics {
    /// Spans that the collector has accepted.
    pub exported: IntCounter,
    /// Spans that found the queue full.
    pub dropped: IntCounter,
    /// Spans of batches that the collector did not accept.
    pub failed: IntCounter,
}

impl TraceMetrics {
    /// Registers the metrics at zero.
    ///
    /// # Errors
    /// When the registry already has a metric of this name.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let spans = register_int_counter_vec_with_registry!(
            "gupd_trace_spans_total",
            "Sampled spans by result: exported, dropped because the queue was full, or failed with their batch.",
            &["result"],
            registry
        )?;
        let [exported, dropped, failed] =
            ["exported", "dropped", "failed"].map(|result| spans.with_label_values(&[result]));
        Ok(Self { exported, dropped, failed })
    }
}
