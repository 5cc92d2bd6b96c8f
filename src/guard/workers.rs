//! The worker processes: their start, messages, commands and exit. The module owns the control sockets and process ids;
//! `handover` decides. A process id stays valid until the process has been waited for here, so no signal can reach an
//! unrelated process.

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

use super::control::{self, Channel, Packet, WorkerCommand, WorkerMessage};
use super::handover::{Exit, GuardEvent, WorkerId};
use crate::service;
use gupd_config::Config;

/// Program on disk and its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// Path, resolved at each start: the file may have been replaced.
    pub path: PathBuf,
    /// Arguments of a worker.
    pub worker: Vec<OsString>,
    /// Arguments of a guard that replaces another one.
    pub guard: Vec<OsString>,
    /// Further argument of both while the guard's configuration has no upstream.
    pub unconfigured: OsString,
}

impl Program {
    /// Returns the program with the arguments for a guard with this configuration.
    pub(super) fn for_config(&self, config: &Config) -> Self {
        let mut program = self.clone();
        if config.upstreams.is_empty() {
            program.worker.push(self.unconfigured.clone());
            program.guard.push(self.unconfigured.clone());
        }
        program
    }
}

/// All worker processes that have not been waited for.
#[derive(Debug, Default)]
pub(super) struct Workers(Vec<WorkerProcess>);

#[derive(Debug)]
struct WorkerProcess {
    id: WorkerId,
    pid: Pid,
    /// `None` once the other end is closed.
    channel: Option<Channel>,
}

/// Message of a worker, as the guard handles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerNotice {
    Event(GuardEvent),
    /// An administrator requests an upgrade through this worker.
    Upgrade(WorkerId),
    /// An administrator requests a reload.
    Reload,
}

impl Workers {
    /// Starts a worker that sends a heartbeat every `heartbeat` and returns its process id.
    ///
    /// # Errors
    /// When the system cannot start the program.
    pub(super) fn spawn(&mut self, id: WorkerId, program: &Program, heartbeat: Duration) -> io::Result<u32> {
        let (ours, theirs) = control::pair()?;
        let beat = u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX);
        control::send(&ours, &WorkerCommand::Begin { beat }, &[])?;
        let mut command = Command::new(&program.path);
        // A process group of its own, so that signals of a terminal reach only the guard, which passes them on.
        command.args(&program.worker).stdin(theirs).process_group(0);
        for variable in service::VARIABLES {
            command.env_remove(variable);
        }
        let child = command.spawn()?;
        self.adopt(id, child.id(), ours)?;
        Ok(child.id())
    }

    /// Adds a running process.
    ///
    /// # Errors
    /// When the process id is invalid, or the runtime cannot register its socket.
    pub(super) fn adopt(&mut self, id: WorkerId, pid: u32, ours: OwnedFd) -> io::Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        self.0.push(WorkerProcess { id, pid, channel: Some(Channel::new(ours)?) });
        Ok(())
    }

    /// Waits for the next message; forever without workers.
    pub(super) async fn next(&mut self) -> WorkerNotice {
        poll_fn(|cx| {
            for worker in &mut self.0 {
                if let Some(channel) = &worker.channel
                    && let Poll::Ready(received) = channel.poll_receive(cx)
                {
                    return Poll::Ready(worker.notice(received));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Sends a command. A worker that cannot take it counts as disconnected.
    pub(super) fn send(
        &mut self,
        id: WorkerId,
        command: &WorkerCommand,
        descriptors: &[BorrowedFd<'_>],
    ) -> Option<GuardEvent> {
        let worker = self.0.iter_mut().find(|worker| worker.id == id)?;
        let error = worker.channel.as_ref()?.send(command, descriptors).err()?;
        tracing::debug!(%error, pid = worker.pid.as_raw_pid(), "command could not be sent to the worker");
        worker.channel = None;
        Some(GuardEvent::Disconnected(id))
    }

    /// Kills a worker process.
    pub(super) fn kill(&self, id: WorkerId) {
        if let Some(worker) = self.0.iter().find(|worker| worker.id == id) {
            // It may have exited already and not been waited for.
            let _gone = kill_process(worker.pid, Signal::KILL);
        }
    }

    /// Waits for workers that have exited: returns their unread messages, then their exits.
    pub(super) fn reap(&mut self) -> Vec<WorkerNotice> {
        let (mut messages, mut exits) = (Vec::new(), Vec::new());
        self.0.retain_mut(|worker| {
            let exit = match waitpid(Some(worker.pid), WaitOptions::NOHANG) {
                Ok(None) => return true,
                Ok(Some((_, status))) => {
                    let by_signal = status.terminating_signal().map(Exit::Signal);
                    status.exit_status().map(Exit::Status).or(by_signal).unwrap_or(Exit::Unknown)
                }
                // Not a child of this process.
                Err(_) => Exit::Unknown,
            };
            while let Some(channel) = &worker.channel {
                match control::receive::<WorkerMessage>(channel.as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    received => messages.push(worker.notice(received)),
                }
            }
            exits.push(WorkerNotice::Event(GuardEvent::Exited(worker.id, exit)));
            false
        });
        messages.append(&mut exits);
        messages
    }

    /// The process of one, and its end of the control socket.
    pub(super) fn handle(&self, id: WorkerId) -> Option<(i32, BorrowedFd<'_>)> {
        let worker = self.0.iter().find(|worker| worker.id == id)?;
        Some((worker.pid.as_raw_pid(), worker.channel.as_ref()?.as_fd()))
    }

    /// Returns the number of worker processes.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns true until the worker has exited.
    pub(super) fn contains(&self, id: WorkerId) -> bool {
        self.0.iter().any(|worker| worker.id == id)
    }

    /// Returns the numbers of all workers.
    pub(super) fn ids(&self) -> Vec<WorkerId> {
        self.0.iter().map(|worker| worker.id).collect()
    }

    /// Returns true if the control socket of every worker is open.
    pub(super) fn are_all_connected(&self) -> bool {
        self.0.iter().all(|worker| worker.channel.is_some())
    }
}

impl WorkerProcess {
    fn notice(&mut self, received: io::Result<Packet<WorkerMessage>>) -> WorkerNotice {
        let id = self.id;
        let message = match received {
            Ok(Some((message, _))) => message,
            Ok(None) | Err(_) => {
                self.channel = None;
                return WorkerNotice::Event(GuardEvent::Disconnected(id));
            }
        };
        WorkerNotice::Event(match message {
            WorkerMessage::Prepared => GuardEvent::Prepared(id),
            WorkerMessage::Ready => GuardEvent::Ready(id),
            WorkerMessage::Released => GuardEvent::Released(id),
            WorkerMessage::Heartbeat => GuardEvent::Heartbeat(id),
            WorkerMessage::Upgrade => return WorkerNotice::Upgrade(id),
            WorkerMessage::Reload => return WorkerNotice::Reload,
        })
    }
}
