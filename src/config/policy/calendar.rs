//! Conversion of times of the week to instants in the site's time zone. The local clock decides: a time in the hour
//! that spring skips does not occur, and a time in the hour that autumn repeats occurs twice. Arithmetic and a lookup
//! of transitions; no I/O, no allocation.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::Week;
use crate::clock::UnixMillis;
use crate::week::WEEK;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
/// 1970-01-01 was a Thursday; minute 0 of a week is Monday 00:00.
const EPOCH_MINUTE: i64 = 3 * 24 * 60;
/// Maximum number of offset changes searched for a change of value. A weekly pattern changes within eight days, and no
/// zone ever had so many changes in that time.
const MAX_TRANSITIONS: usize = 16;

/// The site's local clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    zone: TimeZone,
}

/// The value of a weekly pattern at an instant, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentValue<T> {
    /// The value.
    pub value: T,
    /// First instant with another value; `None` if the value never changes.
    pub until: Option<UnixMillis>,
}

impl Calendar {
    /// Creates the calendar of a time zone.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone }
    }

    /// Returns the current value and its end.
    pub fn current<T: Copy + PartialEq>(&self, week: &Week<T>, now: UnixMillis) -> CurrentValue<T> {
        if let Some(value) = week.as_constant() {
            return CurrentValue { value, until: None };
        }
        let mut wall = self.wall(now);
        let value = week.value_at(wall.minute());
        for _ in 0..MAX_TRANSITIONS {
            let Some(minutes) = week.minutes_until_change(wall.minute()) else { break };
            let change = wall.begin_of_minute() + i64::from(minutes) * MINUTE;
            let Some(moved) = self.next_move(wall.instant).filter(|moved| moved.instant <= change) else {
                return CurrentValue { value, until: Some(change) };
            };
            if week.value_at(moved.minute()) != value {
                return CurrentValue { value, until: Some(moved.instant) };
            }
            wall = moved;
        }
        CurrentValue { value, until: None }
    }

    /// Returns the instant since which the current value has applied; `None` if it always did.
    pub fn current_since<T: Copy + PartialEq>(&self, week: &Week<T>, now: UnixMillis) -> Option<UnixMillis> {
        let mut wall = self.wall(now);
        let value = week.value_at(wall.minute());
        for _ in 0..MAX_TRANSITIONS {
            let change =
                wall.begin_of_minute() - i64::from(week.minutes_since_change(wall.minute())?) * MINUTE;
            let Some(moved) = self.last_move(wall.instant).filter(|moved| *moved >= change) else {
                return Some(change);
            };
            wall = self.wall(moved - 1);
            if week.value_at(wall.minute()) != value {
                return Some(moved);
            }
        }
        None
    }

    fn wall(&self, instant: UnixMillis) -> Wall {
        let offset = i64::from(self.zone.to_offset(timestamp(instant)).seconds()) * SECOND;
        Wall { instant, offset }
    }

    // The local time at the next change of offset.
    fn next_move(&self, after: UnixMillis) -> Option<Wall> {
        let transition = self.zone.following(timestamp(after)).next()?;
        let offset = i64::from(transition.offset().seconds()) * SECOND;
        Some(Wall { instant: transition.timestamp().as_millisecond(), offset })
    }

    // The last change of offset, this instant included.
    fn last_move(&self, until: UnixMillis) -> Option<UnixMillis> {
        let transition = self.zone.preceding(timestamp(until.saturating_add(1))).next()?;
        Some(transition.timestamp().as_millisecond())
    }
}

// An instant, and the offset of local time from UTC in milliseconds.
struct Wall {
    instant: UnixMillis,
    offset: i64,
}

impl Wall {
    fn minute(&self) -> u16 {
        let minutes = (self.instant + self.offset).div_euclid(MINUTE) + EPOCH_MINUTE;
        u16::try_from(minutes.rem_euclid(i64::from(WEEK))).unwrap_or_default()
    }

