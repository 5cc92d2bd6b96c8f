//! The handover of clients between the guard and its workers, as a pure state machine: events and the time go in,
//! actions come out. It opens nothing, waits for nothing and reads no clock.
//!
//! Invariant: guard and worker never accept at the same time. As soon as no worker serves, the guard accepts before any
//! other action. `tests` plays it against a model of processes that crash, hang and lag at any point.

mod event;
mod main_worker;
#[cfg(test)]
mod tests;
mod watched;

use std::time::Duration;

use self::event::MAX_RETIRING;
pub(super) use self::event::{Action, Exit, GuardEvent, UpgradeError, WorkerId};
use self::main_worker::{MainWorker, REAP_TIMEOUT, RELEASE_TIMEOUT};
use self::watched::WatchedWorker;
use crate::metrics::ExitReason;

/// Time for the first message of a new worker. It loads the program and the configuration, perhaps on a machine so busy
/// that it killed the worker before.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Time that clients wait for a new worker that has been given the store. After it the guard answers them.
const ACCEPT_GAP: Duration = Duration::from_secs(1);

/// A worker that has served for this long resets the count of exits.
const STEADY: Duration = Duration::from_secs(60);

/// Pause before the second restart in a row; it doubles each time.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Settings of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HandoverSettings {
    /// `guard.watchdog`
    pub(super) watchdog: Duration,
    /// `guard.restart_max`
    pub(super) restart_max: Duration,
}

/// State of the guard and its workers.
#[derive(Debug)]
pub(super) struct HandoverState {
    settings: HandoverSettings,
    is_accepting: bool,
    main: MainWorker,
    /// Started to take over from the main worker.
    successor: Option<Successor>,
    /// Workers that have handed over and finish running downloads.
    retiring: Vec<WatchedWorker>,
    is_stopping: bool,
    /// Exits of the main worker in a row, of any status.
    consecutive_exits: u32,
    /// Any worker has ever accepted the configuration.
    was_config_accepted: bool,
    next_id: WorkerId,
    /// Time of the last event.
    now: Duration,
    /// A worker of a new program has taken over.
    has_new_program: bool,
    actions: Vec<Action>,
}

#[derive(Debug)]
struct Successor {
    worker: WatchedWorker,
    is_prepared: bool,
}

impl HandoverState {
    /// Returns the state before the first worker.
    pub(super) fn new(settings: HandoverSettings) -> Self {
        Self {
            settings,
            is_accepting: false,
            main: MainWorker::Waiting { until: Duration::ZERO },
            successor: None,
            retiring: Vec::new(),
            is_stopping: false,
            consecutive_exits: 0,
            was_config_accepted: false,
            next_id: 0,
            now: Duration::ZERO,
            has_new_program: false,
            actions: Vec::new(),
        }
    }

    /// Returns the state of a guard that has replaced another one. The first of `workers` serves, the others are
    /// retiring; each has its timeout. Numbers from `next_id` on are free.
    pub(super) fn resume(
        settings: HandoverSettings,
        workers: &[(WorkerId, Duration)],
        next_id: WorkerId,
    ) -> Self {
        let mut watched =
            workers.iter().map(|&(id, timeout)| WatchedWorker::new(id, Duration::ZERO, timeout, timeout));
        let main = match watched.next() {
            Some(worker) => MainWorker::Serving { worker, since: Duration::ZERO },
            None => MainWorker::Waiting { until: Duration::ZERO },
        };
        Self { main, retiring: watched.collect(), was_config_accepted: true, next_id, ..Self::new(settings) }
    }

    /// Sets the settings for workers to come.
    pub(super) fn reconfigure(&mut self, settings: HandoverSettings) {
        self.settings = settings;
    }

