//! The events that [`HandoverState`](super::HandoverState) handles and the actions that it returns.

use crate::metrics::ExitReason;

/// Maximum number of workers that finish running downloads after a handover. Each keeps a process and its connections.
pub(super) const MAX_RETIRING: usize = 3;

/// Number of a worker, never reused.
pub(crate) type WorkerId = u64;

/// Status of a process that has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Exit status.
    Status(i32),
    /// Signal that killed the process.
    Signal(i32),
    /// The status was lost: the process was not a child of the guard.
    Unknown,
}

impl Exit {
    /// A worker rejected the configuration, as `gupd serve` does.
    pub(super) const CONFIG_REJECTED: Self = Self::Status(2);

    /// A worker could not be started.
    pub(super) const FAILED: Self = Self::Status(1);
}

/// An input of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardEvent {
    /// Time has passed, at most until [`HandoverState::next_tick`](super::HandoverState::next_tick).
    Tick,
    /// The worker process could not be started.
    SpawnFailed(WorkerId),
    /// The worker has accepted its configuration.
    Prepared(WorkerId),
    /// The worker has opened the store.
    Ready(WorkerId),
    /// The worker has stopped accepting and closed the store.
    Released(WorkerId),
    /// The worker is alive.
    Heartbeat(WorkerId),
    /// The worker's end of the control socket is closed: its exit follows.
    Disconnected(WorkerId),
    /// The worker process has exited.
    Exited(WorkerId, Exit),
    /// An administrator requests an upgrade to the program on disk.
    Upgrade,
    /// The configuration must be read again.
    Reload,
    /// The relay must stop; the second time at once.
    Stop,
}

/// An output of the state machine. Actions are carried out in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The guard accepts clients.
    StartAccepting,
    /// The guard leaves clients to the worker.
    StopAccepting,
    /// Close the sockets for good: the system refuses further connections.
    CloseSockets,
    /// Start a worker with this number from the program on disk.
    Spawn(WorkerId),
    /// Tell the worker to open its store.
    OpenStore(WorkerId),
    /// Tell the worker to accept clients.
    Activate(WorkerId),
    /// Tell the worker to stop accepting and to release its store.
    HandOver(WorkerId),
    /// Tell the worker to read its configuration again.
    Reload(WorkerId),
    /// Tell the worker to stop.
    Stop(WorkerId),
    /// Kill the worker process.
    Kill(WorkerId),
    /// Count and log the exit of a worker.
    RecordExit(WorkerId, ExitReason, Exit),
    /// Report the result of the upgrade.
    ReportUpgrade(Result<(), UpgradeError>),
    /// Exit: no worker is left.
    Shutdown,
    /// Exit with a configuration error: the first worker rejected the configuration.
    RejectConfig,
}

/// Reason why an upgrade was refused or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// The new worker exited before it had accepted the configuration.
    #[error("upgrade failed: the new worker exited: see its error in the log; the old worker keeps serving")]
    WorkerExited,
    /// Another worker is being started or replaced.
    #[error("upgrade refused: a worker is being started or replaced: try again when /readyz answers 200")]
    UnderWay,
    /// Too many workers still finish downloads.
    #[error(
        "upgrade refused: {MAX_RETIRING} replaced workers still finish downloads: try again when one has exited"
    )]
    TooManyRetiring,
    /// The relay is stopping.
    #[error("upgrade refused: the relay is stopping")]
    Stopping,
}
