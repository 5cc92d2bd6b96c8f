//! A relay's refresh and everything below it, without HTTP clients. Tests inspect the published revisions as clients
//! would see them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gupd_cache::Cache;
use gupd_cache::fill::Fills;
use gupd_cli::relay::RelayMetrics;
use gupd_config as config;
use gupd_config::policy::Policy;
use gupd_config::{Class, Gate, Recurrence, Steps, WeekWindows};
use gupd_config::{Clock, Config};
use gupd_net::client_budgets::ClientBudgets;
use gupd_net::shape::{LanLimiter, SlotLimiter, WanLimiter};
use gupd_net::upstream::{Network, Upstreams};
use gupd_proxy::background::PendingOutcome;
use gupd_proxy::{ClientLimits, Generation, Generations, Proxy};
use gupd_refresh::{RefreshReport, Refresher};
use gupd_rollout::engine::Rollouts;
use gupd_rollout::revision::{Catalog, Revision, version_key};
use gupd_rollout::view::RevisionView;
use gupd_store::{BlobId, ObjectKey, Store};
use tempfile::TempDir;
use tokio::task::AbortHandle;

pub struct Collector {
    pub proxy: Arc<Proxy>,
    pub cache: Arc<Cache>,
    pub rollouts: Rollouts,
    pub refresher: Refresher,
    pub metrics: Arc<RelayMetrics>,
    pub store: Arc<Store>,
    pub clock: Clock,
    tasks: Vec<AbortHandle>,
    pub folder: TempDir,
}

impl Collector {
    /// Starts a collector of these upstreams over the system's network.
    pub async fn start(upstreams: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        Self::new(upstreams, None, change).await
    }

    /// Starts a collector over another network.
    pub async fn start_on(network: Arc<dyn Network>, upstreams: &[&str]) -> Self {
        Self::new(upstreams, Some(network), |_| {}).await
    }

    async fn new(
        upstreams: &[&str],
        network: Option<Arc<dyn Network>>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::for_upstreams(upstreams).unwrap();
        config.store.dir = folder.path().to_owned();
        config.store.min_free = 0;
        config.refresh.schedule = Recurrence::Off;
        config.prefetch.learned = false;
        config.fill.head_timeout = Duration::from_secs(20);
        config.rings = vec![everyone_at_once()];
        change(&mut config);
        let clock = Clock::manual(Clock::system().now());
        let metrics = Arc::new(RelayMetrics::new().unwrap());
        let wan = Arc::new(WanLimiter::unlimited(&config, clock.clone()));
        let upstreams = match network {
            None => Upstreams::new(&config, clock.clone(), wan, metrics.net.clone()).unwrap(),
            Some(network) => {
                Upstreams::with_network(network, &config, clock.clone(), wan, metrics.net.clone()).unwrap()
            }
        };
        let store = Store::open(&config.store, clock.clone()).unwrap();
        let cache = Arc::new(Cache::new(config.cache.clone(), store.clone(), clock.clone()));
        let budgets = Arc::new(ClientBudgets::new(&config));
        let fills = Fills::new(&config, cache.clone(), budgets.clone(), metrics.fills.clone(), clock.clone());
        let generation = Generation::new(config.clone(), Arc::new(upstreams)).unwrap();
        let rules = generation.rollout.clone();
        let (rollouts, rollout) =
            Rollouts::open(&config, rules, store.clone(), metrics.rollout.clone(), clock.clone())
                .await
                .unwrap();
        let generations = Arc::new(Generations::new(generation, rollouts.clone()));
        let lan = Arc::new(LanLimiter::new(&config, clock.clone()));
        let limits = ClientLimits { lan, slots: Arc::new(SlotLimiter::new(&config)), budgets };
        let proxy = Proxy::new(generations, fills, limits, metrics.requests.clone());
        let proxy = Arc::new(proxy);
        let (refresher, refresh) = Refresher::new(
            &config,
            proxy.background().clone(),
            rollouts.clone(),
            store.clone(),
            metrics.refresh.clone(),
            clock.clone(),
        );
        let tracker = rollouts.clients().clone();
        let tasks = vec![
            tokio::spawn(tracker.run(store.clone(), std::future::pending())).abort_handle(),
            tokio::spawn(rollout.run(std::future::pending())).abort_handle(),
            tokio::spawn(refresh.run()).abort_handle(),
        ];
        Self { proxy, cache, rollouts, refresher, metrics, store, clock, tasks, folder }
    }

    /// Stops the refresh task: from here on only requests cause fetches.
    pub fn stop_refresh(&self) {
        self.tasks.last().unwrap().abort();
    }

    pub async fn refresh(&self) -> RefreshReport {
        self.refresher.refresh().await.unwrap()
    }

    /// Waits for a catalog that no revision has, as a client's request does.
    pub async fn wait_for_catalog(&self, path: &str) -> PendingOutcome {
        self.proxy.background().pending_catalogs().wait_for(&key(path)).await
    }

    pub fn views(&self) -> Arc<RevisionView> {
        self.rollouts.view().as_ref().unwrap().clone()
    }

    /// The revision that is visible to a client.
    pub fn view(&self) -> Arc<Revision> {
        let views = self.views();
        views.visible_revision("default", IpAddr::from([10, 0, 0, 1]), self.clock.now()).unwrap().clone()
    }

    /// Number of the newest revision, and the blobs of its catalogs by path.
    pub fn newest(&self) -> (u64, BTreeMap<String, Option<BlobId>>) {
        let newest = self.views().newest().unwrap().clone();
        let path = |key: &str| key.split_once(" ").unwrap().1.to_owned();
        let catalogs = newest.catalogs.iter().map(|(key, catalog)| (path(key), catalog.blob()));
        (newest.number.get(), catalogs.collect())
    }

    /// Returns upstream and length of the stored version of each catalog of a revision.
    pub async fn stored(&self, revision: &Revision) -> Vec<(Arc<str>, u64)> {
        let mut stored = Vec::new();
        for (key, catalog) in &revision.catalogs {
            let Catalog::Present { since, blob, len } = catalog else { continue };
            let versions = self.store.lookup(&version_key(*since, key)).await.unwrap();
            let [version] = &versions[..] else {
                panic!("{key} of {since} is stored {} times", versions.len())
            };
            assert_eq!((version.blob, version.len), (*blob, *len), "{key}");
            stored.push((version.upstream.clone(), version.len));
        }
        stored
    }

    pub fn refresh_count(&self, outcome: &str) -> u64 {
        self.metrics.refresh.catalogs.with_label_values(&[outcome]).get()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

pub fn key(path: &str) -> ObjectKey {
    let config = Config::for_upstreams(&["http://any"]).unwrap();
    let policy = Policy::new(&config).unwrap();
    let route = policy.route(None, path).unwrap();
    assert_eq!(policy.classify(route, path).class, Class::Catalog, "{path}");
    ObjectKey::from(format!("{} {path}", route.name))
}

pub fn everyone_at_once() -> config::RingSettings {
    config::RingSettings {
        name: "everyone".to_owned(),
        location: None,
        groups: vec!["default".to_owned()],
        after: None,
        delay: Duration::ZERO,
        spread: Duration::ZERO,
        windows: WeekWindows::constant(true),
        gate: Gate::Auto,
        steps: Steps::All,
        step: Duration::ZERO,
    }
}
