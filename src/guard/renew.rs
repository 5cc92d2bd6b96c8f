//! A guard replaces itself by the program on disk, in the same process: its workers stay its children, and the service
//! manager sees no change. What it knows waits in a socket that becomes the new one's standard input, filled before: a
//! message and the descriptors, in the kernel's hands meanwhile. Only done when the guard has no connections of its own.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use rustix::stdio::dup2_stdin;
use serde::{Deserialize, Serialize};

use super::control;
use super::door::Door;
use super::handover::{Handover, WorkerId};
use super::workers::{Program, Workers};
use crate::metrics::Figures;
use gupd_net::listen::Sockets;

/// What a guard hands to the one that replaces it.
#[derive(Debug, Serialize, Deserialize)]
struct Handed {
    /// The one that serves first.
    workers: Vec<Known>,
    next: WorkerId,
    figures: Figures,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Known {
    id: WorkerId,
    pid: i32,
    /// Milliseconds that it may be silent.
    patience: u64,
}

/// What a guard begins with that has replaced another.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) sockets: Sockets,
    pub(super) workers: Workers,
    /// Each with its patience; the one that serves first.
    pub(super) known: Vec<(WorkerId, Duration)>,
    pub(super) next: WorkerId,
    pub(super) figures: Figures,
}

/// Runs the program on disk in this process. Comes back only if that cannot be done; nothing has changed then.
pub(super) fn replace(
    program: &Program,
    door: &Door,
    workers: &Workers,
    handover: &Handover,
    figures: &Figures,
) -> io::Error {
    let Err(error) = prepare(door, workers, handover, figures).and_then(|state| exec(program, state));
    error
}

/// Not the standard library's: should the program not start, that would leave this one with `state` as its input, which
/// holds every socket open, and to be ended by the next write to a client who is gone (SIGPIPE).
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

fn prepare(door: &Door, workers: &Workers, handover: &Handover, figures: &Figures) -> io::Result<OwnedFd> {
    let mut along = door.descriptors();
    let mut known = Vec::new();
    for (id, patience) in handover.watched_by_turn() {
        let (pid, control) = workers.handle(id).ok_or(io::ErrorKind::NotConnected)?;
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        known.push(Known { id, pid, patience });
        along.push(control);
    }
    if known.len() != workers.count() {
        return Err(io::Error::other("a worker is about to end"));
    }
    let (filled, read) = control::pair()?;
    let handed = Handed { workers: known, next: handover.next_id(), figures: figures.clone() };
    control::send(&filled, &handed, &along)?;
    Ok(read)
}

/// Takes over from the guard that this process was.
///
/// # Errors
/// When standard input has no such state.
pub(super) fn resume() -> io::Result<Resumed> {
    let unusable = || io::Error::new(io::ErrorKind::InvalidData, "standard input has no guard's state");
    let (handed, descriptors) = control::receive::<Handed>(std::io::stdin())?.ok_or_else(unusable)?;
    let sockets = descriptors.len().checked_sub(handed.workers.len()).ok_or_else(unusable)?;
    let mut descriptors = descriptors.into_iter();
    let sockets =
        Sockets::from_descriptors(descriptors.by_ref().take(sockets).collect()).ok_or_else(unusable)?;
    let mut workers = Workers::default();
    for (known, control) in handed.workers.iter().zip(descriptors) {
        workers.adopt(known.id, u32::try_from(known.pid).map_err(|_| unusable())?, control)?;
    }
    let known = handed.workers.iter().map(|known| (known.id, Duration::from_millis(known.patience)));
    Ok(Resumed { sockets, workers, known: known.collect(), next: handed.next, figures: handed.figures })
}

/// Whether these sockets, and those of this many workers, can go with one message.
pub(super) fn fit(sockets: &[BorrowedFd<'_>], workers: usize) -> bool {
    sockets.len() + workers <= control::MAX_DESCRIPTORS
}
