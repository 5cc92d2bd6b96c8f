//! The start of a relay in two steps. [`Relay::prepare`] validates the configuration, opens the store and builds all
//! parts; nothing is accepted yet. [`PreparedRelay::serve`] accepts clients and spawns the background tasks.

use std::sync::{Arc, mpsc};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::background::BackgroundTasks;
use super::generation::LongLivedParts;
use super::process_metrics::update_certificates;
use super::{GenerationBuilder, Relay, RelayMetrics, SharedLimits, StartError};
use gupd_admin::{AdminApi, ProcessCommands};
use gupd_cache::Cache;
use gupd_cache::fill::Fills;
use gupd_cache::publish::{PublicationTask, Publisher};
use gupd_config::Config;
use gupd_config::clock::Clock;
use gupd_guard::metrics::GuardStats;
use gupd_ledger::{Ledger, LedgerTask, SiteSample};
use gupd_net::SetupError;
use gupd_net::client_budgets::ClientBudgets;
use gupd_net::listen::{
    Acceptors, ClientListeners, ConnectionRateLimiter, HttpServer, LifecycleStage, Sockets, WorkerPool,
};
use gupd_net::shape::{LanLimiter, SlotLimiter};
use gupd_net::upstream::health::HealthChecks;
use gupd_proxy::{ClientLimits, Generation, Generations, Proxy};
use gupd_refresh::{RefreshTask, Refresher};
use gupd_rollout::engine::{self, Rollouts};
use gupd_store::Store;
use gupd_tier::Tier;

/// Threads for fills, accepting and the admin address. They mostly wait; with two, a hash on one does not delay the
/// connections of the other.
const CONTROL_THREADS: usize = 2;

/// A relay with an open store that accepts nothing yet. Dropping it ends it.
#[derive(Debug)]
pub struct PreparedRelay {
    relay: Relay,
    sockets: Sockets,
    tasks: BackgroundTasks,
    commands: Option<ProcessCommands>,
}

impl Relay {
    /// Opens the store and prepares to serve these sockets, but accepts nothing yet. Blocks.
    ///
    /// # Errors
    /// When a file or another resource of the configuration is not available. Nothing is left behind then.
    pub fn prepare(config: Config, clock: Clock, sockets: Sockets) -> Result<PreparedRelay, StartError> {
        let foundation = Foundation::open(&config, &clock)?;
        let Foundation { listeners, metrics, builder, generation, cache, limits, control } = foundation;
        let (health, health_task) = HealthChecks::new(generation.upstreams.clone());
        let (rollouts, rollout_task) = open_rollouts(&generation, cache.store(), &metrics, &clock, &control)?;
        let generations = Arc::new(Generations::new(generation, rollouts.clone()));
        let fills = fills(&generations.load(), (&cache, &limits), &metrics, &clock);
        let (fills, publication) = publish_to_tier(fills, builder.tier(), cache.store(), &control);
        let proxy =
            Arc::new(Proxy::new(generations.clone(), fills, limits.clone(), metrics.requests.clone()));
        let (refresher, refresh) = open_refresher(&config, &proxy, &rollouts, &metrics, &builder.clock);
        let (ledger, ledger_task) = open_ledger(&config, &metrics, &builder.clock);
        #[cfg(feature = "otlp")]
        let traces = super::background::start_traces(&config, &metrics, &builder.clock)?;
        let (server, connection_limiter) = http_server(&config, &proxy, &metrics, listeners);
        let (stage, stages) = watch::channel(LifecycleStage::Serving);
        let parts = LongLivedParts {
            cache: cache.clone(),
            fills: proxy.fills().clone(),
            refresher: refresher.clone(),
            health,
            limits: Arc::new(SharedLimits::new(&config, limits.lan.clone(), builder.wan.clone())),
            client_limits: limits,
            connection_limiter,
        };
        let relay = Self {
            addresses: sockets.addresses(),
            admin: sockets.admin.local_addr()?,
            generations: generations.clone(),
            builder,
            proxy,
            cache,
            metrics,
            rollouts,
            refresher,
            stage,
            workers: Arc::new(WorkerPool::start(config.server.workers, &server, &stages)?),
            server,
            connection_limiter: parts.connection_limiter.clone(),
            limits: parts.limits.clone(),
            acceptors: None,
            handed_over: CancellationToken::new(),
            ledger_writes: TaskTracker::new(),
            ledger_end: CancellationToken::new(),
            ledger,
            stop_now: CancellationToken::new(),
            background: TaskTracker::new(),
            control: Some(control),
        };
        generations.follow(move |generation| parts.reconfigure(generation));
        let tasks = BackgroundTasks {
            refresh,
            rollout: rollout_task,
            health: health_task,
            ledger: ledger_task,
            publication,
            #[cfg(feature = "otlp")]
            traces,
        };
        Ok(PreparedRelay { relay, sockets, tasks, commands: None })
    }
}

