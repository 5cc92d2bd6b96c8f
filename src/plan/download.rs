//! Clients of one group that download one object, and the fill they follow, as a fluid. All of a kind get the same rate,
//! so who began first is done first, and a kind costs the same however many clients are in it: what a client has is
//! what its kind was given since it began. A client that has all that has arrived goes at the fill's speed.

use std::collections::VecDeque;

/// Bytes that count as none: below it, rounding decides.
const NONE: f64 = 0.5;

/// One object on its way over the line, once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fill {
    bytes: f64,
    arrived: f64,
    state: State,
    /// Group of the client that asked first: its limit on the line holds.
    group: usize,
    /// Bytes a second, now.
    pub(super) rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has asked yet.
    Unasked,
    Running,
    Complete,
}

impl Fill {
    /// A fill that nobody has asked for.
    pub(super) fn new(bytes: f64) -> Self {
        Self { bytes, arrived: 0.0, state: State::Unasked, group: 0, rate: 0.0 }
    }

    /// Begins for a client of this group, if it has not.
    pub(super) fn ask(&mut self, group: usize) {
        if self.state == State::Unasked {
            (self.state, self.group) = (State::Running, group);
        }
    }

    /// The group it was begun for.
    pub(super) fn group(&self) -> usize {
        self.group
    }

    /// Whether it takes from the line.
    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether the site has all of the object.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Seconds until it is complete, at the rate it has.
    pub(super) fn left(&self) -> f64 {
        if self.is_running() { (self.bytes - self.arrived) / self.rate } else { f64::INFINITY }
    }

    /// Lets time pass; whether it has just been completed.
    pub(super) fn advance(&mut self, seconds: f64) -> bool {
        if !self.is_running() {
            return false;
        }
        self.arrived += self.rate * seconds;
        if self.bytes - self.arrived > NONE {
            return false;
        }
        (self.arrived, self.rate, self.state) = (self.bytes, 0.0, State::Complete);
        true
    }
}

/// The downloads of one object by one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Kind {
    /// Bytes that a client which was always behind would have been given.
    given: f64,
    /// Clients that have all that has arrived.
    abreast: u32,
    /// Of each client that has less: `given` when it had nothing. Those with the most first.
    behind: VecDeque<f64>,
    rate: f64,
}

impl Kind {
    /// A client begins.
    pub(super) fn begin(&mut self, fill: &Fill) {
        if fill.arrived == 0.0 {
            self.abreast += 1;
        } else {
            self.behind.push_back(self.given);
        }
    }

    /// Clients that go at the fill's speed.
    pub(super) fn abreast(&self) -> f64 {
        f64::from(self.abreast)
    }

    /// Clients that go as fast as they may.
    pub(super) fn behind(&self) -> f64 {
        self.behind.len() as f64
    }

    /// Downloads under way.
    pub(super) fn downloads(&self) -> u32 {
        self.abreast + u32::try_from(self.behind.len()).unwrap_or(u32::MAX)
    }

    /// Each client may now take this rate. Those abreast that may not take what arrives fall behind.
    pub(super) fn allow(&mut self, rate: f64, fill: &Fill) {
        self.rate = rate;
        if rate < fill.rate {
            for _ in 0..std::mem::take(&mut self.abreast) {
                self.behind.push_front(self.given - fill.arrived);
            }
        }
    }

    /// Bytes a second that all of them take.
    pub(super) fn taken(&self, fill: &Fill) -> f64 {
        let abreast = if self.abreast > 0 { self.abreast() * fill.rate } else { 0.0 };
        let behind = if self.behind.is_empty() { 0.0 } else { self.behind() * self.rate };
        abreast + behind
    }

    /// Seconds until one that is behind has all that has arrived.
    pub(super) fn left(&self, fill: &Fill) -> f64 {
        let closing = self.rate - fill.rate;
        match self.behind.front() {
            // Rates that differ by rounding only are the same.
            Some(since) if closing > self.rate * 1e-9 => {
                (fill.arrived - (self.given - since)).max(0.0) / closing
            }
            _ => f64::INFINITY,
        }
    }

    /// Lets time pass in which nothing else happens; call before the fill's own.
    pub(super) fn advance(&mut self, seconds: f64) {
        if self.behind.is_empty() {
            self.given = 0.0;
        } else {
            self.given += self.rate * seconds;
        }
    }

    /// How many clients are done, after the fill's time has passed too.
    pub(super) fn settle(&mut self, fill: &Fill) -> u32 {
        while self.behind.front().is_some_and(|since| fill.arrived - (self.given - since) <= NONE) {
            self.behind.pop_front();
            self.abreast += 1;
        }
        if fill.is_complete() { std::mem::take(&mut self.abreast) } else { 0 }
    }
}
