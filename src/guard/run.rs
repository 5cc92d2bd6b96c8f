//! A running guard: one thread, one loop. Gathers what happens (signals, what workers say and how they end, who comes to
//! the door, time), has `handover` decide, and does what it says, in its order. Nothing here waits for a worker.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::admin::Page;
use super::answer::Answers;
use super::control::Order;
use super::door::{Door, Visitor};
use super::handover::{Action, Event, Exit, Handover, Patience, WorkerId};
use super::renew;
use super::setup::{GuardError, Outcome, Setup};
use super::signals::{Asked, Signals};
use super::workers::{Heard, Workers};
use crate::metrics::{Figures, Why};
use crate::service;
use gupd_config::Config;
use gupd_net::listen::{HttpServer, LifecycleStage, Sockets, tls};
use gupd_net::metrics::NetMetrics;
use gupd_net::upstream::health;

/// Connections that the guard serves at once; further ones wait in the backlog. A redirect is done in a millisecond. One
/// that is relayed takes 75 KiB, more with TLS, and the program itself 12.2 of the 15 MiB that the guard may have: with 28
/// its peak was 14.2 MiB, with 40 it was 15.4.
const CONNECTIONS: usize = 28;

/// Connections to the admin address besides.
const SCRAPERS: usize = 16;

/// Bytes of a request's head that the guard takes, at most: enough for endpoints, which send below 2 KiB.
const MAX_HEAD: usize = 16 << 10;

/// A client has so long to send its request's head: it has sent it already, most likely, or another waits.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after the system refused a socket or a connection, so that it is not tried in a circle.
const PAUSE: Duration = Duration::from_millis(50);

/// The service counts as started when a worker serves, or after this time: the guard serves meanwhile.
const STARTED: Duration = Duration::from_secs(10);

/// Signs of life that a worker gives within `guard.watchdog`.
const BEATS: u32 = 3;

/// Sockets of workers that a guard hands on when it is replaced, at most: one that serves, and those that finish.
const MAX_WORKERS: usize = 8;

struct Guard {
    began: Instant,
    setup: Setup,
    handover: Handover,
    workers: Workers,
    door: Door,
    /// The door could not be opened; it is tried again then.
    reopen: Option<Instant>,
    answers: Arc<Answers>,
    /// Until it runs.
    checking: Option<health::HealthCheckTask>,
    serving: Arc<HttpServer<Answers>>,
    page: Arc<Page>,
    clients: JoinSet<()>,
    scrapers: JoinSet<()>,
    stage: watch::Sender<LifecycleStage>,
    /// What workers were told last.
    told: Figures,
    /// Workers that were let go and have not ended: all of them keep the limits.
    going: Vec<WorkerId>,
    /// How many processes keep them together, as everybody was told.
    sharing: u32,
    /// Who asked for the upgrade that is under way.
    upgrade_for: Option<WorkerId>,
    /// The service manager knows that it has started.
    started: bool,
    status: String,
    /// When it ends, whoever is still served.
    end_by: Option<Instant>,
    outcome: Option<Outcome>,
}

/// Guards until it is told to stop. Blocks.
///
/// # Errors
/// When something the configuration names cannot be had. Nothing is left behind then.
pub fn run(setup: Setup) -> Result<Outcome, GuardError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before all else, so that no signal meets the default action.
        let signals = Signals::watch()?;
        Guard::new(setup)?.run(signals).await
    })
}

