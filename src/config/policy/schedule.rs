//! Schedule of background refreshes: the instants of a recurrence, each moved by a random offset and into a window of
//! the line. Pure functions of the last run, the time and a random number. A time of day that spring skips is due at
//! the first minute after it, and one that autumn repeats at its first occurrence.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::calendar::{Calendar, timestamp};
use crate::clock::UnixMillis;
use crate::week::DAY;
use crate::{Config, Recurrence, RefreshSettings, WeekWindows};

/// Maximum number of days searched for the next time of a week: one more than a week, and one that a zone may skip.
const MAX_DAYS: usize = 10;

/// The refresh schedule of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshSchedule {
    refresh: RefreshSettings,
    windows: WeekWindows,
    zone: TimeZone,
    calendar: Calendar,
}

/// The next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledRun {
    /// Time by the recurrence, from which the next run is computed.
    pub due: UnixMillis,
    /// Start.
    pub at: UnixMillis,
}

impl RefreshSchedule {
    /// Creates the schedule of a configuration.
    pub fn new(config: &Config) -> Self {
        let zone = config.site.time_zone.clone();
        Self {
            refresh: config.refresh.clone(),
            windows: config.wan.windows.clone(),
            calendar: Calendar::new(zone.clone()),
            zone,
        }
    }

    /// Returns the run after the one due at `last`, or the first one. A missed run is skipped unless its offset would
    /// still allow it. `random` is uniform over all values, and new for each run.
    ///
    /// The run starts within `refresh.random` of its time and within the window of that time. If that time is outside
    /// all windows, the run starts within twice `refresh.random` of the next opening: all sites with that window meet
    /// there.
    pub fn next(&self, last: Option<UnixMillis>, now: UnixMillis, random: u64) -> Option<ScheduledRun> {
        let spread = millis(self.refresh.random);
        // Ignore a last run in the future: the clock was set back.
        let last = last.filter(|last| *last <= now.saturating_add(spread));
        let earliest = now.saturating_sub(spread);
        let due = match self.refresh.schedule {
            Recurrence::Off => return None,
            Recurrence::Continuous | Recurrence::Every(_) => {
                let period = millis(self.refresh.schedule.period()?);
                last.map_or(now, |last| {
                    let missed = (earliest - last - 1).max(0) / period;
                    last + (missed + 1) * period
                })
            }
            Recurrence::Daily(minute) => {
                self.civil(minute, None, last.unwrap_or(i64::MIN).max(earliest - 1))?
            }
            Recurrence::Weekly(minute) => {
                let after = last.unwrap_or(i64::MIN).max(earliest - 1);
                self.civil(minute.0 % DAY, Some(minute.0 / DAY), after)?
            }
        };
        let at = self.within(due, spread, now, random).or_else(|| self.opening(due.max(now), random))?;
        Some(ScheduledRun { due, at })
    }

    /// Returns the next attempt of a run that first failed at `since`; `None` if there are no more.
    pub fn retry(&self, since: UnixMillis, now: UnixMillis) -> Option<UnixMillis> {
        if self.refresh.schedule == Recurrence::Continuous {
            return None;
        }
        let held = self.calendar.current(&self.windows, now.saturating_add(millis(self.refresh.retry)));
        let at = if held.value { now.saturating_add(millis(self.refresh.retry)) } else { held.until? };
        (at <= since.saturating_add(millis(self.refresh.retry_window))).then_some(at)
    }

    /// Returns the end of the current window: `Some(None)` if it never closes, `None` if no window is open.
    pub fn closes(&self, now: UnixMillis) -> Option<Option<UnixMillis>> {
        let held = self.calendar.current(&self.windows, now);
        held.value.then_some(held.until)
    }

