//! The worker that serves, or would: how far it has come, and until when it may stay there.

use std::time::Duration;

use super::WorkerId;
use super::watched::Watched;

/// Time a worker has to release the store: what fills have in memory reaches even a slow disk in it.
pub(super) const RELEASE: Duration = Duration::from_secs(30);

/// A worker that has been killed runs no more; so long the guard waits to see it gone. One that the kernel holds in a
/// system call, as a hung disk does, may take for ever.
pub(super) const REAP: Duration = Duration::from_secs(1);

/// The worker that serves, or would.
#[derive(Debug)]
pub(super) enum Main {
    /// None; one is started then.
    Waiting { until: Duration },
    /// Not serving yet; the guard answers from then on.
    Starting { worker: Watched, opening: bool, answer: Duration },
    /// It accepts.
    Serving { worker: Watched, since: Duration },
    /// It has been told to release its store, to the candidate.
    Leaving { worker: Watched, since: Duration },
    /// It has been killed, and may not be gone yet.
    Dying { id: WorkerId, since: Duration, served: Option<Duration> },
}

impl Main {
    pub(super) fn worker(&self) -> Option<&Watched> {
        match self {
            Self::Starting { worker, .. } | Self::Serving { worker, .. } | Self::Leaving { worker, .. } => {
                Some(worker)
            }
            Self::Waiting { .. } | Self::Dying { .. } => None,
        }
    }

    pub(super) fn worker_mut(&mut self) -> Option<&mut Watched> {
        match self {
            Self::Starting { worker, .. } | Self::Serving { worker, .. } | Self::Leaving { worker, .. } => {
                Some(worker)
            }
            Self::Waiting { .. } | Self::Dying { .. } => None,
        }
    }

    /// When something follows from the time alone.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        match self {
            Self::Waiting { until } => Some(*until),
            Self::Starting { answer, .. } => (*answer > now).then_some(*answer),
            Self::Serving { .. } => None,
            Self::Leaving { since, .. } => Some(*since + RELEASE),
            Self::Dying { since, .. } => Some(*since + REAP),
        }
    }

    /// How long it has served, if it has.
    pub(super) fn served(&self, now: Duration) -> Option<Duration> {
        match self {
            Self::Serving { since, .. } | Self::Leaving { since, .. } => Some(now.saturating_sub(*since)),
            Self::Dying { served, .. } => *served,
            Self::Waiting { .. } | Self::Starting { .. } => None,
        }
    }

    /// Whether clients wait for nobody but the guard.
    pub(super) fn leaves_clients_to_the_guard(&self, now: Duration) -> bool {
        match self {
            Self::Waiting { .. } => true,
            Self::Starting { answer, .. } => *answer <= now,
            Self::Serving { .. } | Self::Leaving { .. } | Self::Dying { .. } => false,
        }
    }
}
