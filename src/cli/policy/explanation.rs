//! The explanation of a request: its group, route, schedule and limits, each with the setting that causes it. It uses
//! the policy tables of the relay and is a pure function; times are in milliseconds since 1970.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::super::CommandError;
use super::Explain;
use super::rollout_stage::RolloutStage;
use gupd_config as config;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::window::client_offset;
use gupd_config::policy::{
    Classification, ClientAttributes, DenialCause, Group, PayloadRevision, Policy, Route, ScheduledStart,
};
use gupd_config::{Ceiling, Config, OutsideWindow, RateSchedule, WanMatch, pattern};
use gupd_http::key;

/// Handling of one request.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    pub(super) client: IpAddr,
    pub(super) path: String,
    #[serde(serialize_with = "serialize_time")]
    pub(super) time: UnixMillis,
    pub(super) route: String,
    pub(super) class: &'static str,
    pub(super) form: &'static str,
    pub(super) content_type: String,
    pub(super) upstreams: Vec<ExplainedUpstream>,
    /// Source of the upstreams: `group` or `route`.
    pub(super) upstreams_of: &'static str,
    pub(super) group: GroupMatch,
    /// Status code of a policy denial.
    pub(super) denied: Option<u16>,
    /// Settings that deny the content; it is served once all are changed.
    pub(super) denied_by: Vec<DenialCause>,
    pub(super) windows: WindowState,
    /// Scheduled start of a manager payload, for a group with windows or spread.
    pub(super) turn: Option<StartTimes>,
    pub(super) limits: Vec<ActiveLimit>,
    pub(super) counts: Vec<DownloadLimit>,
    /// Set by the caller if the configuration has rings.
    pub(super) rollout: Option<RolloutStage>,
}

/// An upstream of the request.
#[derive(Debug, Serialize)]
pub(super) struct ExplainedUpstream {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) priority: usize,
}

/// Group of the client and the matchers that selected it.
#[derive(Debug, Serialize)]
pub(super) struct GroupMatch {
    pub(super) name: String,
    /// File and line; `None` for the default group.
    pub(super) place: Option<String>,
    pub(super) because: Vec<MatchedSetting>,
}

/// A matcher of the group that matches the client.
#[derive(Debug, Serialize)]
pub(super) struct MatchedSetting {
    pub(super) setting: &'static str,
    pub(super) value: String,
}

/// Windows of the group now.
#[derive(Debug, Serialize)]
pub(super) struct WindowState {
    pub(super) open: bool,
    /// Time at which they close or open; `None` if never.
    #[serde(serialize_with = "serialize_optional_time")]
    pub(super) until: Option<UnixMillis>,
    /// Time of the change after that.
    #[serde(serialize_with = "serialize_optional_time")]
    pub(super) then: Option<UnixMillis>,
    pub(super) outside: &'static str,
}

/// Scheduled start of a client within the spread.
#[derive(Debug, Serialize)]
pub(super) struct StartTimes {
    pub(super) revision: String,
    pub(super) spread_seconds: f64,
    pub(super) offset_seconds: f64,
    /// Start if no client has requested the revision before.
    #[serde(serialize_with = "serialize_time")]
    pub(super) new: UnixMillis,
    /// Start if a client requested the revision long ago.
    #[serde(serialize_with = "serialize_time")]
    pub(super) known: UnixMillis,
}

/// A rate limit in force now.
#[derive(Debug, Serialize)]
pub(super) struct ActiveLimit {
    pub(super) setting: String,
    pub(super) bytes_per_second: u64,
    #[serde(skip)]
    pub(super) text: String,
    #[serde(serialize_with = "serialize_optional_time")]
    pub(super) until: Option<UnixMillis>,
}

/// A limit on the number of downloads.
#[derive(Debug, Serialize)]
pub(super) struct DownloadLimit {
    pub(super) setting: String,
    pub(super) downloads: u32,
}

