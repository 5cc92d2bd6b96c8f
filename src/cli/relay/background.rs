//! The background tasks of a relay: store maintenance, scrubbing, refresh, rollouts, client tracking, limiters and
//! health checks. Tasks that write to the store end when the relay stops accepting, because another process may then
//! open it. The limiters and health checks run until the last response has ended.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::Relay;
use super::process_metrics::update_certificates;
use gupd_cache::Cache;
use gupd_cache::publish::PublicationTask;
use gupd_ledger::LedgerTask;
use gupd_net::listen::LifecycleStage;
use gupd_net::upstream::health::HealthCheckTask;
use gupd_proxy::Background;
use gupd_refresh as refresh;
use gupd_rollout::engine;
use gupd_store::{Scrub, Store};

/// Interval of store maintenance.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(30);

/// Interval of attempts while the disk fails, and so the longest delay until a repaired disk gives hits again.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(1);

/// Tasks that the parts of the relay came with.
#[derive(Debug)]
pub(super) struct BackgroundTasks {
    pub(super) refresh: refresh::RefreshTask,
    pub(super) rollout: engine::RolloutTask,
    pub(super) health: HealthCheckTask,
    pub(super) ledger: LedgerTask,
    /// Publication in the shared tier, if there is one.
    pub(super) publication: Option<PublicationTask>,
    #[cfg(feature = "otlp")]
    pub(super) traces: Option<gupd_traces::ExportTask>,
}

impl BackgroundTasks {
    /// Spawns all tasks on the current runtime.
    pub(super) fn spawn(self, relay: &Relay) {
        let stage = || relay.stage.subscribe();
        let leaving = || {
            let mut stage = stage();
            async move { LifecycleStage::Leaving.wait_until_reached(&mut stage).await }
        };
        let (tasks, store) = (&relay.background, relay.cache.store().clone());
        let config = relay.generations.load().config.store.clone();
        if let Some(period) = config.scrub_period {
            let scrub = store.scrub(period, config.scrub_rate);
            tasks.spawn(run_until(leaving(), run_scrub(scrub, relay.proxy.background().clone())));
        }
        // An interrupted refresh keeps what it has fetched, so the relay does not wait for it.
        tasks.spawn(run_until(leaving(), self.refresh.run()));
        tasks.spawn(self.rollout.run(leaving()));
        if let Some(publication) = self.publication {
            tasks.spawn(publication.run(leaving()));
        }
        let tracker = relay.rollouts.clients().clone();
        let end = leaving();
        tasks.spawn(async move { tracker.run(store, end).await });
        tasks.spawn(run_maintenance(relay.cache.clone(), leaving()));
        let stopped = || {
            let mut stage = stage();
            async move { LifecycleStage::Stopped.wait_until_reached(&mut stage).await }
        };
        let (listeners, generations) = (relay.server.listeners().clone(), relay.generations.clone());
        let (metrics, clock) = (relay.metrics.net.clone(), relay.builder.clock.clone());
        tasks.spawn(run_until(leaving(), async move {
            let renew = || update_certificates(&generations.load().config, None, &metrics);
            listeners.watch_files(clock, renew).await;
        }));
        let (lan, wan) = (relay.limits.lan.clone(), relay.limits.wan.clone());
        tokio::spawn(run_until(stopped(), async move { lan.run().await }));
        tokio::spawn(run_until(stopped(), async move { wan.run().await }));
        tokio::spawn(run_until(stopped(), self.health.run()));
        let neighbours = relay.server.listeners().neighbours().clone();
        tokio::spawn(run_until(stopped(), async move { neighbours.run().await }));
        // Transfers record themselves until the last response has ended.
        relay.ledger_writes.spawn(self.ledger.run(relay.ledger_end.clone()));
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            relay.ledger_writes.spawn(traces.run(relay.ledger_end.clone()));
        }
    }
}

/// Runs `task` until `end` completes.
async fn run_until(end: impl Future<Output = ()>, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = end => {}
    }
}

/// Runs until `end` completes. A round that has begun is finished, because it writes to the store.
async fn run_maintenance(cache: Arc<Cache>, end: impl Future<Output = ()>) {
    let mut end = pin!(end);
    let mut interval = tokio::time::interval(MAINTENANCE_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = wait_to_recover(cache.store()) => {}
            () = cache.store().wait_until_reconfigured() => {}
            () = &mut end => return,
        }
        if let Err(error) = cache.maintain().await {
            tracing::error!(%error, "store maintenance failed");
        }
    }
}

/// Waits until the store is degraded and the next recovery attempt is due.
async fn wait_to_recover(store: &Store) {
    store.wait_until_degraded().await;
    tokio::time::sleep(RECOVERY_INTERVAL).await;
}

/// Repairs the damaged blobs that the scrub finds.
async fn run_scrub(mut scrub: Scrub, repairs: Arc<Background>) {
    loop {
        let damaged = scrub.next_damaged().await;
        repairs.repair_blob(damaged).await;
    }
}

/// Sets the tracer of requests and fills. Returns its task; `None` without a collector.
#[cfg(feature = "otlp")]
pub(super) fn start_traces(
    config: &gupd_config::Config,
    metrics: &super::RelayMetrics,
    clock: &gupd_config::Clock,
) -> Result<Option<gupd_traces::ExportTask>, gupd_traces::ExporterError> {
    let traces = gupd_traces::Tracer::new(&config.traces, metrics.traces.clone(), clock.clone())?;
    let Some((tracer, task)) = traces else { return Ok(None) };
    let tracer = Arc::new(tracer);
    // The metrics are new, so neither has a tracer yet.
    let _unset = metrics.requests.tracer.set(tracer.clone());
    let _unset = metrics.fills.tracer.set(tracer);
    Ok(Some(task))
}