    /// Returns a time in the window of `from`, or in the next one, within twice `refresh.random` of its first instant.
    pub fn opening(&self, from: UnixMillis, random: u64) -> Option<UnixMillis> {
        let held = self.calendar.current(&self.windows, from);
        let opens = if held.value { from } else { held.until? };
        let latest = opens.saturating_add(2 * millis(self.refresh.random));
        let closes = self.calendar.current(&self.windows, opens).until.unwrap_or(i64::MAX);
        Some(draw(opens, latest.min(closes - 1), random))
    }

    /// Returns a time near `due`, not before `now`, in the window of `due`.
    fn within(&self, due: UnixMillis, spread: i64, now: UnixMillis, random: u64) -> Option<UnixMillis> {
        let held = self.calendar.current(&self.windows, due);
        let opened = self.calendar.current_since(&self.windows, due).unwrap_or(i64::MIN);
        let from = due.saturating_sub(spread).max(opened).max(now);
        let until = due.saturating_add(spread).min(held.until.map_or(i64::MAX, |closes| closes - 1));
        (held.value && from <= until).then(|| draw(from, until, random))
    }

    /// Returns the first instant after `after` with this local minute of the day, on this day of the week.
    fn civil(&self, minute: u16, day: Option<u16>, after: UnixMillis) -> Option<UnixMillis> {
        let hour = i8::try_from(minute / 60).ok()?;
        let minute = i8::try_from(minute % 60).ok()?;
        // Start a day earlier: the time of that day may have been moved to this one.
        let begin: Date = self.zone.to_datetime(timestamp(after)).date().yesterday().ok()?;
        let days = std::iter::successors(Some(begin), |date| date.tomorrow().ok()).take(MAX_DAYS);
        let is_its_day = |date: &Date| {
            day.is_none_or(|day| i32::from(date.weekday().to_monday_zero_offset()) == i32::from(day))
        };
        days.filter(is_its_day)
            .filter_map(|date| self.instant(date.at(hour, minute, 0, 0)))
            .find(|instant| *instant > after)
    }

    /// Returns the first instant with local time `time` or later.
    fn instant(&self, time: DateTime) -> Option<UnixMillis> {
        let ambiguous = self.zone.to_ambiguous_timestamp(time);
        let at = match ambiguous.offset() {
            // With the offset before the gap, the time is an instant after the gap.
            AmbiguousOffset::Gap { before, .. } => {
                let behind = before.to_timestamp(time).ok()?;
                self.zone.preceding(behind).next()?.timestamp()
            }
            _ => ambiguous.compatible().ok()?,
        };
        Some(at.as_millisecond())
    }
}

/// Returns an instant from `from` to `until`, uniformly by `random`.
fn draw(from: UnixMillis, until: UnixMillis, random: u64) -> UnixMillis {
    let count = u128::from(until.abs_diff(from)) + 1;
    let at = (u128::from(random) * count) >> 64;
    from.saturating_add(i64::try_from(at).unwrap_or(i64::MAX))
}

