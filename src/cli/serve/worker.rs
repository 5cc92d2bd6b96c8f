//! `gupd serve` as the worker of a guard. Sockets and commands come over the control socket on standard input; signals
//! are left to the guard. A worker without a guard drains and exits, so that two relays never share a port.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;

use super::{CommandError, CommonFlags, init_log, log_start, log_warnings, reload};
use crate::relay::{LivenessProbe, Relay, SharedLimits};
use gupd_admin::{CommandReply, CommandRequest, ProcessCommand, ProcessCommands};
use gupd_config::Clock;
use gupd_guard::control::{self, Channel, Packet, WorkerCommand, WorkerMessage};
use gupd_guard::metrics::GuardStats;
use gupd_guard::sandbox::Sandbox;
use gupd_net::listen::Sockets;

/// Way in which a serving worker ends.
enum WorkerEnd {
    /// Another worker takes over.
    HandOver,
    /// The relay stops, or the guard is gone.
    Stop,
}

/// The worker's end of the control socket.
struct GuardConnection {
    runtime: Runtime,
    channel: Arc<Channel>,
    requests: Receiver<CommandRequest>,
    /// Administrator that waits for an upgrade.
    upgrade_reply: Option<CommandReply>,
    /// Administrator that waits for a reload.
    reload_reply: Option<CommandReply>,
    /// A reload was requested before the relay served.
    is_reload_pending: bool,
    /// Set once the relay serves.
    limits: Option<Arc<SharedLimits>>,
    // Registered so that they do not end the process.
    _ignored_signals: Vec<Signal>,
}

pub(super) fn run(flags: &CommonFlags, may_be_unconfigured: bool) -> Result<(), CommandError> {
    let (commands, requests) = ProcessCommands::channel();
    let no_guard = |error: &dyn std::fmt::Display| {
        CommandError::Failed(format!("--guarded: no guard on standard input: {error}: use --guard instead"))
    };
    let mut guard = GuardConnection::open(requests).map_err(|error| no_guard(&error))?;
    let interval = guard.wait_for_begin().ok_or_else(|| no_guard(&"no first command"))?;
    let load = || if may_be_unconfigured { flags.load_for_start() } else { flags.load() };
    let config = load()?;
    Relay::validate(&config, &Clock::system())?;
    // Before the first thread, and after what may fail: it creates the store's folder.
    let sandbox = Sandbox::enter(&config, flags.file.path());
    let probe = Arc::<Mutex<Option<LivenessProbe>>>::default();
    spawn_heartbeat(interval, guard.channel.clone(), probe.clone());
    let _log = init_log(&config.log)?;
    log_warnings(&config);
    guard.send(WorkerMessage::Prepared);
    let Some(sockets) = guard.wait_for_sockets() else { return Ok(()) };
    // Reload commands that came before this are covered by reading the configuration again.
    let config = load().unwrap_or(config);
    let prepared = Relay::prepare(config, Clock::system(), sockets)?;
    guard.send(WorkerMessage::Ready);
    let Some(stats) = guard.wait_for_accept() else { return Ok(()) };
    let mut relay = prepared.with_guard_stats(&stats).with_commands(commands).serve()?;
    guard.limits = Some(relay.limits());
    *probe.lock().unwrap_or_else(PoisonError::into_inner) = relay.liveness_probe();
    log_start(&relay, flags, &sandbox);
    match guard.handle_until_end(&mut relay, flags, &sandbox) {
        WorkerEnd::HandOver => {
            let started = Instant::now();
            relay.hand_over();
            guard.send(WorkerMessage::Released);
            tracing::info!(took = ?started.elapsed(), "handed over; finishing running downloads");
        }
        WorkerEnd::Stop => tracing::info!(timeout = ?relay.drain_timeout(), "draining"),
    }
    let stop_now = relay.stopper();
    std::thread::spawn(move || {
        guard.wait_for_stop();
        tracing::warn!("stopping at once");
        stop_now();
    });
    relay.stop();
    tracing::info!("stopped");
    Ok(())
}

