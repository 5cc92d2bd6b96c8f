//! A worker under watch: when it was heard last, and how long it may be silent.

use std::time::Duration;

use super::WorkerId;
use crate::metrics::Why;

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) id: WorkerId,
    heard: Duration,
    patience: Duration,
    /// What it was started with: signs of life come accordingly, whatever the configuration says by now.
    watchdog: Duration,
    condemned: bool,
}

impl Watched {
    /// One that is just being started has at least `start` for its first word.
    pub(super) fn new(id: WorkerId, now: Duration, watchdog: Duration, start: Duration) -> Self {
        Self { id, heard: now, patience: start.max(watchdog), watchdog, condemned: false }
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// It says something at least this often from now on.
    pub(super) fn expect(&mut self, now: Duration) {
        (self.heard, self.patience) = (now, self.watchdog);
    }

    /// It is about to be gone: more than `within` is a hang.
    pub(super) fn lost(&mut self, now: Duration, within: Duration) {
        (self.heard, self.patience) = (now, within.min(self.patience));
    }

    /// Nobody has listened for so long. Turns come four times in a worker's patience: what is longer than two of them
    /// is no worker's silence.
    pub(super) fn forgive(&mut self, missed: Duration) {
        if missed > self.patience / 2 {
            self.heard += missed;
        }
    }

    pub(super) fn is_silent(&self, now: Duration) -> bool {
        !self.condemned && now >= self.heard + self.patience
    }

    /// Gives its number, once, if it has been silent for too long.
    pub(super) fn condemn(&mut self, now: Duration) -> Option<WorkerId> {
        let silent = self.is_silent(now);
        self.condemned |= silent;
        silent.then_some(self.id)
    }

    /// When to look again whether it is silent.
    pub(super) fn next_look(&self, now: Duration) -> Duration {
        let look = now + self.patience / 4;
        if self.condemned { look } else { look.min(self.heard + self.patience) }
    }

    /// Why it ended, if it was not for being silent.
    pub(super) fn why_ended(&self, otherwise: Why) -> Why {
        if self.condemned { Why::Hung } else { otherwise }
    }
}
