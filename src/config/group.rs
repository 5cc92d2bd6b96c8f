//! `[[group]]`: sets of clients that share limits and windows. Checks each group against the limits of the site and
//! against the groups before it. The group of a client is decided by `policy`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::binding::{Binding, read_binding};
use crate::content::TypeNames;
use crate::defaults;
use crate::document::{Document, Section};
use crate::lan::LanSettings;
use crate::limit::{Ceiling, RateSchedule, read_rate_schedule, read_windows, warn_above};
use crate::listener::ListenerSettings;
use crate::networks::Networks;
use crate::problem::Location;
use crate::quantity::Quantity;
use crate::reader::{choice, count_or_unlimited, glob, label, time};
use crate::route::RouteSettings;
use crate::server::ServerSettings;
use crate::units::{Rate, Time};
use crate::upstream::KnownUpstreams;
use crate::wan::WanSettings;
use crate::week::WeekWindows;

/// Maximum length of a certificate's name, in bytes: DNS names have 253, URIs may have more.
const MAX_CERTIFICATE: usize = 1_024;

/// `[[group]]`. A count that is `None` is unlimited.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSettings {
    /// Unique name in logs and metrics: lower-case letters, digits, `-`.
    pub name: String,
    /// Location of the table in the file.
    pub location: Option<Location>,
    /// Addresses of its clients; empty for any.
    pub subnets: Vec<IpNet>,
    /// Names in its clients' certificates, in lower case: exact, or `*.` for all below a name; empty for any client.
    pub certificates: Vec<String>,
    /// Globs over the requested path, case-insensitive; empty for any.
    pub paths: Vec<String>,
    /// Names of the listeners that its clients connect to; empty for any but gateways.
    pub listeners: Vec<String>,
    /// Limit of all its clients together.
    pub limit: RateSchedule,
    /// Limit of each of its clients.
    pub client_limit: RateSchedule,
    /// Limit of fills for its clients.
    pub wan_limit: RateSchedule,
    /// Maximum number of concurrent downloads of all its clients.
    pub max_downloads: Option<u32>,
    /// Maximum number of concurrent downloads of each of its clients.
    pub client_downloads: Option<u32>,
    /// When its clients may start to download payloads.
    pub windows: WeekWindows,
    /// Time over which the scheduled starts of its clients are spread, 0 to 7 d.
    pub spread: Duration,
    /// Response to a client before its scheduled start.
    pub outside: OutsideWindow,
    /// Names of content types that are denied to its clients.
    pub deny: Vec<String>,
    /// Names of content types that are allowed although they are denied elsewhere.
    pub allow: Vec<String>,
    /// Upstreams of its clients' requests, if not those of their routes.
    pub binding: Option<Arc<Binding>>,
}

/// `group.outside`: the response to a client before its scheduled start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutsideWindow {
    /// `503` with `Retry-After`.
    Defer,
    /// Stored fresh content; otherwise like `Defer`.
    CachedOnly,
    /// The requested content.
    Ignore,
}

const OUTSIDE: [(&str, OutsideWindow); 3] = [
    ("defer", OutsideWindow::Defer),
    ("cached-only", OutsideWindow::CachedOnly),
    ("ignore", OutsideWindow::Ignore),
];

impl GroupSettings {
    /// Name of the group of all clients that match no configured group.
    pub const DEFAULT: &str = "default";

    /// Part of a window that the spread leaves to the client with the latest start: two heartbeats of an endpoint.
    pub const MIN_START_WINDOW: Duration = Duration::from_secs(15 * 60);