impl GuardConnection {
    fn open(requests: Receiver<CommandRequest>) -> std::io::Result<Self> {
        let end = std::io::stdin().as_fd().try_clone_to_owned()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::user_defined2(),
        ];
        let ignored_signals = kinds.into_iter().map(signal).collect::<std::io::Result<_>>()?;
        let channel = Arc::new(Channel::new(end)?);
        drop(entered);
        Ok(Self {
            runtime,
            channel,
            requests,
            upgrade_reply: None,
            reload_reply: None,
            is_reload_pending: false,
            limits: None,
            _ignored_signals: ignored_signals,
        })
    }

    /// Sends a message. A failure means that the guard is gone, which the next receive reports.
    fn send(&self, message: WorkerMessage) {
        let _gone = self.channel.send(&message, &[]);
    }

    /// Returns the next command and its descriptors; `None` once the guard is gone. Handles administrators' requests
    /// and shares of the limits meanwhile.
    fn next(&mut self) -> Packet<WorkerCommand> {
        loop {
            let (channel, requests) = (&self.channel, &mut self.requests);
            let received = self.runtime.block_on(async {
                tokio::select! {
                    command = channel.receive::<WorkerCommand>() => Err(command),
                    Some(request) = requests.recv() => Ok(request),
                }
            });
            match received {
                Err(Ok(Some((WorkerCommand::ShareLimits(processes), _)))) => {
                    if let Some(limits) = &self.limits {
                        limits.set_processes(processes);
                    }
                }
                Err(command) => return command.ok().flatten(),
                // Both concern the guard too. It commands the worker when it is the worker's turn.
                Ok(CommandRequest { command: ProcessCommand::Upgrade, reply }) => {
                    self.upgrade_reply = Some(reply);
                    self.send(WorkerMessage::Upgrade);
                }
                Ok(CommandRequest { command: ProcessCommand::Reload, reply }) => {
                    self.reload_reply = Some(reply);
                    self.send(WorkerMessage::Reload);
                }
            }
        }
    }

    /// Waits for the first command and returns the interval of heartbeats.
    fn wait_for_begin(&mut self) -> Option<Duration> {
        match self.next()?.0 {
            WorkerCommand::Begin { beat } => Some(Duration::from_millis(beat)),
            _ => None,
        }
    }

    /// Waits until the store may be opened and returns the sockets.
    fn wait_for_sockets(&mut self) -> Option<Sockets> {
        loop {
            match self.next()? {
                (WorkerCommand::Open, descriptors) => return Sockets::from_descriptors(descriptors, &[]),
                (WorkerCommand::OpenListeners(names), descriptors) => {
                    return Sockets::from_descriptors(descriptors, &names);
                }
                (WorkerCommand::Stop | WorkerCommand::HandOver, _) => return None,
                // The configuration is read again after this.
                _ => {}
            }
        }
    }

    /// Waits until clients may be accepted and returns the counts of the guard.
    fn wait_for_accept(&mut self) -> Option<GuardStats> {
        loop {
            match self.next()?.0 {
                WorkerCommand::Accept(stats) => return Some(stats),
                WorkerCommand::Stop | WorkerCommand::HandOver => return None,
                WorkerCommand::Reload => self.is_reload_pending = true,
                _ => {}
            }
        }
    }

    fn handle_until_end(&mut self, relay: &mut Relay, flags: &CommonFlags, sandbox: &Sandbox) -> WorkerEnd {
        if std::mem::take(&mut self.is_reload_pending) {
            self.reload(relay, flags, sandbox);
        }
        loop {
            match self.next().map(|(command, _)| command) {
                None => {
                    tracing::error!("guard is gone");
                    return WorkerEnd::Stop;
                }
                Some(WorkerCommand::Stop) => return WorkerEnd::Stop,
                Some(WorkerCommand::HandOver) => return WorkerEnd::HandOver,
                Some(WorkerCommand::Reload) => self.reload(relay, flags, sandbox),
                Some(WorkerCommand::SetStats(stats)) => relay.metrics().set_guard_stats(&stats),
                Some(WorkerCommand::AnswerUpgrade(result)) => {
                    let result = result.map(|()| "upgrade: the new worker is taking over".to_owned());
                    // The administrator's connection may be closed.
                    let _gone = self.upgrade_reply.take().map(|reply| reply.send(result));
                }
                Some(
                    WorkerCommand::Begin { .. }
                    | WorkerCommand::Open
                    | WorkerCommand::OpenListeners(_)
                    | WorkerCommand::Accept(_)
                    | WorkerCommand::ShareLimits(_),
                ) => {}
            }
        }
    }

    fn reload(&mut self, relay: &mut Relay, flags: &CommonFlags, sandbox: &Sandbox) {
        let result = reload(relay, flags, sandbox);
        // The administrator's connection may be closed.
        let _gone = self.reload_reply.take().map(|reply| reply.send(result));
    }

    /// Waits for a command to stop; forever if the guard is gone.
    fn wait_for_stop(&mut self) {
        while let Some((command, _)) = self.next() {
            if command == WorkerCommand::Stop {
                return;
            }
        }
        loop {
            std::thread::park();
        }
    }
}

/// Sends heartbeats; once the relay serves, only while all its threads make progress.
fn spawn_heartbeat(interval: Duration, channel: Arc<Channel>, probe: Arc<Mutex<Option<LivenessProbe>>>) {
    let run = move || {
        loop {
            let started = Instant::now();
            let probe = probe.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if probe.is_none_or(|probe| probe.is_alive(interval)) {
                let sent = control::send(channel.as_fd(), &WorkerMessage::Heartbeat, &[]);
                if sent.is_err_and(|error| is_closed(&error)) {
                    return;
                }
            }
            std::thread::sleep(interval.saturating_sub(started.elapsed()));
        }
    };
    // Without the thread the worker is silent, and the guard kills it.
    let spawned = std::thread::Builder::new().name("gupd-beat".to_owned()).spawn(run);
    if let Err(error) = spawned {
        tracing::error!(%error, "heartbeat thread could not be started");
    }
}

/// Returns true if the guard is gone. A full socket or a lack of memory is temporary.
fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}
