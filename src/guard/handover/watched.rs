//! A watched worker: the time of its last message, and how long it may stay silent before it counts as hung.

use std::time::Duration;

use super::WorkerId;
use crate::metrics::ExitReason;

#[derive(Debug)]
pub(super) struct WatchedWorker {
    pub(super) id: WorkerId,
    last_heard: Duration,
    timeout: Duration,
    /// The setting at its start: it sends heartbeats accordingly, also after a reload.
    watchdog: Duration,
    is_hung: bool,
}

impl WatchedWorker {
    /// A worker has at least `start` for its first message.
    pub(super) fn new(id: WorkerId, now: Duration, watchdog: Duration, start: Duration) -> Self {
        Self { id, last_heard: now, timeout: start.max(watchdog), watchdog, is_hung: false }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn record_message(&mut self, now: Duration) {
        self.last_heard = self.last_heard.max(now);
    }

    /// Ends the longer timeout of the start: from now on heartbeats are due.
    pub(super) fn expect_heartbeats(&mut self, now: Duration) {
        (self.last_heard, self.timeout) = (now, self.watchdog);
    }

    /// Expects the exit of a worker that closed its socket; later than `within` is a hang.
    pub(super) fn expect_exit(&mut self, now: Duration, within: Duration) {
        (self.last_heard, self.timeout) = (now, within.min(self.timeout));
    }

    /// Excuses the worker for a time in which the guard itself did not run. Ticks come four times in a worker's
    /// timeout, so a gap of more than two of them is not the worker's silence.
    pub(super) fn excuse(&mut self, gap: Duration) {
        if gap > self.timeout / 2 {
            self.last_heard += gap;
        }
    }

    pub(super) fn is_silent(&self, now: Duration) -> bool {
        !self.is_hung && now >= self.last_heard + self.timeout
    }

    /// Marks a silent worker as hung and returns its number, once.
    pub(super) fn mark_hung(&mut self, now: Duration) -> Option<WorkerId> {
        let is_silent = self.is_silent(now);
        self.is_hung |= is_silent;
        is_silent.then_some(self.id)
    }

    /// Time of the next check for silence.
    pub(super) fn next_check(&self, now: Duration) -> Duration {
        let check = now + self.timeout / 4;
        if self.is_hung { check } else { check.min(self.last_heard + self.timeout) }
    }

    /// Reason for its exit: `Hung` if it was marked so, else `otherwise`.
    pub(super) fn exit_reason(&self, otherwise: ExitReason) -> ExitReason {
        if self.is_hung { ExitReason::Hung } else { otherwise }
    }
}
