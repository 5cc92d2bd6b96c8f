//! From a store that is open to a relay that serves: accepting, the admin address, and the tasks that run beside requests.
//! Owns when each of these begins, and that all but the limits end when the relay leaves.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Relay, StartError};
use gupd_admin::{Admin, Orders};
use gupd_cache::Cache;
use gupd_guard::metrics::Figures;
use gupd_net::listen::{Acceptors, LifecycleStage, Sockets};
use gupd_net::upstream::health;
use gupd_proxy::Background;
use gupd_refresh as refresh;
use gupd_rollout::engine;
use gupd_store::{Scrub, Store};

/// Pause between two rounds of housekeeping.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// Pause between two looks at a disk that fails: nobody has to wait longer for hits when it is well again.
const RECOVERY: Duration = Duration::from_secs(1);

/// A relay that is about to serve: its store is open, and nothing is accepted yet. Dropping it ends it.
#[derive(Debug)]
pub struct Ready {
    pub(super) relay: Relay,
    pub(super) sockets: Sockets,
    pub(super) refresh: refresh::Task,
    pub(super) rollout: engine::Task,
    pub(super) check: health::HealthCheckTask,
    pub(super) orders: Option<Orders>,
}

impl Ready {
    /// Passes on what an administrator asks of the process.
    #[must_use]
    pub fn ordered(self, orders: Orders) -> Self {
        Self { orders: Some(orders), ..self }
    }

    /// Shows the guard's figures.
    #[must_use]
    pub fn guarded(self, figures: &Figures) -> Self {
        self.relay.metrics.show_guard(figures);
        self
    }

    /// Accepts clients from now on, and begins what is done without them.
    ///
    /// # Errors
    /// When the system cannot watch a socket.
    pub fn serve(self) -> Result<Relay, StartError> {
        let Self { mut relay, sockets, refresh, rollout, check, orders } = self;
        let Some(control) = &relay.control else { return Ok(relay) };
        let (generation, stages) = (relay.generations.load_full(), relay.stage.subscribe());
        let config = &generation.config;
        let _in_control = control.enter();
        let (workers, newcomers) = (&relay.workers, &relay.newcomers);
        let acceptors = Acceptors::start(
            sockets.clients,
            workers,
            newcomers,
            &config.server,
            &relay.metrics.net,
            &stages,
        )?;
        let store = relay.cache.store().clone();
        let scrub = config.store.scrub_period.map(|period| store.scrub(period, config.store.scrub_rate));
        let admin = Admin {
            exposition: relay.metrics.exposition.clone(),
            store,
            quota: config.store.quota,
            stage: stages.clone(),
            refresher: relay.refresher.clone(),
            orders,
            drain: relay.proxy.drain().clone(),
            rollouts: relay.rollouts.clone(),
            clock: relay.clock.clone(),
            token_file: config.server.admin_token_file.clone(),
        };
        let (listener, handed_over) = (TcpListener::from_std(sockets.admin)?, relay.handed_over.clone());
        tokio::spawn(async move {
            if let Err(error) = admin.serve(listener, handed_over).await {
                tracing::error!(%error, "the admin address failed");
            }
        });
        if let Some(scrub) = scrub {
            relay.background.spawn(scrub_store(scrub, relay.proxy.background().clone(), stages.clone()));
        }
        relay.background.spawn(keep_fresh(refresh, stages.clone()));
        let mut stage = stages.clone();
        relay
            .background
            .spawn(rollout.run(async move { LifecycleStage::Leaving.wait_until_reached(&mut stage).await }));
        let (tracker, store) = (relay.rollouts.clients().clone(), relay.cache.store().clone());
        let mut stage = stages.clone();
        relay.background.spawn(
            tracker.run(store, async move { LifecycleStage::Leaving.wait_until_reached(&mut stage).await }),
        );
        let (to_clients, from_upstreams) = (relay.lan.clone(), relay.wan.clone());
        tokio::spawn(until_stopped(stages.clone(), async move { to_clients.run().await }));
        tokio::spawn(until_stopped(stages.clone(), async move { from_upstreams.run().await }));
        tokio::spawn(until_stopped(stages.clone(), check.run()));
        relay.background.spawn(maintain(relay.cache.clone(), stages));
        relay.acceptors = Some(acceptors);
        Ok(relay)
    }
}

/// Runs what has no end of its own until the last response has ended.
async fn until_stopped(mut stage: watch::Receiver<LifecycleStage>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = LifecycleStage::Stopped.wait_until_reached(&mut stage) => {}
    }
}

async fn maintain(cache: Arc<Cache>, mut stage: watch::Receiver<LifecycleStage>) {
    let mut rounds = tokio::time::interval(MAINTENANCE);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = ailing(cache.store()) => {}
            () = LifecycleStage::Leaving.wait_until_reached(&mut stage) => return,
        }
        if let Err(error) = cache.maintain().await {
            tracing::error!(%error, "the store's housekeeping failed");
        }
    }
}

/// Dropped when the relay leaves: what it had begun is kept, and is no reason to wait.
async fn keep_fresh(refresh: refresh::Task, mut stage: watch::Receiver<LifecycleStage>) {
    tokio::select! {
        () = refresh.run() => {}
        () = LifecycleStage::Leaving.wait_until_reached(&mut stage) => {}
    }
}

/// Repairs the damaged blobs that the scrub finds.
async fn scrub_store(
    mut scrub: Scrub,
    background: Arc<Background>,
    mut stage: watch::Receiver<LifecycleStage>,
) {
    let scrubbing = async {
        loop {
            let damaged = scrub.next_damaged().await;
            background.repair_blob(damaged).await;
        }
    };
    tokio::select! {
        () = scrubbing => {}
        () = LifecycleStage::Leaving.wait_until_reached(&mut stage) => {}
    }
}

/// Waits for the next look at a disk that fails, for as long as it does.
async fn ailing(store: &Store) {
    store.wait_until_degraded().await;
    tokio::time::sleep(RECOVERY).await;
}
