//! A running relay: it puts the crates together, starts, reloads and stops them. It owns every thread and runtime.
//!
//! Invariant: things end in this order: new connections, responses, fills, the store. `prepare` builds a relay and
//! starts it, `generation` applies configurations, `background` has the tasks beside requests, `shutdown` the end.

mod background;
mod generation;
mod limits;
mod metrics;
mod prepare;
mod process_metrics;
mod shutdown;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::generation::GenerationBuilder;
pub use self::limits::SharedLimits;
pub use self::metrics::RelayMetrics;
pub use self::prepare::PreparedRelay;
use self::process_metrics::update_certificates;
pub use self::shutdown::LivenessProbe;
use gupd_cache::Cache;
use gupd_config::clock::Clock;
use gupd_config::{Config, ListenerSettings, ListenerTls, LogSettings, ServerSettings, StoreSettings};
use gupd_ledger::Ledger;
use gupd_net::SetupError;
use gupd_net::listen::{
    Acceptors, ClientListeners, ConnectionRateLimiter, HttpServer, LifecycleStage, Sockets, WorkerPool,
};
use gupd_net::metrics::NetMetrics;
use gupd_proxy::{Generations, Proxy};
use gupd_refresh::Refresher;
use gupd_rollout::engine::{OpenError, Rollouts};
use gupd_store::StoreError;