    /// Handles an event and returns the actions that follow. `now` is the time since any fixed moment.
    pub(super) fn handle(&mut self, now: Duration, event: GuardEvent) -> Vec<Action> {
        // A guard that was suspended or starved has not read its workers' heartbeats.
        let gap = now.saturating_sub(self.now);
        self.watched().for_each(|worker| worker.excuse(gap));
        self.now = self.now.max(now);
        match event {
            GuardEvent::Tick => {}
            GuardEvent::Heartbeat(id) => self.record_message(id),
            GuardEvent::SpawnFailed(id) => self.worker_exited(id, Exit::FAILED),
            GuardEvent::Prepared(id) => self.worker_prepared(id),
            GuardEvent::Ready(id) => self.worker_ready(id),
            GuardEvent::Released(id) => self.worker_released(id),
            GuardEvent::Disconnected(id) => {
                let now = self.now;
                let disconnected = self.watched().filter(|worker| worker.id == id);
                disconnected.for_each(|worker| worker.expect_exit(now, REAP_TIMEOUT));
            }
            GuardEvent::Exited(id, status) => self.worker_exited(id, status),
            GuardEvent::Upgrade => self.upgrade(),
            GuardEvent::Reload => {
                let all: Vec<_> = self.watched().map(|worker| worker.id).collect();
                self.actions.extend(all.into_iter().map(Action::Reload));
            }
            GuardEvent::Stop => self.stop(),
        }
        self.kill_silent_workers();
        self.apply_deadlines();
        std::mem::take(&mut self.actions)
    }

    /// Returns the latest time at which the next event must be handled.
    pub(super) fn next_tick(&self) -> Duration {
        let is_waiting = matches!(self.main, MainWorker::Waiting { .. });
        let deadline = self.main.deadline(self.now).filter(|_| !(is_waiting && self.is_stopping));
        let successor = self.successor.as_ref().map(|successor| &successor.worker);
        let watched = self.main.worker().into_iter().chain(successor).chain(&self.retiring);
        let checks = watched.map(|worker| worker.next_check(self.now));
        let idle = self.now + START_TIMEOUT;
        deadline.into_iter().chain(checks).fold(idle, Duration::min).max(self.now)
    }

    /// Returns the worker that serves.
    pub(super) fn serving(&self) -> Option<WorkerId> {
        match &self.main {
            MainWorker::Serving { worker, .. } => Some(worker.id),
            _ => None,
        }
    }

    /// Returns the serving worker and then the retiring ones, each with its timeout.
    pub(super) fn running_workers(&self) -> impl Iterator<Item = (WorkerId, Duration)> {
        self.main.worker().into_iter().chain(&self.retiring).map(|worker| (worker.id, worker.timeout()))
    }

    /// Returns the number of exits of the main worker in a row.
    pub(super) fn failures(&self) -> u32 {
        self.consecutive_exits
    }

    /// Returns the number of the next worker.
    pub(super) fn next_id(&self) -> WorkerId {
        self.next_id
    }

    /// Returns true once the relay has been told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Returns true if a worker of a new program serves and nothing else is under way: the time to replace the guard.
    pub(super) fn should_replace_guard(&self) -> bool {
        self.has_new_program && !self.is_stopping && self.successor.is_none() && self.serving().is_some()
    }

    /// Keeps the guard as it is after a failed replacement.
    pub(super) fn keep_guard(&mut self) {
        self.has_new_program = false;
    }

    /// Describes for people why no worker serves.
    pub(super) fn status_text(&self) -> String {
        let failures = match self.consecutive_exits {
            0 => String::new(),
            1 => "the worker exited; ".to_owned(),
            failures => format!("the worker exited {failures} times; "),
        };
        match &self.main {
            _ if self.is_stopping => "stopping".to_owned(),
            MainWorker::Waiting { until } => {
                let left = until.saturating_sub(self.now).as_secs_f32().ceil();
                format!("the guard answers clients: {failures}restart in {left} s")
            }
            MainWorker::Starting { .. } => {
                format!("the guard answers clients: {failures}a worker is starting")
            }
            MainWorker::Dying { .. } => {
                format!("the guard answers clients: {failures}a hung worker is being killed")
            }
            MainWorker::Serving { .. } | MainWorker::HandingOver { .. } => "serving".to_owned(),
        }
    }

    fn record_message(&mut self, id: WorkerId) {
        let now = self.now;
        self.watched().filter(|worker| worker.id == id).for_each(|worker| worker.record_message(now));
    }

