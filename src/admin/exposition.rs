//! The text exposition of all metrics of a relay. The counts of the store are read at each scrape and added to counters
//! as differences, so concurrent scrapes take turns: no difference is added twice.

use std::sync::{Mutex, PoisonError};

use super::process::ProcessMetrics;
use super::status::FindingKind;
use gupd_store::{StoreMetrics, StoreStats};
use prometheus::{Encoder, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// Initial size of the text, in bytes: a relay with a few upstreams needs about this much.
const TEXT_BYTES: usize = 16 << 10;

/// The registry of a relay, and the metrics that are read only when someone scrapes.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    connections: IntGauge,
    draining: IntGauge,
    wan_limit: IntGauge,
    admin_refused: IntCounterVec,
    alarms: IntGaugeVec,
    process: ProcessMetrics,
    // Locked for the duration of a scrape.
    store: Mutex<StoreMetrics>,
}

impl Exposition {
    /// Exposes `registry`; the store's metrics are registered in it. `connections` counts open client connections.
    ///
    /// # Errors
    /// When the registry already has the store's metrics.
    pub fn new(registry: Registry, connections: IntGauge) -> Result<Self, prometheus::Error> {
        let store = Mutex::new(StoreMetrics::register(&registry)?);
        let draining =
            IntGauge::new("gupd_draining", "1 while the relay drains or stops: /readyz answers 503.")?;
        registry.register(Box::new(draining.clone()))?;
        let wan_limit = IntGauge::new(
            "gupd_wan_limit_bytes_per_second",
            "Bytes a second that all upstreams together may send now, by wan.limit and yielding; 0 without a limit.",
        )?;
        registry.register(Box::new(wan_limit.clone()))?;
        let refused = Opts::new(
            "gupd_admin_refused_total",
            "Connections and requests on the admin address that were refused or closed for room, by reason.",
        );
        let admin_refused = IntCounterVec::new(refused, &["reason"])?;
        registry.register(Box::new(admin_refused.clone()))?;
        let alarms = Opts::new(
            "gupd_alarm_active",
            "1 while an alarm of this kind is raised, as on the Events page; found every 15 seconds.",
        );
        let alarms = IntGaugeVec::new(alarms, &["alarm"])?;
        FindingKind::alarms().for_each(|alarm| alarms.with_label_values(&[alarm]).set(0));
        registry.register(Box::new(alarms.clone()))?;
        let process = ProcessMetrics::register(&registry)?;
        Ok(Self { registry, connections, draining, wan_limit, admin_refused, alarms, process, store })
    }

    /// Returns the text format, with these figures of the store.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn encode(
        &self,
        facts: &StoreStats,
        quota: u64,
        is_draining: bool,
        wan_limit: u64,
    ) -> Result<Vec<u8>, prometheus::Error> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.update(facts, quota);
        self.process.update();
        self.draining.set(is_draining.into());
        self.wan_limit.set(i64::try_from(wan_limit).unwrap_or(i64::MAX));
        let mut text = Vec::with_capacity(TEXT_BYTES);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Sets which kinds of alarms are raised.
    pub(super) fn set_alarms(&self, raised: &[&str]) {
        for alarm in FindingKind::alarms() {
            self.alarms.with_label_values(&[alarm]).set(raised.contains(&alarm).into());
        }
    }

    /// Counter of connections and requests that the admin address refused.
    pub fn admin_refused(&self) -> &IntCounterVec {
        &self.admin_refused
    }

    /// Returns the number of open client connections.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }
}
