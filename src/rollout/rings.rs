//! The rings of a configuration, compiled: which ring a group's clients are in, and in which step of it a client comes.
//! Owns the stable order of clients by share: the first tenth of a ring is the same for every revision, so that an
//! administrator knows who is first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use gupd_config as config;
use gupd_config::GroupId;
use gupd_config::policy::calendar::Calendar;
use gupd_config::policy::window;
use gupd_config::{Config, Networks, Steps};

/// What the place of a client among shares is drawn for; no revision is called so.
const ORDER: &str = "ring";

/// A ring, by its place in the configuration.
pub type RingId = usize;

/// All of them.
#[derive(Debug)]
pub struct Rings {
    rings: Vec<Arc<Ring>>,
    by_group: HashMap<GroupId, RingId>,
    calendar: Calendar,
}

/// One of them.
#[derive(Debug)]
pub struct Ring {
    /// As it is configured.
    pub settings: config::RingSettings,
    /// Names of the groups that it moves, those that no ring names too if it is the last.
    pub groups: Vec<GroupId>,
    subnets: Networks<usize>,
}

impl Rings {
    /// Those of a configuration; `None` without any: then there are no rollouts.
    pub fn new(config: &Config) -> Option<Self> {
        let last = config.rings.len().checked_sub(1)?;
        let named =
            |name: &str| config.rings.iter().any(|ring| ring.groups.iter().any(|group| group == name));
        let rest = (!config.groups.iter().any(config::GroupSettings::is_catch_all))
            .then_some(config::GroupSettings::DEFAULT);
        let groups = config.groups.iter().map(|group| group.name.as_str()).chain(rest);
        let others: Vec<GroupId> = groups.filter(|name| !named(name)).map(GroupId::from).collect();
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

    /// Each, in the configuration's order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (RingId, &Arc<Ring>)> {
        self.rings.iter().enumerate()
    }

    /// Each, none before the one that it comes after.
    pub fn in_order(&self) -> Vec<RingId> {
        let mut order: Vec<RingId> = Vec::with_capacity(self.rings.len());
        // There is no circle, so each round places one at least.
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

    /// The ring of this place.
    pub fn get(&self, ring: RingId) -> Option<&Arc<Ring>> {
        self.rings.get(ring)
    }

    /// The ring of this name.
    pub fn named(&self, name: &str) -> Option<RingId> {
        self.rings.iter().position(|ring| ring.settings.name == name)
    }

    /// The ring that a group's clients are in; `None` if there is no such group.
    pub fn of_group(&self, group: &str) -> Option<RingId> {
        self.by_group.get(group).copied()
    }

    /// Names of all groups.
    pub fn groups(&self) -> impl Iterator<Item = &GroupId> {
        self.rings.iter().flat_map(|ring| &ring.groups)
    }

    /// The site's wall clock.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }
}

impl Ring {
    fn new(settings: &config::RingSettings, others: &[GroupId]) -> Self {
        let mut subnets = Networks::default();
        if let Steps::Subnets(list) = &settings.steps {
            for (step, subnet) in list.iter().enumerate().rev() {
                // Of one that is given twice, the first place counts.
                subnets.insert(*subnet, step);
            }
        }
        let own = settings.groups.iter().map(|group| GroupId::from(group.as_str()));
        let groups = own.chain(others.iter().cloned()).collect();
        Self { settings: settings.clone(), groups, subnets }
    }

    /// The step in which a client comes.
    pub fn step(&self, client: IpAddr) -> usize {
        match &self.settings.steps {
            Steps::All => 0,
            Steps::Shares(shares) => {
                let percent = (u128::from(window::client_hash(client, ORDER)) * 100) >> 64;
                shares.iter().position(|share| percent < u128::from(*share)).unwrap_or(shares.len() - 1)
            }
            Steps::Subnets(list) => self
                .subnets
                .longest_match(client.to_canonical().into())
                .map_or(list.len() - 1, |(_, step)| *step),
        }
    }

    /// How many steps it has, 1 at least.
    pub fn steps(&self) -> usize {
        self.settings.steps.count()
    }
}
