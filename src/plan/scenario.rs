//! The input of a simulation as plain numbers, and its limits, which can be lifted one at a time. Times are seconds
//! since the plan's start; rates are bytes a second, infinite where no limit is set.

use std::fmt;

use super::appearance::Appearance;
use super::curve::{Curve, OpenHours};

/// A site, its clients and their content.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Time at which the simulation ends.
    pub horizon: f64,
    /// Capacity of the line to the upstream; infinite if only `wan.limit` is known, which then always applies.
    pub line: f64,
    /// `wan.limit`
    pub wan: Curve,
    /// `limit` of the upstream that the content comes from, and its name.
    pub upstream: Named<Curve>,
    /// Capacity of the relay's link to the clients; finite.
    pub lan_link: f64,
    /// `lan.limit`
    pub lan: Curve,
    /// `lan.client_limit`
    pub client: Curve,
    /// `lan.max_downloads`
    pub downloads: Option<u32>,
    /// `lan.queue`
    pub queue: u32,
    /// `lan.queue_timeout`
    pub queue_timeout: f64,
    /// Contents by priority on the line. Each client needs one of them.
    pub contents: Vec<PlanContent>,
    /// Groups of clients.
    pub groups: Vec<PlanGroup>,
    /// Times at which clients come online.
    pub appearance: Appearance,
    /// Interval of each client's requests; 0 for requests at once.
    pub heartbeat: f64,
}

/// A value with its name in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    /// Its name.
    pub name: String,
    /// The value.
    pub value: T,
}

/// One object.
#[derive(Clone, Debug)]
pub struct PlanContent {
    /// Name in the output.
    pub name: &'static str,
    /// Its size; more than 0.
    pub bytes: f64,
    /// Share of clients that need it; all shares add up to 1.
    pub share: f64,
    /// The `[[wan_limit]]` that applies to it.
    pub limit: Named<Curve>,
    /// Rates at which it arrives at a site of a fleet, in place of the site's line and its limits.
    pub arrival: Option<Curve>,
}

/// One group of clients.
#[derive(Clone, Debug)]
pub struct PlanGroup {
    /// Its name.
    pub name: String,
    /// Number of clients.
    pub clients: u32,
    /// Limit of all its clients together.
    pub limit: Curve,
    /// Limit of each client.
    pub client_limit: Curve,
    /// Limit of fills for its clients.
    pub wan_limit: Curve,
    /// `max_downloads`
    pub downloads: Option<u32>,
    /// Hours in which its clients may start to download.
    pub hours: OpenHours,
    /// Time over which their starts are spread.
    pub spread: f64,
    /// Content that they get outside their window.
    pub outside: EarlyAccess,
}

/// Content that clients get outside their window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyAccess {
    /// Nothing.
    Nothing,
    /// Content that the site has stored.
    Cached,
    /// All content: window and spread have no effect.
    Everything,
}

/// A limit, window or spread of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// `wan.limit`
    Wan,
    /// The upstream's `limit`.
    Upstream,
    /// The `[[wan_limit]]` of a content, by its index.
    Content(usize),
    /// `lan.limit`
    Lan,
    /// `lan.client_limit`
    Client,
    /// `lan.max_downloads`
    Downloads,
    /// A limit of a group, by its index.
    Group(usize, GroupLimit),
}

/// A limit of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupLimit {
    /// `limit`
    Rate,
    /// `client_limit`
    Client,
    /// `wan_limit`
    Wan,
    /// `max_downloads`
    Downloads,
    /// `windows`
    Windows,
    /// `spread`
    Spread,
}

impl Scenario {
    /// Number of clients of all groups.
    pub fn clients(&self) -> u32 {
        self.groups.iter().map(|group| group.clients).sum()
    }

