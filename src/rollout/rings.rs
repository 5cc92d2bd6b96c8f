//! The compiled rings of a configuration: the ring of each group, and the step of each client in its ring. The order of
//! clients by share is stable: the first tenth of a ring is the same for every revision, so that an administrator knows
//! which clients are first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use gupd_config as config;
use gupd_config::policy::calendar::Calendar;
use gupd_config::policy::window;
use gupd_config::{Config, GroupId, Networks, Steps};

/// Input of the hash that orders clients by share. No revision has this name.
const SHARE_ORDER: &str = "ring";

/// Position of a ring in the configuration.
pub type RingId = usize;

/// The rings of a configuration.
#[derive(Debug)]
pub struct Rings {
    rings: Vec<Arc<Ring>>,
    by_group: HashMap<GroupId, RingId>,
    calendar: Calendar,
}

/// A ring.
#[derive(Debug)]
pub struct Ring {
    /// Its settings.
    pub settings: config::RingSettings,
    /// Names of its groups. The last ring also has the groups that no ring names.
    pub groups: Vec<GroupId>,
    subnets: Networks<usize>,
}

impl Rings {
    /// Compiles the rings of a configuration; `None` without any: then there are no rollouts.
    pub fn new(config: &Config) -> Option<Self> {
        let last = config.rings.len().checked_sub(1)?;
        let is_named =
            |name: &str| config.rings.iter().any(|ring| ring.groups.iter().any(|group| group == name));
        let rest = (!config.groups.iter().any(config::GroupSettings::is_catch_all))
            .then_some(config::GroupSettings::DEFAULT);
        let groups = config.groups.iter().map(|group| group.name.as_str()).chain(rest);
        let others: Vec<GroupId> = groups.filter(|name| !is_named(name)).map(GroupId::from).collect();
        let rings: Vec<Arc<Ring>> = config
            .rings
            .iter()
            .enumerate()
            .map(|(at, ring)| Arc::new(Ring::new(ring, if at == last { &others } else { &[] })))
            .collect();
        let mut by_group = HashMap::new();
        for (at, ring) in rings.iter().enumerate() {
            by_group.extend(ring.groups.iter().map(|group| (group.clone(), at)));
        }
        Some(Self { rings, by_group, calendar: Calendar::new(config.site.time_zone.clone()) })
    }

    /// Every ring, in the configuration's order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (RingId, &Arc<Ring>)> {
        self.rings.iter().enumerate()
    }

    /// Every ring, none before the one that it follows.
    pub fn dependency_order(&self) -> Vec<RingId> {
        let mut order: Vec<RingId> = Vec::with_capacity(self.rings.len());
        // The configuration has no cycle, so each round adds at least one.
        while order.len() < self.rings.len() {
            let before = order.len();
            for (at, ring) in self.iter() {
                let follows = ring.settings.after.is_none_or(|before| order.contains(&before));
                if follows && !order.contains(&at) {
                    order.push(at);
                }
            }
            if order.len() == before {
                break;
            }
        }
        order
    }

    /// The ring at this position.
    pub fn get(&self, ring: RingId) -> Option<&Arc<Ring>> {
        self.rings.get(ring)
    }

    /// Returns the name of a ring; empty if there is no such ring.
    pub fn name_of(&self, ring: RingId) -> &str {
        self.get(ring).map_or("", |ring| ring.settings.name.as_str())
    }

    /// Finds a ring by its name.
    pub fn find(&self, name: &str) -> Option<RingId> {
        self.rings.iter().position(|ring| ring.settings.name == name)
    }

    /// Returns the ring of a group; `None` if there is no such group.
    pub fn ring_of_group(&self, group: &str) -> Option<RingId> {
        self.by_group.get(group).copied()
    }

    /// Names of all groups.
    pub fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.rings.iter().flat_map(|ring| &ring.groups)
    }

    /// The calendar of the site's time zone.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }
}

impl Ring {
    fn new(settings: &config::RingSettings, others: &[GroupId]) -> Self {
        let mut subnets = Networks::default();
        if let Steps::Subnets(list) = &settings.steps {
            for (step, subnet) in list.iter().enumerate().rev() {
                // The first position of a repeated subnet counts.
                subnets.insert(*subnet, step);
            }
        }
        let own = settings.groups.iter().map(|group| GroupId::from(group.as_str()));
        let groups = own.chain(others.iter().cloned()).collect();
        Self { settings: settings.clone(), groups, subnets }
    }

    /// Returns the step of a client.
    pub fn step_of(&self, client: IpAddr) -> usize {
        match &self.settings.steps {
            Steps::All => 0,
            Steps::Shares(shares) => {
                let percent = (u128::from(window::client_hash(client, SHARE_ORDER)) * 100) >> 64;
                shares.iter().position(|share| percent < u128::from(*share)).unwrap_or(shares.len() - 1)
            }
            Steps::Subnets(list) => self
                .subnets
                .longest_match(client.to_canonical().into())
                .map_or(list.len() - 1, |(_, step)| *step),
        }
    }

    /// Returns the number of steps, at least 1.
    pub fn step_count(&self) -> usize {
        self.settings.steps.count()
    }
}
