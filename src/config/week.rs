//! A value for every minute of the week, as a clock on the site's wall shows it: when windows are open, and which rate
//! holds when. Owns how times are written. Civil times only: which instant one is belongs to `policy::calendar`, which
//! knows the time zone. Two values for one minute cannot be expressed, and windows that touch are one window.

use std::fmt;
use std::ops::Range;

/// Minutes in a day.
pub const DAY: u16 = 24 * 60;
/// Minutes in a week. Minute 0 is Monday 00:00.
pub const WEEK: u16 = 7 * DAY;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What holds at each minute of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Week<T> {
    // The minute each value begins at; the first at 0, neighbours differ.
    steps: Vec<(u16, T)>,
}

/// When something is open. Shown and written like `mon-fri 20:00-06:00`.
pub type WeekWindows = Week<bool>;

/// A minute of the week, from 0 to [`WEEK`], which is the end of Sunday. Shows as `mon 07:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeekMinute(pub u16);

impl<T: Copy + PartialEq> Week<T> {
    /// The same value always.
    pub fn constant(value: T) -> Self {
        Self { steps: vec![(0, value)] }
    }

    /// The value at a minute of the week.
    pub fn value_at(&self, minute: u16) -> T {
        let next = self.steps.partition_point(|(from, _)| *from <= minute % WEEK);
        // The first step begins at 0, so there is one before.
        self.steps[next.saturating_sub(1)].1
    }

    /// The value, if it is the same always.
    pub fn as_constant(&self) -> Option<T> {
        if let [(_, value)] = self.steps[..] { Some(value) } else { None }
    }

    /// Each value and the minutes it holds for, from Monday 00:00 on. What holds over the end of the week is given
    /// in two parts.
    pub fn steps(&self) -> impl Iterator<Item = (Range<u16>, T)> {
        let ends = self.steps.iter().skip(1).map(|(from, _)| *from).chain([WEEK]);
        self.steps.iter().zip(ends).map(|((from, value), end)| (*from..end, *value))
    }

    /// Minutes from the begin of `minute` to the begin of the next one with another value, 1 to [`WEEK`]; `None` if
    /// there is none.
    pub fn minutes_until_change(&self, minute: u16) -> Option<u16> {
        self.changes()?.map(|from| (from + WEEK - 1 - minute % WEEK) % WEEK + 1).min()
    }

    /// Minutes from the begin of `minute` back to where its value began, 0 to [`WEEK`]; `None` if it always holds.
    pub fn minutes_since_change(&self, minute: u16) -> Option<u16> {
        self.changes()?.map(|from| (minute % WEEK + WEEK - from) % WEEK).min()
    }

    // Where another value begins. What begins at 0 may be what held at the end of the week before.
    fn changes(&self) -> Option<impl Iterator<Item = u16>> {
        let (first, last) = (self.steps.first()?, self.steps.last()?);
        let wraps = usize::from(first.1 == last.1);
        (self.steps.len() > 1).then(|| self.steps.iter().skip(wraps).map(|(from, _)| *from))
    }

    /// `rest`, but for these minutes, which do not overlap.
    pub(super) fn with_parts(rest: T, mut parts: Vec<(Range<u16>, T)>) -> Self {
        parts.sort_by_key(|(minutes, _)| minutes.start);
        let mut steps: Vec<(u16, T)> = Vec::with_capacity(2 * parts.len() + 1);
        let mut step = |from: u16, value: T| match steps.last_mut() {
            Some((last, held)) if *last == from => *held = value,
            Some((_, held)) if *held == value => {}
            _ => steps.push((from, value)),
        };
        step(0, rest);
        for (minutes, value) in parts {
            step(minutes.start, value);
            if minutes.end < WEEK {
                step(minutes.end, rest);
            }
        }
        steps.dedup_by(|later, earlier| later.1 == earlier.1);
        Self { steps }
    }
}

impl WeekWindows {
    /// Whether there is a minute at which both are open.
    pub fn overlaps(&self, other: &Self) -> bool {
        let begins = self.steps.iter().chain(&other.steps).map(|(from, _)| *from);
        begins.into_iter().any(|minute| self.value_at(minute) && other.value_at(minute))
    }

    /// Minutes of its shortest window, [`WEEK`] if it is always open.
    pub fn shortest_window(&self) -> u16 {
        let opening = |minute: &u16| self.value_at(*minute) && self.minutes_since_change(*minute) == Some(0);
        let begins = self.steps.iter().map(|(from, _)| *from).filter(opening);
        begins.filter_map(|minute| self.minutes_until_change(minute)).min().unwrap_or(WEEK)
    }
}

impl fmt::Display for WeekMinute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, minute) = if self.0 >= WEEK { (6, DAY) } else { (self.0 / DAY, self.0 % DAY) };
        write!(f, "{} {:02}:{:02}", DAYS[usize::from(day)], minute / 60, minute % 60)
    }
}

/// Reads `mon-fri 20:00-06:00`; without days it is every day. What goes past midnight belongs to the day it begins on.
/// No part goes over the end of the week.
pub(super) fn times(text: &str) -> Result<Vec<Range<u16>>, String> {
    let refused = || format!("{text:?} is not a time of the week; write it like mon-fri 20:00-06:00");
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, hours) = match words[..] {
        [hours] => (0..7, hours),
        [named, hours] => (days(named).ok_or_else(refused)?, hours),
        _ => return Err(refused()),
    };
    let (begin, end) = hours.split_once('-').ok_or_else(refused)?;
    let (begin, end) = (time_of_day(begin)?, time_of_day(end)?);
    if begin == end {
        return Err(format!("{text:?} has no length; a whole day is 00:00-24:00"));
    }
    if begin == DAY {
        return Err(format!("{text:?} begins at 24:00, which is an end; begin it on the next day at 00:00"));
    }
    let length = if end > begin { end - begin } else { end + DAY - begin };
    let mut parts = Vec::new();
    for day in days {
        let begin = day % 7 * DAY + begin;
        parts.push(begin..(begin + length).min(WEEK));
        if begin + length > WEEK {
            parts.push(0..begin + length - WEEK);
        }
    }
    Ok(parts)
}

