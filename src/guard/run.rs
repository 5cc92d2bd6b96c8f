//! A running guard: one thread and one event loop. It gathers signals, worker messages, exits, connections and timers,
//! lets `handover` decide, and carries out the actions in order (`actions`). Nothing here waits for a worker.

mod actions;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::admin::AdminPage;
use super::fallback::FallbackService;
use super::handover::{GuardEvent, HandoverSettings, HandoverState, WorkerId};
use super::listeners::{Accepted, AcceptedClient, Listeners};
use super::reexec;
use super::signals::{SignalRequest, Signals};
use super::workers::{Program, WorkerNotice, Workers};
use crate::log::LogGuard;
use crate::metrics::GuardStats;
use crate::service;
use gupd_config::{Clock, Config, Problems};
use gupd_net::SetupError;
use gupd_net::listen::{
    ClientListeners, ClientShares, CountedConnection, HttpServer, LifecycleStage, ListenError, Sockets,
    send_share_exceeded,
};
use gupd_net::metrics::NetMetrics;
use gupd_net::upstream::health;

/// Maximum connections that the guard serves at once; further ones wait in the backlog. A redirect takes a millisecond.
/// A relayed response takes 75 KiB, more with TLS, and the program itself 12.2 of the 15 MiB that the guard may use:
/// with 28 connections its peak was 14.2 MiB, with 40 it was 15.4.
const MAX_CLIENTS: usize = 28;

/// Maximum of one client's connections once three quarters of those are open: silent connections of one host must not
/// keep the guard from answering others.
const CLIENT_SHARE: usize = 7;

/// Maximum connections beyond their client's share that wait, each a descriptor; further ones get `503`. A proxy or NAT
/// brings the clients of a site from one address.
const MAX_WAITING: usize = 256;

/// Maximum connections to the admin address besides.
const MAX_SCRAPERS: usize = 16;

/// Maximum bytes of a request head; endpoints send less than 2 KiB.
const MAX_HEAD: usize = 16 << 10;

/// Timeout for a request head. Most clients have sent it already, and others may be waiting.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before accepting is retried after the system refused a socket or a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time after which the service counts as started although no worker serves: the guard answers clients.
const STARTED_AFTER: Duration = Duration::from_secs(10);

/// Maximum control sockets that a replaced guard passes on: of the serving worker and the retiring ones.
const MAX_WORKERS: usize = 8;

/// Inputs of a guard.
pub struct Setup {
    /// Configuration.
    pub config: Config,
    /// Reads the configuration again.
    pub load: Box<dyn Fn() -> Result<Config, Problems>>,
    /// Program and arguments of workers.
    pub program: Program,
    /// True if this guard replaces another one; the state of that one is on standard input.
    pub is_replacement: bool,
    /// Log, flushed before the guard is replaced.
    pub log: LogGuard,
}

/// Result of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardOutcome {
    /// The guard was told to stop.
    Stopped,
    /// The first worker rejected the configuration and has logged why.
    ConfigRejected,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("program", &self.program).finish_non_exhaustive()
    }
}

struct Guard {
    started_at: Instant,
    setup: Setup,
    handover: HandoverState,
    workers: Workers,
    listeners: Listeners,
    /// Time of the next attempt after accepting failed.
    resume_listeners_at: Option<Instant>,
    service: Arc<FallbackService>,
    /// Taken when it is spawned.
    health_checks: Option<health::HealthCheckTask>,
    server: Arc<HttpServer<FallbackService>>,
    page: Arc<AdminPage>,
    clients: JoinSet<()>,
    shares: Arc<ClientShares>,
    /// Connections of clients that have their share, in order of arrival.
    waiting: VecDeque<AcceptedClient>,
    scrapers: JoinSet<()>,
    stage: watch::Sender<LifecycleStage>,
    /// Counts that the serving worker has.
    sent_stats: GuardStats,
    /// Workers that accept or have accepted clients and still run: each keeps a part of the limits.
    active: Vec<WorkerId>,
    /// Number of processes that share the limits, as sent to the workers.
    sharing: u32,
    /// Worker that passed on the request for the upgrade under way.
    upgrade_requester: Option<WorkerId>,
    /// The service manager has been notified of the start.
    is_started: bool,
    status: String,
    /// Time at which connections are dropped while stopping.
    drop_clients_at: Option<Instant>,
    outcome: Option<GuardOutcome>,
}

/// Runs a guard until it is told to stop. Blocks.
///
/// # Errors
/// When an address, a file or another resource of the configuration is not available. Nothing is left behind then.
pub fn run(setup: Setup) -> Result<GuardOutcome, SetupError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // First, so that no signal meets the default action.
        let signals = Signals::register()?;
        Guard::new(setup)?.run(signals).await
    })
}

