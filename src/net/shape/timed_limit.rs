//! A limit that differs by time of the week, kept at what the site's clock says. Owns the change-over from one rate to
//! the next; relies on `policy::Calendar` for when that is.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::schedule::LimitId;
use super::throttle::Pacer;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::calendar::{Calendar, CurrentValue};
use gupd_config::units::Rate;
use gupd_config::{Ceiling, RateSchedule};

/// Longest time between two looks at the wall clock, which may be set to any other time.
const LOOK: Duration = Duration::from_secs(1);

/// A limit of the schedule, and what it is when.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) id: LimitId,
    week: RateSchedule,
}

impl Timed {
    /// Unlimited, until it is told otherwise.
    pub(super) fn new(pacer: &Pacer) -> Self {
        Self { id: pacer.add_limit(None, Duration::ZERO), week: RateSchedule::unlimited() }
    }

    /// What it is when, from now on.
    pub(super) fn set(&mut self, week: &RateSchedule) {
        self.week = week.clone();
    }

    /// Whether it is no limit at any time.
    pub(super) fn is_unlimited(&self) -> bool {
        self.week.is_unlimited()
    }

    /// What it is at a moment, in bytes a second; `None` without a limit.
    pub(super) fn rate(&self, moment: &Moment<'_>) -> Option<u64> {
        moment.rate(&self.week).value
    }

    /// Sets it to what it is now; gives when it changes.
    pub(super) fn apply(&self, pacer: &Pacer, moment: &Moment<'_>) -> Option<UnixMillis> {
        let CurrentValue { value, until } = moment.rate(&self.week);
        pacer.set_rate(self.id, value, moment.burst);
        until
    }
}

/// A moment at the site.
pub(super) struct Moment<'a> {
    pub(super) calendar: &'a Calendar,
    pub(super) now: UnixMillis,
    pub(super) burst: Duration,
}

impl Moment<'_> {
    /// The rate at this moment, in bytes a second; `None` without a limit.
    pub(super) fn rate(&self, week: &RateSchedule) -> CurrentValue<Option<u64>> {
        let CurrentValue { value, until } = self.calendar.current(week, self.now);
        let rate = match value {
            Ceiling::Rate(Rate(bytes)) => Some(bytes),
            Ceiling::Unlimited => None,
        };
        CurrentValue { value: rate, until }
    }
}

/// Has limits applied whenever one of them changes by itself, or `others` are told of; for ever.
pub(super) async fn follow(clock: &Clock, others: &Notify, apply: impl Fn() -> Holds) {
    let mut holds = apply();
    loop {
        // Other limits change at other times.
        let changed = tokio::select! {
            () = sleep(holds.look_again(clock.now())) => false,
            () = others.notified() => true,
        };
        if changed || !holds.at(clock.now()) {
            holds = apply();
        }
    }
}

/// The stretch of time in which no limit changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holds {
    from: UnixMillis,
    until: Option<UnixMillis>,
}

impl Holds {
    /// From `now` to the earliest of these changes.
    pub(super) fn new(now: UnixMillis, changes: impl IntoIterator<Item = Option<UnixMillis>>) -> Self {
        Self { from: now, until: changes.into_iter().flatten().min() }
    }

    /// Whether it is still that stretch. A clock that was set back may be in another.
    fn at(&self, now: UnixMillis) -> bool {
        now >= self.from && self.until.is_none_or(|until| now < until)
    }

    /// When to look at the clock again.
    fn look_again(&self, now: UnixMillis) -> Duration {
        let left = self.until.map(|until| u64::try_from(until.saturating_sub(now)).unwrap_or(0));
        left.map_or(LOOK, Duration::from_millis).clamp(Duration::from_millis(1), LOOK)
    }
}