    fn begin_of_minute(&self) -> UnixMillis {
        self.instant - (self.instant + self.offset).rem_euclid(MINUTE)
    }
}

// A clock that is set past what the library counts (the year 9999) stands still there.
pub(super) fn timestamp(instant: UnixMillis) -> Timestamp {
    Timestamp::from_millisecond(instant).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::civil::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::{Config, RateSchedule, WeekWindows};

    const HOUR: i64 = 60 * MINUTE;

    fn calendar(zone: &str) -> Calendar {
        Calendar::new(TimeZone::get(zone).unwrap())
    }

    fn instant(text: &str) -> UnixMillis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn windows(text: &str) -> WeekWindows {
        config("GUPD_WAN_WINDOWS", text).wan.windows
    }

    fn limit(text: &str) -> RateSchedule {
        config("GUPD_WAN_LIMIT", text).wan.limit
    }

    fn config(variable: &str, text: &str) -> Config {
        let env = [("GUPD_UPSTREAM", "http://manager"), (variable, text)];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::load(&crate::Overrides::default(), None, env.into_iter()).unwrap()
    }

    // The first `count` instants after `from` at which a window opens or closes.
    fn changes(zone: &str, week: &WeekWindows, from: &str, count: usize) -> Vec<(bool, String)> {
        let calendar = calendar(zone);
        let mut at = instant(from);
        let mut changes = Vec::new();
        for _ in 0..count {
            at = calendar.current(week, at).until.unwrap();
            let time = Timestamp::from_millisecond(at).unwrap().to_string();
            changes.push((calendar.current(week, at).value, time));
            assert_eq!(calendar.current_since(week, at), Some(at), "the value changes at its end");
        }
        changes
    }

    fn expected(changes: &[(bool, &str)]) -> Vec<(bool, String)> {
        changes.iter().map(|(open, at)| (*open, (*at).to_owned())).collect()
    }

    #[test]
    fn rate_applies_until_the_next_time_in_the_schedule() {
        let limit = limit("2Mbit/s mon-fri 07:00-19:00, 8Mbit/s");
        let calendar = calendar("Europe/Berlin");
        let friday_evening = instant("2026-11-20T17:30:00Z");
        let held = calendar.current(&limit, friday_evening);
        assert_eq!(
            (held.value.to_string().as_str(), held.until),
            ("2Mbit/s", Some(friday_evening + HOUR / 2))
        );
        let held = calendar.current(&limit, friday_evening + HOUR / 2);
        assert_eq!(held.value.to_string(), "8Mbit/s");
        assert_eq!(held.until, Some(instant("2026-11-23T06:00:00Z")));
        assert_eq!(calendar.current(&RateSchedule::unlimited(), 0).until, None);
        assert_eq!(calendar.current_since(&RateSchedule::unlimited(), 0), None);
    }

    #[test]
    fn window_in_skipped_hour_does_not_open_that_day() {
        let night = windows("02:00-03:00");
        assert_eq!(
            changes("Europe/Berlin", &night, "2026-03-28T12:00:00Z", 2),
            expected(&[(true, "2026-03-30T00:00:00Z"), (false, "2026-03-30T01:00:00Z")])
        );
        // A window that extends beyond the hour is shorter by the skipped part.
        assert_eq!(
            changes("Europe/Berlin", &windows("01:30-03:30"), "2026-03-28T12:00:00Z", 2),
            expected(&[(true, "2026-03-29T00:30:00Z"), (false, "2026-03-29T01:30:00Z")])
        );
        assert_eq!(
            changes("Europe/Berlin", &windows("02:30-05:00"), "2026-03-28T12:00:00Z", 2),
            expected(&[(true, "2026-03-29T01:00:00Z"), (false, "2026-03-29T03:00:00Z")])
        );
    }

    #[test]
    fn window_in_repeated_hour_opens_twice() {
        assert_eq!(
            changes("Europe/Berlin", &windows("02:15-02:45"), "2026-10-24T12:00:00Z", 5),
            expected(&[
                (true, "2026-10-25T00:15:00Z"),
                (false, "2026-10-25T00:45:00Z"),
                (true, "2026-10-25T01:15:00Z"),
                (false, "2026-10-25T01:45:00Z"),
                (true, "2026-10-26T01:15:00Z"),
            ])
        );
        // A window that starts before the hour and ends in it opens again in the repeated hour.
        assert_eq!(
            changes("Europe/Berlin", &windows("01:00-02:30"), "2026-10-24T12:00:00Z", 4),
            expected(&[
                (true, "2026-10-24T23:00:00Z"),
                (false, "2026-10-25T00:30:00Z"),
                (true, "2026-10-25T01:00:00Z"),
                (false, "2026-10-25T01:30:00Z"),
            ])
        );
        assert_eq!(
            changes("Europe/Berlin", &windows("20:00-06:00"), "2026-10-24T12:00:00Z", 2),
            expected(&[(true, "2026-10-24T18:00:00Z"), (false, "2026-10-25T05:00:00Z")])
        );
    }

    #[test]
    fn half_hour_transitions_skip_and_repeat_half_an_hour() {
        assert_eq!(
            changes("Australia/Lord_Howe", &windows("sun 02:00-02:30"), "2026-09-30T00:00:00Z", 1),
            expected(&[(true, "2026-10-10T15:00:00Z")]),
            "02:00 to 02:30 of the fourth of October was skipped"
        );
        assert_eq!(
            changes("Australia/Lord_Howe", &windows("01:45-02:00"), "2026-04-04T12:00:00Z", 4),
            expected(&[
                (true, "2026-04-04T14:45:00Z"),
                (false, "2026-04-04T15:00:00Z"),
                (true, "2026-04-04T15:15:00Z"),
                (false, "2026-04-04T15:30:00Z"),
            ])
        );
    }

    // The local value, computed without the arithmetic above.
    fn shown(calendar: &Calendar, week: &WeekWindows, at: UnixMillis) -> bool {
        let wall: DateTime = calendar.zone.to_datetime(timestamp(at));
        let day = i64::from(wall.weekday().to_monday_zero_offset());
        let minute = (day * 24 + i64::from(wall.hour())) * 60 + i64::from(wall.minute());
        week.value_at(u16::try_from(minute).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn current_value_agrees_with_a_scan_of_minutes(
            zone in prop::sample::select(vec![
                "Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu", "Africa/Casablanca",
                "America/Santiago", "Pacific/Apia", "UTC",
            ]),
            // Around the changes of clocks, and anywhere in a year.
            begin in prop_oneof![
                prop::sample::select(vec!["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z", "2026-04-04T00:00:00Z",
                    "2026-10-03T12:00:00Z", "2026-02-14T12:00:00Z", "2011-12-29T12:00:00Z"]).prop_map(instant),
                (0..366i64).prop_map(|day| instant("2026-01-01T00:00:00Z") + day * 24 * HOUR),
            ],
            later in 0..26 * HOUR,
            (day, from, length) in (
                prop::sample::select(vec!["", "sat-sun ", "sun ", "mon-fri "]), 0..24 * 60u32, 1..24 * 60u32,
            ),
        ) {
            let clock = |minutes: u32| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
            let week = windows(&format!("{day}{}-{}", clock(from), clock(from + length)));
            let calendar = calendar(zone);
            let now = begin + later;
            let open = shown(&calendar, &week, now);
            let held = calendar.current(&week, now);
            prop_assert_eq!(held.value, open);
            let minute = now - now.rem_euclid(MINUTE);
            let mut minutes = (1..).map(|count| minute + count * MINUTE);
            let until = minutes.find(|at| shown(&calendar, &week, *at) != open);
            prop_assert_eq!(held.until, until);
            let mut minutes = (0..).map(|count| minute - count * MINUTE);
            let since = minutes.find(|at| shown(&calendar, &week, *at - MINUTE) != open);
            prop_assert_eq!(calendar.current_since(&week, now), since);
        }
    }
}