impl PreparedRelay {
    /// Passes commands of an administrator that concern the process to `commands`.
    #[must_use]
    pub fn with_commands(self, commands: ProcessCommands) -> Self {
        Self { commands: Some(commands), ..self }
    }

    /// Adds the metrics of the guard.
    #[must_use]
    pub fn with_guard_stats(self, stats: &GuardStats) -> Self {
        self.relay.metrics.set_guard_stats(stats);
        self
    }

    /// Accepts clients and spawns the background tasks.
    ///
    /// # Errors
    /// When the runtime cannot register a socket.
    pub fn serve(self) -> Result<Relay, StartError> {
        let Self { mut relay, sockets, tasks, commands } = self;
        let Some(control) = &relay.control else { return Ok(relay) };
        let _entered = control.enter();
        let (generation, stage) = (relay.generations.load_full(), relay.stage.subscribe());
        let config = &generation.config;
        let acceptors = Acceptors::start(
            sockets.clients,
            &relay.workers,
            &relay.connection_limiter,
            relay.server.listeners(),
            &relay.metrics.net,
        )?;
        let api = AdminApi {
            public_names: config.server.public_names.clone(),
            generations: relay.generations.clone(),
            exposition: relay.metrics.exposition.clone(),
            store: relay.cache.store().clone(),
            fills: relay.proxy.fills().clone(),
            stage,
            refresher: relay.refresher.clone(),
            commands,
            drain: relay.proxy.drain().clone(),
            net: relay.metrics.net.clone(),
            requests: relay.metrics.requests.clone(),
            last_reload: relay.metrics.reload.successful.clone(),
            sessions: Arc::default(),
            rates: Arc::default(),
            fill_meter: Arc::default(),
            content_meter: Arc::default(),
            alarms: Arc::default(),
            ledger: relay.ledger.clone(),
            rollouts: relay.rollouts.clone(),
            clock: relay.builder.clock.clone(),
            token_file: config.server.admin_token_file.clone(),
        };
        let (listener, handed_over) = (TcpListener::from_std(sockets.admin)?, relay.handed_over.clone());
        let listeners = relay.server.listeners().clone();
        tokio::spawn(async move {
            if let Err(error) = api.serve(listener, listeners, handed_over).await {
                tracing::error!(%error, "admin address failed");
            }
        });
        tasks.spawn(&relay);
        relay.acceptors = Some(acceptors);
        Ok(relay)
    }
}

/// The parts that every other part is built on.
struct Foundation {
    listeners: Arc<ClientListeners>,
    metrics: Arc<RelayMetrics>,
    builder: GenerationBuilder,
    generation: Generation,
    cache: Arc<Cache>,
    limits: ClientLimits,
    control: Runtime,
}

impl Foundation {
    /// Validates the configuration before it opens the store, which writes to disk.
    fn open(config: &Config, clock: &Clock) -> Result<Self, StartError> {
        let listeners = Arc::new(ClientListeners::load(&config.server).map_err(SetupError::from)?);
        let metrics = Arc::new(RelayMetrics::new().map_err(SetupError::from)?);
        let builder = GenerationBuilder::new(config, clock.clone(), metrics.net.clone());
        let builder = builder.with_tier(create_tier(config, &metrics));
        let generation = builder.build(config.clone(), None)?;
        let store = Store::open(&config.store, clock.clone())?;
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name("gupd-control")
            .enable_all()
            .build()?;
        let cache = Arc::new(Cache::new(config.cache.clone(), store, clock.clone()));
        update_certificates(&generation.config, None, &metrics.net);
        metrics.reload.record_success(clock);
        let limits = client_limits(config, &metrics, clock);
        Ok(Self { listeners, metrics, builder, generation, cache, limits, control })
    }
}