/// Error that keeps a relay from starting. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Sockets, certificate, upstreams or rules cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rollouts cannot be read.
    #[error(transparent)]
    Rollouts(#[from] OpenError),
    /// Traces cannot be exported.
    #[cfg(feature = "otlp")]
    #[error(transparent)]
    Traces(#[from] gupd_traces::ExporterError),
    /// A thread or runtime cannot be started.
    #[error("threads: cannot be started: {0}")]
    Threads(#[from] std::io::Error),
}

/// A running relay. Dropping it stops it at once; [`Relay::stop`] lets running downloads finish.
#[derive(Debug)]
pub struct Relay {
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
    generations: Arc<Generations>,
    builder: GenerationBuilder,
    proxy: Arc<Proxy>,
    cache: Arc<Cache>,
    metrics: Arc<RelayMetrics>,
    rollouts: Rollouts,
    refresher: Refresher,
    stage: watch::Sender<LifecycleStage>,
    workers: Arc<WorkerPool>,
    server: Arc<HttpServer<Proxy>>,
    connection_limiter: Arc<ConnectionRateLimiter>,
    limits: Arc<SharedLimits>,
    /// Set when the relay starts to accept.
    acceptors: Option<Acceptors>,
    handed_over: CancellationToken,
    /// The tasks of the ledger and of traces, which end after the last response.
    ledger_writes: TaskTracker,
    ledger_end: CancellationToken,
    ledger: Ledger,
    /// Cancelled to end the drain at once.
    stop_now: CancellationToken,
    /// Tasks that end when the relay stops accepting.
    background: TaskTracker,
    /// Taken when the relay ends.
    control: Option<Runtime>,
}

impl Relay {
    /// Binds the addresses, opens the store and serves clients. Blocks until clients are served; do not call it from a
    /// task of a runtime that must make progress meanwhile.
    ///
    /// # Errors
    /// When an address, a file or another resource of the configuration is not available. Nothing is left behind then.
    pub fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let sockets = Sockets::open(&config.server).map_err(SetupError::from)?;
        Self::prepare(config, clock, sockets)?.serve()
    }

    /// Validates everything in a configuration but the store and the addresses, without side effects.
    ///
    /// # Errors
    /// When the relay would not start with this configuration.
    pub fn validate(config: &Config, clock: &Clock) -> Result<(), SetupError> {
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new())?);
        GenerationBuilder::new(config, clock.clone(), metrics).build(config.clone(), None)?;
        ClientListeners::load(&config.server)?;
        Ok(())
    }

    /// Applies a configuration without dropping a connection; requests under way end under the old one. Returns the
    /// sections that change at a restart only.
    ///
    /// # Errors
    /// When the configuration is invalid; the old one stays in force then.
    pub fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, SetupError> {
        let applied = self.apply(config);
        match &applied {
            Ok(_) => self.metrics.reload.record_success(&self.builder.clock),
            Err(_) => self.metrics.reload.record_refusal(),
        }
        applied
    }

    fn apply(&self, config: Config) -> Result<Vec<&'static str>, SetupError> {
        let current = self.generations.load_full();
        let mut effective = config.clone();
        effective.server = ServerSettings {
            tls: config.server.tls.clone(),
            admin_tls: renewed_tls(&current.config.server.admin_tls, config.server.admin_tls.clone()),
            listeners: with_renewed_tls(&current.config.server.listeners, &config.server.listeners),
            public_names: config.server.public_names.clone(),
            access: config.server.access.clone(),
            proxies: config.server.proxies.clone(),
            client_identity: config.server.client_identity,
            max_uri_bytes: config.server.max_uri_bytes,
            drain_timeout: config.server.drain_timeout,
            ..current.config.server.clone()
        };
        effective.store = StoreSettings {
            quota: config.store.quota,
            min_free: config.store.min_free,
            max_unused: config.store.max_unused,
            ..current.config.store.clone()
        };
        effective.ledger = current.config.ledger.clone();
        effective.tier = current.config.tier.clone();
        effective.traces = current.config.traces.clone();
        effective.fill.max_concurrent = current.config.fill.max_concurrent;
        effective.log = LogSettings { access: config.log.access, ..current.config.log.clone() };
        let sections = [
            ("server", !is_equal_without_listeners(&effective.server, &config.server)),
            ("listener", effective.server.listeners != config.server.listeners),
            ("store", effective.store != config.store),
            ("ledger", effective.ledger != config.ledger),
            ("tier", effective.tier != config.tier),
            ("traces", effective.traces != config.traces),
            ("fill", effective.fill != config.fill),
            ("log", effective.log != config.log),
        ];
        let next = self.builder.build(effective, Some(&current.upstreams))?;
        // Nothing has changed so far, and nothing after this fails.
        self.server.listeners().reload(&next.config.server)?;
        update_certificates(&next.config, Some(&current.config), &self.metrics.net);
        self.generations.store(next);
        Ok(sections.into_iter().filter_map(|(name, needs_restart)| needs_restart.then_some(name)).collect())
    }

    /// Returns the addresses that clients connect to, in the order of the configuration, with their actual ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the admin address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the rate limits, which other processes may share.
    pub fn limits(&self) -> Arc<SharedLimits> {
        self.limits.clone()
    }

    /// Returns the rollouts.
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// Returns the handle of the background refresh.
    pub fn refresher(&self) -> &Refresher {
        &self.refresher
    }

    /// Returns the metrics.
    pub fn metrics(&self) -> &RelayMetrics {
        &self.metrics
    }

    /// Returns the time that running downloads get after a stop.
    pub fn drain_timeout(&self) -> Duration {
        self.generations.load().config.server.drain_timeout
    }
}

/// Returns the listeners in force, with the access lists of the configuration and its TLS for those that have TLS in
/// both.
fn with_renewed_tls(current: &[ListenerSettings], next: &[ListenerSettings]) -> Vec<ListenerSettings> {
    let renew = |listener: &ListenerSettings| {
        let next = next.iter().find(|other| other.name == listener.name);
        let tls = renewed_tls(&listener.tls, next.and_then(|next| next.tls.clone()));
        let access = next.map_or_else(|| listener.access.clone(), |next| next.access.clone());
        ListenerSettings { tls, access, ..listener.clone() }
    };
    current.iter().map(renew).collect()
}

/// Returns the TLS of the configuration if there is TLS before and after: sockets cannot change between both.
fn renewed_tls(current: &Option<ListenerTls>, next: Option<ListenerTls>) -> Option<ListenerTls> {
    if current.is_some() && next.is_some() { next } else { current.clone() }
}

fn is_equal_without_listeners(a: &ServerSettings, b: &ServerSettings) -> bool {
    *a == ServerSettings { listeners: a.listeners.clone(), ..b.clone() }
}
