//! A running relay: puts the stages together, starts them, reloads and stops them. Owns every thread and runtime, and
//! the order in which things end: first new connections, then responses, then fills, then the store.

mod followers;
mod limits;
mod metrics;
mod pulse;
mod ready;

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::followers::Followers;
pub use self::limits::Limits;
pub use self::metrics::RelayMetrics;

pub use self::pulse::Pulse;
pub use self::ready::Ready;
use gupd_cache::Cache;
use gupd_cache::fill::Fills;
use gupd_config::clock::Clock;
use gupd_config::policy::PolicyError;
use gupd_config::{Config, LogSettings, ServerSettings};
use gupd_http::instance::RelayInstance;
use gupd_net::listen::{
    Acceptors, ConnectionRateLimiter, HttpServer, LifecycleStage, ListenError, Sockets, WorkerPool, tls,
};
use gupd_net::metrics::NetMetrics;
use gupd_net::pem::PemError;
use gupd_net::shape::{LanLimiter, SlotLimiter, WanLimiter};
use gupd_net::upstream::health::HealthChecks;
use gupd_net::upstream::{ConnectError, Upstreams};
use gupd_proxy::{Generation, Generations, Proxy};
use gupd_refresh::Refresher;
use gupd_rollout::engine::{self, OpenError, Rollouts};
use gupd_rollout::metrics::RolloutMetrics;
use gupd_store::{Store, StoreError};

/// Threads for fills, accepting and the admin address. They wait most of the time; two, so that one busy with a
/// hash does not keep the other's connections waiting.
const CONTROL_THREADS: usize = 2;

/// Time for what fills have in memory, a few MiB each at most, to reach the disk at the end.
const WRITE_OUT: Duration = Duration::from_secs(5);

