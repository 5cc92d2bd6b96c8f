//! The main worker: the one that serves or is next to serve, its state, and the deadline of each state.

use std::time::Duration;

use super::WorkerId;
use super::watched::WatchedWorker;

/// Time for a worker to release the store: enough for a slow disk to write what fills hold in memory.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time the guard waits for the exit of a killed worker. A worker that the kernel holds in a system call, as on a hung
/// disk, may never exit; it runs no more either way.
pub(super) const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// State of the main worker.
#[derive(Debug)]
pub(super) enum MainWorker {
    /// No worker; one is started at `until`.
    Waiting { until: Duration },
    /// Not serving yet. The guard answers clients from `answer_at` on.
    Starting { worker: WatchedWorker, is_opening: bool, answer_at: Duration },
    /// Accepting clients.
    Serving { worker: WatchedWorker, since: Duration },
    /// Told to release its store to the successor.
    HandingOver { worker: WatchedWorker, since: Duration },
    /// Killed, and perhaps not gone yet.
    Dying { id: WorkerId, since: Duration, served: Option<Duration> },
}

impl MainWorker {
    pub(super) fn worker(&self) -> Option<&WatchedWorker> {
        match self {
            Self::Starting { worker, .. }
            | Self::Serving { worker, .. }
            | Self::HandingOver { worker, .. } => Some(worker),
            Self::Waiting { .. } | Self::Dying { .. } => None,
        }
    }

    pub(super) fn worker_mut(&mut self) -> Option<&mut WatchedWorker> {
        match self {
            Self::Starting { worker, .. }
            | Self::Serving { worker, .. }
            | Self::HandingOver { worker, .. } => Some(worker),
            Self::Waiting { .. } | Self::Dying { .. } => None,
        }
    }

    /// Time at which this state ends without an event.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        match self {
            Self::Waiting { until } => Some(*until),
            Self::Starting { answer_at, .. } => (*answer_at > now).then_some(*answer_at),
            Self::Serving { .. } => None,
            Self::HandingOver { since, .. } => Some(*since + RELEASE_TIMEOUT),
            Self::Dying { since, .. } => Some(*since + REAP_TIMEOUT),
        }
    }

    /// Time for which the worker has served, if it has.
    pub(super) fn served(&self, now: Duration) -> Option<Duration> {
        match self {
            Self::Serving { since, .. } | Self::HandingOver { since, .. } => Some(now.saturating_sub(*since)),
            Self::Dying { served, .. } => *served,
            Self::Waiting { .. } | Self::Starting { .. } => None,
        }
    }

    /// Returns true if the guard must answer clients.
    pub(super) fn needs_guard(&self, now: Duration) -> bool {
        match self {
            Self::Waiting { .. } => true,
            Self::Starting { answer_at, .. } => *answer_at <= now,
            Self::Serving { .. } | Self::HandingOver { .. } | Self::Dying { .. } => false,
        }
    }
}
