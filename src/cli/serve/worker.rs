//! `gupd serve` as the worker of a guard: sockets, start, stop and everything in between come from it, over the socket that
//! is standard input. Signals are the guard's to mind. Without a guard the worker stops accepting, finishes what runs and
//! ends, so that no two relays stand on one port.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::Receiver;

use super::{Failure, Settings, reload, warn};
use crate::relay::{Limits, Pulse, Relay};
use gupd_admin::{self as admin, Answer, Ordered, Orders};
use gupd_config::Clock;
use gupd_guard::control::{self, Channel, Order, Packet, Said};
use gupd_guard::log;
use gupd_net::listen::Sockets;

/// What becomes of the worker next.
enum Turn {
    /// Another worker takes over.
    HandOver,
    /// The relay stops, or the guard is gone.
    Stop,
}

/// The worker's end of the control socket.
struct Guard {
    runtime: Runtime,
    channel: Arc<Channel>,
    ordered: Receiver<Ordered>,
    /// Who waits for the upgrade that was asked for.
    upgrade: Option<Answer>,
    /// Who waits for the reload.
    reloaded: Option<Answer>,
    /// The configuration has changed since it was read.
    reload: bool,
    /// The limits, once there are any.
    limits: Option<Arc<Limits>>,
    // Taken, so that they do not end the process; the guard passes on what they mean.
    _signals: Vec<Signal>,
}