    /// Creates the group of clients that no other group matches: without limits, always open.
    pub fn catch_all(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            location: None,
            subnets: Vec::new(),
            certificates: Vec::new(),
            paths: Vec::new(),
            listeners: Vec::new(),
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

    /// Returns true if the group has no matcher, and so contains every client that no group before it matches.
    pub fn is_catch_all(&self) -> bool {
        self.subnets.is_empty() && self.listeners.is_empty() && !self.matches_more_than_place()
    }

    /// Returns true if the group matches clients by address alone.
    pub fn matches_address_only(&self) -> bool {
        !self.subnets.is_empty() && self.listeners.is_empty() && !self.matches_more_than_place()
    }

    fn matches_more_than_place(&self) -> bool {
        !self.certificates.is_empty() || !self.paths.is_empty()
    }

    /// Returns true if the group contains every client of this listener that no group before it matches.
    fn contains_listener(&self, name: &str) -> bool {
        let names_it = self.listeners.iter().any(|own| own == name);
        names_it && self.subnets.is_empty() && !self.matches_more_than_place()
    }

    /// Returns the first of its certificate names that matches one of `names`, which are in lower case.
    pub fn matching_certificate(&self, names: &[Box<str>]) -> Option<&str> {
        let matches = |own: &&String| match own.strip_prefix('*') {
            Some(suffix) => names.iter().any(|name| name.len() > suffix.len() && name.ends_with(suffix)),
            None => names.iter().any(|name| **name == ***own),
        };
        self.certificates.iter().find(matches).map(String::as_str)
    }

    /// Returns its spread, shortened to fit a window of this length.
    pub fn spread_in_window(&self, window: Duration) -> Duration {
        Self::fit_spread(self.spread, window)
    }

    /// Shortens a spread so that the client with the latest start has [`Self::MIN_START_WINDOW`] left, or half of a
    /// shorter window.
    pub fn fit_spread(spread: Duration, window: Duration) -> Duration {
        spread
            .min(window.saturating_sub(Self::MIN_START_WINDOW).max(window.checked_div(2).unwrap_or_default()))
    }
}

/// Settings that groups refer to, or are checked against.
pub(crate) struct GroupContext<'a> {
    pub(crate) server: &'a ServerSettings,
    pub(crate) wan: &'a WanSettings,
    pub(crate) lan: &'a LanSettings,
    pub(crate) content_types: &'a TypeNames,
    pub(crate) upstreams: KnownUpstreams<'a>,
    pub(crate) routes: &'a [RouteSettings],
}

/// The groups read so far.
#[derive(Default)]
struct EarlierGroups {
    groups: Vec<GroupSettings>,
    catch_all: Option<String>,
    /// Subnets of groups that match by address alone, with the group's name: no later group gets their clients.
    subnets: Networks<String>,
}

pub(crate) fn read_groups(document: &mut Document, context: &GroupContext<'_>) -> Vec<GroupSettings> {
    let mut earlier = EarlierGroups::default();
    for mut s in document.take_tables("group", None) {
        let name = s.read_required("name", label);
        let subnets = earlier.read_subnets(&mut s);
        let group = read_group(&mut s, name.clone(), subnets, context);
        earlier.check(&mut s, &group, name.is_some());
        check_limits(&mut s, &group, context);
        check_windows(&mut s, &group, context.wan);
        earlier.add(&mut s, group);
        document.close(s);
    }
    let EarlierGroups { mut groups, .. } = earlier;
    // Clients of a gateway are in no group of the site.
    for gateway in context.server.listeners.iter().filter(|listener| listener.is_gateway) {
        if !groups.iter().any(|group| group.contains_listener(&gateway.name)) {
            let own = GroupSettings::catch_all(&gateway.name);
            groups.push(GroupSettings { listeners: vec![gateway.name.clone()], ..own });
        }
    }
    groups
}

