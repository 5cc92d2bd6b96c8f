//! What happens to guard and workers, and what is done about it: the terms that `handover` decides in.

use crate::metrics::Why;

/// Workers that finish what runs after having handed over, at most: each holds a program and its connections.
pub(super) const RETIRING: usize = 3;

/// A worker's number, never given twice.
pub type WorkerId = u64;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// Nobody knows.
    Unknown,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed: no more than [`Handover::next_turn`] said.
    Turn,
    /// A worker could not be started.
    NotSpawned(WorkerId),
    /// Its configuration is good.
    Prepared(WorkerId),
    /// Its store is open.
    Ready(WorkerId),
    /// It has stopped accepting, and its store is free.
    Released(WorkerId),
    /// It is alive.
    Beat(WorkerId),
    /// Its end of the control socket is closed: it is about to be gone.
    Lost(WorkerId),
    /// It is gone.
    Ended(WorkerId, Exit),
    /// An administrator wants the program on disk to take over.
    Upgrade,
    /// The configuration shall be read again.
    Reload,
    /// The relay shall stop; the second time at once.
    Stop,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Accept clients.
    Accept,
    /// Accept no more.
    Refrain,
    /// Give up the sockets for good: clients that come are refused.
    Close,
    /// Start a worker from the program on disk, under this number.
    Spawn(WorkerId),
    /// Have it open its store.
    Open(WorkerId),
    /// Have it accept.
    Go(WorkerId),
    /// Have it stop accepting and release its store.
    HandOver(WorkerId),
    /// Have it read its configuration again.
    Reload(WorkerId),
    /// Have it stop.
    Stop(WorkerId),
    /// End it, at once and surely.
    Kill(WorkerId),
    /// A worker's end is known and counted.
    Count(WorkerId, Why, Exit),
    /// What became of the upgrade.
    Upgraded(Result<(), NoUpgrade>),
    /// Everything has ended.
    End,
    /// The first worker refused its configuration: so does the guard.
    Refuse,
}

/// Why there is no upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUpgrade {
    /// The new one did not get as far as a good configuration.
    #[error("the new worker ended before it could take over, and says why in the log; the old one goes on")]
    Unfit,
    /// One change at a time.
    #[error("a worker is being started or replaced already; try again when it serves")]
    UnderWay,
    /// Too many are still finishing.
    #[error("{RETIRING} workers before this one still finish downloads; try again when one has")]
    Retiring,
    /// It stops.
    #[error("the relay stops")]
    Stopping,
}
