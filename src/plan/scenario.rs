//! Everything that a simulated rollout depends on, as plain numbers, and the limits among it, so that each can be lifted
//! in turn. Times are seconds since the plan's start, rates bytes a second, infinite where nothing is set.

use std::fmt;

use super::appearance::Appearance;
use super::curve::{Curve, Hours};

/// A site, its clients, and what they are to get.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// When the simulation ends, whoever is not current by then.
    pub horizon: f64,
    /// What the line to the upstream carries; infinite if only `wan.limit` is known, which then always holds.
    pub line: f64,
    /// `wan.limit`
    pub wan: Curve,
    /// `limit` of the upstream that the content comes from, and its name.
    pub upstream: Named<Curve>,
    /// What the relay's own link to the clients carries; finite.
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
    /// What there is to get, the first going before the next on the line. Each client needs one of them.
    pub contents: Vec<Content>,
    /// The groups that clients are in.
    pub groups: Vec<Group>,
    /// When clients come online.
    pub appearance: Appearance,
    /// A client asks at its own moment of each span of this length; 0 for at once.
    pub heartbeat: f64,
}

/// Something with the name that the configuration gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    /// Its name.
    pub name: String,
    /// What it is.
    pub value: T,
}

/// One object.
#[derive(Clone, Debug)]
pub struct Content {
    /// What it is called in the output.
    pub name: &'static str,
    /// Its size; more than 0.
    pub bytes: f64,
    /// The share of clients that need it; all shares together are 1.
    pub share: f64,
    /// The `[[wan_limit]]` that holds for it.
    pub limit: Named<Curve>,
}

/// One group of clients.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many clients it has.
    pub clients: u32,
    /// All of them together.
    pub limit: Curve,
    /// Each of them.
    pub client_limit: Curve,
    /// What is fetched for one of them.
    pub wan_limit: Curve,
    /// `max_downloads`
    pub downloads: Option<u32>,
    /// When they may begin to download.
    pub hours: Hours,
    /// The span over which their own openings are spread.
    pub spread: f64,
    /// What they get outside their window.
    pub outside: Outside,
}

/// What clients get outside their window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Nothing.
    Nothing,
    /// What the site has already.
    Cached,
    /// What they ask for: window and spread say nothing.
    Everything,
}

/// A limit, window or spread that is set, and could be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
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
    /// One of a group, by its index.
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
    /// Clients of all groups.
    pub fn clients(&self) -> u32 {
        self.groups.iter().map(|group| group.clients).sum()
    }

    /// Every limit that is set, as the configuration orders them.
    pub fn limits(&self) -> Vec<Limit> {
        // Without a line that is known, nothing would be left in place of wan.limit.
        let site = [
            (Limit::Wan, self.wan.is_limited() && self.line.is_finite()),
            (Limit::Upstream, self.upstream.value.is_limited()),
            (Limit::Lan, self.lan.is_limited()),
            (Limit::Client, self.client.is_limited()),
            (Limit::Downloads, self.downloads.is_some()),
        ];
        let contents = self.contents.iter().map(|content| content.limit.value.is_limited()).enumerate();
        let groups = self.groups.iter().enumerate().flat_map(|(index, group)| {
            let takes_turns = group.outside != Outside::Everything;
            [
                (GroupLimit::Rate, group.limit.is_limited()),
                (GroupLimit::Client, group.client_limit.is_limited()),
                (GroupLimit::Wan, group.wan_limit.is_limited()),
                (GroupLimit::Downloads, group.downloads.is_some()),
                (GroupLimit::Windows, takes_turns && group.hours != Hours::always()),
                (GroupLimit::Spread, takes_turns && group.spread > 0.0),
            ]
            .map(|(limit, is_set)| (Limit::Group(index, limit), is_set))
        });
        let contents = contents.map(|(index, is_set)| (Limit::Content(index), is_set));
        let all = site.into_iter().chain(contents).chain(groups);
        all.filter(|(_, is_set)| *is_set).map(|(limit, _)| limit).collect()
    }

    /// The same site with one limit lifted.
    pub fn without(&self, limit: Limit) -> Self {
        let mut lifted = self.clone();
        match limit {
            Limit::Wan => lifted.wan = Curve::UNLIMITED,
            Limit::Upstream => lifted.upstream.value = Curve::UNLIMITED,
            Limit::Content(index) => {
                if let Some(content) = lifted.contents.get_mut(index) {
                    content.limit.value = Curve::UNLIMITED;
                }
            }
            Limit::Lan => lifted.lan = Curve::UNLIMITED,
            Limit::Client => lifted.client = Curve::UNLIMITED,
            Limit::Downloads => lifted.downloads = None,
            Limit::Group(index, limit) => {
                if let Some(group) = lifted.groups.get_mut(index) {
                    group.lift(limit);
                }
            }
        }
        lifted
    }

    /// How the configuration calls a limit.
    pub fn name_of(&self, limit: Limit) -> String {
        match limit {
            Limit::Wan => "wan.limit".to_owned(),
            Limit::Upstream => format!("upstream {}: limit", self.upstream.name),
            Limit::Content(index) => {
                let name = self.contents.get(index).map_or("", |content| &content.limit.name);
                format!("wan_limit {name}")
            }
            Limit::Lan => "lan.limit".to_owned(),
            Limit::Client => "lan.client_limit".to_owned(),
            Limit::Downloads => "lan.max_downloads".to_owned(),
            Limit::Group(index, limit) => {
                let name = self.groups.get(index).map_or("", |group| &group.name);
                format!("group {name}: {limit}")
            }
        }
    }
}

impl Group {
    fn lift(&mut self, limit: GroupLimit) {
        match limit {
            GroupLimit::Rate => self.limit = Curve::UNLIMITED,
            GroupLimit::Client => self.client_limit = Curve::UNLIMITED,
            GroupLimit::Wan => self.wan_limit = Curve::UNLIMITED,
            GroupLimit::Downloads => self.downloads = None,
            GroupLimit::Windows => self.hours = Hours::always(),
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