/// Creates the shared tier, if one is configured. A relay serves without a tier that it cannot use.
fn create_tier(config: &Config, metrics: &RelayMetrics) -> Option<Arc<Tier>> {
    let settings = config.tier.as_ref()?;
    match Tier::new(settings, metrics.tier.clone()) {
        Ok(tier) => Some(Arc::new(tier)),
        Err(error) => {
            tracing::warn!(tier = &*settings.url, %error, "tier cannot be used; serving without it");
            None
        }
    }
}

fn open_refresher(
    config: &Config,
    proxy: &Proxy,
    rollouts: &Rollouts,
    metrics: &RelayMetrics,
    clock: &Clock,
) -> (Refresher, RefreshTask) {
    let (background, store) = (proxy.background().clone(), proxy.fills().cache().store().clone());
    Refresher::new(config, background, rollouts.clone(), store, metrics.refresh.clone(), clock.clone())
}

/// Lets fills publish in the shared tier, if there is one.
fn publish_to_tier(
    fills: Fills,
    tier: Option<&Arc<Tier>>,
    store: &Arc<Store>,
    control: &Runtime,
) -> (Fills, Option<PublicationTask>) {
    let Some(tier) = tier else { return (fills, None) };
    tier.run_on(control.handle());
    let (publisher, task) = Publisher::new(tier.clone(), store.clone());
    (fills.with_publisher(publisher), Some(task))
}

fn http_server(
    config: &Config,
    proxy: &Arc<Proxy>,
    metrics: &RelayMetrics,
    listeners: Arc<ClientListeners>,
) -> (Arc<HttpServer<Proxy>>, Arc<ConnectionRateLimiter>) {
    let limiter = Arc::new(ConnectionRateLimiter::new(config));
    let server = HttpServer::new(proxy.clone(), metrics.net.clone(), listeners);
    (Arc::new(server.with_connection_rate(limiter.clone())), limiter)
}

fn open_ledger(config: &Config, metrics: &RelayMetrics, clock: &Clock) -> (Ledger, LedgerTask) {
    let requests = metrics.requests.clone();
    let sampler = move || {
        let (sent_by_type, sent) = requests.sent_bytes();
        let (answered, hits) = requests.request_counts();
        SiteSample { sent, saved: requests.saved_bytes.get(), requests: answered, hits, sent_by_type }
    };
    Ledger::new(config, metrics.net.traffic.clone(), Box::new(sampler), metrics.ledger.clone(), clock.clone())
}

fn client_limits(config: &Config, metrics: &RelayMetrics, clock: &Clock) -> ClientLimits {
    let lent_slots = metrics.requests.slots.lent_slots.clone();
    ClientLimits {
        lan: Arc::new(LanLimiter::new(config, clock.clone())),
        slots: Arc::new(SlotLimiter::new(config).with_lent_gauge(lent_slots)),
        budgets: Arc::new(ClientBudgets::new(config)),
    }
}

fn fills(
    generation: &Generation,
    (cache, limits): (&Arc<Cache>, &ClientLimits),
    metrics: &RelayMetrics,
    clock: &Clock,
) -> Fills {
    let (budgets, metrics, config) = (limits.budgets.clone(), metrics.fills.clone(), &generation.config);
    let fills = Fills::new(config, cache.clone(), budgets, metrics, clock.clone());
    fills.digests().configure(generation.signature_roots.clone(), &config.verify);
    fills
}

/// Reads the state of rollouts. Blocks.
fn open_rollouts(
    generation: &Generation,
    store: &Arc<Store>,
    metrics: &RelayMetrics,
    clock: &Clock,
    control: &Runtime,
) -> Result<(Rollouts, engine::RolloutTask), StartError> {
    let (config, rules, store) = (generation.config.clone(), generation.rollout.clone(), store.clone());
    let (metrics, clock) = (metrics.rollout.clone(), clock.clone());
    let (sender, result) = mpsc::channel();
    // Not `block_on`: the caller may be a thread of another runtime.
    control.spawn(async move { sender.send(Rollouts::open(&config, rules, store, metrics, clock).await) });
    let opened = result.recv().map_err(|_| std::io::Error::other("a control thread ended unexpectedly"))?;
    Ok(opened?)
}