impl Explanation {
    /// Explains the request that the flags describe.
    ///
    /// # Errors
    /// When the relay refuses the path, or no route matches.
    pub(super) fn new(flags: &Explain, config: &Config, now: UnixMillis) -> Result<Self, CommandError> {
        if !config.server.all_listeners().any(|listener| listener.name == flags.listener) {
            let message = format!(
                "--listener {}: no [[listener]] has this name: write it as in the file",
                flags.listener
            );
            return Err(CommandError::Configuration(message));
        }
        let policy = Policy::new(config).map_err(|error| CommandError::Configuration(error.to_string()))?;
        let normal = key::normalize(flags.path.path(), flags.path.query());
        let normal = normal.map_err(|_| unusable_path(flags))?;
        let path = &*normal.canonical_path();
        let route = select_route(&policy, flags, &normal, path)?;
        let classification = policy.classify(route, path);
        let client = flags.client.to_canonical();
        let names = flags.certificate.iter().map(|name| name.to_ascii_lowercase().into_boxed_str());
        let names: Vec<Box<str>> = names.collect();
        let group = policy
            .group(&ClientAttributes::new(client, path).with_names(&names).with_listener(&flags.listener));
        let binding = group.binding.as_ref();
        let order = binding.map_or(&route.upstreams, |binding| binding.upstreams());
        let order: Vec<&config::UpstreamSettings> =
            order.iter().filter_map(|id| config.upstream(id)).collect();
        Ok(Self {
            client,
            path: flags.path.to_string(),
            time: now,
            route: route.name.to_string(),
            class: classification.class.as_str(),
            form: classification.form.as_str(),
            content_type: classification.content_type.to_string(),
            upstreams: upstreams(&order),
            upstreams_of: if binding.is_some() { "group" } else { "route" },
            group: GroupMatch::new(group, client, &names, path, &flags.listener),
            denied: policy.denial_status(group, route, &classification).map(|status| status.as_u16()),
            denied_by: policy.denial_causes(group, route, &classification),
            windows: WindowState::at(&policy, &group.settings, now),
            turn: StartTimes::new(
                &policy,
                group,
                policy.revision(route, path, || classification.class),
                client,
                now,
            ),
            limits: active_limits(
                limits(config, &order, &group.settings, (path, &classification)),
                &policy,
                now,
            ),
            counts: download_limits(config, &group.settings),
            rollout: None,
        })
    }
}

/// Returns the route that serves the request.
fn select_route<'a>(
    policy: &'a Policy,
    flags: &Explain,
    normal: &key::NormalizedTarget,
    path: &str,
) -> Result<&'a Arc<Route>, CommandError> {
    let route = policy.route(flags.host.as_deref(), path).ok_or_else(|| {
        CommandError::Failed(format!(
            "--path {path}: no route matches and clients get 404: pass --host, or add a [[route]]"
        ))
    })?;
    let route = policy.origin_route(route, path, normal.query()).map_err(|_| {
        CommandError::Failed(format!(
            "--path {}: the relay answers 421: name an origin server that the profile lists and a [[route]] has as host",
            flags.path
        ))
    })?;
    if !normal.is_plain() && policy.is_ambiguous(route, path) {
        return Err(CommandError::Failed(format!(
            "--path {}: the relay answers 400, because some servers take it for {path}: pass that path",
            flags.path
        )));
    }
    Ok(route)
}

fn unusable_path(flags: &Explain) -> CommandError {
    CommandError::Failed(format!(
        "--path {}: the relay answers 400: use a path without dot segments, backslashes and control characters, plain or \
         encoded",
        flags.path
    ))
}

fn upstreams(order: &[&config::UpstreamSettings]) -> Vec<ExplainedUpstream> {
    let named = order.iter().enumerate().map(|(index, upstream)| {
        let priority = upstream.priority.map_or(index + 1, |priority| priority as usize);
        ExplainedUpstream { name: upstream.name.clone(), url: upstream.url.to_string(), priority }
    });
    let mut upstreams: Vec<ExplainedUpstream> = named.collect();
    upstreams.sort_by_key(|upstream| upstream.priority);
    upstreams
}

impl GroupMatch {
    fn new(group: &Group, client: IpAddr, names: &[Box<str>], path: &str, listener: &str) -> Self {
        let settings = &group.settings;
        let folded = pattern::fold(path);
        let matches = |glob: &&String| {
            pattern::compile(glob).is_ok_and(|glob| glob.compile_matcher().is_match(&folded))
        };
        let subnet = settings.subnets.iter().find(|subnet| subnet.contains(&client));
        let glob = settings.paths.iter().find(matches);
        let listener = settings.listeners.iter().find(|name| *name == listener);
        let listener = listener.map(|name| MatchedSetting { setting: "listeners", value: name.clone() });
        let subnet = subnet.map(|subnet| MatchedSetting { setting: "subnets", value: subnet.to_string() });
        let certificate = settings.matching_certificate(names);
        let certificate =
            certificate.map(|name| MatchedSetting { setting: "certificates", value: name.to_owned() });
        let glob = glob.map(|glob| MatchedSetting { setting: "paths", value: glob.clone() });
        Self {
            name: group.name.to_string(),
            place: settings.location.as_ref().map(ToString::to_string),
            because: listener.into_iter().chain(subnet).chain(certificate).chain(glob).collect(),
        }
    }
}

