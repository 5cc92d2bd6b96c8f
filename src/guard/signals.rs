//! The signals of the guard. While the guard replaces itself they are blocked and stay pending for its successor: none
//! is lost, and none meets the default action, which would kill the process.

use std::io;
use std::time::Duration;

use nix::sys::signal::{self as mask, SigSet};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// Time for signals that arrived before they were blocked to be read: one turn of the event queue.
const SETTLE: Duration = Duration::from_millis(1);

/// Meaning of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalRequest {
    Reload,
    Upgrade,
    Stop,
    /// A child has exited.
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
    /// Registers the signals with the current runtime and unblocks them.
    pub(super) fn register() -> io::Result<Self> {
        let signals = Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        };
        Self::unblock()?;
        Ok(signals)
    }

    /// Blocks signals, also over an `exec`. If one had arrived before, unblocks them and returns it instead.
    pub(super) async fn block(&mut self) -> io::Result<Option<SignalRequest>> {
        requests().thread_block()?;
        let Ok(request) = timeout(SETTLE, self.next()).await else { return Ok(None) };
        Self::unblock()?;
        Ok(Some(request))
    }

    pub(super) fn unblock() -> io::Result<()> {
        Ok(requests().thread_unblock()?)
    }

    pub(super) async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.hangup.recv() => SignalRequest::Reload,
            _ = self.user.recv() => SignalRequest::Upgrade,
            _ = self.terminate.recv() => SignalRequest::Stop,
            _ = self.interrupt.recv() => SignalRequest::Stop,
            _ = self.child.recv() => SignalRequest::Reap,
        }
    }
}

/// All but SIGCHLD: a guard checks for exited children when it starts.
fn requests() -> SigSet {
    use mask::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
    SigSet::from_iter([SIGHUP, SIGINT, SIGTERM, SIGUSR2])
}
