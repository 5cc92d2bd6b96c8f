//! The signals that a guard minds. While it replaces itself they are held back, and are the next one's to mind: none
//! may be lost between the two, nor meet the default action, which would end them.

use std::io;
use std::time::Duration;

use nix::sys::signal::{self as mask, SigSet};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// Until what came before signals were held back has been seen: one turn of the event queue.
const SETTLE: Duration = Duration::from_millis(1);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Reload,
    Upgrade,
    Stop,
    /// A child has ended.
    Reap,
}

#[derive(Debug)]
pub(super) struct Signals {
    hangup: Signal,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
}

impl Signals {
    /// From now on, and within a runtime. What was held back before comes now.
    pub(super) fn watch() -> io::Result<Self> {
        let signals = Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        };
        Self::let_come()?;
        Ok(signals)
    }

    /// Holds back what comes from now on, also over an `exec`; or gives what has come before, and holds back nothing.
    pub(super) async fn hold(&mut self) -> io::Result<Option<Asked>> {
        orders().thread_block()?;
        let Ok(asked) = timeout(SETTLE, self.next()).await else { return Ok(None) };
        Self::let_come()?;
        Ok(Some(asked))
    }

    /// Holds back nothing any more.
    pub(super) fn let_come() -> io::Result<()> {
        Ok(orders().thread_unblock()?)
    }

    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user.recv() => Asked::Upgrade,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.child.recv() => Asked::Reap,
        }
    }
}

/// All but the ends of children, which a guard looks for when it begins.
fn orders() -> SigSet {
    use mask::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
    SigSet::from_iter([SIGHUP, SIGINT, SIGTERM, SIGUSR2])
}
