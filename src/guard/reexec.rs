//! The replacement of a guard by the program on disk, in the same process: workers stay its children and the service
//! manager sees no change. The state and the descriptors are written into a socket pair before the `exec`; its other
//! end becomes standard input of the new guard. Done only while the guard has no connections of its own.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use rustix::stdio::dup2_stdin;
use serde::{Deserialize, Serialize};

use super::control;
use super::handover::{HandoverState, WorkerId};
use super::listeners::Listeners;
use super::workers::{Program, Workers};
use crate::metrics::GuardStats;
use gupd_net::listen::Sockets;

/// State of a guard for the one that replaces it. Serialized names never change: the reader is a newer program.
#[derive(Debug, Serialize, Deserialize)]
struct GuardState {
    /// The serving worker first.
    workers: Vec<RunningWorker>,
    next: WorkerId,
    #[serde(rename = "stats")]
    stats: GuardStats,
    /// Names of the listeners of the sockets; empty if all are of `server.listen`.
    #[serde(default)]
    listeners: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct RunningWorker {
    id: WorkerId,
    pid: i32,
    /// Timeout for heartbeats, in milliseconds.
    patience: u64,
}

/// State taken over from the replaced guard.
#[derive(Debug)]
pub(super) struct InheritedState {
    pub(super) sockets: Sockets,
    pub(super) workers: Workers,
    /// Workers with their timeouts; the serving one first.
    pub(super) running: Vec<(WorkerId, Duration)>,
    pub(super) next_id: WorkerId,
    pub(super) stats: GuardStats,
}

/// Runs the program on disk in this process. Returns only on failure, with the guard unchanged.
pub(super) fn replace(
    program: &Program,
    listeners: &Listeners,
    workers: &Workers,
    handover: &HandoverState,
    stats: &GuardStats,
) -> io::Error {
    let Err(error) = prepare(listeners, workers, handover, stats).and_then(|state| exec(program, state));
    error
}

/// Not `CommandExt::exec`: on failure that would leave `state`, which holds every socket open, as standard input of
/// this process, and SIGPIPE at its default action, so that the next write to a closed connection would kill the guard.
fn exec(program: &Program, state: OwnedFd) -> io::Result<Infallible> {
    let text = |text: OsString| CString::new(text.into_vec());
    let path = text(program.path.clone().into())?;
    let arguments = std::iter::once(Ok(path.clone())).chain(program.guard.iter().cloned().map(text));
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os().map(|(mut variable, value)| {
        variable.push("=");
        variable.push(value);
        text(variable)
    });
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(state)?;
    let started = nix::unistd::execve(&path, &arguments, &environment);
    dup2_stdin(input)?;
    Ok(started?)
}

fn prepare(
    listeners: &Listeners,
    workers: &Workers,
    handover: &HandoverState,
    stats: &GuardStats,
) -> io::Result<OwnedFd> {
    let mut descriptors = listeners.descriptors();
    let mut running = Vec::new();
    for (id, timeout) in handover.running_workers() {
        let (pid, control) = workers.handle(id).ok_or(io::ErrorKind::NotConnected)?;
        let patience = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        running.push(RunningWorker { id, pid, patience });
        descriptors.push(control);
    }
    if running.len() != workers.count() {
        return Err(io::Error::other("a worker is about to exit"));
    }
    let (filled, read) = control::pair()?;
    let (next, stats, listeners) = (handover.next_id(), stats.clone(), listeners.names());
    let state = GuardState { workers: running, next, stats, listeners };
    control::send(&filled, &state, &descriptors)?;
    Ok(read)
}

/// Reads the state of the guard that this process was.
///
/// # Errors
/// When standard input has no such state.
pub(super) fn resume() -> io::Result<InheritedState> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "standard input has no state of a guard");
    let (state, descriptors) = control::receive::<GuardState>(std::io::stdin())?.ok_or_else(invalid)?;
    let sockets = descriptors.len().checked_sub(state.workers.len()).ok_or_else(invalid)?;
    let mut descriptors = descriptors.into_iter();
    let sockets: Vec<_> = descriptors.by_ref().take(sockets).collect();
    let sockets = Sockets::from_descriptors(sockets, &state.listeners).ok_or_else(invalid)?;
    let mut workers = Workers::default();
    for (worker, control) in state.workers.iter().zip(descriptors) {
        workers.adopt(worker.id, u32::try_from(worker.pid).map_err(|_| invalid())?, control)?;
    }
    let running = state.workers.iter().map(|worker| (worker.id, Duration::from_millis(worker.patience)));
    Ok(InheritedState {
        sockets,
        workers,
        running: running.collect(),
        next_id: state.next,
        stats: state.stats,
    })
}

/// Returns true if these sockets and those of `workers` workers fit in one message.
pub(super) fn can_send(sockets: &[BorrowedFd<'_>], workers: usize) -> bool {
    sockets.len() + workers <= control::MAX_DESCRIPTORS
}