impl Guard {
    fn new(setup: Setup) -> Result<Self, GuardError> {
        let config = &setup.config;
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new())?);
        let tls = tls::load_acceptor(&config.server)?;
        let patience = patience(config);
        let (handover, workers, sockets, figures) = if setup.resumed {
            let resumed = renew::resume()?;
            let handover = Handover::resumed(patience, &resumed.known, resumed.next);
            (handover, resumed.workers, resumed.sockets, resumed.figures)
        } else {
            let sockets = Sockets::open(&config.server)?;
            (Handover::new(patience), Workers::default(), sockets, Figures::default())
        };
        let (answers, checking) = Answers::new(config, metrics.clone(), figures.clone())?;
        let answers = Arc::new(answers);
        let mut server = config.server.clone();
        server.max_header_bytes = server.max_header_bytes.min(MAX_HEAD);
        server.header_timeout = server.header_timeout.min(HEAD_TIMEOUT);
        let serving = HttpServer::new(answers.clone(), metrics, &server, tls).without_keep_alive();
        let door = Door::new(sockets);
        if !renew::fit(&door.descriptors(), MAX_WORKERS) {
            return Err(GuardError::TooManyAddresses);
        }
        // Those that a guard before this one let go; who was not yet is not kept from anything by a smaller part.
        let going = workers.ids();
        Ok(Self {
            began: Instant::now(),
            handover,
            workers,
            door,
            reopen: None,
            answers,
            checking: Some(checking),
            serving: Arc::new(serving),
            page: Arc::new(Page::new()?),
            clients: JoinSet::new(),
            scrapers: JoinSet::new(),
            stage: watch::Sender::new(LifecycleStage::Serving),
            told: figures,
            going,
            sharing: 0,
            upgrade_for: None,
            started: setup.resumed,
            status: String::new(),
            end_by: None,
            outcome: None,
            setup,
        })
    }

    async fn run(mut self, mut signals: Signals) -> Result<Outcome, GuardError> {
        // They end with the runtime.
        tokio::spawn(self.answers.keep_limits());
        if let Some(checking) = self.checking.take() {
            tokio::spawn(checking.run());
        }
        let alive_every = service::watchdog();
        let mut alive_at = alive_every.map(|_| self.began);
        tracing::info!(listen = ?self.door.addresses(), replaced = self.setup.resumed, "guarding");
        // Those that ended while the guard was replaced.
        self.reap();
        self.on(Event::Turn);
        loop {
            self.after_each_turn();
            if let Some(outcome) = self.finished() {
                return Ok(outcome);
            }
            if self.is_to_be_replaced() {
                match signals.hold().await {
                    Ok(Some(asked)) => self.asked(asked),
                    Ok(None) => self.not_replaced(&self.replace()),
                    Err(error) => self.not_replaced(&error),
                }
                continue;
            }
            let turn = self.began + self.handover.next_turn();
            let others = [self.reopen, alive_at, self.end_by, (!self.started).then(|| self.began + STARTED)];
            let wake = others.into_iter().flatten().fold(turn, Instant::min);
            let (room, scraped) = (self.clients.len() < CONNECTIONS, self.scrapers.len() < SCRAPERS);
            tokio::select! {
                biased;
                asked = signals.next() => self.asked(asked),
                heard = self.workers.next() => self.heard(heard),
                () = sleep_until(wake) => {
                    if let Some(at) = alive_at.as_mut().filter(|at| **at <= Instant::now()) {
                        service::alive();
                        *at = Instant::now() + alive_every.unwrap_or_default();
                    }
                    self.on(Event::Turn);
                }
                Some(_ended) = self.clients.join_next() => {}
                Some(_ended) = self.scrapers.join_next() => {}
                came = self.door.next(room, scraped) => self.came(came),
            }
        }
    }

    /// Has an event decided on, and what follows from it done.
    fn on(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.handover.on(self.began.elapsed(), event) {
                events.extend(self.act(action));
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Accept => self.open_door(),
            Action::Refrain => {
                self.door.shut();
                self.reopen = None;
                self.answers.figures().answering = false;
            }
            Action::Close => {
                self.door.give_up();
                self.reopen = None;
                self.answers.figures().answering = false;
                self.end_by = Some(Instant::now() + self.setup.config.server.drain_timeout);
                service::stopping();
                tracing::info!(timeout = ?self.setup.config.server.drain_timeout, "the guard has the worker drain");
            }
            Action::Spawn(id) => match self.spawn(id) {
                Ok(pid) => {
                    self.answers.figures().starts += 1;
                    tracing::info!(worker = id, pid, "started a worker");
                }
                Err(error) => {
                    let program = self.setup.program.path.display();
                    tracing::error!(%error, %program, "a worker cannot be started");
                    return Some(Event::NotSpawned(id));
                }
            },
            Action::Open(id) => {
                return self.workers.tell(id, &Order::Open, &self.door.descriptors());
            }
            Action::Go(id) => {
                self.told = self.answers.figures().clone();
                self.going.push(id);
                return self.workers.tell(id, &Order::Go(self.told.clone()), &[]);
            }
            Action::HandOver(id) => return self.workers.tell(id, &Order::HandOver, &[]),
            Action::Reload(id) => return self.workers.tell(id, &Order::Reload, &[]),
            Action::Stop(id) => return self.workers.tell(id, &Order::Stop, &[]),
            Action::Kill(id) => {
                if self.handover.is_stopping() {
                    tracing::info!(worker = id, "a worker that is not needed any more is ended");
                } else {
                    tracing::error!(worker = id, "a worker gives no sign of life; it is ended");
                }
                self.workers.kill(id);
            }
            Action::Count(id, why, exit) => self.count(id, why, exit),
            Action::Upgraded(result) => {
                match result {
                    Ok(()) => tracing::info!("the new worker is ready to take over"),
                    Err(why) => tracing::error!(%why, "no upgrade"),
                }
                let order = Order::Upgraded(result.map_err(|why| why.to_string()));
                return self.upgrade_for.take().and_then(|id| self.workers.tell(id, &order, &[]));
            }
            Action::Refuse => self.outcome = Some(Outcome::Refused),
            Action::End => self.outcome = self.outcome.or(Some(Outcome::Stopped)),
        }
        None
    }

    fn spawn(&mut self, id: WorkerId) -> io::Result<u32> {
        self.workers.spawn(id, &self.setup.program, self.setup.config.guard.watchdog / BEATS)
    }

    fn open_door(&mut self) {
        self.reopen = self.door.open().err().map(|error| {
            tracing::error!(%error, "the guard cannot accept connections now; those who come wait");
            Instant::now() + PAUSE
        });
        self.answers.figures().answering = true;
    }

    fn count(&mut self, id: WorkerId, why: Why, exit: Exit) {
        self.answers.figures().ended(why);
        let (mut status, mut signal) = (None, None);
        match exit {
            Exit::Status(number) => status = Some(number),
            Exit::Signal(number) => signal = Some(number),
            Exit::Unknown => {}
        }
        let why = match why {
            Why::HandedOver | Why::Stopped => {
                return tracing::info!(worker = id, why = why.as_str(), status, signal, "a worker has ended");
            }
            other => other.as_str(),
        };
        tracing::error!(worker = id, why, status, signal, next = self.handover.why(), "the worker has ended");
    }

    fn asked(&mut self, asked: Asked) {
        match asked {
            Asked::Reload => self.reload(),
            Asked::Upgrade => self.on(Event::Upgrade),
            Asked::Stop => {
                if self.handover.is_stopping() {
                    self.stage.send_replace(LifecycleStage::Stopped);
                    self.end_by = Some(Instant::now());
                }
                self.on(Event::Stop);
            }
            Asked::Reap => self.reap(),
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Event(event) => self.on(event),
            Heard::Reload => self.reload(),
            Heard::Upgrade(id) => {
                self.upgrade_for = Some(id);
                self.on(Event::Upgrade);
            }
        }
    }

    fn reap(&mut self) {
        let heard = self.workers.reap();
        heard.into_iter().for_each(|heard| self.heard(heard));
    }

    fn came(&mut self, came: io::Result<Visitor>) {
        match came {
            Ok(Visitor::Client(stream, client)) => {
                self.clients.spawn(self.serving.clone().serve(stream, client, (), self.stage.subscribe()));
            }
            Ok(Visitor::Admin(stream)) => {
                self.page.metrics.show(&self.answers.figures());
                self.scrapers.spawn(self.page.clone().serve(stream, self.handover.why()));
            }
            Err(error) => {
                tracing::error!(%error, "the guard cannot accept connections now; those who come wait");
                self.door.shut();
                self.reopen = Some(Instant::now() + PAUSE);
            }
        }
    }

    fn reload(&mut self) {
        service::reloading();
        let refused = |why: &dyn std::fmt::Display| {
            tracing::error!(%why, "the guard keeps its old configuration");
        };
        match (self.setup.load)() {
            Err(problems) => problems.iter().for_each(|problem| refused(problem)),
            Ok(config) => match self.take(config) {
                Ok(()) => tracing::info!("the guard has reloaded"),
                Err(error) => refused(&error),
            },
        }
        self.on(Event::Reload);
        service::ready(&self.status);
    }

    fn take(&mut self, config: Config) -> Result<(), GuardError> {
        self.serving.reload_certificate(&config.server)?;
        self.answers.reconfigure(&config)?;
        self.handover.reconfigure(patience(&config));
        self.setup.config = config;
        Ok(())
    }

    fn after_each_turn(&mut self) {
        if self.reopen.is_some_and(|at| at <= Instant::now()) {
            self.open_door();
        }
        let why = self.handover.why();
        if !self.started
            && (self.handover.serving().is_some()
                || self.handover.deaths() > 0
                || self.began.elapsed() >= STARTED)
        {
            self.started = true;
            service::ready(&why);
        } else if self.status != why {
            service::status(&why);
        }
        self.status = why;
        let figures = self.answers.figures().clone();
        if let Some(id) = self.handover.serving().filter(|_| figures != self.told) {
            self.told = figures;
            if let Some(event) = self.workers.tell(id, &Order::Count(self.told.clone()), &[]) {
                self.on(event);
            }
        }
        self.share();
    }

    /// Whether a newer program is to go on in its place, and nothing of its own is under way.
    fn is_to_be_replaced(&self) -> bool {
        // A worker that is about to end cannot be handed on, and is soon gone.
        let quiet = self.clients.is_empty() && self.scrapers.is_empty() && self.workers.are_all_there();
        quiet && self.handover.renewal_is_due()
    }

    fn replace(&self) -> io::Error {
        tracing::info!(program = %self.setup.program.path.display(), "the guard replaces itself");
        self.setup.log.flush();
        renew::replace(&self.setup.program, &self.door, &self.workers, &self.handover, &self.told)
    }

    fn not_replaced(&mut self, error: &io::Error) {
        tracing::error!(%error, "the guard cannot be replaced; the old one goes on");
        self.handover.stay();
        if let Err(error) = Signals::let_come() {
            tracing::error!(%error, "the guard minds no signals");
        }
    }

    /// Has everybody who moves bytes keep a part of the limits.
    fn share(&mut self) {
        let workers = &self.workers;
        self.going.retain(|id| workers.has(*id));
        let own = usize::from(!self.clients.is_empty());
        let sharing = u32::try_from((self.going.len() + own).max(1)).unwrap_or(u32::MAX);
        if sharing == self.sharing {
            return;
        }
        self.sharing = sharing;
        self.answers.share(&self.setup.config, sharing);
        for id in self.going.clone() {
            if let Some(event) = self.workers.tell(id, &Order::Share(sharing), &[]) {
                self.on(event);
            }
        }
    }

    /// How it ended, once all that it served has.
    fn finished(&self) -> Option<Outcome> {
        let outcome = self.outcome?;
        let late = self.end_by.is_some_and(|end| end <= Instant::now());
        (outcome == Outcome::Refused || late || self.clients.is_empty()).then_some(outcome)
    }
}

fn patience(config: &Config) -> Patience {
    Patience { watchdog: config.guard.watchdog, restart_max: config.guard.restart_max }
}
