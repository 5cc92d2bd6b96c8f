//! A byte limit that depends on the time of the week. The module changes the rate when the site's clock says so;
//! `policy::Calendar` computes the times.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::schedule::LimitId;
use super::throttle::Pacer;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::calendar::{Calendar, CurrentValue};
use gupd_config::units::Rate;
use gupd_config::{Ceiling, RateSchedule};

/// Maximum time between two readings of the wall clock, which can be set at any time.
const MAX_CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// A limit of the schedule and its rates over the week.
#[derive(Debug)]
pub(super) struct TimedLimit {
    pub(super) id: LimitId,
    week: RateSchedule,
}

impl TimedLimit {
    /// Creates a limit without a rate.
    pub(super) fn new(pacer: &Pacer) -> Self {
        Self { id: pacer.add_limit(None, Duration::ZERO), week: RateSchedule::unlimited() }
    }

    /// Sets the rates over the week.
    pub(super) fn set(&mut self, week: &RateSchedule) {
        self.week = week.clone();
    }

    /// Returns true if there is no limit at any time.
    pub(super) fn is_unlimited(&self) -> bool {
        self.week.is_unlimited()
    }

    /// Returns the rate at `moment` in bytes per second; `None` without a limit.
    pub(super) fn rate(&self, moment: &SiteTime<'_>) -> Option<u64> {
        moment.rate(&self.week).value
    }

    /// Sets the current rate and returns the time of the next change.
    pub(super) fn apply(&self, pacer: &Pacer, moment: &SiteTime<'_>) -> Option<UnixMillis> {
        let CurrentValue { value, until } = moment.rate(&self.week);
        pacer.set_rate(self.id, value, moment.burst);
        until
    }
}

/// A time at the site.
pub(super) struct SiteTime<'a> {
    pub(super) calendar: &'a Calendar,
    pub(super) now: UnixMillis,
    pub(super) burst: Duration,
}

impl SiteTime<'_> {
    /// Returns the rate at this time in bytes per second; `None` without a limit.
    pub(super) fn rate(&self, week: &RateSchedule) -> CurrentValue<Option<u64>> {
        let CurrentValue { value, until } = self.calendar.current(week, self.now);
        let rate = match value {
            Ceiling::Rate(Rate(bytes)) => Some(bytes),
            Ceiling::Unlimited => None,
        };
        CurrentValue { value: rate, until }
    }
}

/// Calls `apply` whenever a limit changes by time or `others` is notified. Never returns.
pub(super) async fn keep_applied(clock: &Clock, others: &Notify, apply: impl Fn() -> ValidityPeriod) {
    let mut period = apply();
    loop {
        // Other limits change at other times.
        let changed = tokio::select! {
            () = sleep(period.time_to_reading(clock.now())) => false,
            () = others.notified() => true,
        };
        if changed || !period.contains(clock.now()) {
            period = apply();
        }
    }
}

/// The period in which no limit changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValidityPeriod {
    from: UnixMillis,
    until: Option<UnixMillis>,
}

impl ValidityPeriod {
    /// Creates the period from `now` to the earliest of `changes`.
    pub(super) fn new(now: UnixMillis, changes: impl IntoIterator<Item = Option<UnixMillis>>) -> Self {
        Self { from: now, until: changes.into_iter().flatten().min() }
    }

    /// Returns true if `now` is in the period. A clock that was set back may be outside.
    fn contains(&self, now: UnixMillis) -> bool {
        now >= self.from && self.until.is_none_or(|until| now < until)
    }

    /// Returns the time until the next reading of the clock.
    fn time_to_reading(&self, now: UnixMillis) -> Duration {
        let left = self.until.map(|until| u64::try_from(until.saturating_sub(now)).unwrap_or(0));
        left.map_or(MAX_CLOCK_INTERVAL, Duration::from_millis)
            .clamp(Duration::from_millis(1), MAX_CLOCK_INTERVAL)
    }
}
