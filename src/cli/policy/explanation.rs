//! What the configuration means for one client, one path and one moment. Asks `policy` what the relay asks it, and adds
//! which setting each answer comes from. Pure but for what it is given; times are in milliseconds since 1970.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::super::CommandError;
use super::Explain;
use super::stage::Stage;
use gupd_config as config;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::window::client_offset;
use gupd_config::policy::{Classification, ClientAttributes, Group, PayloadRevision, Policy, ScheduledStart};
use gupd_config::{Ceiling, Config, OutsideWindow, RateSchedule, WanMatch, pattern};
use gupd_http::key;

/// Everything that is said.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    pub(super) client: IpAddr,
    pub(super) path: String,
    #[serde(serialize_with = "instant")]
    pub(super) time: UnixMillis,
    pub(super) route: String,
    pub(super) class: &'static str,
    pub(super) form: &'static str,
    pub(super) content_type: String,
    pub(super) upstreams: Vec<Asked>,
    /// Whose they are: the group's or the route's.
    pub(super) upstreams_of: &'static str,
    pub(super) group: Taken,
    /// The status of a client that is denied it.
    pub(super) denied: Option<u16>,
    pub(super) windows: Windows,
    /// Of a payload of a manager, for a group that takes turns.
    pub(super) turn: Option<Moment>,
    pub(super) limits: Vec<Held>,
    pub(super) counts: Vec<Count>,
    /// With rings: added by who may ask a relay.
    pub(super) rollout: Option<Stage>,
}

/// An upstream that it is asked of.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) priority: usize,
}

/// The group, and what made it so.
#[derive(Debug, Serialize)]
pub(super) struct Taken {
    pub(super) name: String,
    /// File and line; none if no group of the file takes the client.
    pub(super) place: Option<String>,
    pub(super) because: Vec<Because>,
}

/// A matcher that fits.
#[derive(Debug, Serialize)]
pub(super) struct Because {
    pub(super) setting: &'static str,
    pub(super) value: String,
}

/// The group's windows now.
#[derive(Debug, Serialize)]
pub(super) struct Windows {
    pub(super) open: bool,
    /// When they close, or open; none if never.
    #[serde(serialize_with = "maybe_instant")]
    pub(super) until: Option<UnixMillis>,
    /// And when they change again.
    #[serde(serialize_with = "maybe_instant")]
    pub(super) then: Option<UnixMillis>,
    pub(super) outside: &'static str,
}

/// The client's moment within the spread.
#[derive(Debug, Serialize)]
pub(super) struct Moment {
    pub(super) revision: String,
    pub(super) spread_seconds: f64,
    pub(super) offset_seconds: f64,
    /// When it may begin, if nobody has asked for the revision before.
    #[serde(serialize_with = "instant")]
    pub(super) new: UnixMillis,
    /// When it may begin, if somebody did long ago.
    #[serde(serialize_with = "instant")]
    pub(super) known: UnixMillis,
}

/// A limit as it is now.
#[derive(Debug, Serialize)]
pub(super) struct Held {
    pub(super) setting: String,
    pub(super) bytes_per_second: u64,
    #[serde(skip)]
    pub(super) told: String,
    #[serde(serialize_with = "maybe_instant")]
    pub(super) until: Option<UnixMillis>,
}

/// A count of downloads.
#[derive(Debug, Serialize)]
pub(super) struct Count {
    pub(super) setting: String,
    pub(super) downloads: u32,
}

impl Explanation {
    /// # Errors
    /// A path that the relay refuses, or that no route takes.
    pub(super) fn of(asked: &Explain, config: &Config, now: UnixMillis) -> Result<Self, CommandError> {
        let policy = Policy::new(config).map_err(|error| CommandError::Configuration(error.to_string()))?;
        let normal = key::normalize(asked.path.path(), asked.path.query()).map_err(|_| {
            CommandError::Failed(format!(
                "{}: the relay answers such a path 400; give one without \
                 dot segments, backslashes and control characters, encoded or not",
                asked.path
            ))
        })?;
        let path = normal.path();
        let route = policy.route(asked.host.as_deref(), path).ok_or_else(|| {
            CommandError::Failed(format!(
                "{path}: no route takes it, and clients get 404; give --host, or add a [[route]]"
            ))
        })?;
        let classified = policy.classify(route, path);
        let client = asked.client.to_canonical();
        let names = asked.certificate.iter().map(|name| name.to_ascii_lowercase().into_boxed_str());
        let names: Vec<Box<str>> = names.collect();
        let group = policy.group(&ClientAttributes::new(client, path).with_names(&names));
        let binding = group.binding.as_ref();
        let order = binding.map_or(&route.upstreams, |binding| binding.upstreams());
        let order: Vec<&config::UpstreamSettings> =
            order.iter().filter_map(|id| config.upstream(id)).collect();
        Ok(Self {
            client,
            path: asked.path.to_string(),
            time: now,
            route: route.name.to_string(),
            class: classified.class.as_str(),
            form: classified.form.as_str(),
            content_type: classified.content_type.to_string(),
            upstreams: upstreams(&order),
            upstreams_of: if binding.is_some() { "group" } else { "route" },
            group: Taken::of(group, client, &names, path),
            denied: policy.denial_status(group, route, &classified).map(|status| status.as_u16()),
            windows: Windows::of(&policy, &group.settings, now),
            turn: Moment::of(&policy, group, policy.revision(route, path, || classified.class), client, now),
            limits: limits(config, &policy, &order, &group.settings, path, &classified, now),
            counts: counts(config, &group.settings),
            rollout: None,
        })
    }
}

