//! Values by minute of the week: windows and rate limits in the site's local time, and the parser of times. Each minute
//! has exactly one value, and adjacent windows are one window. Times are civil times: `policy::calendar`, which knows
//! the time zone, turns them into instants.

use std::fmt;
use std::ops::Range;

/// Minutes in a day.
pub const DAY: u16 = 24 * 60;
/// Minutes in a week. Minute 0 is Monday 00:00.
pub const WEEK: u16 = 7 * DAY;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A value for each minute of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Week<T> {
    // The value at minute 0.
    first: T,
    // The minute at which each later value starts; neighbours differ.
    later: Vec<(u16, T)>,
}

/// Windows: true while one is open. Written like `mon-fri 20:00-06:00`.
pub type WeekWindows = Week<bool>;

/// A minute of the week, from 0 to [`WEEK`], which is the end of Sunday. Shows as `mon 07:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeekMinute(pub u16);

impl<T: Copy + PartialEq> Week<T> {
    /// Creates a week with one value.
    pub fn constant(value: T) -> Self {
        Self { first: value, later: Vec::new() }
    }

    /// Returns the value at a minute of the week.
    pub fn value_at(&self, minute: u16) -> T {
        let next = self.later.partition_point(|(from, _)| *from <= minute % WEEK);
        let step = next.checked_sub(1).and_then(|at| self.later.get(at));
        step.map_or(self.first, |(_, value)| *value)
    }

    /// Returns the value if it is the same at all times.
    pub fn as_constant(&self) -> Option<T> {
        self.later.is_empty().then_some(self.first)
    }

    /// Returns each value with its minutes, from Monday 00:00. A value that spans the end of the week appears twice.
    pub fn steps(&self) -> impl Iterator<Item = (Range<u16>, T)> {
        let ends = self.starts().skip(1).chain([WEEK]);
        self.starts().zip(ends).map(|(from, end)| (from..end, self.value_at(from)))
    }

    /// Returns the minutes from the start of `minute` until the value changes, 1 to [`WEEK`]; `None` if it never does.
    pub fn minutes_until_change(&self, minute: u16) -> Option<u16> {
        self.changes()?
            .map(|from| minutes_between((minute % WEEK).saturating_add(1), from).saturating_add(1))
            .min()
    }

    /// Returns the minutes from the last change of the value to the start of `minute`, 0 to [`WEEK`]; `None` if it
    /// never changes.
    pub fn minutes_since_change(&self, minute: u16) -> Option<u16> {
        self.changes()?.map(|from| minutes_between(from, minute % WEEK)).min()
    }

    // The minutes at which the value changes. The value at 0 may continue that of the end of the week.
    fn changes(&self) -> Option<impl Iterator<Item = u16>> {
        let (_, last) = self.later.last()?;
        Some(self.starts().skip(usize::from(self.first == *last)))
    }

    fn starts(&self) -> impl Iterator<Item = u16> {
        std::iter::once(0).chain(self.later.iter().map(|(from, _)| *from))
    }

    /// Creates a week from values of parts that do not overlap, and `rest` for all other minutes.
    pub(crate) fn with_parts(rest: T, mut parts: Vec<(Range<u16>, T)>) -> Self {
        parts.sort_by_key(|(minutes, _)| minutes.start);
        let mut first = rest;
        let mut later: Vec<(u16, T)> = Vec::with_capacity(parts.len().saturating_mul(2));
        let mut step = |from: u16, value: T| match later.last_mut() {
            Some((last, held)) if *last == from => *held = value,
            None if from == 0 => first = value,
            _ => later.push((from, value)),
        };
        for (minutes, value) in parts {
            step(minutes.start, value);
            if minutes.end < WEEK {
                step(minutes.end, rest);
            }
        }
        let mut held = first;
        later.retain(|(_, value)| std::mem::replace(&mut held, *value) != *value);
        Self { first, later }
    }
}

impl WeekWindows {
    /// Returns true if both are open at some minute.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.starts().chain(other.starts()).any(|minute| self.value_at(minute) && other.value_at(minute))
    }

    /// Length of the shortest window in minutes, [`WEEK`] if it is always open.
    pub fn shortest_window(&self) -> u16 {
        let is_opening =
            |minute: &u16| self.value_at(*minute) && self.minutes_since_change(*minute) == Some(0);
        let openings = self.starts().filter(is_opening);
        openings.filter_map(|minute| self.minutes_until_change(minute)).min().unwrap_or(WEEK)
    }
}