impl WindowState {
    fn at(policy: &Policy, group: &config::GroupSettings, now: UnixMillis) -> Self {
        let calendar = policy.calendar();
        let held = calendar.current(&group.windows, now);
        let then = held.until.and_then(|until| calendar.current(&group.windows, until).until);
        let outside = match group.outside {
            OutsideWindow::Defer => "defer",
            OutsideWindow::CachedOnly => "cached-only",
            OutsideWindow::Ignore => "ignore",
        };
        Self { open: held.value, until: held.until, then, outside }
    }
}

impl StartTimes {
    fn new(
        policy: &Policy,
        group: &Group,
        revision: Option<PayloadRevision<'_>>,
        client: IpAddr,
        now: UnixMillis,
    ) -> Option<Self> {
        let revision = revision.filter(|_| group.has_schedule())?;
        let start = |seen| match policy.scheduled_start(group, client, revision, seen, now) {
            ScheduledStart::Now | ScheduledStart::Emergency => now,
            ScheduledStart::Later { at: opens } => opens,
        };
        let spread = group.settings.spread;
        Some(Self {
            revision: revision.sequence.to_owned(),
            spread_seconds: spread.as_secs_f64(),
            offset_seconds: client_offset(client, revision.sequence, spread).as_secs_f64(),
            new: start(now),
            known: start(UnixMillis::MIN),
        })
    }
}

/// Returns the configured rate limits, narrowest first; all of them apply at once.
fn limits<'a>(
    config: &'a Config,
    order: &[&'a config::UpstreamSettings],
    group: &'a config::GroupSettings,
    (path, classification): (&str, &Classification),
) -> Vec<(String, &'a RateSchedule)> {
    let folded = pattern::fold(path);
    let matches = |limit: &&config::WanLimit| match &limit.matches {
        WanMatch::ContentType(name) => **name == *classification.content_type,
        WanMatch::Pattern(glob) => {
            pattern::compile(glob).is_ok_and(|glob| glob.compile_matcher().is_match(&folded))
        }
    };
    let named = config.wan_limits.iter().find(matches);
    let named = named.map(|named| (format!("wan_limit {}", named.name), &named.limit));
    let upstreams =
        order.iter().map(|upstream| (format!("upstream {} limit", upstream.name), &upstream.limit));
    let fixed = |setting: &str, limit| (setting.to_owned(), limit);
    [
        fixed("group.client_limit", &group.client_limit),
        fixed("lan.client_limit", &config.lan.client_limit),
        fixed("group.limit", &group.limit),
        fixed("lan.limit", &config.lan.limit),
        fixed("group.wan_limit", &group.wan_limit),
    ]
    .into_iter()
    .chain(named)
    .chain(upstreams)
    .chain([fixed("wan.limit", &config.wan.limit)])
    .collect()
}

/// Returns the limits in force now; those that are unlimited now are omitted.
fn active_limits(limits: Vec<(String, &RateSchedule)>, policy: &Policy, now: UnixMillis) -> Vec<ActiveLimit> {
    let active = limits.into_iter().filter_map(|(setting, limit)| {
        let current = policy.calendar().current(limit, now);
        match current.value {
            Ceiling::Rate(rate) => {
                let (bytes_per_second, text) = (rate.0, rate.to_string());
                Some(ActiveLimit { setting, bytes_per_second, text, until: current.until })
            }
            Ceiling::Unlimited => None,
        }
    });
    active.collect()
}

fn download_limits(config: &Config, group: &config::GroupSettings) -> Vec<DownloadLimit> {
    let all = [
        ("group.client_downloads", group.client_downloads),
        ("lan.client_downloads", config.lan.client_downloads),
        ("group.max_downloads", group.max_downloads),
        ("lan.max_downloads", config.lan.max_downloads),
    ];
    let set = all.into_iter().filter_map(|(setting, downloads)| {
        Some(DownloadLimit { setting: setting.to_owned(), downloads: downloads? })
    });
    set.collect()
}

fn serialize_time<S: Serializer>(at: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    serialize_optional_time(&Some(*at), serializer)
}

fn serialize_optional_time<S: Serializer>(at: &Option<UnixMillis>, serializer: S) -> Result<S::Ok, S::Error> {
    let time = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    time.map(|time| time.to_string()).serialize(serializer)
}
