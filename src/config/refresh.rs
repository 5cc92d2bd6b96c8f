//! What the relay asks for by itself: `[refresh]`, when catalogs are revalidated, and `[prefetch]`, what is fetched
//! before a client asks. Owns these types and their reading; which instants a recurrence is belongs to
//! `policy::schedule`.

use std::fmt;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::document::{Document, Section};
use super::settings::{choice, count, size, time, within};
use super::units::Time;
use super::week::{self, DAY, WEEK, WeekMinute};
use super::{UnitError, WanSettings, defaults};

/// Paths of one list, at most: each is a request of every refresh.
const MAX_PATHS: usize = 1_000;

/// `[refresh]`
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshSettings {
    /// When catalogs are revalidated.
    pub schedule: Recurrence,
    /// A run comes up to this much earlier or later, drawn anew for each; at most half of what lies between two.
    pub random: Duration,
    /// Time between two tries after one that failed, 1 m to 1 d.
    pub retry: Duration,
    /// How long after the first try that failed there are further ones, 0 to 7 d.
    pub retry_window: Duration,
    /// Paths of catalogs that are revalidated whether or not a client has asked for them.
    pub catalogs: Vec<PathAndQuery>,
}

/// `refresh.schedule`. Shown as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// Only by hand.
    Off,
    /// As often as clients ask.
    Continuous,
    /// At this distance, 15 m to 30 d.
    Every(Duration),
    /// At this minute of each day, in the site's time zone.
    Daily(u16),
    /// At this minute of each week, in the site's time zone.
    Weekly(WeekMinute),
}

/// `[prefetch]`
#[derive(Clone, Debug, PartialEq)]
pub struct PrefetchSettings {
    /// Whether to learn from what clients took.
    pub learned: bool,
    /// Revisions of a content that are learned from, 1 to 30.
    pub revisions: u32,
    /// Bytes fetched ahead after one refresh, at most; 1 MiB to 1,024 TiB.
    pub max_bytes: u64,
    /// Paths that are fetched after each refresh; `*` is the newest revision of a content.
    pub paths: Vec<PathAndQuery>,
}

impl Recurrence {
    /// Between two runs; nothing without any.
    pub fn period(self) -> Option<Duration> {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        match self {
            Self::Off => None,
            Self::Continuous => Some(defaults::CONTINUOUS),
            Self::Every(period) => Some(period),
            Self::Daily(_) => Some(days(1)),
            Self::Weekly(_) => Some(days(7)),
        }
    }
}

impl fmt::Display for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Continuous => f.write_str("continuous"),
            Self::Every(period) => write!(f, "every {}", Time(*period)),
            Self::Daily(minute) => write!(f, "daily {:02}:{:02}", minute / 60, minute % 60),
            Self::Weekly(minute) => write!(f, "weekly {minute}"),
        }
    }
}

pub(super) fn refresh(document: &mut Document, wan: &WanSettings) -> RefreshSettings {
    let mut s = document.section("refresh");
    let schedule = s.one("schedule", recurrence).unwrap_or(defaults::SCHEDULE);
    let mut refresh = RefreshSettings {
        schedule,
        random: time(&mut s, "random", defaults::RANDOM),
        retry: time(&mut s, "retry", defaults::RETRY),
        retry_window: time(&mut s, "retry_window", defaults::RETRY_WINDOW),
        catalogs: paths(&mut s, "catalogs", 0),
    };
    // Two runs must not change places.
    let most = match schedule {
        Recurrence::Continuous => Duration::ZERO,
        other => other.period().unwrap_or(defaults::RANDOM.most) / 2,
    };
    if s.given("random") && refresh.random > most {
        match schedule {
            Recurrence::Continuous => s.warn("random", "is not used by a schedule that is continuous"),
            _ => s.refuse(
                "random",
                format!(
                    "{} is more than half of {schedule}; give at most {}",
                    Time(refresh.random),
                    Time(most)
                ),
            ),
        }
    }
    refresh.random = refresh.random.min(most);
    if s.given("retry") && refresh.retry > refresh.retry_window {
        let window = Time(refresh.retry_window);
        s.warn("retry", format!("is longer than refresh.retry_window, {window}; nothing is tried again"));
    }
    let is_open = match schedule {
        Recurrence::Daily(minute) => {
            (0..WEEK).step_by(usize::from(DAY)).any(|day| wan.windows.value_at(day + minute))
        }
        Recurrence::Weekly(minute) => wan.windows.value_at(minute.0),
        _ => true,
    };
    if !is_open {
        s.warn("schedule", format!("{schedule} is outside of wan.windows; it waits for the next of them"));
    }
    document.close(s);
    refresh
}

pub(super) fn prefetch(document: &mut Document) -> PrefetchSettings {
    let mut s = document.section("prefetch");
    let prefetch = PrefetchSettings {
        learned: s
            .one("learned", |text| choice(text, &[("true", true), ("false", false)]))
            .unwrap_or(defaults::LEARNED),
        revisions: count(&mut s, "revisions", defaults::REVISIONS),
        max_bytes: size(&mut s, "max_bytes", defaults::PREFETCH_BYTES),
        paths: paths(&mut s, "paths", 1),
    };
    document.close(s);
    prefetch
}

fn recurrence(text: &str) -> Result<Recurrence, String> {
    let refused = || {
        format!(
            "{text:?} is not a schedule; write off, continuous, every 4h, daily 03:00 or weekly sun 03:00"
        )
    };
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match (word, rest.trim()) {
        ("off", "") => Ok(Recurrence::Off),
        ("continuous", "") => Ok(Recurrence::Continuous),
        ("every", rest) if !rest.is_empty() => {
            let Time(period) = rest.parse().map_err(|error: UnitError| error.to_string())?;
            within(rest, period, defaults::EVERY, Time).map(Recurrence::Every)
        }
        ("daily", rest) if !rest.is_empty() => week::minute_of_day(rest).map(Recurrence::Daily),
        ("weekly", rest) => {
            let (day, minute) = rest.split_once(' ').ok_or_else(refused)?;
            let day = week::day(day).ok_or_else(refused)?;
            Ok(Recurrence::Weekly(WeekMinute(day * DAY + week::minute_of_day(minute.trim())?)))
        }
        _ => Err(refused()),
    }
}

// `*` may be one segment in `wild` places of a path.
fn paths(s: &mut Section, key: &'static str, wild: usize) -> Vec<PathAndQuery> {
    let mut taken: Vec<PathAndQuery> = Vec::new();
    s.many(key, |text| {
        let refused = || format!("{text:?} is not a path; write it like /minitri.flg, as clients ask for it");
        let path: PathAndQuery = text.parse().map_err(|_| refused())?;
        if !text.starts_with('/') {
            return Err(refused());
        }
        if text.matches('*').count() > wild.min(text.matches("/*/").count()) {
            return Err(match wild {
                0 => format!("{text:?} has a *; give the path of one catalog"),
                _ => format!(
                    "{text:?} has a * that is no revision; write it like /content/{{GUID}}/*/full.zip"
                ),
            });
        }
        if taken.len() == MAX_PATHS {
            return Err(format!("{text:?} is one path too many; give at most {MAX_PATHS}"));
        }
        if taken.contains(&path) {
            return Err(format!("{text:?} is given twice; give it once"));
        }
        taken.push(path);
        Ok(())
    });
    taken
}
