//! A running relay: puts the stages together, starts them, reloads and stops them. Owns every thread and runtime, and
//! the order in which things end: first new connections, then responses, then fills, then the store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::admin::Admin;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{Config, Log, Server};
use crate::fill::Fills;
use crate::listen::{self, Connections, ListenError, Listeners, Newcomers, Stage, TlsError, Workers, tls};
use crate::policy::{Policy, PolicyError};
use crate::proxy::{Live, Proxy};
use crate::refresh::{self, Refresher};
use crate::shape::{Lan, Places, Wan};
use crate::store::{Scrub, Store, StoreError};
use crate::telemetry::Metrics;
use crate::upstream::{ConnectError, Upstreams, health::Checks};

/// Threads for fills, accepting and the admin address. They wait most of the time; two, so that one busy with a
/// hash does not keep the other's connections waiting.
const CONTROL_THREADS: usize = 2;

/// Pause between two rounds of housekeeping.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// Pause between two looks at a disk that fails: nobody has to wait longer for hits when it is well again.
const RECOVERY: Duration = Duration::from_secs(1);

/// Time for what fills have in memory, a few MiB each at most, to reach the disk at the end.
const WRITE_OUT: Duration = Duration::from_secs(5);

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
    Tls(#[from] TlsError),
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
    config: Config,
    clock: Clock,
    proxy: Arc<Proxy>,
    cache: Arc<Cache>,
    lan: Arc<Lan>,
    places: Arc<Places>,
    wan: Arc<Wan>,
    metrics: Arc<Metrics>,
    refresher: Refresher,
    checks: Checks,
    stage: watch::Sender<Stage>,
    workers: Arc<Workers>,
    connections: Arc<Connections>,
    newcomers: Arc<Newcomers>,
    // Only taken when the relay ends.
    control: Option<Runtime>,
}

impl Relay {
    /// Opens the store, binds the addresses and serves. Blocks for as long as that takes; clients are served when it
    /// returns. Do not call it from within a runtime's task that others wait for.
    ///
    /// # Errors
    /// When something the configuration names cannot be had. Nothing is left behind then.
    pub fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        // What may be wrong with the configuration first, then what leaves traces.
        let wan = Arc::new(Wan::new(&config, clock.clone()));
        let live = live(&config, &clock, &wan, &metrics, None)?;
        let (checks, check) = Checks::new(live.upstreams().clone());
        let tls = config.server.tls.as_ref().map(tls::acceptor).transpose()?;
        let listeners = Listeners::open(&config.server.listen)?;
        let admin_socket = listen::bind(config.server.admin)?;
        let admin = admin_socket.local_addr()?;
        let store = Store::open(&config.store, clock.clone())?;
        let scrub = config.store.scrub_period.map(|period| store.scrub(period, config.store.scrub_rate));
        let control = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(CONTROL_THREADS)
            .thread_name("gupd-control")
            .enable_all()
            .build()?;
        let cache = Arc::new(Cache::new(config.cache.clone(), store.clone(), clock.clone()));
        let fills = Fills::new(
            &config,
            store.clone(),
            cache.clone(),
            metrics.clone(),
            clock.clone(),
            control.handle().clone(),
        );
        let lan = Arc::new(Lan::new(&config, clock.clone()));
        let places = Arc::new(Places::new(&config));
        let proxy = Proxy::new(live, cache.clone(), fills, lan.clone(), places.clone(), metrics.clone());
        let proxy = Arc::new(proxy);
        let (refresher, refresh) =
            Refresher::new(&config, proxy.clone(), store.clone(), metrics.clone(), clock.clone());
        let connections = Arc::new(Connections::new(proxy.clone(), metrics.clone(), &config.server, tls));
        let (stage, stages) = watch::channel(Stage::Serving);
        let workers = Arc::new(Workers::start(config.server.workers, &connections, &stages)?);
        let newcomers = Arc::new(Newcomers::new(&config));
        let addresses = listeners.addresses().to_vec();
        {
            let _in_control = control.enter();
            listeners.accept_into(&workers, &newcomers, &config.server, &metrics, &stages)?;
            let admin = Admin {
                metrics: metrics.clone(),
                store,
                quota: config.store.quota,
                stage: stages.clone(),
                refresher: refresher.clone(),
                token_file: config.server.admin_token_file.clone(),
            };
            let listener = TcpListener::from_std(admin_socket)?;
            tokio::spawn(async move {
                if let Err(error) = admin.serve(listener).await {
                    tracing::error!(%error, "the admin address failed");
                }
            });
            if let Some(scrub) = scrub {
                tokio::spawn(scrub_store(scrub, proxy.clone(), stages.clone()));
            }
            tokio::spawn(keep_fresh(refresh, stages.clone()));
            let (to_clients, from_upstreams) = (lan.clone(), wan.clone());
            tokio::spawn(until_stopped(stages.clone(), async move { to_clients.run().await }));
            tokio::spawn(until_stopped(stages.clone(), async move { from_upstreams.run().await }));
            tokio::spawn(until_stopped(stages.clone(), check.run()));
            tokio::spawn(maintain(cache.clone(), stages));
        }
        Ok(Self {
            addresses,
            admin,
            config,
            clock,
            proxy,
            cache,
            lan,
            places,
            wan,
            metrics,
            refresher,
            checks,
            stage,
            workers,
            connections,
            newcomers,
            control: Some(control),
        })
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
        let before = self.checks.upstreams();
        let live = live(&config, &self.clock, &self.wan, &self.metrics, Some(&before))?;
        let upstreams = live.upstreams().clone();
        // Nothing has changed yet, and nothing fails from here on.
        self.connections.renew_certificate(&config.server)?;
        self.proxy.reconfigure(live);
        self.cache.reconfigure(config.cache.clone());
        self.refresher.reconfigure(&config);
        self.checks.reconfigure(upstreams);
        self.lan.reconfigure(&config);
        self.places.reconfigure(&config);
        self.newcomers.reconfigure(&config);
        self.wan.reconfigure(&config);
        let mut running = config.clone();
        running.server = Server {
            tls: config.server.tls.clone(),
            max_uri_bytes: config.server.max_uri_bytes,
            drain_timeout: config.server.drain_timeout,
            ..self.config.server.clone()
        };
        running.store = self.config.store.clone();
        running.fill.max_concurrent = self.config.fill.max_concurrent;
        running.log = Log { access: config.log.access, ..self.config.log.clone() };
        let waiting = [
            ("server", running.server != config.server),
            ("store", running.store != config.store),
            ("fill", running.fill != config.fill),
            ("log", running.log != config.log),
        ];
        self.config = running;
        Ok(waiting.into_iter().filter_map(|(section, waits)| waits.then_some(section)).collect())
    }

    /// Stops: no new connections, running downloads finish within `server.drain_timeout`, then whatever is left ends.
    /// Blocks.
    pub fn stop(mut self) {
        let Some(control) = self.control.take() else { return };
        self.stage.send_replace(Stage::Draining);
        let (workers, proxy) = (self.workers.clone(), self.proxy.clone());
        let (cache, patience) = (self.cache.clone(), self.config.server.drain_timeout);
        let mut stage = self.stage.subscribe();
        control.block_on(async move {
            let drained = async {
                workers.finished().await;
                proxy.fills().finished().await;
            };
            tokio::select! {
                () = drained => {}
                () = tokio::time::sleep(patience) => tracing::warn!("drain_timeout is over; dropping what still runs"),
                () = Stage::Stopped.reached(&mut stage) => tracing::warn!("dropping what still runs"),
            }
            // What has arrived is for the next start, whoever still waited for it.
            proxy.fills().stop();
            if tokio::time::timeout(WRITE_OUT, proxy.fills().finished()).await.is_err() {
                tracing::warn!("a slow disk: some of what had arrived may be fetched again");
            }
            if let Err(error) = cache.record_uses().await {
                tracing::error!(%error, "last uses could not be recorded");
            }
        });
        self.stage.send_replace(Stage::Stopped);
        self.workers.join();
        // Connections to the admin address that stay open must not hold up the end.
        control.shutdown_timeout(Duration::from_secs(1));
    }

    /// A handle to end draining early.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let stage = self.stage.clone();
        move || {
            stage.send_replace(Stage::Stopped);
        }
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Time running downloads get after a stop.
    pub fn drain_timeout(&self) -> Duration {
        self.config.server.drain_timeout
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            self.stage.send_replace(Stage::Stopped);
            self.workers.join();
            control.shutdown_background();
        }
    }
}

