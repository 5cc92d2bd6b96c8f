//! `gupd serve` without a guard: one process that takes signals, commands of the admin address, and the watchdog of the
//! service manager.

use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;

use super::{init_log, log_start, log_warnings, reload};
use crate::relay::Relay;
use crate::{CommandError, CommonFlags, new_runtime};
use gupd_admin::{CommandRequest, ProcessCommand, ProcessCommands};
use gupd_config::Clock;
use gupd_guard::sandbox::Sandbox;
use gupd_guard::service;
use gupd_net::SetupError;
use gupd_net::listen::Sockets;

pub(super) fn run(flags: &CommonFlags) -> Result<(), CommandError> {
    let config = flags.load_for_start()?;
    Relay::validate(&config, &Clock::system())?;
    let sockets = Sockets::open(&config.server).map_err(SetupError::from)?;
    // Before the first thread, and after what may fail: it creates the store's folder.
    let sandbox = Sandbox::enter(&config, flags.file.path());
    let _log = init_log(&config.log)?;
    log_warnings(&config);
    // A runtime for signals alone; the relay has its own.
    let runtime = new_runtime()?;
    // Registered before the start, so that no signal meets the default action once clients are served.
    let mut signals = {
        let _entered = runtime.enter();
        ServeSignals::register().map_err(|error| CommandError::Failed(format!("signals: {error}")))?
    };
    let (commands, mut requests) = ProcessCommands::channel();
    let mut relay = Relay::prepare(config, Clock::system(), sockets)?.with_commands(commands).serve()?;
    log_start(&relay, flags, &sandbox);
    service::notify_ready("serving");
    spawn_watchdog(&relay);
    handle_until_stop(&runtime, &mut signals, &mut requests, || {
        service::notify_reloading();
        let result = reload(&mut relay, flags, &sandbox);
        service::notify_ready("serving");
        result
    });
    tracing::info!(timeout = ?relay.drain_timeout(), "draining");
    service::notify_stopping();
    let stop_now = relay.stopper();
    std::thread::spawn(move || {
        while let StopOrReload::Reload = runtime.block_on(signals.next()) {}
        tracing::warn!("stopping at once");
        stop_now();
    });
    relay.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Handles signals and commands until a signal to stop.
fn handle_until_stop(
    runtime: &Runtime,
    signals: &mut ServeSignals,
    requests: &mut Receiver<CommandRequest>,
    mut reload: impl FnMut() -> Result<String, String>,
) {
    loop {
        let request = runtime.block_on(async {
            tokio::select! {
                signal = signals.next() => Err(signal),
                Some(request) = requests.recv() => Ok(request),
            }
        });
        match request {
            Err(StopOrReload::Stop) => return,
            Err(StopOrReload::Reload) => drop(reload()),
            Ok(CommandRequest { command, reply }) => {
                let result = match command {
                    ProcessCommand::Reload => reload(),
                    ProcessCommand::Upgrade => {
                        Err("upgrade refused: the relay has no guard: start it with gupd serve --guard"
                            .to_owned())
                    }
                };
                // The administrator's connection may be closed.
                let _gone = reply.send(result);
            }
        }
    }
}

/// Notifies the watchdog of the service manager, if it has one, while all threads of the relay make progress.
fn spawn_watchdog(relay: &Relay) {
    let (Some(interval), Some(probe)) = (service::watchdog_interval(), relay.liveness_probe()) else {
        return;
    };
    std::thread::spawn(move || {
        loop {
            let started = Instant::now();
            if probe.is_alive(interval) {
                service::notify_watchdog();
            }
            std::thread::sleep(interval.saturating_sub(started.elapsed()));
        }
    });
}

enum StopOrReload {
    Reload,
    Stop,
}

struct ServeSignals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl ServeSignals {
    fn register() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> StopOrReload {
        tokio::select! {
            _ = self.hangup.recv() => StopOrReload::Reload,
            _ = self.terminate.recv() => StopOrReload::Stop,
            _ = self.interrupt.recv() => StopOrReload::Stop,
        }
    }
}
