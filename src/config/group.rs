//! The `[[group]]`s: sets of clients that share limits and windows. Owns the type and its reading, and the checks of a
//! group against the whole site; which group a client is in is `policy`'s to say.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::binding::{Binding, binding};
use super::document::{Document, Section};
use super::limit::{self, Ceiling, RateSchedule};
use super::network::{count_or_unlimited, warn_above};
use super::networks::Networks;
use super::settings::{choice, time};
use super::tables::{glob, label};
use super::units::{Rate, Time};
use super::week::WeekWindows;
use super::{
    ContentType, LanSettings, Location, RouteSettings, ServerSettings, UpstreamSettings, WanSettings,
    defaults, denials,
};

/// Bytes of a name of a certificate: DNS names have 253, URIs may have more.
const MAX_CERTIFICATE: usize = 1_024;

/// `[[group]]`. A count that is `None` is not limited.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSettings {
    /// Its name in logs and metrics, unique: lower case, digits, `-`.
    pub name: String,
    /// The `[[group]]` in the file.
    pub place: Option<Location>,
    /// The addresses of its clients; none for any.
    pub subnets: Vec<IpNet>,
    /// Names of its clients' certificates, in lower case: exact, or `*.` for all below a name; none for any client.
    pub certificates: Vec<String>,
    /// Globs over what its clients ask for, without regard to case; none for any.
    pub paths: Vec<String>,
    /// All that its clients are sent, together.
    pub limit: RateSchedule,
    /// What each of its clients is sent.
    pub client_limit: RateSchedule,
    /// What upstreams send for its clients.
    pub wan_limit: RateSchedule,
    /// Downloads at once, of all its clients.
    pub max_downloads: Option<u32>,
    /// Downloads at once, of each of its clients.
    pub client_downloads: Option<u32>,
    /// When its clients may begin to download payloads.
    pub windows: WeekWindows,
    /// The time over which clients begin, each at its own moment; 0 to 7 d.
    pub spread: Duration,
    /// What a client gets that comes before its time.
    pub outside: OutsideWindow,
    /// Names of content types that its clients are not to have.
    pub deny: Vec<String>,
    /// Names of content types that they may have all the same.
    pub allow: Vec<String>,
    /// Where its clients' requests go in place of their routes' upstreams.
    pub binding: Option<Arc<Binding>>,
}

/// `group.outside`: what a client gets that comes before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutsideWindow {
    /// `503` with `Retry-After`.
    Defer,
    /// What is stored and fresh; else like `Defer`.
    CachedOnly,
    /// What it asks for.
    Ignore,
}

impl GroupSettings {
    /// Name of the group of all clients that no configured one takes.
    pub const DEFAULT: &str = "default";

    /// Time of a window that the spread leaves to the client whose turn comes last: two heartbeats of an endpoint.
    pub const MIN_START_WINDOW: Duration = Duration::from_secs(15 * 60);

    /// The group of clients that no other takes: without limits, always open.
    pub fn catch_all(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            place: None,
            subnets: Vec::new(),
            certificates: Vec::new(),
            paths: Vec::new(),
            limit: RateSchedule::unlimited(),
            client_limit: RateSchedule::unlimited(),
            wan_limit: RateSchedule::unlimited(),
            max_downloads: None,
            client_downloads: None,
            windows: WeekWindows::constant(true),
            spread: defaults::SPREAD.default,
            outside: OutsideWindow::Defer,
            deny: Vec::new(),
            allow: Vec::new(),
            binding: None,
        }
    }

    /// Whether it has no matcher, and so takes whoever no group before it does.
    pub fn is_catch_all(&self) -> bool {
        self.subnets.is_empty() && self.certificates.is_empty() && self.paths.is_empty()
    }

    /// Whether an address is all that it asks for.
    pub fn matches_address_only(&self) -> bool {
        !self.subnets.is_empty() && self.certificates.is_empty() && self.paths.is_empty()
    }

    /// Which of its certificates' names takes one of these, which are in lower case.
    pub fn matching_certificate(&self, names: &[Box<str>]) -> Option<&str> {
        let takes = |own: &&String| match own.strip_prefix('*') {
            Some(below) => names.iter().any(|name| name.len() > below.len() && name.ends_with(below)),
            None => names.iter().any(|name| **name == ***own),
        };
        self.certificates.iter().find(takes).map(String::as_str)
    }

    /// How much of its spread fits into a window of this length: all, or as much as leaves the last client a turn.
    pub fn spread_in_window(&self, window: Duration) -> Duration {
        Self::fit_spread(self.spread, window)
    }

    /// The same of any spread.
    pub fn fit_spread(spread: Duration, window: Duration) -> Duration {
        spread.min(window.saturating_sub(Self::MIN_START_WINDOW).max(window / 2))
    }
}