    fn worker_prepared(&mut self, id: WorkerId) {
        let now = self.now;
        self.watched().filter(|worker| worker.id == id).for_each(|worker| worker.expect_heartbeats(now));
        match (&mut self.main, &mut self.successor) {
            (MainWorker::Starting { worker, is_opening, .. }, _) if worker.id == id && !*is_opening => {
                *is_opening = true;
                self.was_config_accepted = true;
                self.actions.push(Action::OpenStore(id));
            }
            (_, Some(successor)) if successor.worker.id == id && !successor.is_prepared => {
                successor.is_prepared = true;
                self.actions.push(Action::ReportUpgrade(Ok(())));
                self.main = match std::mem::replace(&mut self.main, MainWorker::Waiting { until: now }) {
                    MainWorker::Serving { worker, .. } => {
                        self.actions.push(Action::HandOver(worker.id));
                        MainWorker::HandingOver { worker, since: now }
                    }
                    other => other,
                };
            }
            _ => {}
        }
    }

    fn worker_ready(&mut self, id: WorkerId) {
        self.record_message(id);
        let now = self.now;
        self.main = match std::mem::replace(&mut self.main, MainWorker::Waiting { until: now }) {
            MainWorker::Starting { worker, is_opening: true, .. } if worker.id == id && !self.is_stopping => {
                self.stop_accepting();
                self.actions.push(Action::Activate(id));
                MainWorker::Serving { worker, since: now }
            }
            other => other,
        };
    }

    fn worker_released(&mut self, id: WorkerId) {
        self.record_message(id);
        let now = self.now;
        match std::mem::replace(&mut self.main, MainWorker::Waiting { until: now }) {
            MainWorker::HandingOver { worker, .. } if worker.id == id => {
                self.retiring.push(worker);
                self.promote_successor(now, now + ACCEPT_GAP);
            }
            other => self.main = other,
        }
    }

    fn worker_exited(&mut self, id: WorkerId, exit: Exit) {
        let now = self.now;
        let reason = match exit {
            _ if self.is_stopping => ExitReason::Stopped,
            Exit::Status(0) => ExitReason::Exited,
            Exit::Status(_) => ExitReason::Failed,
            Exit::Signal(_) | Exit::Unknown => ExitReason::Killed,
        };
        if let Some(index) = self.retiring.iter().position(|worker| worker.id == id) {
            let worker = self.retiring.remove(index);
            let reason = if exit == Exit::Status(0) { ExitReason::HandedOver } else { reason };
            self.actions.push(Action::RecordExit(id, worker.exit_reason(reason), exit));
            return;
        }
        if let Some(successor) = self.successor.take_if(|successor| successor.worker.id == id) {
            self.actions.push(Action::RecordExit(id, successor.worker.exit_reason(reason), exit));
            if !successor.is_prepared {
                self.actions.push(Action::ReportUpgrade(Err(UpgradeError::WorkerExited)));
            }
            return;
        }
        let is_main = match &self.main {
            MainWorker::Dying { id: dying, .. } => *dying == id,
            other => other.worker().is_some_and(|worker| worker.id == id),
        };
        if !is_main {
            // A worker that did not exit within REAP_TIMEOUT after it was killed.
            return self.actions.push(Action::RecordExit(id, ExitReason::Hung, exit));
        }
        let served = self.main.served(now);
        let reason = self.main.worker().map_or(ExitReason::Hung, |worker| worker.exit_reason(reason));
        self.actions.push(Action::RecordExit(id, reason, exit));
        if exit == Exit::CONFIG_REJECTED && !self.was_config_accepted && !self.is_stopping {
            self.actions.push(Action::RejectConfig);
            self.is_stopping = true;
        }
        self.replace_main(served);
    }

    /// Replaces a main worker that runs no more.
    fn replace_main(&mut self, served: Option<Duration>) {
        let now = self.now;
        if served.is_some_and(|served| served >= STEADY) {
            self.consecutive_exits = 0;
        }
        self.consecutive_exits = self.consecutive_exits.saturating_add(1);
        // The first restart is immediate.
        let pause = self
            .consecutive_exits
            .checked_sub(2)
            .map_or(Duration::ZERO, |doublings| RESTART_PAUSE.saturating_mul(1 << doublings.min(20)));
        self.promote_successor(now + pause.min(self.settings.restart_max), now);
    }

    /// Makes the successor the main worker; without one, schedules a start at `restart_at`. The guard answers clients
    /// from `answer_at` on.
    fn promote_successor(&mut self, restart_at: Duration, answer_at: Duration) {
        self.main = match self.successor.take() {
            None => MainWorker::Waiting { until: restart_at },
            Some(Successor { worker, is_prepared }) => {
                self.has_new_program = true;
                if is_prepared {
                    self.actions.push(Action::OpenStore(worker.id));
                }
                MainWorker::Starting { worker, is_opening: is_prepared, answer_at }
            }
        };
    }