impl fmt::Display for WeekMinute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, minute) = if self.0 >= WEEK { (6, DAY) } else { (self.0 / DAY, self.0 % DAY) };
        let day = DAYS.get(usize::from(day)).unwrap_or(&"");
        write!(f, "{day} {:02}:{:02}", minute / 60, minute % 60)
    }
}

/// Returns the minutes from one minute of the week, at most [`WEEK`], to the next time that it is another one.
fn minutes_between(from: u16, to: u16) -> u16 {
    to.saturating_add(WEEK).saturating_sub(from) % WEEK
}

/// Parses `mon-fri 20:00-06:00`, or `20:00-06:00` for every day. A time past midnight belongs to the day that it starts
/// on. A time past the end of the week is split in two.
pub(crate) fn parse_times(text: &str) -> Result<Vec<Range<u16>>, String> {
    let refused = || format!("{text:?} is not a time of the week: write it like mon-fri 20:00-06:00");
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, hours) = match words[..] {
        [hours] => (0..7, hours),
        [named, hours] => (parse_days(named).ok_or_else(refused)?, hours),
        _ => return Err(refused()),
    };
    let (begin, end) = hours.split_once('-').ok_or_else(refused)?;
    let (begin, end) = (parse_time_of_day(begin)?, parse_time_of_day(end)?);
    if begin == end {
        return Err(format!("{text:?} has zero length: a whole day is 00:00-24:00"));
    }
    if begin == DAY {
        return Err(format!("{text:?} starts at 24:00: start at 00:00 of the next day"));
    }
    let length = end.checked_sub(begin).unwrap_or_else(|| end.saturating_add(DAY.saturating_sub(begin)));
    let mut parts = Vec::new();
    for day in days {
        let begin = (day % 7).saturating_mul(DAY).saturating_add(begin);
        let end = begin.saturating_add(length);
        parts.push(begin..end.min(WEEK));
        if end > WEEK {
            parts.push(0..end.saturating_sub(WEEK));
        }
    }
    Ok(parts)
}

/// Returns an error if one of `parts`, written as `text`, overlaps one of `taken`.
pub(crate) fn check_overlap<'a>(
    text: &str,
    parts: &[Range<u16>],
    taken: impl Iterator<Item = &'a Range<u16>>,
) -> Result<(), String> {
    let overlap = |a: &Range<u16>, b: &Range<u16>| a.start.max(b.start)..a.end.min(b.end);
    let mut overlaps = taken.flat_map(|taken| parts.iter().map(move |part| overlap(part, taken)));
    match overlaps.find(|shared| shared.start < shared.end) {
        None => Ok(()),
        Some(shared) => Err(format!(
            "{text:?} overlaps another entry from {} to {}: list each minute once",
            WeekMinute(shared.start),
            WeekMinute(shared.end)
        )),
    }
}

/// Parses the minute of a day at which something starts.
pub(crate) fn parse_start_time(text: &str) -> Result<u16, String> {
    match parse_time_of_day(text)? {
        DAY => Err(format!("{text:?} cannot be a start time: use 00:00 of the next day")),
        minute => Ok(minute),
    }
}

/// Parses a day's name; 0 for Monday.
pub(crate) fn parse_day(name: &str) -> Option<u16> {
    let day = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name))?;
    u16::try_from(day).ok()
}

// A range past Sunday ends past 7.
fn parse_days(text: &str) -> Option<Range<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_day(first)?, parse_day(last)?);
    Some(first..last.saturating_add(if last >= first { 1 } else { 8 }))
}