pub(super) fn run(settings: &Settings) -> Result<(), Failure> {
    let (orders, ordered) = Orders::new();
    let no_guard = |error: &dyn std::fmt::Display| Failure::Failed(format!("there is no guard: {error}"));
    let mut guard = Guard::find(ordered).map_err(|error| no_guard(&error))?;
    let beat = guard.begun().ok_or_else(|| no_guard(&"it says nothing"))?;
    let pulse = Arc::<Mutex<Option<Pulse>>>::default();
    beat_every(beat, guard.channel.clone(), pulse.clone());
    let config = settings.load()?;
    let _log = log::init(&config.log).map_err(|error| Failure::Configuration(error.to_string()))?;
    warn(&config);
    Relay::check(&config, &Clock::system())?;
    guard.say(Said::Prepared);
    let Some(sockets) = guard.opened() else { return Ok(()) };
    // What was said before the beginning holds for this start too.
    let config = settings.load().unwrap_or(config);
    let ready = Relay::ready(config, Clock::system(), sockets)?;
    guard.say(Said::Ready);
    let Some(figures) = guard.let_go() else { return Ok(()) };
    let mut relay = ready.guarded(&figures).ordered(orders).serve()?;
    guard.limits = Some(relay.limits());
    *pulse.lock().unwrap_or_else(PoisonError::into_inner) = relay.pulse();
    tracing::info!(
        listen = ?relay.addresses(),
        admin = %relay.admin(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    match guard.until_it_ends(&mut relay, settings) {
        Turn::HandOver => {
            let begun = Instant::now();
            relay.hand_over();
            guard.say(Said::Released);
            tracing::info!(took = ?begun.elapsed(), "handed over; finishing what runs");
        }
        Turn::Stop => tracing::info!(timeout = ?relay.drain_timeout(), "draining"),
    }
    let stop_now = relay.stopper();
    std::thread::spawn(move || {
        guard.until_told_to_stop();
        tracing::warn!("stopping at once");
        stop_now();
    });
    relay.stop();
    tracing::info!("stopped");
    Ok(())
}

impl Guard {
    fn find(ordered: Receiver<Ordered>) -> std::io::Result<Self> {
        let end = std::io::stdin().as_fd().try_clone_to_owned()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let in_runtime = runtime.enter();
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::user_defined2(),
        ];
        let signals = kinds.into_iter().map(signal).collect::<std::io::Result<_>>()?;
        let channel = Arc::new(Channel::new(end)?);
        drop(in_runtime);
        let (upgrade, reloaded) = (None, None);
        Ok(Self {
            runtime,
            channel,
            ordered,
            upgrade,
            reloaded,
            reload: false,
            limits: None,
            _signals: signals,
        })
    }

    /// A guard that cannot be told is gone, which is found out when it is listened to.
    fn say(&self, said: Said) {
        let _gone = self.channel.send(&said, &[]);
    }

    /// The next order with what came along; `None` when the guard is gone.
    fn next(&mut self) -> Packet<Order> {
        loop {
            let (channel, ordered) = (&self.channel, &mut self.ordered);
            let ordered = self.runtime.block_on(async {
                tokio::select! {
                    order = channel.receive::<Order>() => Err(order),
                    Some(ordered) = ordered.recv() => Ok(ordered),
                }
            });
            match ordered {
                Err(Ok(Some((Order::Share(processes), _)))) => {
                    if let Some(limits) = &self.limits {
                        limits.share(processes);
                    }
                }
                Err(order) => return order.ok().flatten(),
                // The guard has its part in both, and says when it is this one's turn.
                Ok(Ordered { order: admin::Order::Upgrade, answer }) => {
                    self.upgrade = Some(answer);
                    self.say(Said::Upgrade);
                }
                Ok(Ordered { order: admin::Order::Reload, answer }) => {
                    self.reloaded = Some(answer);
                    self.say(Said::Reload);
                }
            }
        }
    }

    /// How often to give a sign of life.
    fn begun(&mut self) -> Option<Duration> {
        match self.next()?.0 {
            Order::Begin { beat } => Some(Duration::from_millis(beat)),
            _ => None,
        }
    }

    /// Waits until the store may be opened, on these sockets.
    fn opened(&mut self) -> Option<Sockets> {
        loop {
            match self.next()? {
                (Order::Open, descriptors) => return Sockets::from_descriptors(descriptors),
                (Order::Stop | Order::HandOver, _) => return None,
                // It is read when the store is opened.
                _ => {}
            }
        }
    }

    /// Waits until clients may be accepted.
    fn let_go(&mut self) -> Option<gupd_guard::metrics::Figures> {
        loop {
            match self.next()?.0 {
                Order::Go(figures) => return Some(figures),
                Order::Stop | Order::HandOver => return None,
                Order::Reload => self.reload = true,
                _ => {}
            }
        }
    }

    fn until_it_ends(&mut self, relay: &mut Relay, settings: &Settings) -> Turn {
        if std::mem::take(&mut self.reload) {
            self.reload(relay, settings);
        }
        loop {
            match self.next().map(|(order, _)| order) {
                None => {
                    tracing::error!("the guard is gone");
                    return Turn::Stop;
                }
                Some(Order::Stop) => return Turn::Stop,
                Some(Order::HandOver) => return Turn::HandOver,
                Some(Order::Reload) => self.reload(relay, settings),
                Some(Order::Count(figures)) => relay.metrics().show_guard(&figures),
                Some(Order::Upgraded(result)) => {
                    // Whoever asked may have gone.
                    let result = result.map(|()| "the new worker is ready and takes over".to_owned());
                    let _gone = self.upgrade.take().map(|answer| answer.send(result));
                }
                Some(Order::Begin { .. } | Order::Open | Order::Go(_) | Order::Share(_)) => {}
            }
        }
    }

    fn reload(&mut self, relay: &mut Relay, settings: &Settings) {
        let done = reload(relay, settings);
        // Whoever asked may have gone.
        let _gone = self.reloaded.take().map(|answer| answer.send(done));
    }

    /// Waits for the order to stop, also for ever: a guard that is gone gives none.
    fn until_told_to_stop(&mut self) {
        while let Some((order, _)) = self.next() {
            if order == Order::Stop {
                return;
            }
        }
        loop {
            std::thread::park();
        }
    }
}

/// Gives signs of life, once the relay serves only while all its threads turn.
fn beat_every(beat: Duration, channel: Arc<Channel>, pulse: Arc<Mutex<Option<Pulse>>>) {
    let give = move || {
        loop {
            let begun = Instant::now();
            let pulse = pulse.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let beats = pulse.is_none_or(|pulse| pulse.beats(beat));
            if beats && control::send(channel.as_fd(), &Said::Beat, &[]).is_err_and(|error| is_end(&error)) {
                return;
            }
            std::thread::sleep(beat.saturating_sub(begun.elapsed()));
        }
    };
    // Without the thread the worker is silent, and ended for it.
    let spawned = std::thread::Builder::new().name("gupd-beat".to_owned()).spawn(give);
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for signs of life");
    }
}

/// Whether nobody will ever listen again. A guard that is busy will, and a machine that is short of memory has some again.
fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}
