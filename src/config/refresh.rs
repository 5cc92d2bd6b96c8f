//! `[refresh]` and `[prefetch]`: when catalogs are revalidated in the background, and which payloads are fetched before
//! clients request them. The instants of a recurrence are computed by `policy::schedule`.

use std::fmt;
use std::time::Duration;

use http::uri::PathAndQuery;

use crate::defaults;
use crate::document::{Document, Section};
use crate::reader::{boolean, count, size, time, time_within};
use crate::route::RouteSettings;
use crate::store::StoreSettings;
use crate::units::{Size, Time};
use crate::wan::WanSettings;
use crate::week::{self, DAY, WEEK, WeekMinute};

/// Maximum number of paths in a list. Each is a request of every refresh.
const MAX_PATHS: usize = 1_000;

/// `[refresh]`
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshSettings {
    /// When catalogs are revalidated.
    pub schedule: Recurrence,
    /// Maximum random offset of a run, earlier or later; at most half of the period.
    pub random: Duration,
    /// Time between two attempts after a failure, 1 m to 1 d.
    pub retry: Duration,
    /// Time after the first failure within which attempts are repeated, 0 to 7 d.
    pub retry_window: Duration,
    /// Paths of catalogs that are revalidated even if no client requested them.
    pub catalogs: Vec<PathAndQuery>,
}

/// `refresh.schedule`. Shows in the form that it is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// On command only.
    Off,
    /// At the interval of endpoint heartbeats.
    Continuous,
    /// At this interval, 15 m to 30 d.
    Every(Duration),
    /// At this minute of each day, in the site's time zone.
    Daily(u16),
    /// At this minute of each week, in the site's time zone.
    Weekly(WeekMinute),
}

/// `[prefetch]`
#[derive(Clone, Debug, PartialEq)]
pub struct PrefetchSettings {
    /// Whether paths are learned from clients' downloads.
    pub learned: bool,
    /// Number of revisions of a content to learn from, 1 to 30.
    pub revisions: u32,
    /// Maximum bytes prefetched after one refresh, 1 MiB to 1,024 TiB.
    pub max_bytes: u64,
    /// Paths prefetched after each refresh; `*` stands for the newest revision of a content.
    pub paths: Vec<PathAndQuery>,
}