pub(super) fn groups(
    document: &mut Document,
    server: &ServerSettings,
    wan: &WanSettings,
    lan: &LanSettings,
    types: &[ContentType],
    upstreams: &[UpstreamSettings],
    routes: &[RouteSettings],
) -> Vec<GroupSettings> {
    let mut groups: Vec<GroupSettings> = Vec::new();
    let mut rest: Option<String> = None;
    // Where groups that ask for nothing but an address are: what they hold comes to none after them.
    let mut held: Networks<String> = Networks::default();
    for mut s in document.tables("group", None) {
        let name = s.required("name", label);
        let mut own: Networks<()> = Networks::default();
        let subnets = s.many("subnets", |text| {
            let subnet = subnet(text)?;
            if held.longest_match(subnet).is_some_and(|(holder, _)| holder == subnet) {
                return Err(format!("{subnet} is in a group before this one; give it to one of them"));
            }
            if own.insert(subnet, ()).is_some() {
                return Err(format!("{subnet} is given twice; give it once"));
            }
            Ok(subnet)
        });
        let group = GroupSettings {
            name: name.clone().unwrap_or_default(),
            place: s.place().cloned(),
            subnets: subnets.unwrap_or_default(),
            certificates: s.many("certificates", certificate).unwrap_or_default(),
            paths: s.many("paths", glob).unwrap_or_default(),
            limit: limit::limit(&mut s, "limit"),
            client_limit: limit::limit(&mut s, "client_limit"),
            wan_limit: limit::limit(&mut s, "wan_limit"),
            max_downloads: count_or_unlimited(&mut s, "max_downloads"),
            client_downloads: count_or_unlimited(&mut s, "client_downloads"),
            windows: limit::windows(&mut s, "windows"),
            spread: time(&mut s, "spread", defaults::SPREAD),
            outside: s.one("outside", |text| choice(text, &OUTSIDE)).unwrap_or(OutsideWindow::Defer),
            deny: denials::types(&mut s, "deny", types),
            allow: denials::types(&mut s, "allow", types),
            binding: None,
        };
        let binding = binding(&mut s, upstreams, routes, !group.paths.is_empty()).map(Arc::new);
        let group = GroupSettings { binding, ..group };
        if let Some(both) = group.deny.iter().find(|name| group.allow.contains(name)) {
            s.warn("deny", format!("{both} is in allow too, which wins; leave it out of one of them"));
        }
        if s.given("certificates") && server.client_ca.is_none() {
            s.refuse(
                "certificates",
                "are shown by no client without server.client_ca; give it, or leave them out",
            );
        }
        let has_matcher = ["subnets", "certificates", "paths"].iter().any(|key| s.given(key));
        if let Some(rest) = &rest {
            s.refuse(
                "name",
                format!("comes after group {rest:?}, which has no matcher and so takes all clients"),
            );
        }
        if groups.iter().any(|other| other.name == group.name && name.is_some()) {
            s.refuse("name", format!("{:?} is the name of two groups; give each its own", group.name));
        }
        if has_matcher && group.name == GroupSettings::DEFAULT {
            s.refuse("name", format!("{:?} is the name of all others; give this group its own", group.name));
        }
        if !has_matcher {
            rest = rest.or(Some(group.name.clone()));
        }
        check_limits(&mut s, &group, wan, lan);
        check_windows(&mut s, &group, wan);
        for subnet in &group.subnets {
            if let Some((_, first)) = held.longest_match(*subnet) {
                let message =
                    format!("{subnet} lies within group {first:?}, which comes first: it never holds");
                s.warn("subnets", message);
            }
        }
        if group.matches_address_only() {
            for subnet in &group.subnets {
                // Whoever comes later and lies within several is told of the narrowest.
                held.insert(*subnet, group.name.clone());
            }
        }
        groups.push(group);
        document.close(s);
    }
    groups
}