/// Time for requests on kept connections to come after another process has taken over: the round trip of a slow line. A
/// client that is told by a close instead would have to ask again.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// What keeps a relay from starting or from reloading. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The relay's certificate.
    #[error(transparent)]
    Tls(#[from] PemError),
    /// The rollouts.
    #[error(transparent)]
    Rollouts(#[from] OpenError),
    /// TLS toward upstreams.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Routes or rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Metrics.
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Threads.
    #[error("the system gives no thread or event queue: {0}")]
    Threads(#[from] std::io::Error),
}

/// A relay that serves. Dropping it stops it at once; [`Relay::stop`] lets running downloads finish.
#[derive(Debug)]
pub struct Relay {
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
    /// What is in force.
    generations: Arc<Generations>,
    clock: Clock,
    // The same over reloads: what an earlier configuration has sent may still come round.
    instance: Arc<RelayInstance>,
    proxy: Arc<Proxy>,
    cache: Arc<Cache>,
    lan: Arc<LanLimiter>,
    wan: Arc<WanLimiter>,
    metrics: Arc<RelayMetrics>,
    rollouts: Rollouts,
    refresher: Refresher,
    stage: watch::Sender<LifecycleStage>,
    workers: Arc<WorkerPool>,
    connections: Arc<HttpServer<Proxy>>,
    newcomers: Arc<ConnectionRateLimiter>,
    limits: Arc<Limits>,
    // There from the first connection on.
    acceptors: Option<Acceptors>,
    handed_over: CancellationToken,
    /// What ends when the relay leaves.
    background: TaskTracker,
    // Only taken when the relay ends.
    control: Option<Runtime>,
}

impl Relay {
    /// Binds the addresses, opens the store and serves. Blocks for as long as that takes; clients are served when it
    /// returns. Do not call it from within a runtime's task that others wait for.
    ///
    /// # Errors
    /// When something the configuration names cannot be had. Nothing is left behind then.
    pub fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let sockets = Sockets::open(&config.server)?;
        Self::ready(config, clock, sockets)?.serve()
    }

    /// What may be wrong with a configuration besides the store and the addresses; leaves no trace.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(config: &Config, clock: &Clock) -> Result<(), StartError> {
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new())?);
        let wan = Arc::new(WanLimiter::new(config, clock.clone()));
        generation(config.clone(), clock, &wan, &metrics, &Arc::new(RelayInstance::new()), None)?;
        tls::load_acceptor(&config.server)?;
        Ok(())
    }

    /// Opens the store and makes everything ready to serve on these sockets, but accepts nothing yet. Blocks.
    ///
    /// # Errors
    /// When something the configuration names cannot be had. Nothing is left behind then.
    pub fn ready(config: Config, clock: Clock, sockets: Sockets) -> Result<Ready, StartError> {
        let metrics = Arc::new(RelayMetrics::new()?);
        // What may be wrong with the configuration first, then what leaves traces.
        let wan = Arc::new(WanLimiter::new(&config, clock.clone()));
        let instance = Arc::new(RelayInstance::new());
        let generation = generation(config.clone(), &clock, &wan, &metrics.net, &instance, None)?;
        let (checks, check) = HealthChecks::new(generation.upstreams.clone());
        let tls = tls::load_acceptor(&config.server)?;
        let admin = sockets.admin.local_addr()?;
        let store = Store::open(&config.store, clock.clone())?;
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name("gupd-control")
            .enable_all()
            .build()?;
        let (rollouts, rollout) = open_rollouts(&generation, &store, &metrics.rollout, &clock, &control)?;
        let generations = Arc::new(Generations::new(generation, rollouts.clone()));
        let cache = Arc::new(Cache::new(config.cache.clone(), store.clone(), clock.clone()));
        let fills = Fills::new(
            &config,
            store.clone(),
            cache.clone(),
            metrics.fills.clone(),
            clock.clone(),
            control.handle().clone(),
        );
        let lan = Arc::new(LanLimiter::new(&config, clock.clone()));
        let places = Arc::new(SlotLimiter::new(&config));
        let proxy = Proxy::new(
            generations.clone(),
            cache.clone(),
            fills,
            rollouts.clone(),
            lan.clone(),
            places.clone(),
            metrics.requests.clone(),
        );
        let proxy = Arc::new(proxy);
        let (refresher, refresh) = Refresher::new(
            &config,
            proxy.background().clone(),
            rollouts.clone(),
            store,
            metrics.refresh.clone(),
            clock.clone(),
        );
        let connections = Arc::new(HttpServer::new(proxy.clone(), metrics.net.clone(), &config.server, tls));
        let (stage, stages) = watch::channel(LifecycleStage::Serving);
        let workers = Arc::new(WorkerPool::start(config.server.workers, &connections, &stages)?);
        let newcomers = Arc::new(ConnectionRateLimiter::new(&config));
        let limits = Arc::new(Limits::new(&config, lan.clone(), wan.clone()));
        let followers = Followers {
            cache: cache.clone(),
            refresher: refresher.clone(),
            checks,
            places,
            newcomers: newcomers.clone(),
            limits: limits.clone(),
        };
        generations.follow(move |generation| followers.reconfigure(generation));
        let relay = Self {
            addresses: sockets.addresses(),
            admin,
            generations,
            clock,
            instance,
            proxy,
            cache,
            lan,
            wan,
            metrics,
            rollouts,
            refresher,
            stage,
            workers,
            connections,
            newcomers,
            limits,
            acceptors: None,
            handed_over: CancellationToken::new(),
            background: TaskTracker::new(),
            control: Some(control),
        };
        Ok(Ready { relay, sockets, refresh, rollout, check, orders: None })
    }

    /// The addresses clients connect to, in the configuration's order, with the ports that were given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of metrics and health.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Takes a new configuration without dropping anything: requests under way end under the old one. Returns the
    /// sections that need a restart to change.
    ///
    /// # Errors
    /// When it cannot be used; the old one stays in force.
    pub fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, StartError> {
        let before = self.generations.load_full();
        let mut running = config.clone();
        running.server = ServerSettings {
            tls: config.server.tls.clone(),
            client_ca: config.server.client_ca.clone(),
            max_uri_bytes: config.server.max_uri_bytes,
            drain_timeout: config.server.drain_timeout,
            ..before.config.server.clone()
        };
        running.store = before.config.store.clone();
        running.fill.max_concurrent = before.config.fill.max_concurrent;
        running.log = LogSettings { access: config.log.access, ..before.config.log.clone() };
        let waiting = [
            ("server", running.server != config.server),
            ("store", running.store != config.store),
            ("fill", running.fill != config.fill),
            ("log", running.log != config.log),
        ];
        let (clock, wan, metrics) = (&self.clock, &self.wan, &self.metrics.net);
        let next = generation(running, clock, wan, metrics, &self.instance, Some(&before.upstreams))?;
        // Nothing has changed yet, and nothing fails from here on.
        self.connections.reload_certificate(&next.config.server)?;
        self.generations.store(next);
        Ok(waiting.into_iter().filter_map(|(section, waits)| waits.then_some(section)).collect())
    }

    /// Makes way for another process on the same sockets and the same store: accepts nothing more, gives the store up,
    /// and goes on with what runs, until [`stop`](Self::stop) is called, which is to follow. What is being filled is
    /// fetched to its end for those who wait for it, and not stored. Blocks until the other process may open the store.
    pub fn hand_over(&mut self) {
        let Some(control) = &self.control else { return };
        self.stage.send_replace(LifecycleStage::Leaving);
        self.connections.close_after_response();
        self.handed_over.cancel();
        control.block_on(async {
            if let Some(acceptors) = &self.acceptors {
                acceptors.wait_until_stopped().await;
            }
            // None of them changes the store when it is another process's.
            self.background.close();
            if tokio::time::timeout(WRITE_OUT, self.background.wait()).await.is_err() {
                tracing::warn!("housekeeping takes long; it ends with an error");
            }
            if let Err(error) = self.cache.record_uses().await {
                tracing::error!(%error, "last uses could not be recorded");
            }
            self.cache.store().release().await;
            self.proxy.fills().notice_release();
        });
    }

    /// Stops: no new connections, running downloads finish within `server.drain_timeout`, then whatever is left ends.
    /// Blocks.
    pub fn stop(mut self) {
        let Some(control) = self.control.take() else { return };
        let was_handed_over = self.handed_over.is_cancelled();
        self.stage.send_if_modified(|stage| {
            *stage == LifecycleStage::Serving && {
                *stage = LifecycleStage::Leaving;
                true
            }
        });
        let acceptors = self.acceptors.take();
        let (workers, proxy) = (self.workers.clone(), self.proxy.clone());
        let (cache, patience) = (self.cache.clone(), self.drain_timeout());
        let (drain, background) = (self.stage.clone(), self.background.clone());
        let mut stage = self.stage.subscribe();
        control.block_on(async move {
            let drained = async {
                if was_handed_over {
                    // Requests that are on their way on kept connections come, and are answered.
                    tokio::time::sleep(LAST_REQUESTS).await;
                }
                if let Some(acceptors) = acceptors {
                    acceptors.wait_until_stopped().await;
                }
                drain.send_if_modified(|stage| *stage < LifecycleStage::Draining && { *stage = LifecycleStage::Draining; true });
                workers.wait_until_idle().await;
                proxy.fills().finished().await;
            };
            tokio::select! {
                () = drained => {}
                () = tokio::time::sleep(patience) => tracing::warn!("drain_timeout is over; dropping what still runs"),
                () = LifecycleStage::Stopped.wait_until_reached(&mut stage) => tracing::warn!("dropping what still runs"),
            }
            // What has arrived is for the next start, whoever still waited for it.
            proxy.fills().stop();
            if tokio::time::timeout(WRITE_OUT, proxy.fills().finished()).await.is_err() {
                tracing::warn!("a slow disk: some of what had arrived may be fetched again");
            }
            background.close();
            if tokio::time::timeout(WRITE_OUT, background.wait()).await.is_err() {
                tracing::warn!("housekeeping takes long; it ends with an error");
            }
            if !was_handed_over && let Err(error) = cache.record_uses().await {
                tracing::error!(%error, "last uses could not be recorded");
            }
        });
        self.stage.send_replace(LifecycleStage::Stopped);
        self.workers.join();
        // Connections to the admin address that stay open must not hold up the end.
        control.shutdown_timeout(Duration::from_secs(1));
    }

    /// A handle to end draining early.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let stage = self.stage.clone();
        move || {
            stage.send_replace(LifecycleStage::Stopped);
        }
    }

    /// A handle to see whether its threads turn; `None` once it has ended.
    pub fn pulse(&self) -> Option<Pulse> {
        let control = self.control.as_ref()?.handle().clone();
        Some(Pulse { workers: self.workers.clone(), control })
    }

    /// The rates it keeps, to be shared with other processes.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.clone()
    }

    /// What its clients see, and how that is changed.
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// Has it revalidate its catalogs.
    pub fn refresher(&self) -> &Refresher {
        &self.refresher
    }

    /// Its metrics.
    pub fn metrics(&self) -> &RelayMetrics {
        &self.metrics
    }

    /// Time running downloads get after a stop.
    pub fn drain_timeout(&self) -> Duration {
        self.generations.load().config.server.drain_timeout
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            self.stage.send_replace(LifecycleStage::Stopped);
            self.workers.join();
            control.shutdown_background();
        }
    }
}

