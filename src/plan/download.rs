//! Fluid model of downloads: a fill, and the cohort of clients of one group that follow it. All clients of a cohort get
//! the same rate, so they finish in the order of their starts, and the cost of a cohort does not depend on its size. A
//! client has the bytes that its cohort was given since it started. A client that has caught up moves at the fill's
//! rate.

use std::collections::VecDeque;

/// Bytes below which a difference is a rounding error.
const NEGLIGIBLE_BYTES: f64 = 0.5;

/// The transfer of one object over the line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SimulatedFill {
    bytes: f64,
    arrived: f64,
    state: FillState,
    /// Group of the first client: its `wan_limit` applies.
    group: usize,
    /// Current rate, bytes a second.
    pub(super) rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FillState {
    /// No client has requested the object.
    NotStarted,
    Running,
    Complete,
}

impl SimulatedFill {
    /// Creates a fill that has not started.
    pub(super) fn new(bytes: f64) -> Self {
        Self { bytes, arrived: 0.0, state: FillState::NotStarted, group: 0, rate: 0.0 }
    }

    /// Starts the fill for a client of this group, if it has not started.
    pub(super) fn start(&mut self, group: usize) {
        if self.state == FillState::NotStarted {
            (self.state, self.group) = (FillState::Running, group);
        }
    }

    /// Returns its rate if it arrives at this rate whether or not a client has started. A complete one has none.
    pub(super) fn arrival_rate(&mut self, rate: f64) -> f64 {
        if rate > 0.0 {
            self.start(self.group);
        }
        if self.is_running() { rate } else { 0.0 }
    }

    /// Returns the group that started it.
    pub(super) fn group(&self) -> usize {
        self.group
    }

    /// Returns true if it uses the line.
    pub(super) fn is_running(&self) -> bool {
        self.state == FillState::Running
    }

    /// Returns true if the site has the whole object.
    pub(super) fn is_complete(&self) -> bool {
        self.state == FillState::Complete
    }

    /// Seconds until it is complete at the current rate.
    pub(super) fn time_left(&self) -> f64 {
        if self.is_running() { (self.bytes - self.arrived) / self.rate } else { f64::INFINITY }
    }

    /// Advances the time. Returns true if the fill completes.
    pub(super) fn advance(&mut self, seconds: f64) -> bool {
        if !self.is_running() {
            return false;
        }
        self.arrived += self.rate * seconds;
        if self.bytes - self.arrived > NEGLIGIBLE_BYTES {
            return false;
        }
        (self.arrived, self.rate, self.state) = (self.bytes, 0.0, FillState::Complete);
        true
    }
}

/// The downloads of one object by one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohort {
    /// Bytes given to a client that has been behind since the start.
    given: f64,
    /// Number of clients that have all arrived bytes.
    abreast: u32,
    /// `given` at the start of each client that has fewer bytes, those with the most bytes first.
    behind: VecDeque<f64>,
    rate: f64,
}

impl Cohort {
    /// Adds a client.
    pub(super) fn start(&mut self, fill: &SimulatedFill) {
        if fill.arrived == 0.0 {
            self.abreast += 1;
        } else {
            self.behind.push_back(self.given);
        }
    }

    /// Number of clients at the fill's rate.
    pub(super) fn abreast(&self) -> f64 {
        f64::from(self.abreast)
    }

    /// Number of clients at the rate of the cohort.
    pub(super) fn behind(&self) -> f64 {
        self.behind.len() as f64
    }

    /// Number of running downloads.
    pub(super) fn downloads(&self) -> u32 {
        self.abreast + u32::try_from(self.behind.len()).unwrap_or(u32::MAX)
    }

    /// Sets the rate of each client. Clients at the fill's rate fall behind if the new rate is lower.
    pub(super) fn set_rate(&mut self, rate: f64, fill: &SimulatedFill) {
        self.rate = rate;
        if rate < fill.rate {
            for _ in 0..std::mem::take(&mut self.abreast) {
                self.behind.push_front(self.given - fill.arrived);
            }
        }
    }

    /// Total rate, bytes a second.
    pub(super) fn rate_taken(&self, fill: &SimulatedFill) -> f64 {
        let abreast = if self.abreast > 0 { self.abreast() * fill.rate } else { 0.0 };
        let behind = if self.behind.is_empty() { 0.0 } else { self.behind() * self.rate };
        abreast + behind
    }

    /// Seconds until a client that is behind catches up with the fill.
    pub(super) fn time_left(&self, fill: &SimulatedFill) -> f64 {
        let closing = self.rate - fill.rate;
        match self.behind.front() {
            // Rates that differ by rounding only count as equal.
            Some(since) if closing > self.rate * 1e-9 => {
                (fill.arrived - (self.given - since)).max(0.0) / closing
            }
            _ => f64::INFINITY,
        }
    }

    /// Advances the time without other events. Call before the fill's `advance`.
    pub(super) fn advance(&mut self, seconds: f64) {
        if self.behind.is_empty() {
            self.given = 0.0;
        } else {
            self.given += self.rate * seconds;
        }
    }

    /// Removes the clients that are done and returns their number. Call after the fill's `advance`.
    pub(super) fn settle(&mut self, fill: &SimulatedFill) -> u32 {
        while self.behind.front().is_some_and(|since| fill.arrived - (self.given - since) <= NEGLIGIBLE_BYTES)
        {
            self.behind.pop_front();
            self.abreast += 1;
        }
        if fill.is_complete() { std::mem::take(&mut self.abreast) } else { 0 }
    }
}