impl Guard {
    fn new(setup: Setup) -> Result<Self, SetupError> {
        let config = &setup.config;
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new())?);
        let mut server = config.server.clone();
        server.max_header_bytes = server.max_header_bytes.min(MAX_HEAD);
        server.header_timeout = server.header_timeout.min(HEAD_TIMEOUT);
        server.has_http2 = false;
        // Clients behind a proxy count in the limits of the server, others in `shares`.
        server.max_connections = MAX_CLIENTS;
        server.max_client_connections = CLIENT_SHARE;
        for listener in &mut server.listeners {
            listener.max_header_bytes = listener.max_header_bytes.min(MAX_HEAD);
            listener.header_timeout = listener.header_timeout.min(HEAD_TIMEOUT);
            listener.has_http2 = false;
        }
        let client_listeners = Arc::new(ClientListeners::load(&server)?);
        let settings = handover_settings(config);
        let (handover, workers, sockets, stats) = if setup.is_replacement {
            let state = reexec::resume()?;
            let handover = HandoverState::resume(settings, &state.running, state.next_id);
            (handover, state.workers, state.sockets, state.stats)
        } else {
            let sockets = Sockets::open(&config.server)?;
            (HandoverState::new(settings), Workers::default(), sockets, GuardStats::default())
        };
        let (service, health_checks) = FallbackService::new(config, metrics.clone(), stats.clone())?;
        let service = Arc::new(service);
        let server = HttpServer::new(service.clone(), metrics, client_listeners).without_keep_alive();
        let listeners = Listeners::new(sockets);
        if !reexec::can_send(&listeners.descriptors(), MAX_WORKERS) {
            return Err(ListenError::TooManyAddresses.into());
        }
        // A replaced guard does not pass on which workers were active. Counting all of them only lowers their parts.
        let active = workers.ids();
        Ok(Self {
            started_at: Instant::now(),
            handover,
            workers,
            listeners,
            resume_listeners_at: None,
            service,
            health_checks: Some(health_checks),
            server: Arc::new(server),
            page: Arc::new(AdminPage::new(setup.config.server.public_names.clone())?),
            clients: JoinSet::new(),
            shares: ClientShares::new(MAX_CLIENTS, CLIENT_SHARE),
            waiting: VecDeque::new(),
            scrapers: JoinSet::new(),
            stage: watch::Sender::new(LifecycleStage::Serving),
            sent_stats: stats,
            active,
            sharing: 0,
            upgrade_requester: None,
            is_started: setup.is_replacement,
            status: String::new(),
            drop_clients_at: None,
            outcome: None,
            setup,
        })
    }

    async fn run(mut self, mut signals: Signals) -> Result<GuardOutcome, SetupError> {
        // These tasks end with the runtime.
        tokio::spawn(self.service.run_limiter());
        let listeners = self.server.listeners().clone();
        let neighbours = listeners.neighbours().clone();
        tokio::spawn(async move { listeners.watch_files(Clock::system(), || {}).await });
        tokio::spawn(async move { neighbours.run().await });
        if let Some(health_checks) = self.health_checks.take() {
            tokio::spawn(health_checks.run());
        }
        let watchdog_interval = service::watchdog_interval();
        let mut watchdog_at = watchdog_interval.map(|_| self.started_at);
        tracing::info!(listen = ?self.listeners.addresses(), replaced = self.setup.is_replacement, "guard started");
        // Workers may have exited while the guard was replaced.
        self.reap();
        self.handle_event(GuardEvent::Tick);
        loop {
            self.finish_turn();
            if let Some(outcome) = self.final_outcome() {
                return Ok(outcome);
            }
            if self.can_be_replaced() {
                match signals.block().await {
                    Ok(Some(request)) => self.handle_signal(request),
                    Ok(None) => self.replacement_failed(&self.replace()),
                    Err(error) => self.replacement_failed(&error),
                }
                continue;
            }
            let tick = self.started_at + self.handover.next_tick();
            let started_by = (!self.is_started).then(|| self.started_at + STARTED_AFTER);
            let timers = [self.resume_listeners_at, watchdog_at, self.drop_clients_at, started_by];
            let wake_at = timers.into_iter().flatten().fold(tick, Instant::min);
            let (room, admin_room) = (self.clients.len() < MAX_CLIENTS, self.scrapers.len() < MAX_SCRAPERS);
            tokio::select! {
                biased;
                request = signals.next() => self.handle_signal(request),
                notice = self.workers.next() => self.handle_notice(notice),
                () = sleep_until(wake_at) => {
                    if let Some(at) = watchdog_at.as_mut().filter(|at| **at <= Instant::now()) {
                        service::notify_watchdog();
                        *at = Instant::now() + watchdog_interval.unwrap_or_default();
                    }
                    self.handle_event(GuardEvent::Tick);
                }
                Some(_ended) = self.clients.join_next() => self.serve_waiting(),
                Some(_ended) = self.scrapers.join_next() => {}
                accepted = self.listeners.accept(room, admin_room) => self.serve(accepted),
            }
        }
    }

    fn handle_signal(&mut self, request: SignalRequest) {
        match request {
            SignalRequest::Reload => self.reload(),
            SignalRequest::Upgrade => self.handle_event(GuardEvent::Upgrade),
            SignalRequest::Stop => {
                if self.handover.is_stopping() {
                    self.stage.send_replace(LifecycleStage::Stopped);
                    self.drop_clients_at = Some(Instant::now());
                }
                self.handle_event(GuardEvent::Stop);
            }
            SignalRequest::Reap => self.reap(),
        }
    }

    fn handle_notice(&mut self, notice: WorkerNotice) {
        match notice {
            WorkerNotice::Event(event) => self.handle_event(event),
            WorkerNotice::Reload => self.reload(),
            WorkerNotice::Upgrade(id) => {
                self.upgrade_requester = Some(id);
                self.handle_event(GuardEvent::Upgrade);
            }
        }
    }

    fn reap(&mut self) {
        let notices = self.workers.reap();
        notices.into_iter().for_each(|notice| self.handle_notice(notice));
    }

    /// Returns true if the connection may carry requests of any client.
    fn is_proxy(&self, client: &AcceptedClient) -> bool {
        let listener = self.server.listeners().find(&client.listener);
        listener.is_some_and(|listener| listener.is_proxy(client.address.ip()))
    }

    /// Returns the address by which the client counts, as in the worker.
    fn network_of(&self, client: &AcceptedClient) -> IpAddr {
        self.server.listeners().neighbours().network_of(client.address.ip())
    }

    fn serve_client(&mut self, client: AcceptedClient, counted: Option<CountedConnection>) {
        let AcceptedClient { stream, address, listener } = client;
        // A listener that the configuration had at the start of the replaced guard has no rules any more.
        let Some(listener) = self.server.listeners().find(&listener).cloned() else { return };
        let server = self.server.clone();
        self.clients.spawn(server.serve(stream, address, listener, counted, self.stage.subscribe()));
    }

    /// Serves waiting connections of clients that have less than their share now.
    fn serve_waiting(&mut self) {
        for client in std::mem::take(&mut self.waiting) {
            let has_room = self.clients.len() < MAX_CLIENTS;
            match has_room.then(|| self.shares.admit(self.network_of(&client))).flatten() {
                Some(counted) => self.serve_client(client, Some(counted)),
                None => self.waiting.push_back(client),
            }
        }
    }

    fn serve(&mut self, accepted: io::Result<Accepted>) {
        match accepted {
            Ok(Accepted::Client(client)) if self.is_proxy(&client) => self.serve_client(client, None),
            Ok(Accepted::Client(client)) => match self.shares.admit(self.network_of(&client)) {
                Some(counted) => self.serve_client(client, Some(counted)),
                None if self.waiting.len() < MAX_WAITING => self.waiting.push_back(client),
                None => send_share_exceeded(&client.stream),
            },
            Ok(Accepted::Admin(stream)) => {
                self.page.metrics.update(&self.service.stats());
                self.scrapers.spawn(
                    self.page
                        .clone()
                        .serve((stream, self.server.listeners().admin_tls()), self.handover.status_text()),
                );
            }
            Err(error) => {
                self.listeners.pause();
                self.retry_accepting(&error);
            }
        }
    }

    fn reload(&mut self) {
        service::notify_reloading();
        let refused = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "guard reload refused; the old configuration stays in force");
        };
        match (self.setup.load)() {
            Err(problems) => problems.iter().for_each(|problem| refused(problem)),
            Ok(config) => match self.reconfigure(config) {
                Ok(()) => tracing::info!("guard configuration reloaded"),
                Err(error) => refused(&error),
            },
        }
        self.handle_event(GuardEvent::Reload);
        service::notify_ready(&self.status);
    }

    fn reconfigure(&mut self, config: Config) -> Result<(), SetupError> {
        self.server.listeners().reload(&config.server)?;
        self.service.reconfigure(&config)?;
        self.handover.reconfigure(handover_settings(&config));
        self.setup.config = config;
        Ok(())
    }

    /// Returns true if a newer program should take over and the guard has no connections of its own.
    fn can_be_replaced(&self) -> bool {
        // A worker that is about to exit cannot be passed on; it is soon gone.
        let is_idle = self.clients.is_empty() && self.scrapers.is_empty() && self.workers.are_all_connected();
        is_idle && self.handover.should_replace_guard()
    }

    fn replace(&self) -> io::Error {
        tracing::info!(program = %self.setup.program.path.display(), "replacing the guard");
        self.setup.log.flush();
        let program = self.setup.program.for_config(&self.setup.config);
        reexec::replace(&program, &self.listeners, &self.workers, &self.handover, &self.sent_stats)
    }

    fn replacement_failed(&mut self, error: &io::Error) {
        tracing::error!(%error, "guard could not be replaced; the old one continues");
        self.handover.keep_guard();
        if let Err(error) = Signals::unblock() {
            tracing::error!(%error, "signals could not be unblocked");
        }
    }

    /// Returns the outcome once all connections of the guard have ended.
    fn final_outcome(&self) -> Option<GuardOutcome> {
        let outcome = self.outcome?;
        let is_late = self.drop_clients_at.is_some_and(|at| at <= Instant::now());
        let is_final = outcome == GuardOutcome::ConfigRejected || is_late || self.clients.is_empty();
        is_final.then_some(outcome)
    }
}

fn handover_settings(config: &Config) -> HandoverSettings {
    HandoverSettings { watchdog: config.guard.watchdog, restart_max: config.guard.restart_max }
}
