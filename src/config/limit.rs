//! A rate that may differ by time of the week. Owns reading it; relies on `week` for times and `units` for rates.
//! What is shaped by it, and how, is not known here.

use std::fmt;
use std::ops::Range;

use super::defaults;
use super::document::Section;
use super::units::Rate;
use super::week::{self, Week, WeekMinute};
use super::{Config, UnitError};

/// What may pass in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ceiling {
    /// At most this, 1 KiB/s to 1 TiB/s.
    Rate(Rate),
    /// Whatever the line takes.
    Unlimited,
}

/// A ceiling for every minute of the week.
pub type RateSchedule = Week<Ceiling>;

impl RateSchedule {
    /// No ceiling at any time.
    pub fn unlimited() -> Self {
        Self::constant(Ceiling::Unlimited)
    }

    /// The same rate always.
    pub fn from_rate(rate: Rate) -> Self {
        Self::constant(Ceiling::Rate(rate))
    }

    /// Whether there is no ceiling at any time.
    pub fn is_unlimited(&self) -> bool {
        self.as_constant() == Some(Ceiling::Unlimited)
    }

    /// An equal part of it, of so many; 1 byte a second and more.
    fn part(&self, of: u32) -> Self {
        let part = |ceiling| match ceiling {
            Ceiling::Rate(Rate(rate)) => Ceiling::Rate(Rate((rate / u64::from(of.max(1))).max(1))),
            Ceiling::Unlimited => Ceiling::Unlimited,
        };
        Self::with_parts(
            Ceiling::Unlimited,
            self.steps().map(|(minutes, ceiling)| (minutes, part(ceiling))).collect(),
        )
    }

    /// The first minute of the week at which this is set, and above what `total` is set to; and both.
    pub(super) fn above(&self, total: &Self) -> Option<Above> {
        let always = self.as_constant().and(total.as_constant()).is_some();
        let mut begins: Vec<u16> =
            self.steps().chain(total.steps()).map(|(minutes, _)| minutes.start).collect();
        begins.sort_unstable();
        begins.into_iter().find_map(|minute| match (self.value_at(minute), total.value_at(minute)) {
            (Ceiling::Rate(rate), Ceiling::Rate(total)) if rate > total => {
                Some(Above { minute: (!always).then_some(WeekMinute(minute)), rate, total })
            }
            _ => None,
        })
    }
}

impl Config {
    /// The same with an equal part of every rate, for each of so many processes.
    pub fn divide_limits(&self, processes: u32) -> Self {
        let mut config = self.clone();
        if processes <= 1 {
            return config;
        }
        let lan = &mut config.lan;
        let own = [&mut config.wan.limit, &mut lan.limit, &mut lan.client_limit];
        let upstreams = config.upstreams.iter_mut().map(|upstream| &mut upstream.limit);
        let named = config.wan_limits.iter_mut().map(|limit| &mut limit.limit);
        let groups = config
            .groups
            .iter_mut()
            .flat_map(|group| [&mut group.limit, &mut group.client_limit, &mut group.wan_limit]);
        for limit in own.into_iter().chain(upstreams).chain(named).chain(groups) {
            *limit = limit.part(processes);
        }
        config
    }
}

/// Where one limit is above another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Above {
    // The first minute; `None` for always.
    minute: Option<WeekMinute>,
    rate: Rate,
    total: Rate,
}

impl Above {
    /// `8Mbit/s is above wan.limit, which is 4Mbit/s from mon 07:00 on`
    pub(super) fn tell(&self, total: &str) -> String {
        let Self { minute, rate, total: allowed } = self;
        let from = minute.map(|minute| format!(" from {minute} on")).unwrap_or_default();
        format!("{rate} is above {total}, which is {allowed}{from}")
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

/// Reads a rate, or a list of them by time; the one without times holds at all others.
pub(super) fn limit(s: &mut Section, key: &'static str) -> RateSchedule {
    let mut rest = None;
    let mut timed: Vec<(Range<u16>, Ceiling)> = Vec::new();
    s.many(key, |text| {
        let (ceiling, times) = entry(text)?;
        if times.is_empty() {
            return match rest.replace(ceiling) {
                None => Ok(()),
                Some(_) => {
                    Err(format!("{text:?} is a second rate without times; give one rate for all other times"))
                }
            };
        }
        let parts = week::times(times)?;
        week::apart(text, &parts, timed.iter().map(|(minutes, _)| minutes))?;
        timed.extend(parts.into_iter().map(|minutes| (minutes, ceiling)));
        Ok(())
    });
    RateSchedule::with_parts(rest.unwrap_or(Ceiling::Unlimited), timed)
}

/// Reads when something is open: `always`, or a list of times.
pub(super) fn windows(s: &mut Section, key: &'static str) -> week::WeekWindows {
    let mut open: Vec<Range<u16>> = Vec::new();
    let given = s.many(key, |text| {
        let parts = week::times(if text == "always" { "00:00-24:00" } else { text })?;
        week::apart(text, &parts, open.iter())?;
        open.extend(parts);
        Ok(())
    });
    // One that was refused is open always, so that nothing follows from it.
    if given.is_none() || open.is_empty() {
        return Week::constant(true);
    }
    Week::with_parts(false, open.into_iter().map(|minutes| (minutes, true)).collect())
}

// A rate and what follows it.
fn entry(text: &str) -> Result<(Ceiling, &str), String> {
    if let Some(times) = text.strip_prefix("unlimited") {
        return Ok((Ceiling::Unlimited, times.trim()));
    }
    // A space before the unit is allowed, so the unit is what ends a rate.
    let end = text.find("/s").map_or(text.len(), |at| at + 2);
    let (rate, times) = text.split_at(end);
    let Rate(bytes) = rate.parse().map_err(|error: UnitError| format!("{error}, or unlimited"))?;
    let bounds = defaults::LIMIT;
    if bytes < bounds.least.0 {
        let least = bounds.least;
        return Err(format!("{rate} is too little; the least is {least}, and unlimited is no limit"));
    }
    if bytes > bounds.most.0 {
        return Err(format!("{rate} is too much; the most is {}, or write unlimited", bounds.most));
    }
    Ok((Ceiling::Rate(Rate(bytes)), times.trim()))
}
