//! Metrics of the shared tier: publications and damage. Requests of fills are counted where they are sent, in `net`.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// Outcome of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicationOutcome {
    /// The object is new in the tier.
    Published,
    /// Another relay has published it.
    Present,
    /// It replaced a damaged or incomplete one.
    Repaired,
    /// The tier has other content under its key.
    Conflict,
    /// The tier, or the store, failed.
    Failed,
    /// The queue was full.
    Dropped,
}

impl PublicationOutcome {
    const ALL: [Self; 6] =
        [Self::Published, Self::Present, Self::Repaired, Self::Conflict, Self::Failed, Self::Dropped];

    /// Returns the label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Present => "present",
            Self::Repaired => "repaired",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Counters and gauges of publications.
#[derive(Debug)]
pub struct TierMetrics {
    publications: IntCounterVec,
    /// Bytes of published blobs.
    pub published_bytes: IntCounter,
    /// Publications that wait or run.
    pub pending: IntGauge,
    /// Objects found damaged or incomplete.
    pub damaged: IntCounter,
}

impl TierMetrics {
    /// Registers all metrics of the tier, at zero.
    ///
    /// # Errors
    /// If the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let publications = register_int_counter_vec_with_registry!(
            "gupd_tier_publications_total",
            "Objects offered to the shared tier, by outcome.",
            &["outcome"],
            registry
        )?;
        for outcome in PublicationOutcome::ALL {
            publications.with_label_values(&[outcome.as_str()]);
        }
        let counter = |name: &str, help: &str| register_int_counter_with_registry!(name, help, registry);
        Ok(Self {
            publications,
            published_bytes: counter(
                "gupd_tier_published_bytes_total",
                "Bytes of content written to the shared tier.",
            )?,
            pending: register_int_gauge_with_registry!(
                "gupd_tier_publications_pending",
                "Objects that wait for their publication in the shared tier, or are being written.",
                registry
            )?,
            damaged: counter(
                "gupd_tier_damaged_total",
                "Objects of the shared tier found damaged or incomplete.",
            )?,
        })
    }

    /// Counts a publication.
    pub fn count(&self, outcome: PublicationOutcome) {
        self.publications.with_label_values(&[outcome.as_str()]).inc();
    }
}