fn millis(time: Duration) -> i64 {
    // Half of the range, so that the sum of two does not overflow.
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Overrides;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY_LONG: i64 = 24 * HOUR;

    fn schedule(zone: &str, text: &str, random: &str, windows: &str) -> RefreshSchedule {
        let env = [
            ("GUPD_SITE_TIME_ZONE", zone),
            ("GUPD_REFRESH_SCHEDULE", text),
            ("GUPD_REFRESH_RANDOM", random),
            ("GUPD_WAN_WINDOWS", windows),
            ("GUPD_UPSTREAM", "http://manager"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        RefreshSchedule::new(&Config::load(&Overrides::default(), None, env.into_iter()).unwrap())
    }

    fn instant(text: &str) -> UnixMillis {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    fn runs(schedule: &RefreshSchedule, from: &str, count: usize) -> Vec<String> {
        let (mut last, mut now, mut runs) = (None, instant(from), Vec::new());
        for _ in 0..count {
            let run = schedule.next(last, now, 0).unwrap();
            runs.push(timestamp(run.at).to_string());
            (last, now) = (Some(run.due), run.at);
        }
        runs
    }

    #[test]
    fn skipped_time_is_due_at_first_minute_after_it() {
        let daily = schedule("Europe/Berlin", "daily 02:30", "0s", "always");
        assert_eq!(
            runs(&daily, "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
    }

    #[test]
    fn repeated_time_is_due_once() {
        let daily = schedule("Europe/Berlin", "daily 02:30", "0s", "always");
        assert_eq!(runs(&daily, "2026-10-24T12:00:00Z", 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn interval_is_kept_and_missed_runs_are_skipped() {
        let every = schedule("UTC", "every 4h", "0s", "always");
        assert_eq!(runs(&every, "2026-11-21T10:00:00Z", 2), ["2026-11-21T10:00:00Z", "2026-11-21T14:00:00Z"]);
        let (last, now) = (instant("2026-11-21T10:00:00Z"), instant("2026-11-22T11:00:00Z"));
        assert_eq!(every.next(Some(last), now, 0).unwrap().due, instant("2026-11-22T14:00:00Z"));
        // A clock that was set back does not stop the schedule.
        assert_eq!(every.next(Some(now), last, 0).unwrap().at, last);
        assert_eq!(schedule("UTC", "off", "0s", "always").next(None, now, 0), None);
    }

    #[test]
    fn run_outside_windows_starts_after_the_next_opening() {
        let daily = schedule("UTC", "daily 12:00", "30m", "20:00-20:40");
        let (now, opens) = (instant("2026-11-21T06:00:00Z"), instant("2026-11-21T20:00:00Z"));
        let at = |random: u64| daily.next(None, now, random).unwrap().at - opens;
        assert_eq!((at(0), at(u64::MAX / 2 + 1), at(u64::MAX)), (0, 20 * MINUTE, 40 * MINUTE - 1));
        let every = schedule("UTC", "every 1h", "0s", "20:00-22:30");
        assert_eq!(
            runs(&every, "2026-11-21T06:15:00Z", 4),
            ["2026-11-21T20:00:00Z", "2026-11-21T20:15:00Z", "2026-11-21T21:15:00Z", "2026-11-21T22:15:00Z"]
        );
    }

    #[test]
    fn random_offset_stays_in_the_window_of_the_run() {
        let daily = schedule("UTC", "daily 03:00", "30m", "02:50-03:10");
        let (now, due) = (instant("2026-11-21T00:00:00Z"), instant("2026-11-21T03:00:00Z"));
        let at = |now, random: u64| daily.next(None, now, random).unwrap().at - due;
        assert_eq!((at(now, 0), at(now, u64::MAX)), (-10 * MINUTE, 10 * MINUTE - 1));
        // A relay that starts within the window uses the rest of it.
        assert_eq!((at(due + MINUTE, 0), at(due + 10 * MINUTE, 0)), (MINUTE, DAY_LONG - 10 * MINUTE));
    }

    #[test]
    fn failed_run_is_retried_within_its_time_and_windows() {
        let daily = schedule("UTC", "daily 03:00", "0s", "02:00-03:20, 03:50-04:30");
        let since = instant("2026-11-21T03:00:00Z");
        let retry = |after: i64| daily.retry(since, since + after * MINUTE).map(|at| (at - since) / MINUTE);
        assert_eq!([0, 5, 40, 45, 46].map(retry), [Some(15), Some(50), Some(55), Some(60), None]);
        assert_eq!(schedule("UTC", "continuous", "0s", "always").retry(since, since), None);
    }

    #[test]
    fn random_offsets_are_uniform() {
        let every = schedule("UTC", "every 4h", "1h", "always");
        let last = instant("2026-11-21T10:00:00Z");
        let step = u64::MAX / 1_000;
        let mut offsets = (0..=1_000).map(|i| {
            let run = every.next(Some(last), last, i * step).unwrap();
            run.at - run.due
        });
        let expected = (0..=1_000).map(|i| -HOUR + i * 2 * HOUR / 1_000);
        assert!(offsets.by_ref().zip(expected).all(|(offset, even)| (offset - even).abs() <= 2));
    }

    fn wall(zone: &TimeZone, at: UnixMillis) -> DateTime {
        zone.to_datetime(timestamp(at))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_agree_with_a_scan_of_minutes(
            zone in prop::sample::select(vec![
                "Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu", "America/Santiago",
                "Pacific/Apia", "UTC",
            ]),
            begin in prop::sample::select(vec!["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z",
                "2026-04-04T00:00:00Z", "2026-10-03T12:00:00Z", "2026-02-14T12:00:00Z", "2011-12-29T12:00:00Z"]),
            later in 0..26 * 60i64,
            (minute, day) in
                (0..24 * 60u16, prop::option::of(prop::sample::select(vec![("mon", 0i8), ("sun", 6)]))),
            windows in prop::sample::select(vec!["always", "20:00-06:00", "sat-sun 00:00-24:00", "01:30-02:15"]),
        ) {
            let clock = format!("{:02}:{:02}", minute / 60, minute % 60);
            let text = match day {
                Some((day, _)) => format!("weekly {day} {clock}"),
                None => format!("daily {clock}"),
            };
            let schedule = schedule(zone, &text, "0s", windows);
            let now = instant(begin) + later * MINUTE;
            let run = schedule.next(None, now, 0).unwrap();
            // The first minute with that local time, or a later one if it is skipped.
            let date = wall(&schedule.zone, now).date();
            let times = (-1..10).map(|days| date.checked_add(jiff::Span::new().days(days)).unwrap());
            let times = times.filter(|date| day.is_none_or(|(_, day)| date.weekday().to_monday_zero_offset() == day));
            let times: Vec<DateTime> =
                times.map(|date| date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0)).collect();
            let mut minutes = (0..).map(|count| now + count * MINUTE);
            let is_due = |at: &UnixMillis| times.iter().any(|time| {
                wall(&schedule.zone, *at) >= *time && wall(&schedule.zone, *at - MINUTE) < *time
                    // Only once when the hour is repeated.
                    && (1..=180).all(|before| wall(&schedule.zone, *at - before * MINUTE) < *time)
            });
            let due = minutes.find(is_due).unwrap();
            prop_assert_eq!(run.due, due);
            let open = (0..).map(|count| due + count * MINUTE)
                .find(|at| schedule.calendar.current(&schedule.windows, *at).value);
            prop_assert_eq!(Some(run.at), open);
            prop_assert!(schedule.next(Some(run.due), run.at, 0).unwrap().due > run.due);
        }

        #[test]
        fn run_starts_in_a_window_near_its_time_and_not_in_the_past(
            text in prop::sample::select(vec!["every 2h", "every 4h", "daily 03:00", "daily 12:00", "weekly sun 03:00"]),
            windows in prop::sample::select(vec!["always", "20:00-06:00", "02:30-03:10", "mon-fri 12:10-13:00"]),
            now in 0..14 * DAY_LONG,
            ago in prop::option::of(0..3 * DAY_LONG),
            random: u64,
        ) {
            let schedule = schedule("Europe/Berlin", text, "30m", windows);
            let now = instant("2026-03-20T00:00:00Z") + now;
            let run = schedule.next(ago.map(|ago| now - ago), now, random).unwrap();
            prop_assert!(run.at >= now);
            prop_assert!(schedule.closes(run.at).is_some());
            prop_assert!(ago.is_none_or(|ago| run.due > now - ago));
            prop_assert!(run.due >= now - 30 * MINUTE);
            if schedule.closes(run.due).is_some() && run.due >= now {
                prop_assert!((run.at - run.due).abs() <= 30 * MINUTE);
            }
        }
    }
}