// Parses minutes since midnight.
fn parse_time_of_day(text: &str) -> Result<u16, String> {
    let refused = || format!("{text:?} is not a time of day: write it like 07:00, from 00:00 to 24:00");
    let (hours, minutes) = text.split_once(':').ok_or_else(refused)?;
    let number = |digits: &str| -> Option<u16> {
        (matches!(digits.len(), 1 | 2) && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse().ok())
            .flatten()
    };
    let (hours, minutes) = number(hours).zip(number(minutes)).ok_or_else(refused)?;
    let time = hours.saturating_mul(60).saturating_add(minutes);
    if minutes < 60 && time <= DAY { Ok(time) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(texts: &[&str]) -> WeekWindows {
        let parts = texts.iter().flat_map(|text| parse_times(text).unwrap()).map(|minutes| (minutes, true));
        Week::with_parts(false, parts.collect())
    }

    #[test]
    fn window_past_midnight_belongs_to_its_start_day() {
        let week = windows(&["fri-sun 20:00-06:00"]);
        for (minute, expected) in [
            (4 * DAY + 1199, false),
            (4 * DAY + 1200, true),
            (5 * DAY + 359, true),
            (5 * DAY + 360, false),
            (6 * DAY + 1439, true),
            (0, true),
            (359, true),
            (360, false),
            (1200, false),
        ] {
            assert_eq!(week.value_at(minute), expected, "{}", WeekMinute(minute));
        }
        assert_eq!((week.minutes_since_change(0), week.minutes_until_change(0)), (Some(240), Some(360)));
        assert_eq!((week.shortest_window(), week.value_at(WEEK + 359)), (600, true));
    }

    #[test]
    fn adjacent_windows_merge_and_full_week_never_changes() {
        let week = windows(&["sat-sun 00:00-24:00", "mon 00:00-01:00"]);
        assert_eq!(week.minutes_until_change(5 * DAY), Some(2 * DAY + 60));
        assert_eq!(week.shortest_window(), 2 * DAY + 60);
        assert_eq!(windows(&["00:00-24:00"]), Week::constant(true));
        assert_eq!(Week::constant(true).minutes_until_change(5), None);
    }

    #[test]
    fn invalid_time_of_week_is_an_error_with_an_example() {
        for (text, expected) in [
            ("mon 07:00-25:00", "\"25:00\" is not a time of day: write it like 07:00, from 00:00 to 24:00"),
            ("mon 07:60-08:00", "\"07:60\" is not a time of day: write it like 07:00, from 00:00 to 24:00"),
            ("mon 24:01-08:00", "\"24:01\" is not a time of day: write it like 07:00, from 00:00 to 24:00"),
            ("mon 7-8", "\"7\" is not a time of day: write it like 07:00, from 00:00 to 24:00"),
            ("mon 20:00-20:00", "\"mon 20:00-20:00\" has zero length: a whole day is 00:00-24:00"),
            ("mon 24:00-06:00", "\"mon 24:00-06:00\" starts at 24:00: start at 00:00 of the next day"),
            ("mon", "\"mon\" is not a time of the week: write it like mon-fri 20:00-06:00"),
            (
                "monday 1:00-2:00",
                "\"monday 1:00-2:00\" is not a time of the week: write it like mon-fri 20:00-06:00",
            ),
            ("", "\"\" is not a time of the week: write it like mon-fri 20:00-06:00"),
        ] {
            assert_eq!(parse_times(text).unwrap_err(), expected);
        }
    }

    proptest! {
        #[test]
        fn changes_agree_with_a_scan_of_all_minutes(
            parts in prop::collection::vec((0u16..WEEK, 1u16..3000, 0u8..3), 0..6),
            minute in 0u16..WEEK,
        ) {
            let mut walked = vec![0u8; usize::from(WEEK)];
            let mut apart: Vec<(Range<u16>, u8)> = Vec::new();
            for (begin, length, value) in parts {
                let part = begin..begin.saturating_add(length).min(WEEK);
                if apart.iter().all(|(other, _)| other.end <= part.start || part.end <= other.start) {
                    walked[usize::from(part.start)..usize::from(part.end)].fill(value);
                    apart.push((part, value));
                }
            }
            let week = Week::with_parts(0u8, apart);
            let at = |minute: u16| walked[usize::from(minute % WEEK)];
            prop_assert_eq!(week.value_at(minute), at(minute));
            let until = (1..=WEEK).find(|later| at(minute + later) != at(minute));
            prop_assert_eq!(week.minutes_until_change(minute), until);
            let since = (0..WEEK).find(|earlier| at(minute + WEEK - earlier - 1) != at(minute));
            prop_assert_eq!(week.minutes_since_change(minute), since);
            prop_assert!(week.steps().map(|(minutes, _)| minutes.len()).sum::<usize>() == usize::from(WEEK));
        }

        #[test]
        fn parsing_any_text_does_not_panic(text in "\\PC{0,24}|[a-z]{0,4}[- ][0-9:]{0,6}-[0-9:]{0,6}") {
            for part in parse_times(&text).unwrap_or_default() {
                prop_assert!(part.start < part.end && part.end <= WEEK);
            }
        }
    }
}