/// Reads back what rollouts there are. Blocks.
fn open_rollouts(
    generation: &Generation,
    store: &Arc<Store>,
    metrics: &Arc<RolloutMetrics>,
    clock: &Clock,
    control: &Runtime,
) -> Result<(Rollouts, engine::Task), StartError> {
    let (config, rules, store) = (generation.config.clone(), generation.rollout.clone(), store.clone());
    let (metrics, clock) = (metrics.clone(), clock.clone());
    let (tell, told) = mpsc::channel();
    // Whoever starts a relay may be a runtime's thread, which must not enter another one.
    control.spawn(async move { tell.send(Rollouts::open(&config, rules, store, metrics, clock).await) });
    let opened = told.recv().map_err(|_| std::io::Error::other("a thread ended without a word"))?;
    Ok(opened?)
}

/// Compiles a configuration; what was known `before` of its upstreams stays known.
pub(crate) fn generation(
    config: Config,
    clock: &Clock,
    wan: &Arc<WanLimiter>,
    metrics: &Arc<NetMetrics>,
    instance: &Arc<RelayInstance>,
    before: Option<&Upstreams>,
) -> Result<Generation, StartError> {
    let upstreams = Upstreams::new(&config, clock.clone(), wan.clone(), metrics.clone())?;
    let mut upstreams = upstreams.with_instance(instance.clone());
    if let Some(before) = before {
        upstreams = upstreams.inherit_state(before);
    }
    Ok(Generation::new(config, Arc::new(upstreams))?)
}
