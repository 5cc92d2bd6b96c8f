//! The actions of a guard: what `handover` decided, done to sockets and workers, and the messages that keep workers,
//! service manager and limits up to date after each turn of the loop.

use std::collections::VecDeque;
use std::io;

use tokio::time::Instant;

use super::{ACCEPT_PAUSE, Guard, STARTED_AFTER};
use crate::GuardOutcome;
use crate::control::WorkerCommand;
use crate::handover::{Action, Exit, GuardEvent, UpgradeError, WorkerId};
use crate::metrics::ExitReason;
use crate::service;

/// Heartbeats that a worker sends within `guard.watchdog`.
const HEARTBEATS: u32 = 3;

impl Guard {
    /// Handles an event, carries out the actions, and handles the events that follow from them.
    pub(super) fn handle_event(&mut self, event: GuardEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.handover.handle(self.started_at.elapsed(), event) {
                events.extend(self.execute(action));
            }
        }
    }

    fn execute(&mut self, action: Action) -> Option<GuardEvent> {
        match action {
            Action::StartAccepting => self.start_accepting(),
            Action::StopAccepting => {
                self.listeners.pause();
                self.resume_listeners_at = None;
                self.service.stats().answering = false;
            }
            Action::CloseSockets => self.close_sockets(),
            Action::Spawn(id) => return self.spawn(id),
            Action::OpenStore(id) => {
                let names = self.listeners.names();
                let open =
                    if names.is_empty() { WorkerCommand::Open } else { WorkerCommand::OpenListeners(names) };
                return self.workers.send(id, &open, &self.listeners.descriptors());
            }
            Action::Activate(id) => {
                self.sent_stats = self.service.stats().clone();
                self.active.push(id);
                return self.workers.send(id, &WorkerCommand::Accept(self.sent_stats.clone()), &[]);
            }
            Action::HandOver(id) => return self.workers.send(id, &WorkerCommand::HandOver, &[]),
            Action::Reload(id) => return self.workers.send(id, &WorkerCommand::Reload, &[]),
            Action::Stop(id) => return self.workers.send(id, &WorkerCommand::Stop, &[]),
            Action::Kill(id) => {
                if self.handover.is_stopping() {
                    tracing::info!(worker = id, "killing worker that is no longer needed");
                } else {
                    tracing::error!(worker = id, "killing worker that sent no heartbeat");
                }
                self.workers.kill(id);
            }
            Action::RecordExit(id, reason, exit) => self.record_exit(id, reason, exit),
            Action::ReportUpgrade(result) => return self.report_upgrade(result),
            Action::RejectConfig => self.outcome = Some(GuardOutcome::ConfigRejected),
            Action::Shutdown => self.outcome = self.outcome.or(Some(GuardOutcome::Stopped)),
        }
        None
    }

    fn start_accepting(&mut self) {
        match self.listeners.resume() {
            Ok(()) => self.resume_listeners_at = None,
            Err(error) => self.retry_accepting(&error),
        }
        self.service.stats().answering = true;
    }

    pub(super) fn retry_accepting(&mut self, error: &io::Error) {
        tracing::error!(%error, "guard could not accept connections; clients wait in the backlog");
        self.resume_listeners_at = Some(Instant::now() + ACCEPT_PAUSE);
    }

    fn close_sockets(&mut self) {
        let timeout = self.setup.config.server.drain_timeout;
        self.listeners.close();
        self.resume_listeners_at = None;
        self.service.stats().answering = false;
        self.drop_clients_at = Some(Instant::now() + timeout);
        service::notify_stopping();
        tracing::info!(?timeout, "guard is draining");
    }

    fn spawn(&mut self, id: WorkerId) -> Option<GuardEvent> {
        let heartbeat = self.setup.config.guard.watchdog / HEARTBEATS;
        match self.workers.spawn(id, &self.setup.program.for_config(&self.setup.config), heartbeat) {
            Ok(pid) => {
                self.service.stats().starts += 1;
                tracing::info!(worker = id, pid, "worker started");
                None
            }
            Err(error) => {
                let program = self.setup.program.path.display();
                tracing::error!(%error, %program, "worker could not be started");
                Some(GuardEvent::SpawnFailed(id))
            }
        }
    }

    fn record_exit(&mut self, id: WorkerId, reason: ExitReason, exit: Exit) {
        self.service.stats().count_exit(reason);
        let (mut status, mut signal) = (None, None);
        match exit {
            Exit::Status(number) => status = Some(number),
            Exit::Signal(number) => signal = Some(number),
            Exit::Unknown => {}
        }
        let why = reason.as_str();
        if matches!(reason, ExitReason::HandedOver | ExitReason::Stopped) {
            tracing::info!(worker = id, why, status, signal, "worker exited");
        } else {
            let next = self.handover.status_text();
            tracing::error!(worker = id, why, status, signal, next, "worker exited unexpectedly");
        }
    }

    fn report_upgrade(&mut self, result: Result<(), UpgradeError>) -> Option<GuardEvent> {
        match result {
            Ok(()) => tracing::info!("upgrade: new worker is taking over"),
            Err(error) => tracing::error!(%error, "upgrade failed"),
        }
        let command = WorkerCommand::AnswerUpgrade(result.map_err(|error| error.to_string()));
        self.upgrade_requester.take().and_then(|id| self.workers.send(id, &command, &[]))
    }

    /// Does what is due after each turn of the loop.
    pub(super) fn finish_turn(&mut self) {
        if self.resume_listeners_at.is_some_and(|at| at <= Instant::now()) {
            self.start_accepting();
        }
        self.notify_service_manager();
        let stats = self.service.stats().clone();
        if let Some(id) = self.handover.serving().filter(|_| stats != self.sent_stats) {
            self.sent_stats = stats;
            let command = WorkerCommand::SetStats(self.sent_stats.clone());
            if let Some(event) = self.workers.send(id, &command, &[]) {
                self.handle_event(event);
            }
        }
        self.share_limits();
    }

    fn notify_service_manager(&mut self) {
        let status = self.handover.status_text();
        let has_result = self.handover.serving().is_some() || self.handover.failures() > 0;
        if !self.is_started && (has_result || self.started_at.elapsed() >= STARTED_AFTER) {
            self.is_started = true;
            service::notify_ready(&status);
        } else if self.status != status {
            service::notify_status(&status);
        }
        self.status = status;
    }

    /// Divides the limits of the site equally between the processes that transfer bytes.
    fn share_limits(&mut self) {
        let workers = &self.workers;
        self.active.retain(|id| workers.contains(*id));
        let own = usize::from(!self.clients.is_empty());
        let sharing = u32::try_from((self.active.len() + own).max(1)).unwrap_or(u32::MAX);
        if sharing == self.sharing {
            return;
        }
        self.sharing = sharing;
        self.service.share_limits(&self.setup.config, sharing);
        for id in self.active.clone() {
            if let Some(event) = self.workers.send(id, &WorkerCommand::ShareLimits(sharing), &[]) {
                self.handle_event(event);
            }
        }
    }
}