fn read_group(
    s: &mut Section,
    name: Option<String>,
    subnets: Vec<IpNet>,
    context: &GroupContext<'_>,
) -> GroupSettings {
    let mut group = GroupSettings {
        name: name.unwrap_or_default(),
        location: s.location().cloned(),
        subnets,
        certificates: s.read_list("certificates", certificate_name).unwrap_or_default(),
        paths: s.read_list("paths", glob).unwrap_or_default(),
        listeners: s.read_list("listeners", |name| known_listener(name, context.server)).unwrap_or_default(),
        limit: read_rate_schedule(s, "limit"),
        client_limit: read_rate_schedule(s, "client_limit"),
        wan_limit: read_rate_schedule(s, "wan_limit"),
        max_downloads: count_or_unlimited(s, "max_downloads"),
        client_downloads: count_or_unlimited(s, "client_downloads"),
        windows: read_windows(s, "windows"),
        spread: time(s, "spread", defaults::SPREAD),
        outside: s.read("outside", |text| choice(text, &OUTSIDE)).unwrap_or(OutsideWindow::Defer),
        deny: context.content_types.read_list(s, "deny"),
        allow: context.content_types.read_list(s, "allow"),
        binding: None,
    };
    let has_paths = !group.paths.is_empty();
    group.binding = read_binding(s, context.upstreams, context.routes, has_paths).map(Arc::new);
    if let Some(both) = group.deny.iter().find(|name| group.allow.contains(name)) {
        s.warn(
            "deny",
            format!("{both} is also in allow, which takes precedence: remove it from one of them"),
        );
    }
    if let Some(gateway) =
        context.server.listeners.iter().find(|own| own.is_gateway && own.name == group.name)
        && !group.contains_listener(&gateway.name)
    {
        s.refuse(
            "name",
            format!(
                "{0:?} is the group of all clients of that gateway: set listeners = [{0:?}] alone",
                group.name
            ),
        );
    }
    if s.is_given("certificates") && !context.server.asks_clients() {
        s.refuse("certificates", "are never presented without server.client_ca: set it or remove them");
    }
    group
}

impl EarlierGroups {
    fn read_subnets(&self, s: &mut Section) -> Vec<IpNet> {
        let mut own: Networks<()> = Networks::default();
        let subnets = s.read_list("subnets", |text| {
            let subnet = subnet(text)?;
            if self.subnets.longest_match(subnet).is_some_and(|(earlier, _)| earlier == subnet) {
                return Err(format!("{subnet} belongs to an earlier group: remove it from one of them"));
            }
            if own.insert(subnet, ()).is_some() {
                return Err(format!("{subnet} is listed twice: list it once"));
            }
            Ok(subnet)
        });
        subnets.unwrap_or_default()
    }

    fn check(&mut self, s: &mut Section, group: &GroupSettings, has_name: bool) {
        let has_matcher = ["subnets", "certificates", "paths", "listeners"].iter().any(|key| s.is_given(key));
        if let Some(first) = &self.catch_all {
            s.refuse(
                "name",
                format!("never matches: group {first:?} before it has no matcher and contains all clients"),
            );
        }
        if has_name && self.groups.iter().any(|other| other.name == group.name) {
            s.refuse("name", format!("duplicate name {:?}: give each group its own name", group.name));
        }
        if has_matcher && group.name == GroupSettings::DEFAULT {
            s.refuse(
                "name",
                format!("{:?} is reserved for clients of no other group: use another name", group.name),
            );
        }
        if !has_matcher {
            self.catch_all.get_or_insert_with(|| group.name.clone());
        }
    }

    fn add(&mut self, s: &mut Section, group: GroupSettings) {
        for subnet in &group.subnets {
            if let Some((_, first)) = self.subnets.longest_match(*subnet) {
                s.warn(
                    "subnets",
                    format!("{subnet} never matches: it is within the earlier group {first:?}"),
                );
            }
        }
        if group.matches_address_only() {
            for subnet in &group.subnets {
                // A later subnet within several of these is reported with the narrowest.
                self.subnets.insert(*subnet, group.name.clone());
            }
        }
        self.groups.push(group);
    }
}

pub(crate) fn subnet(text: &str) -> Result<IpNet, String> {
    let refused = || format!("{text:?} is not a subnet: write it like 10.1.0.0/16 or 2001:db8::/48");
    let subnet: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => match network_length(address) {
            Some(length) => {
                let own = IpNet::from(address);
                return Err(format!(
                    "{text:?} is a single address, and that of a network: write {address}/{length} for the network, or \
                     {own} for the address"
                ));
            }
            None => address.into(),
        },
        Err(_) => text.parse().map_err(|_| refused())?,
    };
    if let IpNet::V6(subnet) = subnet
        && subnet.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!("{text:?} is an IPv4-mapped IPv6 subnet: write it like 10.1.0.0/16"));
    }
    if subnet.trunc() != subnet {
        return Err(format!(
            "{subnet} has bits set after its prefix: write {} or a longer prefix",
            subnet.trunc()
        ));
    }
    Ok(subnet)
}