const OUTSIDE: [(&str, OutsideWindow); 3] = [
    ("defer", OutsideWindow::Defer),
    ("cached-only", OutsideWindow::CachedOnly),
    ("ignore", OutsideWindow::Ignore),
];

pub(super) fn subnet(text: &str) -> Result<IpNet, String> {
    let refused = || format!("{text:?} is not a subnet; write it like 10.1.0.0/16 or 2001:db8::/48");
    let subnet: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| refused())?,
    };
    if let IpNet::V6(subnet) = subnet
        && subnet.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!("{text:?} is IPv4 written as IPv6; write it like 10.1.0.0/16"));
    }
    if subnet.trunc() != subnet {
        return Err(format!(
            "{subnet} has bits set behind its prefix; write {} or a longer prefix",
            subnet.trunc()
        ));
    }
    Ok(subnet)
}

fn certificate(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    if rest.is_empty()
        || rest.len() > MAX_CERTIFICATE
        || !rest.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
    {
        return Err(format!(
            "{text:?} is not a name of a certificate; write it like pc-7.site.example or *.site.example"
        ));
    }
    Ok(text.to_ascii_lowercase())
}

// A group is a part of the site: what it may is within what all may.
fn check_limits(s: &mut Section, group: &GroupSettings, wan: &WanSettings, lan: &LanSettings) {
    for (key, limit, of, total) in [
        ("limit", &group.limit, "lan.limit", &lan.limit),
        ("wan_limit", &group.wan_limit, "wan.limit", &wan.limit),
    ] {
        if let Some(above) = limit.above(total) {
            s.refuse(key, format!("{}; give the group less, or the site more", above.tell(of)));
        }
    }
    if let (Some(own), Some(total)) = (group.max_downloads, lan.max_downloads)
        && own > total
    {
        let message = format!("{own} is above lan.max_downloads, which is {total}");
        s.refuse("max_downloads", format!("{message}; give the group less, or the site more"));
    }
    warn_above(s, "client_limit", &group.client_limit, "group.limit", &group.limit);
    warn_above(s, "client_limit", &group.client_limit, "lan.limit", &lan.limit);
    let rates = (group.limit.as_constant(), group.client_limit.as_constant(), group.max_downloads);
    if let (Some(Ceiling::Rate(limit)), Some(Ceiling::Rate(client)), Some(downloads)) = rates
        && client.0.saturating_mul(u64::from(downloads)) < limit.0
    {
        let most = Rate(client.0.saturating_mul(u64::from(downloads)));
        let message = format!("{limit} is never reached: {downloads} downloads at {client} are {most}");
        s.warn("limit", message);
    }
}

fn check_windows(s: &mut Section, group: &GroupSettings, wan: &WanSettings) {
    let always = group.windows.as_constant().is_some();
    let shortest = Duration::from_secs(60 * u64::from(group.windows.shortest_window()));
    let fits = group.spread_in_window(shortest);
    if !always && group.spread > fits {
        s.warn(
            "spread",
            format!(
                "{} is longer than fits into the shortest window, {}; clients are spread over {} there",
                Time(group.spread),
                Time(shortest),
                Time(fits)
            ),
        );
    }
    if !group.windows.overlaps(&wan.windows) {
        s.warn(
            "windows",
            "never meet wan.windows: the relay's own downloads cannot go ahead of these clients",
        );
    }
    if group.outside != OutsideWindow::Defer && always && group.spread.is_zero() {
        s.warn("outside", "says nothing without windows or spread: clients are never outside");
    }
}
