//! The store's own figures as metrics. The store counts for itself, and knows nothing of metrics; here its figures are
//! read whenever somebody scrapes.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{EvictionReason, StoreHealth, StoreStats};

/// Gauges and counters that show the figures of a store.
#[derive(Debug)]
pub struct StoreMetrics {
    objects: IntGauge,
    blobs: IntGauge,
    disk_bytes: IntGauge,
    quota_bytes: IntGauge,
    memory_bytes: IntGauge,
    open_files: IntGauge,
    deduplicated_bytes: IntGauge,
    disk_reads: IntCounter,
    verification_failures: IntCounter,
    repaired_bytes: IntCounter,
    scrubbed_bytes: IntCounter,
    scrub_damaged: IntCounter,
    scrub_completed: IntGauge,
    given_up_bytes: IntCounter,
    evicted_objects: IntCounterVec,
    evicted_bytes: IntCounterVec,
    condition: IntGaugeVec,
    ahead_unused_bytes: IntCounter,
    ahead_bytes: IntGauge,
}

impl StoreMetrics {
    /// Registers all of them, at zero.
    ///
    /// # Errors
    /// When the registry already has a metric of one of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let by_reason = |name: &str, help: &str| -> Result<IntCounterVec, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &["reason"])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let condition = IntGaugeVec::new(
            Opts::new("gupd_store_condition", "How the store's disk is: 1 for the state it is in."),
            &["state"],
        )?;
        registry.register(Box::new(condition.clone()))?;
        Ok(Self {
            condition,
            objects: gauge("gupd_store_objects", "Objects in the store.")?,
            blobs: gauge("gupd_store_blobs", "Blobs in the store; objects with the same bytes share one.")?,
            disk_bytes: gauge("gupd_store_bytes", "Bytes of the store on disk.")?,
            quota_bytes: gauge("gupd_store_quota_bytes", "Bytes the store may have on disk.")?,
            memory_bytes: gauge(
                "gupd_memory_bytes",
                "Bytes of bodies in memory: hot chunks and bytes on their way.",
            )?,
            open_files: gauge("gupd_store_open_files", "Files of blobs that are open.")?,
            deduplicated_bytes: gauge(
                "gupd_store_deduplicated_bytes",
                "Bytes not stored again, because another object has the same.",
            )?,
            disk_reads: counter("gupd_store_disk_reads_total", "Reads of chunks or pieces from disk.")?,
            verification_failures: counter(
                "gupd_store_verification_failures_total",
                "Stored bytes that were not what had been stored, and were not served.",
            )?,
            repaired_bytes: counter(
                "gupd_store_repaired_bytes_total",
                "Damaged bytes on disk that were fetched again and replaced.",
            )?,
            scrubbed_bytes: counter("gupd_store_scrubbed_bytes_total", "Bytes the scrub has verified.")?,
            scrub_damaged: counter(
                "gupd_store_scrub_damaged_blobs_total",
                "Blobs the scrub found damaged or missing, and removed to be fetched again.",
            )?,
            scrub_completed: gauge(
                "gupd_store_scrub_completed_timestamp_seconds",
                "When the scrub had last verified the whole store; 0 if it never has.",
            )?,
            ahead_unused_bytes: counter(
                "gupd_prefetch_unused_bytes_total",
                "Prefetched bytes that were removed before any client asked for them.",
            )?,
            ahead_bytes: gauge(
                "gupd_prefetch_waiting_bytes",
                "Prefetched bytes in the store that no client has asked for yet.",
            )?,
            given_up_bytes: counter(
                "gupd_store_given_up_bytes_total",
                "Bytes of content that was to be kept for clients of an older revision and had to go for room.",
            )?,
            evicted_objects: by_reason("gupd_store_evicted_objects_total", "Objects removed, by reason.")?,
            evicted_bytes: by_reason(
                "gupd_store_evicted_bytes_total",
                "Bytes removed from disk, by reason.",
            )?,
        })
    }

    /// Shows these figures. Counters only move forward.
    pub fn update(&self, facts: &StoreStats, quota: u64) {
        for (gauge, value) in [
            (&self.objects, facts.objects),
            (&self.blobs, facts.blobs),
            (&self.disk_bytes, facts.disk_bytes),
            (&self.quota_bytes, quota),
            (&self.memory_bytes, facts.memory_bytes),
            (&self.open_files, facts.open_files),
            (&self.ahead_bytes, facts.unused_prefetch_bytes),
            (&self.deduplicated_bytes, facts.deduplicated_bytes),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        for state in StoreHealth::ALL {
            let is = i64::from(facts.health == state);
            self.condition.with_label_values(&[state.as_str()]).set(is);
        }
        catch_up(&self.disk_reads, facts.disk_reads);
        catch_up(&self.verification_failures, facts.verification_failures);
        catch_up(&self.repaired_bytes, facts.repaired_bytes);
        catch_up(&self.scrubbed_bytes, facts.scrubbed_bytes);
        catch_up(&self.scrub_damaged, facts.scrub_damaged);
        catch_up(&self.ahead_unused_bytes, facts.wasted_prefetch_bytes);
        catch_up(&self.given_up_bytes, facts.evicted_pins.bytes);
        self.scrub_completed.set(facts.scrub_completed / 1000);
        for (reason, removed) in EvictionReason::ALL.into_iter().zip(facts.evicted) {
            catch_up(&self.evicted_objects.with_label_values(&[reason.as_str()]), removed.objects);
            catch_up(&self.evicted_bytes.with_label_values(&[reason.as_str()]), removed.bytes);
        }
    }
}

fn catch_up(counter: &IntCounter, value: u64) {
    counter.inc_by(value.saturating_sub(counter.get()));
}
