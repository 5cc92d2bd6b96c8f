//! Schedules on the time axis of a plan: step functions of rates, and open hours. Times are seconds since the plan's
//! start; time zones and days are resolved before.

use gupd_config as config;

/// A rate over time, in bytes a second; infinite where no limit is set.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    first: f64,
    /// Start and value of each later rate, ascending.
    changes: Vec<(f64, f64)>,
}

impl Curve {
    /// No limit at any time.
    pub const UNLIMITED: Self = Self::constant(f64::INFINITY);

    /// Creates a curve with one rate.
    pub const fn constant(rate: f64) -> Self {
        Self { first: rate, changes: Vec::new() }
    }

    /// Creates a curve that is 0 before its first step. Steps are starts and rates, ascending.
    pub(super) fn from_steps(steps: Vec<(f64, f64)>) -> Self {
        Self { first: 0.0, changes: steps }
    }

    /// Builds a curve from `rate_from`, which returns the rate at a time, and its end if that is before the horizon.
    pub fn trace(horizon: f64, rate_from: impl Fn(f64) -> (f64, Option<f64>)) -> Self {
        let (first, mut until) = rate_from(0.0);
        let (mut curve, mut last) = (Self::constant(first), first);
        while let Some(at) = until.filter(|at| *at < horizon) {
            let (rate, next) = rate_from(at);
            if rate != last {
                curve.changes.push((at, rate));
            }
            // A calendar that does not advance would loop for ever.
            (last, until) = (rate, next.filter(|next| *next > at));
        }
        curve
    }

    /// Returns the rate at a time.
    pub fn rate_at(&self, time: f64) -> f64 {
        let passed = self.changes.partition_point(|(from, _)| *from <= time);
        passed.checked_sub(1).map_or(self.first, |last| self.changes[last].1)
    }

    /// Returns the next time at which the rate changes.
    pub fn next_change(&self, time: f64) -> Option<f64> {
        self.changes.get(self.changes.partition_point(|(from, _)| *from <= time)).map(|(from, _)| *from)
    }

    /// Returns true if there is a limit at any time.
    pub fn is_limited(&self) -> bool {
        self.rates().any(f64::is_finite)
    }

    /// Returns true if there is a limit at all times.
    pub fn is_always_limited(&self) -> bool {
        self.rates().all(f64::is_finite)
    }

    fn rates(&self) -> impl Iterator<Item = f64> {
        std::iter::once(self.first).chain(self.changes.iter().map(|(_, rate)| *rate))
    }
}

/// Open hours of a window: ascending, disjoint spans.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenHours(Vec<(f64, f64)>);

impl OpenHours {
    /// Creates hours that are always open.
    pub fn always() -> Self {
        Self(vec![(0.0, f64::INFINITY)])
    }

    /// Creates hours from ascending, disjoint spans. The first may start before the plan.
    pub fn new(spans: Vec<(f64, f64)>) -> Self {
        Self(spans)
    }

    /// Returns the next time, from `time` on, at which a client may start; `None` if never. `turn`, from 0 to 1, is its
    /// position in the spread. The spread counts from the opening, or from the plan's start if that is later, and is
    /// shortened to fit each span.
    pub fn next_start(&self, time: f64, turn: f64, spread: f64) -> Option<f64> {
        let reachable = self.0.iter().skip(self.0.partition_point(|(_, end)| *end <= time));
        let own = |(opens, end): &(f64, f64)| {
            ((opens.max(0.0) + turn * spread_within(spread, end - opens)).max(time), *end)
        };
        reachable.map(own).find(|(at, end)| at < end).map(|(at, _)| at)
    }
}

/// As [`config::GroupSettings::spread_in_window`] has it.
fn spread_within(spread: f64, window: f64) -> f64 {
    spread.min((window - config::GroupSettings::MIN_START_WINDOW.as_secs_f64()).max(window / 2.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn curve_keeps_each_rate_until_its_next_change() {
        // Two rates that alternate every ten seconds.
        let curve = Curve::trace(25.0, |t| {
            (if t % 20.0 < 10.0 { 1.0 } else { 2.0 }, Some((t / 10.0).floor() * 10.0 + 10.0))
        });
        assert_eq!(
            [0.0, 9.9, 10.0, 19.9, 20.0, 1e9].map(|t| curve.rate_at(t)),
            [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]
        );
        assert_eq!([0.0, 10.0, 20.0].map(|t| curve.next_change(t)), [Some(10.0), Some(20.0), None]);
        assert_eq!(Curve::trace(1e9, |_| (1.0, Some(0.0))), Curve::constant(1.0));
        assert!(curve.is_always_limited() && !Curve::UNLIMITED.is_limited());
    }

    #[test]
    fn client_is_admitted_its_turn_after_each_opening_until_end() {
        let hours = OpenHours::new(vec![(-5_000.0, 1_000.0), (10_000.0, 20_000.0)]);
        for (time, turn, spread, admitted) in [
            (0.0, 0.0, 0.0, Some(0.0)),
            (0.0, 0.5, 1_000.0, Some(500.0)),
            // Its turn in the first span is over, that in the second is its share of the whole spread.
            (0.0, 0.5, 4_000.0, Some(12_000.0)),
            (1_000.0, 0.0, 0.0, Some(10_000.0)),
            (15_000.0, 0.1, 4_000.0, Some(15_000.0)),
            // 10,000 s hold a spread of 9,100.
            (1_000.0, 1.0, 1e6, Some(19_100.0)),
            (20_000.0, 0.0, 0.0, None),
        ] {
            assert_eq!(hours.next_start(time, turn, spread), admitted, "at {time}, turn {turn} of {spread}");
        }
        assert_eq!(OpenHours::always().next_start(0.0, 0.5, 1e6), Some(5e5));
        for (spread, window) in [(3_600, 7_200), (7_000, 7_200), (9_000, 1_000)]
            .map(|(a, b)| (Duration::from_secs(a), Duration::from_secs(b)))
        {
            let group = config::GroupSettings { spread, ..config::GroupSettings::catch_all("a") };
            let fits = spread_within(spread.as_secs_f64(), window.as_secs_f64());
            assert_eq!(Duration::from_secs_f64(fits), group.spread_in_window(window));
        }
    }
}
