//! Makes a scenario of the configuration and what is asked: times of the week become times of the plan, patterns become
//! the limits of the two objects. Clients of a plan stand for the group's, whatever their addresses are.

use std::time::Duration;

use super::appearance::Appearance;
use super::curve::{Curve, Hours};
use super::scenario::{Content, Group, Named, Outside, Scenario};
use gupd_config as config;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::calendar::Calendar;
use gupd_config::units::Rate;
use gupd_config::{Ceiling, Config, RateSchedule, WanMatch, Week, pattern};

/// What a plan is about, besides the configuration.
#[derive(Clone, Debug)]
pub struct Site {
    /// Clients by the name of their group; the site has them if no group is named.
    pub clients: Vec<(Option<String>, u32)>,
    /// Bytes of a full set; more than 0.
    pub full: Option<u64>,
    /// Bytes of a delta; more than 0.
    pub delta: Option<u64>,
    /// The share of clients that need the full set although there is a delta, 0 to 1.
    pub full_share: f64,
    /// What the line carries, besides `wan.limit`.
    pub line: Option<Rate>,
    /// What the relay's link to its clients carries.
    pub lan: Rate,
    /// When the content is published.
    pub start: UnixMillis,
    /// When clients come online.
    pub appearance: Appearance,
    /// How often they ask.
    pub heartbeat: Duration,
    /// How far the plan looks.
    pub horizon: Duration,
}

/// What a plan cannot be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// There would be no end to a rate.
    #[error("what the line carries is not known; give --line RATE, or a wan.limit that holds at all times")]
    Line,
    /// Nothing to get.
    #[error("nothing says what clients get; give --full SIZE, --delta SIZE or both, or --from-store")]
    Content,
    /// Nobody to get it.
    #[error("no clients; give --clients N, or --clients GROUP=N for each group")]
    Clients,
    /// A group that the configuration does not have.
    #[error("{0:?} is no group of the configuration, which has {1}")]
    Group(String, String),
    /// More than can be counted.
    #[error("{0} clients are too many; a plan is for {MAX_CLIENTS} at the most")]
    TooMany(u64),
}

/// Ten times a large site: a plan for so many takes seconds and 100 MB.
pub const MAX_CLIENTS: u32 = 100_000;

/// The delta goes before the full set on the line.
const DELTA: &str = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/261121001/xdelta261120001.dax";
const FULL: &str = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/261121001/full.zip";
/// As clients of no group are called.
const DEFAULT: &str = "default";
/// What both are for.
const CONTENT_TYPE: &str = "virus-definitions-64";

impl Site {
    /// The scenario that this is with a configuration.
    ///
    /// # Errors
    /// When something of it is missing.
    pub fn scenario(&self, config: &Config) -> Result<Scenario, SiteError> {
        let axis = Axis {
            calendar: Calendar::new(config.site.time_zone.clone()),
            start: self.start,
            horizon: self.horizon.as_secs_f64(),
        };
        let wan = axis.curve(&config.wan.limit);
        let line = self.line.map_or(f64::INFINITY, |Rate(bytes)| bytes as f64);
        if line.is_infinite() && !wan.is_always_limited() {
            return Err(SiteError::Line);
        }
        Ok(Scenario {
            horizon: axis.horizon,
            line,
            wan,
            upstream: upstream(config, &axis),
            lan_link: self.lan.0 as f64,
            lan: axis.curve(&config.lan.limit),
            client: axis.curve(&config.lan.client_limit),
            downloads: config.lan.max_downloads,
            queue: config.lan.queue,
            queue_timeout: config.lan.queue_timeout.as_secs_f64(),
            contents: self.contents(config, &axis)?,
            groups: self.groups(config, &axis)?,
            appearance: self.appearance.clone(),
            heartbeat: self.heartbeat.as_secs_f64(),
        })
    }

    fn contents(&self, config: &Config, axis: &Axis) -> Result<Vec<Content>, SiteError> {
        let content = |name, path, bytes: u64, share| {
            let limit = wan_limit(config, axis, path);
            Content { name, bytes: bytes as f64, share, limit }
        };
        Ok(match (self.delta, self.full) {
            (Some(delta), Some(full)) => vec![
                content("delta", DELTA, delta, 1.0 - self.full_share),
                content("full", FULL, full, self.full_share),
            ],
            (Some(delta), None) => vec![content("delta", DELTA, delta, 1.0)],
            (None, Some(full)) => vec![content("full", FULL, full, 1.0)],
            (None, None) => return Err(SiteError::Content),
        })
    }