    fn upgrade(&mut self) {
        let refusal = match &mut self.main {
            _ if self.is_stopping => UpgradeError::Stopping,
            MainWorker::Waiting { until } => {
                // Every start takes the program on disk.
                *until = self.now;
                self.has_new_program = true;
                return self.actions.push(Action::ReportUpgrade(Ok(())));
            }
            MainWorker::Serving { .. } if self.successor.is_none() && self.retiring.len() >= MAX_RETIRING => {
                UpgradeError::TooManyRetiring
            }
            MainWorker::Serving { .. } if self.successor.is_none() => {
                let worker = self.spawn();
                self.successor = Some(Successor { worker, is_prepared: false });
                return;
            }
            _ => UpgradeError::UnderWay,
        };
        self.actions.push(Action::ReportUpgrade(Err(refusal)));
    }

    fn stop(&mut self) {
        let is_second = std::mem::replace(&mut self.is_stopping, true);
        if !is_second {
            self.is_accepting = false;
            self.actions.push(Action::CloseSockets);
            if let Some(successor) = &self.successor {
                // It has no downloads to finish.
                self.actions.push(Action::Kill(successor.worker.id));
            }
        }
        // Workers that hand over or are retiring finish their downloads already: a first stop would hurry them.
        let main =
            self.main.worker().filter(|_| is_second || !matches!(self.main, MainWorker::HandingOver { .. }));
        let retiring = self.retiring.iter().filter(|_| is_second);
        let stopped = main.into_iter().chain(retiring).map(|worker| Action::Stop(worker.id));
        self.actions.extend(stopped);
    }

    fn kill_silent_workers(&mut self) {
        let now = self.now;
        let mut silent = Vec::new();
        self.retiring.iter_mut().for_each(|worker| silent.extend(worker.mark_hung(now)));
        silent.extend(self.successor.as_mut().and_then(|successor| successor.worker.mark_hung(now)));
        self.actions.extend(silent.into_iter().map(Action::Kill));
        let is_late =
            matches!(&self.main, MainWorker::HandingOver { since, .. } if now >= *since + RELEASE_TIMEOUT);
        let served = self.main.served(now);
        if let Some(worker) = self.main.worker_mut()
            && (is_late || worker.is_silent(now))
        {
            let id = worker.id;
            self.actions.push(Action::Kill(id));
            self.main = MainWorker::Dying { id, since: now, served };
        }
    }

    /// Applies everything that depends on the state and the time alone.
    fn apply_deadlines(&mut self) {
        let now = self.now;
        if let MainWorker::Dying { since, served, .. } = self.main
            && now >= since + REAP_TIMEOUT
        {
            self.replace_main(served);
        }
        if self.is_stopping {
            let has_worker = self.main.worker().is_some()
                || matches!(self.main, MainWorker::Dying { .. })
                || self.successor.is_some()
                || !self.retiring.is_empty();
            if !has_worker {
                self.actions.push(Action::Shutdown);
            }
            return;
        }
        if matches!(self.main, MainWorker::Waiting { until } if until <= now) {
            let worker = self.spawn();
            self.main = MainWorker::Starting { worker, is_opening: false, answer_at: now };
        }
        let should_accept = self.main.needs_guard(now);
        if should_accept && !self.is_accepting {
            self.is_accepting = true;
            // Before every other action: clients are waiting.
            self.actions.insert(0, Action::StartAccepting);
        } else if !should_accept {
            self.stop_accepting();
        }
    }

    fn stop_accepting(&mut self) {
        if self.is_accepting {
            self.is_accepting = false;
            self.actions.push(Action::StopAccepting);
        }
    }

    fn spawn(&mut self) -> WatchedWorker {
        let worker = WatchedWorker::new(self.next_id, self.now, self.settings.watchdog, START_TIMEOUT);
        self.next_id += 1;
        self.actions.push(Action::Spawn(worker.id));
        worker
    }

    fn watched(&mut self) -> impl Iterator<Item = &mut WatchedWorker> {
        let successor = self.successor.as_mut().map(|successor| &mut successor.worker);
        self.main.worker_mut().into_iter().chain(successor).chain(&mut self.retiring)
    }
}
