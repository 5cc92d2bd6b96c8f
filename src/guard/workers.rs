//! The worker processes: starts them, hears what they say, ends them and sees them gone. Owns their control sockets and
//! process numbers; which of them does what is `handover`'s to say. A process's number stays its own until it has been
//! waited for here, so that no signal can meet another.

use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::control::{self, Channel, Order, Packet, Said};
use super::handover::{Event, Exit, WorkerId};
use crate::service;

/// How a program is started again.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its path: the file may be another one each time.
    pub path: PathBuf,
    /// The arguments of a worker.
    pub worker: Vec<OsString>,
    /// The arguments of a guard that takes another's place.
    pub guard: Vec<OsString>,
}

/// All worker processes that have not been seen gone.
#[derive(Debug, Default)]
pub(super) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    id: WorkerId,
    pid: Pid,
    /// None when its other end is closed.
    channel: Option<Channel>,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Event(Event),
    /// This worker's administrator wants an upgrade.
    Upgrade(WorkerId),
    /// An administrator asks for a reload.
    Reload,
}

impl Workers {
    /// Starts one that is to give a sign of life every `beat`.
    ///
    /// # Errors
    /// When the system gives no process, or the program is not there.
    pub(super) fn spawn(&mut self, id: WorkerId, program: &Program, beat: Duration) -> io::Result<u32> {
        let (ours, theirs) = control::pair()?;
        let beat = u64::try_from(beat.as_millis()).unwrap_or(u64::MAX);
        control::send(&ours, &Order::Begin { beat }, &[])?;
        let mut command = Command::new(&program.path);
        // A group of its own: what a terminal sends to the foreground's is for the guard to pass on.
        command.args(&program.worker).stdin(theirs).process_group(0);
        for variable in service::VARIABLES {
            command.env_remove(variable);
        }
        let child = command.spawn()?;
        self.adopt(id, child.id(), ours)?;
        Ok(child.id())
    }

    /// Takes over a process that runs already.
    ///
    /// # Errors
    /// When its number is none, or its socket cannot be watched.
    pub(super) fn adopt(&mut self, id: WorkerId, pid: u32, ours: OwnedFd) -> io::Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        self.0.push(Worker { id, pid, channel: Some(Channel::new(ours)?) });
        Ok(())
    }

    /// Waits for the next thing that one says; for ever if there is none.
    pub(super) async fn next(&mut self) -> Heard {
        poll_fn(|cx| {
            for worker in &mut self.0 {
                if let Some(channel) = &worker.channel
                    && let Poll::Ready(received) = channel.poll_receive(cx)
                {
                    return Poll::Ready(worker.heard(received));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Tells one something. One that cannot be told is lost.
    pub(super) fn tell(&mut self, id: WorkerId, order: &Order, along: &[BorrowedFd<'_>]) -> Option<Event> {
        let worker = self.0.iter_mut().find(|worker| worker.id == id)?;
        let error = worker.channel.as_ref()?.send(order, along).err()?;
        tracing::debug!(%error, pid = worker.pid.as_raw_pid(), "a worker cannot be told");
        worker.channel = None;
        Some(Event::Lost(id))
    }

    /// Ends one.
    pub(super) fn kill(&self, id: WorkerId) {
        if let Some(worker) = self.0.iter().find(|worker| worker.id == id) {
            // It may have ended by itself, and not been waited for yet.
            let _gone = kill_process(worker.pid, Signal::KILL);
        }
    }

    /// What those who have ended had still said, and then their ends.
    pub(super) fn reap(&mut self) -> Vec<Heard> {
        let (mut said, mut gone) = (Vec::new(), Vec::new());
        self.0.retain_mut(|worker| {
            let ended = match waitpid(Some(worker.pid), WaitOptions::NOHANG) {
                Ok(None) => return true,
                Ok(Some((_, status))) => {
                    let by_signal = status.terminating_signal().map(Exit::Signal);
                    status.exit_status().map(Exit::Status).or(by_signal).unwrap_or(Exit::Unknown)
                }
                // Nobody's child any more.
                Err(_) => Exit::Unknown,
            };
            while let Some(channel) = &worker.channel {
                match control::receive::<Said>(channel.as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    received => said.push(worker.heard(received)),
                }
            }
            gone.push(Heard::Event(Event::Ended(worker.id, ended)));
            false
        });
        said.append(&mut gone);
        said
    }

    /// The process of one, and its end of the control socket.
    pub(super) fn handle(&self, id: WorkerId) -> Option<(i32, BorrowedFd<'_>)> {
        let worker = self.0.iter().find(|worker| worker.id == id)?;
        Some((worker.pid.as_raw_pid(), worker.channel.as_ref()?.as_fd()))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether this one has not ended.
    pub(super) fn has(&self, id: WorkerId) -> bool {
        self.0.iter().any(|worker| worker.id == id)
    }

    /// All of them.
    pub(super) fn ids(&self) -> Vec<WorkerId> {
        self.0.iter().map(|worker| worker.id).collect()
    }

    /// Whether each of them can be told something still.
    pub(super) fn are_all_there(&self) -> bool {
        self.0.iter().all(|worker| worker.channel.is_some())
    }
}

impl Worker {
    fn heard(&mut self, received: io::Result<Packet<Said>>) -> Heard {
        let id = self.id;
        let said = match received {
            Ok(Some((said, _))) => said,
            Ok(None) | Err(_) => {
                self.channel = None;
                return Heard::Event(Event::Lost(id));
            }
        };
        Heard::Event(match said {
            Said::Prepared => Event::Prepared(id),
            Said::Ready => Event::Ready(id),
            Said::Released => Event::Released(id),
            Said::Beat => Event::Beat(id),
            Said::Upgrade => return Heard::Upgrade(id),
            Said::Reload => return Heard::Reload,
        })
    }
}