    fn groups(&self, config: &Config, axis: &Axis) -> Result<Vec<Group>, SiteError> {
        let mut all = config.groups.clone();
        if !all.iter().any(config::GroupSettings::is_catch_all) {
            all.push(config::GroupSettings::catch_all(DEFAULT));
        }
        // Clients of no group are clients of the default one, which takes part if it is named, or if there is no other.
        let shared = config.groups.len().max(1) as u64;
        let mut counts = vec![0_u64; all.len()];
        for (name, clients) in &self.clients {
            let clients = u64::from(*clients);
            match name {
                // Evenly: nothing says otherwise.
                None => {
                    for (index, count) in (0..shared).zip(&mut counts) {
                        *count += clients / shared + u64::from(index < clients % shared);
                    }
                }
                Some(name) => match all.iter().position(|group| group.name == *name) {
                    Some(index) => counts[index] += clients,
                    None => {
                        let known: Vec<&str> = all.iter().map(|group| group.name.as_str()).collect();
                        return Err(SiteError::Group(name.clone(), known.join(", ")));
                    }
                },
            }
        }
        match counts.iter().sum() {
            0 => Err(SiteError::Clients),
            all if all > u64::from(MAX_CLIENTS) => Err(SiteError::TooMany(all)),
            _ => {
                let present = all.iter().zip(counts).filter(|(_, count)| *count > 0);
                Ok(present.map(|(group, count)| axis.group(group, count)).collect())
            }
        }
    }
}

/// The plan's time.
struct Axis {
    calendar: Calendar,
    start: UnixMillis,
    horizon: f64,
}

impl Axis {
    fn curve(&self, limit: &RateSchedule) -> Curve {
        Curve::trace(self.horizon, |time| match self.held(limit, time) {
            (Ceiling::Rate(Rate(bytes)), until) => (bytes as f64, until),
            (Ceiling::Unlimited, until) => (f64::INFINITY, until),
        })
    }

    /// What holds, and until when.
    fn held<T: Copy + PartialEq>(&self, week: &Week<T>, time: f64) -> (T, Option<f64>) {
        let held = self.calendar.current(week, self.instant(time));
        (held.value, held.until.map(|until| self.seconds(until)))
    }

    fn instant(&self, time: f64) -> UnixMillis {
        self.start.saturating_add((time * 1e3).round() as i64)
    }

    fn seconds(&self, instant: UnixMillis) -> f64 {
        instant.saturating_sub(self.start) as f64 / 1e3
    }

    fn hours(&self, windows: &Week<bool>) -> Hours {
        if windows.as_constant().is_some() {
            return Hours::always();
        }
        let mut spans = Vec::new();
        let since = self.calendar.current_since(windows, self.start).map_or(0.0, |since| self.seconds(since));
        let (mut begin, mut time) = (since, 0.0);
        while time < self.horizon {
            let (open, until) = self.held(windows, time);
            let end = until.filter(|until| *until > time).unwrap_or(f64::INFINITY);
            if open {
                spans.push((begin, end));
            }
            (begin, time) = (end, end);
        }
        Hours::new(spans)
    }

    fn group(&self, group: &config::GroupSettings, clients: u64) -> Group {
        let outside = match group.outside {
            config::OutsideWindow::Defer => Outside::Nothing,
            config::OutsideWindow::CachedOnly => Outside::Cached,
            config::OutsideWindow::Ignore => Outside::Everything,
        };
        Group {
            name: group.name.clone(),
            clients: u32::try_from(clients).unwrap_or(u32::MAX),
            limit: self.curve(&group.limit),
            client_limit: self.curve(&group.client_limit),
            wan_limit: self.curve(&group.wan_limit),
            downloads: group.max_downloads,
            hours: self.hours(&group.windows),
            spread: group.spread.as_secs_f64(),
            outside,
        }
    }
}

/// The limit of the upstream that is asked first for such content.
fn upstream(config: &Config, axis: &Axis) -> Named<Curve> {
    let takes = |prefix: &str| {
        FULL.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
    };
    let routes = config.routes.iter().filter(|route| route.host.is_none() && takes(&route.prefix));
    let route = routes.max_by_key(|route| route.prefix.len());
    let upstream = route.and_then(|route| config.upstreams.get(*route.upstreams.first()?));
    match upstream {
        Some(upstream) => Named { name: upstream.name.clone(), value: axis.curve(&upstream.limit) },
        None => Named { name: String::new(), value: Curve::UNLIMITED },
    }
}

/// The first `[[wan_limit]]` that fits.
fn wan_limit(config: &Config, axis: &Axis, path: &str) -> Named<Curve> {
    let fits = |matches: &WanMatch| match matches {
        // One that does not compile was refused with the configuration.
        WanMatch::Pattern(glob) => {
            pattern::compile(glob).is_ok_and(|glob| glob.compile_matcher().is_match(path))
        }
        WanMatch::ContentType(name) => name == CONTENT_TYPE,
    };
    match config.wan_limits.iter().find(|limit| fits(&limit.matches)) {
        Some(limit) => Named { name: limit.name.clone(), value: axis.curve(&limit.limit) },
        None => Named { name: String::new(), value: Curve::UNLIMITED },
    }
}