fn upstreams(order: &[&config::UpstreamSettings]) -> Vec<Asked> {
    let named = order.iter().enumerate().map(|(place, upstream)| {
        let priority = upstream.priority.map_or(place + 1, |priority| priority as usize);
        Asked { name: upstream.name.clone(), url: upstream.url.to_string(), priority }
    });
    let mut upstreams: Vec<Asked> = named.collect();
    upstreams.sort_by_key(|upstream| upstream.priority);
    upstreams
}

impl Taken {
    fn of(group: &Group, client: IpAddr, names: &[Box<str>], path: &str) -> Self {
        let settings = &group.settings;
        let folded = pattern::fold(path);
        let fits = |glob: &&String| {
            pattern::compile(glob).is_ok_and(|glob| glob.compile_matcher().is_match(&folded))
        };
        let subnet = settings.subnets.iter().find(|subnet| subnet.contains(&client));
        let glob = settings.paths.iter().find(fits);
        let subnet = subnet.map(|subnet| Because { setting: "subnets", value: subnet.to_string() });
        let certificate = settings.matching_certificate(names);
        let certificate = certificate.map(|name| Because { setting: "certificates", value: name.to_owned() });
        let glob = glob.map(|glob| Because { setting: "paths", value: glob.clone() });
        Self {
            name: group.name.to_string(),
            place: settings.location.as_ref().map(ToString::to_string),
            because: subnet.into_iter().chain(certificate).chain(glob).collect(),
        }
    }
}

impl Windows {
    fn of(policy: &Policy, group: &config::GroupSettings, now: UnixMillis) -> Self {
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

impl Moment {
    fn of(
        policy: &Policy,
        group: &Group,
        revision: Option<PayloadRevision<'_>>,
        client: IpAddr,
        now: UnixMillis,
    ) -> Option<Self> {
        let revision = revision.filter(|_| group.has_schedule())?;
        let begins = |seen| match policy.scheduled_start(group, client, revision, seen, now) {
            ScheduledStart::Now | ScheduledStart::Emergency => now,
            ScheduledStart::Later { at: opens } => opens,
        };
        let spread = group.settings.spread;
        Some(Self {
            revision: revision.sequence.to_owned(),
            spread_seconds: spread.as_secs_f64(),
            offset_seconds: client_offset(client, revision.sequence, spread).as_secs_f64(),
            new: begins(now),
            known: begins(UnixMillis::MIN),
        })
    }
}

/// Those that are set, from the narrowest on; all of them hold at once.
fn limits(
    config: &Config,
    policy: &Policy,
    order: &[&config::UpstreamSettings],
    group: &config::GroupSettings,
    path: &str,
    classified: &Classification,
    now: UnixMillis,
) -> Vec<Held> {
    let folded = pattern::fold(path);
    let fits = |limit: &&config::WanLimit| match &limit.matches {
        WanMatch::ContentType(name) => **name == *classified.content_type,
        WanMatch::Pattern(glob) => {
            pattern::compile(glob).is_ok_and(|glob| glob.compile_matcher().is_match(&folded))
        }
    };
    let named = config.wan_limits.iter().find(fits);
    let named = named.map(|named| (format!("wan_limit {}", named.name), &named.limit));
    let upstreams =
        order.iter().map(|upstream| (format!("upstream {} limit", upstream.name), &upstream.limit));
    let fixed = |setting: &str, limit| (setting.to_owned(), limit);
    let all: Vec<(String, &RateSchedule)> = [
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
    .collect();
    let held = all.into_iter().filter_map(|(setting, limit)| {
        let held = policy.calendar().current(limit, now);
        match held.value {
            Ceiling::Rate(rate) => {
                Some(Held { setting, bytes_per_second: rate.0, told: rate.to_string(), until: held.until })
            }
            Ceiling::Unlimited => None,
        }
    });
    held.collect()
}

fn counts(config: &Config, group: &config::GroupSettings) -> Vec<Count> {
    let all = [
        ("group.client_downloads", group.client_downloads),
        ("lan.client_downloads", config.lan.client_downloads),
        ("group.max_downloads", group.max_downloads),
        ("lan.max_downloads", config.lan.max_downloads),
    ];
    let set = all.into_iter().filter_map(|(setting, downloads)| {
        Some(Count { setting: setting.to_owned(), downloads: downloads? })
    });
    set.collect()
}

fn instant<S: Serializer>(at: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    maybe_instant(&Some(*at), serializer)
}

fn maybe_instant<S: Serializer>(at: &Option<UnixMillis>, serializer: S) -> Result<S::Ok, S::Error> {
    let time = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    time.map(|time| time.to_string()).serialize(serializer)
}
