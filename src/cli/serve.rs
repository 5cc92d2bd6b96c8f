//! `gupd serve`: runs the relay until it is told to stop: alone, as a guard's worker (`worker`), or as the guard
//! (`guarded`). SIGHUP reads the configuration again, SIGTERM and SIGINT drain; a second one stops at once.

mod guarded;
mod worker;

use std::time::Instant;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, Settings};
use crate::relay::{Relay, StartError};
use gupd_admin::{Order, Ordered, Orders};
use gupd_config::{Clock, Config};
use gupd_guard::log;
use gupd_guard::service;
use gupd_net::listen::Sockets;

/// What makes a guard of the program.
const GUARD: &str = "--guard";

/// What a guard gives a worker to know itself by.
const WORKER: &str = "--guarded";

/// What a guard gives another that takes its place.
const RESUMED: &str = "--resumed";

/// How `serve` runs.
#[derive(Clone, Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// Keep a tiny parent on the sockets: it restarts the relay, hands over to a new program, and answers meanwhile.
    #[arg(long, conflicts_with = "guarded")]
    guard: bool,
    /// Set by a guard, for its worker.
    #[arg(long, hide = true)]
    guarded: bool,
    /// Set by a guard, for the one that takes its place.
    #[arg(long, hide = true, requires = "guard")]
    resumed: bool,
}

pub(super) fn run(serve: Serve) -> Result<(), Failure> {
    match serve {
        Serve { settings, guarded: true, .. } => worker::run(&settings),
        Serve { settings, guard: true, resumed, .. } => guarded::run(settings, resumed),
        Serve { settings, .. } => alone(&settings),
    }
}

fn alone(settings: &Settings) -> Result<(), Failure> {
    let config = settings.load()?;
    let _log = log::init(&config.log).map_err(|error| Failure::Configuration(error.to_string()))?;
    warn(&config);
    // A runtime for signals alone; the relay has its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the system gives no event queue: {error}")))?;
    let mut signals = {
        let _in_runtime = runtime.enter();
        // Before the start, so that no signal meets the default action once clients are served.
        Signals::watch().map_err(|error| Failure::Failed(format!("signals cannot be watched: {error}")))?
    };
    let (orders, mut ordered) = Orders::new();
    let sockets = Sockets::open(&config.server).map_err(StartError::from)?;
    let mut relay = Relay::ready(config, Clock::system(), sockets)?.ordered(orders).serve()?;
    tracing::info!(
        listen = ?relay.addresses(),
        admin = %relay.admin(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    service::ready("serving");
    keep_watchdog(&relay);
    let mut reload_and_tell = || {
        service::reloading();
        let done = reload(&mut relay, settings);
        service::ready("serving");
        done
    };
    loop {
        let ordered = runtime.block_on(async {
            tokio::select! {
                asked = signals.next() => Err(asked),
                Some(ordered) = ordered.recv() => Ok(ordered),
            }
        });
        match ordered {
            Err(Asked::Stop) => break,
            Err(Asked::Reload) => drop(reload_and_tell()),
            Ok(Ordered { order, answer }) => {
                let done = match order {
                    Order::Reload => reload_and_tell(),
                    Order::Upgrade => {
                        Err("the relay has no guard to hand over to another program; start it with \
                                           gupd serve --guard"
                            .to_owned())
                    }
                };
                // Whoever asked may have gone.
                let _gone = answer.send(done);
            }
        }
    }
    tracing::info!(timeout = ?relay.drain_timeout(), "draining");
    service::stopping();
    let stop_now = relay.stopper();
    std::thread::spawn(move || {
        while let Asked::Reload = runtime.block_on(signals.next()) {}
        tracing::warn!("stopping at once");
        stop_now();
    });
    relay.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Has the service manager know that the relay lives, if it wants to: for as long as all its threads turn.
fn keep_watchdog(relay: &Relay) {
    let (Some(every), Some(pulse)) = (service::watchdog(), relay.pulse()) else { return };
    std::thread::spawn(move || {
        loop {
            let begun = Instant::now();
            if pulse.beats(every) {
                service::alive();
            }
            std::thread::sleep(every.saturating_sub(begun.elapsed()));
        }
    });
}

/// Reads the configuration again; gives what the log says of it.
fn reload(relay: &mut Relay, settings: &Settings) -> Result<String, String> {
    const REFUSED: &str = "reload refused; the old configuration stays";
    let config = settings.load().map_err(|problems| {
        problems.iter().for_each(|problem| tracing::error!(%problem, "{REFUSED}"));
        format!("{REFUSED}\n{problems}")
    })?;
    warn(&config);
    match relay.reload(config) {
        Ok(fixed) if fixed.is_empty() => {
            tracing::info!("reloaded");
            Ok("reloaded".to_owned())
        }
        Ok(fixed) => {
            tracing::warn!(sections = ?fixed, "reloaded, but these sections change at a restart only");
            Ok(format!("reloaded, but these sections change at a restart only: {}", fixed.join(", ")))
        }
        Err(error) => {
            tracing::error!(%error, "{REFUSED}");
            Err(format!("{REFUSED}\n{error}"))
        }
    }
}

fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(%warning, "the configuration is odd");
    }
}

enum Asked {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
        }
    }
}