/// Refuses `parts`, written as `text`, if one of them overlaps one of `taken`.
pub(super) fn apart<'a>(
    text: &str,
    parts: &[Range<u16>],
    taken: impl Iterator<Item = &'a Range<u16>>,
) -> Result<(), String> {
    let overlap = |a: &Range<u16>, b: &Range<u16>| a.start.max(b.start)..a.end.min(b.end);
    let mut overlaps = taken.flat_map(|taken| parts.iter().map(move |part| overlap(part, taken)));
    match overlaps.find(|shared| shared.start < shared.end) {
        None => Ok(()),
        Some(shared) => Err(format!(
            "{text:?} overlaps another from {} to {}; give each minute once",
            WeekMinute(shared.start),
            WeekMinute(shared.end)
        )),
    }
}

/// A minute of a day at which something begins.
pub(super) fn minute_of_day(text: &str) -> Result<u16, String> {
    match time_of_day(text)? {
        DAY => Err(format!("{text:?} is an end; what begins then begins at 00:00 of the next day")),
        minute => Ok(minute),
    }
}

/// A day by its name, 0 for Monday.
pub(super) fn day(name: &str) -> Option<u16> {
    let day = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name))?;
    u16::try_from(day).ok()
}

// A range may go over Sunday: its end is then past 7.
fn days(text: &str) -> Option<Range<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first)?, day(last)?);
    Some(first..if last >= first { last + 1 } else { last + 8 })
}

// Minutes since midnight.
fn time_of_day(text: &str) -> Result<u16, String> {
    let refused = || format!("{text:?} is not a time of day; write it like 07:00, from 00:00 to 24:00");
    let (hours, minutes) = text.split_once(':').ok_or_else(refused)?;
    let number = |digits: &str| -> Option<u16> {
        (matches!(digits.len(), 1 | 2) && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse().ok())
            .flatten()
    };
    match (number(hours), number(minutes)) {
        (Some(hours), Some(minutes)) if minutes < 60 && hours * 60 + minutes <= DAY => {
            Ok(hours * 60 + minutes)
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(texts: &[&str]) -> WeekWindows {
        let parts = texts.iter().flat_map(|text| times(text).unwrap()).map(|minutes| (minutes, true));
        Week::with_parts(false, parts.collect())
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_begins_on() {
        let week = open(&["fri-sun 20:00-06:00"]);
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
    fn windows_that_touch_are_one_and_the_whole_week_never_changes() {
        let week = open(&["sat-sun 00:00-24:00", "mon 00:00-01:00"]);
        assert_eq!(week.minutes_until_change(5 * DAY), Some(2 * DAY + 60));
        assert_eq!(week.shortest_window(), 2 * DAY + 60);
        assert_eq!(open(&["00:00-24:00"]), Week::constant(true));
        assert_eq!(Week::constant(true).minutes_until_change(5), None);
    }

    #[test]
    fn what_is_no_time_of_the_week_is_refused_with_the_way_to_write_one() {
        for (text, expected) in [
            ("mon 07:00-25:00", "\"25:00\" is not a time of day; write it like 07:00, from 00:00 to 24:00"),
            ("mon 07:60-08:00", "\"07:60\" is not a time of day; write it like 07:00, from 00:00 to 24:00"),
            ("mon 24:01-08:00", "\"24:01\" is not a time of day; write it like 07:00, from 00:00 to 24:00"),
            ("mon 7-8", "\"7\" is not a time of day; write it like 07:00, from 00:00 to 24:00"),
            ("mon 20:00-20:00", "\"mon 20:00-20:00\" has no length; a whole day is 00:00-24:00"),
            (
                "mon 24:00-06:00",
                "\"mon 24:00-06:00\" begins at 24:00, which is an end; begin it on the next day at 00:00",
            ),
            ("mon", "\"mon\" is not a time of the week; write it like mon-fri 20:00-06:00"),
            (
                "monday 1:00-2:00",
                "\"monday 1:00-2:00\" is not a time of the week; write it like mon-fri 20:00-06:00",
            ),
            ("", "\"\" is not a time of the week; write it like mon-fri 20:00-06:00"),
        ] {
            assert_eq!(times(text).unwrap_err(), expected);
        }
    }

    proptest! {
        #[test]
        fn every_change_is_where_a_walk_through_the_minutes_finds_it(
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
            // Another value's begin, whatever lies between: the value at the minute is what changes.
            prop_assert_eq!(week.minutes_until_change(minute), until);
            let since = (0..WEEK).find(|earlier| at(minute + WEEK - earlier - 1) != at(minute));
            prop_assert_eq!(week.minutes_since_change(minute), since);
            prop_assert!(week.steps().map(|(minutes, _)| minutes.len()).sum::<usize>() == usize::from(WEEK));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}|[a-z]{0,4}[- ][0-9:]{0,6}-[0-9:]{0,6}") {
            for part in times(&text).unwrap_or_default() {
                prop_assert!(part.start < part.end && part.end <= WEEK);
            }
        }
    }
}