/// Returns the prefix length of the network that an address without a prefix probably means: its host part is zero.
fn network_length(address: IpAddr) -> Option<u32> {
    let (zeros, part, length): (u32, u32, u32) = match address {
        IpAddr::V4(address) => (address.to_bits().trailing_zeros(), 8, 32),
        IpAddr::V6(address) => (address.to_bits().trailing_zeros(), 16, 128),
    };
    let parts = zeros.checked_div(part)?;
    (parts > 0).then(|| length.saturating_sub(parts.saturating_mul(part)))
}

fn known_listener(name: &str, server: &ServerSettings) -> Result<String, String> {
    if name == ListenerSettings::DEFAULT || server.listeners.iter().any(|listener| listener.name == name) {
        return Ok(name.to_owned());
    }
    Err(format!("no listener is named {name:?}: add a [[listener]], or write \"default\" for server.listen"))
}

fn certificate_name(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    if rest.is_empty()
        || rest.len() > MAX_CERTIFICATE
        || !rest.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
    {
        return Err(format!(
            "{text:?} is not a certificate name: write it like pc-7.site.example or *.site.example"
        ));
    }
    Ok(text.to_ascii_lowercase())
}

// A group is a part of the site, so its limits must be within the site's.
fn check_limits(s: &mut Section, group: &GroupSettings, context: &GroupContext<'_>) {
    let lan = context.lan;
    for (key, limit, of, total) in [
        ("limit", &group.limit, "lan.limit", &lan.limit),
        ("wan_limit", &group.wan_limit, "wan.limit", &context.wan.limit),
    ] {
        if let Some(excess) = limit.find_excess(total) {
            s.refuse(key, format!("{}: lower the group's limit or raise the site's", excess.describe(of)));
        }
    }
    if let (Some(own), Some(total)) = (group.max_downloads, lan.max_downloads)
        && own > total
    {
        let message = format!("{own} exceeds lan.max_downloads ({total})");
        s.refuse("max_downloads", format!("{message}: lower the group's limit or raise the site's"));
    }
    warn_above(s, "client_limit", &group.client_limit, "group.limit", &group.limit);
    warn_above(s, "client_limit", &group.client_limit, "lan.limit", &lan.limit);
    let rates = (group.limit.as_constant(), group.client_limit.as_constant(), group.max_downloads);
    if let (Some(Ceiling::Rate(limit)), Some(Ceiling::Rate(client)), Some(downloads)) = rates
        && client.0.saturating_mul(u64::from(downloads)) < limit.0
    {
        let most = Rate(client.0.saturating_mul(u64::from(downloads)));
        let downloads = Quantity(downloads, "download");
        s.warn("limit", format!("{limit} is never reached: {downloads} at {client} use {most}"));
    }
}

fn check_windows(s: &mut Section, group: &GroupSettings, wan: &WanSettings) {
    let is_always_open = group.windows.as_constant().is_some();
    let shortest = Duration::from_secs(60 * u64::from(group.windows.shortest_window()));
    let fitted = group.spread_in_window(shortest);
    if !is_always_open && group.spread > fitted {
        s.warn(
            "spread",
            format!(
                "{} does not fit into the shortest window ({}): starts are spread over {} there",
                Time(group.spread),
                Time(shortest),
                Time(fitted)
            ),
        );
    }
    if !group.windows.overlaps(&wan.windows) {
        s.warn("windows", "never overlap wan.windows: the relay cannot prefetch for these clients");
    }
    if group.outside != OutsideWindow::Defer && is_always_open && group.spread.is_zero() {
        s.warn("outside", "has no effect without windows or spread");
    }
}