/// The reloadable part of a relay, which knows of upstreams what was known `before`.
pub(crate) fn live(
    config: &Config,
    clock: &Clock,
    wan: &Arc<Wan>,
    metrics: &Arc<Metrics>,
    before: Option<&Upstreams>,
) -> Result<Live, StartError> {
    let mut upstreams = Upstreams::new(config, clock.clone(), wan.clone(), metrics.clone())?;
    if let Some(before) = before {
        upstreams = upstreams.succeeding(before);
    }
    Ok(Live::new(config, Policy::new(config)?, Arc::new(upstreams)))
}

/// Runs what has no end of its own until the last response has ended.
async fn until_stopped(mut stage: watch::Receiver<Stage>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = Stage::Stopped.reached(&mut stage) => {}
    }
}

async fn maintain(cache: Arc<Cache>, mut stage: watch::Receiver<Stage>) {
    let mut rounds = tokio::time::interval(MAINTENANCE);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            () = ailing(cache.store()) => {}
            () = Stage::Draining.reached(&mut stage) => return,
        }
        if let Err(error) = cache.maintain().await {
            tracing::error!(%error, "the store's housekeeping failed");
        }
    }
}

/// Dropped when the relay drains: what it had begun is kept, and is no reason to wait.
async fn keep_fresh(refresh: refresh::Task, mut stage: watch::Receiver<Stage>) {
    tokio::select! {
        () = refresh.run() => {}
        () = Stage::Draining.reached(&mut stage) => {}
    }
}

/// Has the proxy, which knows the upstreams in force, make good what the scrub finds.
async fn scrub_store(mut scrub: Scrub, proxy: Arc<Proxy>, mut stage: watch::Receiver<Stage>) {
    let scrubbing = async {
        loop {
            let damaged = scrub.next_damaged().await;
            proxy.make_good(damaged).await;
        }
    };
    tokio::select! {
        () = scrubbing => {}
        () = Stage::Draining.reached(&mut stage) => {}
    }
}

/// Waits for the next look at a disk that fails, for as long as it does.
async fn ailing(store: &Store) {
    store.ailing().await;
    tokio::time::sleep(RECOVERY).await;
}