impl Recurrence {
    /// Time between two runs; `None` if there are none.
    pub fn period(self) -> Option<Duration> {
        let days = |days: u64| Duration::from_secs(days.saturating_mul(24 * 3600));
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

pub(crate) fn read_refresh(
    document: &mut Document,
    wan: &WanSettings,
    routes: &[RouteSettings],
) -> RefreshSettings {
    let mut s = document.take_section("refresh");
    let schedule = s.read("schedule", recurrence).unwrap_or(Recurrence::Every(defaults::EVERY.default));
    let mut refresh = RefreshSettings {
        schedule,
        random: time(&mut s, "random", defaults::RANDOM),
        retry: time(&mut s, "retry", defaults::RETRY),
        retry_window: time(&mut s, "retry_window", defaults::RETRY_WINDOW),
        catalogs: read_paths(&mut s, "catalogs", 0),
    };
    warn_unrouted(&mut s, "catalogs", &refresh.catalogs, routes);
    // The offsets of two runs must not swap their order.
    let max = match schedule {
        Recurrence::Continuous => Duration::ZERO,
        other => other.period().unwrap_or(defaults::RANDOM.most).checked_div(2).unwrap_or_default(),
    };
    if s.is_given("random") && refresh.random > max {
        match schedule {
            Recurrence::Continuous => s.warn("random", "has no effect with a continuous schedule"),
            _ => s.refuse(
                "random",
                format!(
                    "{} exceeds half the period of {schedule}: use at most {}",
                    Time(refresh.random),
                    Time(max)
                ),
            ),
        }
    }
    refresh.random = refresh.random.min(max);
    if s.is_given("retry") && refresh.retry > refresh.retry_window {
        let window = Time(refresh.retry_window);
        s.warn("retry", format!("exceeds refresh.retry_window ({window}): a failed run is not retried"));
    }
    let is_open = match schedule {
        Recurrence::Daily(minute) => {
            (0..WEEK).step_by(usize::from(DAY)).any(|day| wan.windows.value_at(day.saturating_add(minute)))
        }
        Recurrence::Weekly(minute) => wan.windows.value_at(minute.0),
        _ => true,
    };
    if !is_open {
        s.warn("schedule", format!("{schedule} is outside wan.windows: each run waits for the next window"));
    }
    document.close(s);
    refresh
}

pub(crate) fn read_prefetch(
    document: &mut Document,
    store: &StoreSettings,
    routes: &[RouteSettings],
) -> PrefetchSettings {
    let mut s = document.take_section("prefetch");
    let prefetch = PrefetchSettings {
        learned: s.read("learned", boolean).unwrap_or(defaults::LEARNED),
        revisions: count(&mut s, "revisions", defaults::REVISIONS),
        max_bytes: size(&mut s, "max_bytes", defaults::PREFETCH_BYTES),
        paths: read_paths(&mut s, "paths", 1),
    };
    if s.is_given("max_bytes") && prefetch.max_bytes > store.quota {
        let (bytes, quota) = (Size(prefetch.max_bytes), Size(store.quota));
        s.warn(
            "max_bytes",
            format!("{bytes} exceeds store.quota ({quota}): what was prefetched first is evicted"),
        );
    }
    warn_unrouted(&mut s, "paths", &prefetch.paths, routes);
    document.close(s);
    prefetch
}

/// Warns of paths that the relay never fetches, because only a route with a host has them.
fn warn_unrouted(s: &mut Section, key: &str, paths: &[PathAndQuery], routes: &[RouteSettings]) {
    let has_route =
        |path: &PathAndQuery| routes.iter().any(|route| route.host.is_none() && route.contains(path.path()));
    for path in paths.iter().filter(|path| !has_route(path)) {
        s.warn(
            key,
            format!("{path} is on no [[route]] without a host, and is never fetched: add a route for it"),
        );
    }
}

fn recurrence(text: &str) -> Result<Recurrence, String> {
    let refused = || {
        format!("{text:?} is not a schedule: use off, continuous, every 4h, daily 03:00 or weekly sun 03:00")
    };
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match (word, rest.trim()) {
        ("off", "") => Ok(Recurrence::Off),
        ("continuous", "") => Ok(Recurrence::Continuous),
        ("every", rest) if !rest.is_empty() => time_within(rest, defaults::EVERY).map(Recurrence::Every),
        ("daily", rest) if !rest.is_empty() => week::parse_start_time(rest).map(Recurrence::Daily),
        ("weekly", rest) => {
            let (day, minute) = rest.split_once(' ').ok_or_else(refused)?;
            let day = week::parse_day(day).ok_or_else(refused)?;
            let minute = week::parse_start_time(minute.trim())?;
            Ok(Recurrence::Weekly(WeekMinute(day.saturating_mul(DAY).saturating_add(minute))))
        }
        _ => Err(refused()),
    }
}

// At most `wildcards` segments of a path may be `*`.
fn read_paths(s: &mut Section, key: &'static str, wildcards: usize) -> Vec<PathAndQuery> {
    let mut taken: Vec<PathAndQuery> = Vec::new();
    s.read_list(key, |text| {
        let refused = || format!("{text:?} is not a path: write it like /minitri.flg, as clients request it");
        let path: PathAndQuery = text.parse().map_err(|_| refused())?;
        if !text.starts_with('/') {
            return Err(refused());
        }
        if text.matches('*').count() > wildcards.min(text.matches("/*/").count()) {
            return Err(match wildcards {
                0 => format!("{text:?} contains *: write the path of one catalog"),
                _ => format!(
                    "{text:?} contains * outside the place of a revision: write it like /content/{{GUID}}/*/full.zip"
                ),
            });
        }
        if taken.len() == MAX_PATHS {
            return Err(format!("{text:?} exceeds the maximum of {MAX_PATHS} paths: remove some"));
        }
        if taken.contains(&path) {
            return Err(format!("{text:?} is listed twice: list it once"));
        }
        taken.push(path);
        Ok(())
    });
    taken
}
