//! Conversion of the configuration and the inputs of a plan to a scenario: times of the week become times of the plan,
//! and patterns become limits of the two contents. Clients of a plan represent their group without addresses.

use std::time::Duration;

use super::appearance::Appearance;
use super::curve::{Curve, OpenHours};
use super::scenario::{EarlyAccess, Named, PlanContent, PlanGroup, Scenario};
use gupd_config as config;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::calendar::Calendar;
use gupd_config::units::Rate;
use gupd_config::{Ceiling, Config, RateSchedule, WanMatch, Week, pattern};

/// Inputs of a plan besides the configuration.
#[derive(Clone, Debug)]
pub struct PlanInput {
    /// Number of clients by group; without a name, clients of the whole site.
    pub clients: Vec<(Option<String>, u32)>,
    /// Size of a full set in bytes, more than 0.
    pub full: Option<u64>,
    /// Size of a delta in bytes, more than 0.
    pub delta: Option<u64>,
    /// Share of clients that need the full set although there is a delta, 0 to 1.
    pub full_share: f64,
    /// Capacity of the line, besides `wan.limit`.
    pub line: Option<Rate>,
    /// Capacity of the relay's link to its clients.
    pub lan: Rate,
    /// Time of publication.
    pub start: UnixMillis,
    /// Times at which clients come online.
    pub appearance: Appearance,
    /// Interval of their requests.
    pub heartbeat: Duration,
    /// Duration of the plan.
    pub horizon: Duration,
}

/// Error of inputs from which no plan can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The capacity of the line is unknown.
    #[error("line: capacity is unknown: set --line RATE, or a wan.limit for all times")]
    Line,
    /// No content.
    #[error("content: size is unknown: set --full SIZE, --delta SIZE or both, or --from-store")]
    Content,
    /// No clients.
    #[error("clients: number is unknown: set --clients N, or --clients GROUP=N for each group")]
    Clients,
    /// A group that the configuration does not have.
    #[error("unknown group {0:?}: known groups are {1}")]
    Group(String, String),
    /// Too many clients.
    #[error("{0} clients are too many: plan for at most {MAX_CLIENTS}")]
    TooMany(u64),
}

/// Maximum number of clients, ten times a large site. Such a plan takes seconds and 100 MB.
pub const MAX_CLIENTS: u32 = 100_000;

/// The delta precedes the full set on the line.
const DELTA: &str = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/261121001/xdelta261120001.dax";
const FULL: &str = "/content/{07b590b3-9282-482f-bbaa-6d515d385869}/261121001/full.zip";
/// Name of the default group.
const DEFAULT: &str = "default";
/// Content type of both.
const CONTENT_TYPE: &str = "virus-definitions-64";

impl PlanInput {
    /// Builds the scenario with a configuration.
    ///
    /// # Errors
    /// A missing or invalid input.
    pub fn scenario(&self, config: &Config) -> Result<Scenario, PlanError> {
        let axis = Axis {
            calendar: Calendar::new(config.site.time_zone.clone()),
            start: self.start,
            horizon: self.horizon.as_secs_f64(),
        };
        let wan = axis.curve(&config.wan.limit);
        let line = self.line.map_or(f64::INFINITY, |Rate(bytes)| bytes as f64);
        if line.is_infinite() && !wan.is_always_limited() {
            return Err(PlanError::Line);
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

    fn contents(&self, config: &Config, axis: &Axis) -> Result<Vec<PlanContent>, PlanError> {
        let content = |name, path, bytes: u64, share| {
            let limit = wan_limit(config, axis, path);
            PlanContent { name, bytes: bytes as f64, share, limit, arrival: None }
        };
        Ok(match (self.delta, self.full) {
            (Some(delta), Some(full)) => vec![
                content("delta", DELTA, delta, 1.0 - self.full_share),
                content("full", FULL, full, self.full_share),
            ],
            (Some(delta), None) => vec![content("delta", DELTA, delta, 1.0)],
            (None, Some(full)) => vec![content("full", FULL, full, 1.0)],
            (None, None) => return Err(PlanError::Content),
        })
    }

    fn groups(&self, config: &Config, axis: &Axis) -> Result<Vec<PlanGroup>, PlanError> {
        let mut all = config.groups.clone();
        if !all.iter().any(config::GroupSettings::is_catch_all) {
            all.push(config::GroupSettings::catch_all(DEFAULT));
        }
        // The default group takes part if it is named or if there is no other.
        let shared = config.groups.len().max(1) as u64;
        let mut counts = vec![0_u64; all.len()];
        for (name, clients) in &self.clients {
            let clients = u64::from(*clients);
            match name {
                // Without names, clients are divided evenly.
                None => {
                    for (index, count) in (0..shared).zip(&mut counts) {
                        *count += clients / shared + u64::from(index < clients % shared);
                    }
                }
                Some(name) => match all.iter().position(|group| group.name == *name) {
                    Some(index) => counts[index] += clients,
                    None => {
                        let known: Vec<&str> = all.iter().map(|group| group.name.as_str()).collect();
                        return Err(PlanError::Group(name.clone(), known.join(", ")));
                    }
                },
            }
        }
        match counts.iter().sum() {
            0 => Err(PlanError::Clients),
            all if all > u64::from(MAX_CLIENTS) => Err(PlanError::TooMany(all)),
            _ => {
                let present = all.iter().zip(counts).filter(|(_, count)| *count > 0);
                Ok(present.map(|(group, count)| axis.group(group, count)).collect())
            }
        }
    }
}

/// Time axis of the plan.
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

    /// Returns the current value and its end.
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

    fn hours(&self, windows: &Week<bool>) -> OpenHours {
        if windows.as_constant().is_some() {
            return OpenHours::always();
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
        OpenHours::new(spans)
    }

    fn group(&self, group: &config::GroupSettings, clients: u64) -> PlanGroup {
        let outside = match group.outside {
            config::OutsideWindow::Defer => EarlyAccess::Nothing,
            config::OutsideWindow::CachedOnly => EarlyAccess::Cached,
            config::OutsideWindow::Ignore => EarlyAccess::Everything,
        };
        PlanGroup {
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

/// Returns the limit of the first upstream of the content's route.
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

/// Returns the first `[[wan_limit]]` that matches.
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
