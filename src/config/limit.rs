//! Rate limits and windows by time of the week, and their readers. A limit is a ceiling for every minute of the week.
//! Traffic shaping itself is in `gupd_net::shape`.

use std::fmt;
use std::ops::Range;

use crate::defaults;
use crate::document::Section;
use crate::units::{Rate, UnitError};
use crate::week::{self, Week, WeekMinute, WeekWindows};

/// Maximum rate at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ceiling {
    /// At most this, 1 KiB/s to 1 TiB/s.
    Rate(Rate),
    /// The rate of the line.
    Unlimited,
}

/// A ceiling for every minute of the week.
pub type RateSchedule = Week<Ceiling>;

impl RateSchedule {
    /// Creates a schedule without a ceiling at any time.
    pub fn unlimited() -> Self {
        Self::constant(Ceiling::Unlimited)
    }

    /// Creates a schedule with the same rate at all times.
    pub fn from_rate(rate: Rate) -> Self {
        Self::constant(Ceiling::Rate(rate))
    }

    /// Returns true if there is no ceiling at any time.
    pub fn is_unlimited(&self) -> bool {
        self.as_constant() == Some(Ceiling::Unlimited)
    }

    /// Returns one of `parts` equal parts of it, at least 1 byte a second.
    pub(crate) fn divide(&self, parts: u32) -> Self {
        let divide = |ceiling| match ceiling {
            Ceiling::Rate(Rate(rate)) => {
                Ceiling::Rate(Rate(rate.checked_div(parts.into()).unwrap_or(rate).max(1)))
            }
            Ceiling::Unlimited => Ceiling::Unlimited,
        };
        Self::with_parts(
            Ceiling::Unlimited,
            self.steps().map(|(minutes, ceiling)| (minutes, divide(ceiling))).collect(),
        )
    }

    /// Returns the first minute of the week at which both are limited and this limit exceeds `total`.
    pub(crate) fn find_excess(&self, total: &Self) -> Option<Excess> {
        let is_constant = self.as_constant().and(total.as_constant()).is_some();
        let mut begins: Vec<u16> =
            self.steps().chain(total.steps()).map(|(minutes, _)| minutes.start).collect();
        begins.sort_unstable();
        begins.into_iter().find_map(|minute| match (self.value_at(minute), total.value_at(minute)) {
            (Ceiling::Rate(rate), Ceiling::Rate(total)) if rate > total => {
                Some(Excess { minute: (!is_constant).then_some(WeekMinute(minute)), rate, total })
            }
            _ => None,
        })
    }
}

/// A limit that exceeds the one it is part of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    // The first minute; `None` if it exceeds at all times.
    minute: Option<WeekMinute>,
    rate: Rate,
    total: Rate,
}

impl Excess {
    /// Returns `8Mbit/s exceeds wan.limit (4Mbit/s from mon 07:00)`.
    pub(crate) fn describe(&self, total: &str) -> String {
        let Self { minute, rate, total: allowed } = self;
        let from = minute.map(|minute| format!(" from {minute}")).unwrap_or_default();
        format!("{rate} exceeds {total} ({allowed}{from})")
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(rate) => rate.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// Warns of a limit that exceeds another one, and so never applies.
pub(crate) fn warn_above(
    s: &mut Section,
    key: &'static str,
    limit: &RateSchedule,
    total_key: &str,
    total: &RateSchedule,
) {
    if let Some(excess) = limit.find_excess(total) {
        s.warn(key, format!("{}: the smaller limit applies", excess.describe(total_key)));
    }
}

/// Reads a rate, or a list of rates by time. The rate without times applies at all other times.
pub(crate) fn read_rate_schedule(s: &mut Section, key: &'static str) -> RateSchedule {
    let mut rest = None;
    let mut timed: Vec<(Range<u16>, Ceiling)> = Vec::new();
    s.read_list(key, |text| {
        let (ceiling, times) = split_entry(text)?;
        if times.is_empty() {
            return match rest.replace(ceiling) {
                None => Ok(()),
                Some(_) => {
                    Err(format!("{text:?} is a second rate without times: keep one rate for all other times"))
                }
            };
        }
        let parts = week::parse_times(times)?;
        week::check_overlap(text, &parts, timed.iter().map(|(minutes, _)| minutes))?;
        timed.extend(parts.into_iter().map(|minutes| (minutes, ceiling)));
        Ok(())
    });
    RateSchedule::with_parts(rest.unwrap_or(Ceiling::Unlimited), timed)
}

/// Reads windows: `always`, or a list of times.
pub(crate) fn read_windows(s: &mut Section, key: &'static str) -> WeekWindows {
    let mut open: Vec<Range<u16>> = Vec::new();
    let given = s.read_list(key, |text| {
        let parts = week::parse_times(if text == "always" { "00:00-24:00" } else { text })?;
        week::check_overlap(text, &parts, open.iter())?;
        open.extend(parts);
        Ok(())
    });
    // A refused window is always open, so that no further problem follows from it.
    if given.is_none() || open.is_empty() {
        return Week::constant(true);
    }
    Week::with_parts(false, open.into_iter().map(|minutes| (minutes, true)).collect())
}

// Splits an entry into its rate and its times.
fn split_entry(text: &str) -> Result<(Ceiling, &str), String> {
    if let Some(times) = text.strip_prefix("unlimited") {
        return Ok((Ceiling::Unlimited, times.trim()));
    }
    // A space before the unit is allowed, so a rate ends with its unit.
    let end = text.find("/s").map_or(text.len(), |at| at.saturating_add(2));
    let (rate, times) = text.split_at(end);
    let Rate(bytes) = rate.parse().map_err(|error: UnitError| format!("{error}, or unlimited"))?;
    let bounds = defaults::LIMIT;
    if bytes < bounds.least.0 {
        let least = bounds.least;
        return Err(format!("{rate} is below the minimum of {least}: use unlimited for no limit"));
    }
    if bytes > bounds.most.0 {
        return Err(format!("{rate} is above the maximum of {}: use unlimited for no limit", bounds.most));
    }
    Ok((Ceiling::Rate(Rate(bytes)), times.trim()))
}
