//! Metrics of the ledger.

use prometheus::{
    IntCounter, IntGauge, Registry, register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// Size and failures of the ledger.
#[derive(Debug)]
pub struct LedgerMetrics {
    /// Bytes of the file in use.
    pub bytes: IntGauge,
    /// Failed writes.
    pub failures: IntCounter,
}

impl LedgerMetrics {
    /// Registers the metrics at zero.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            bytes: register_int_gauge_with_registry!(
                "gupd_ledger_bytes",
                "Bytes of the ledger of traffic that are in use, of ledger.max_size.",
                registry
            )?,
            failures: register_int_counter_with_registry!(
                "gupd_ledger_write_failures_total",
                "Failed writes of the ledger; its records are kept and written with the next ones.",
                registry
            )?,
        })
    }
}