    /// Returns every limit that is set, in the order of the configuration.
    pub fn limits(&self) -> Vec<LimitKey> {
        // Without a known line, lifting wan.limit would leave no limit.
        let site = [
            (LimitKey::Wan, self.wan.is_limited() && self.line.is_finite()),
            (LimitKey::Upstream, self.upstream.value.is_limited()),
            (LimitKey::Lan, self.lan.is_limited()),
            (LimitKey::Client, self.client.is_limited()),
            (LimitKey::Downloads, self.downloads.is_some()),
        ];
        let contents = self.contents.iter().map(|content| content.limit.value.is_limited()).enumerate();
        let groups = self.groups.iter().enumerate().flat_map(|(index, group)| {
            let has_schedule = group.outside != EarlyAccess::Everything;
            [
                (GroupLimit::Rate, group.limit.is_limited()),
                (GroupLimit::Client, group.client_limit.is_limited()),
                (GroupLimit::Wan, group.wan_limit.is_limited()),
                (GroupLimit::Downloads, group.downloads.is_some()),
                (GroupLimit::Windows, has_schedule && group.hours != OpenHours::always()),
                (GroupLimit::Spread, has_schedule && group.spread > 0.0),
            ]
            .map(|(limit, is_set)| (LimitKey::Group(index, limit), is_set))
        });
        let contents = contents.map(|(index, is_set)| (LimitKey::Content(index), is_set));
        let all = site.into_iter().chain(contents).chain(groups);
        all.filter(|(_, is_set)| *is_set).map(|(limit, _)| limit).collect()
    }

    /// Returns the scenario without this limit.
    pub fn without(&self, limit: LimitKey) -> Self {
        let mut lifted = self.clone();
        match limit {
            LimitKey::Wan => lifted.wan = Curve::UNLIMITED,
            LimitKey::Upstream => lifted.upstream.value = Curve::UNLIMITED,
            LimitKey::Content(index) => {
                if let Some(content) = lifted.contents.get_mut(index) {
                    content.limit.value = Curve::UNLIMITED;
                }
            }
            LimitKey::Lan => lifted.lan = Curve::UNLIMITED,
            LimitKey::Client => lifted.client = Curve::UNLIMITED,
            LimitKey::Downloads => lifted.downloads = None,
            LimitKey::Group(index, limit) => {
                if let Some(group) = lifted.groups.get_mut(index) {
                    group.lift(limit);
                }
            }
        }
        lifted
    }

    /// Returns the name of a limit in the configuration.
    pub fn limit_name(&self, limit: LimitKey) -> String {
        match limit {
            LimitKey::Wan => "wan.limit".to_owned(),
            LimitKey::Upstream => format!("upstream {}: limit", self.upstream.name),
            LimitKey::Content(index) => {
                let name = self.contents.get(index).map_or("", |content| &content.limit.name);
                format!("wan_limit {name}")
            }
            LimitKey::Lan => "lan.limit".to_owned(),
            LimitKey::Client => "lan.client_limit".to_owned(),
            LimitKey::Downloads => "lan.max_downloads".to_owned(),
            LimitKey::Group(index, limit) => {
                let name = self.groups.get(index).map_or("", |group| &group.name);
                format!("group {name}: {limit}")
            }
        }
    }
}

impl PlanGroup {
    fn lift(&mut self, limit: GroupLimit) {
        match limit {
            GroupLimit::Rate => self.limit = Curve::UNLIMITED,
            GroupLimit::Client => self.client_limit = Curve::UNLIMITED,
            GroupLimit::Wan => self.wan_limit = Curve::UNLIMITED,
            GroupLimit::Downloads => self.downloads = None,
            GroupLimit::Windows => self.hours = OpenHours::always(),
            GroupLimit::Spread => self.spread = 0.0,
        }
    }
}

impl fmt::Display for GroupLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "limit",
            Self::Client => "client_limit",
            Self::Wan => "wan_limit",
            Self::Downloads => "max_downloads",
            Self::Windows => "windows",
            Self::Spread => "spread",
        })
    }
}
