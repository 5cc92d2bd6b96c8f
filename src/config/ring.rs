//! `[[ring]]`: the stages of a rollout, each with the groups that it moves to a new revision. Every ring follows
//! publication or another ring, without cycles. When a ring opens is decided by the rollout engine.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::document::{Document, Section};
use crate::group::{GroupSettings, subnet};
use crate::limit::read_windows;
use crate::problem::Location;
use crate::reader::{choice, label, time};
use crate::rollout::RolloutSettings;
use crate::units::Time;
use crate::week::WeekWindows;

/// Maximum number of rings. Each keeps the revisions that its clients see.
const MAX_RINGS: usize = 32;

/// Maximum number of steps of a ring: a month of daily steps.
const MAX_STEPS: usize = 32;

/// Groups listed in the message about an unknown one.
const LISTED_GROUPS: usize = 8;

/// `[[ring]]`
#[derive(Clone, Debug, PartialEq)]
pub struct RingSettings {
    /// Unique name in commands, logs and metrics: lower-case letters, digits, `-`.
    pub name: String,
    /// Location of the table in the file.
    pub location: Option<Location>,
    /// Names of its groups. Never empty; no group is in two rings.
    pub groups: Vec<String>,
    /// Index of the ring it follows; `None` if it follows publication. There is no cycle.
    pub after: Option<usize>,
    /// Time after the ring before is open to all its clients, or after publication; 0 to 30 d.
    pub delay: Duration,
    /// Time over which the scheduled starts of its clients are spread, 0 to 7 d.
    pub spread: Duration,
    /// When clients may move to a new revision.
    pub windows: WeekWindows,
    /// Condition that opens it.
    pub gate: Gate,
    /// Clients that it moves at a time.
    pub steps: Steps,
    /// Time between two steps, 0 to 30 d.
    pub step: Duration,
}

/// `ring.gate`: the condition that opens a ring after its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// The ring before has no trouble.
    Auto,
    /// An administrator promotes the ring.
    Manual,
}

const GATES: [(&str, Gate); 2] = [(Gate::Auto.as_str(), Gate::Auto), (Gate::Manual.as_str(), Gate::Manual)];

impl Gate {
    /// Its name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        }
    }
}

/// Clients that a ring moves at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// All its clients at once.
    All,
    /// Cumulative percentage of its clients after each step: 1 to 100, rising, the last 100.
    Shares(Vec<u8>),
    /// The clients of one subnet after the other; clients of none move with the last.
    Subnets(Vec<IpNet>),
}

impl Steps {
    /// Number of steps, at least 1.
    pub fn count(&self) -> usize {
        match self {
            Self::All => 1,
            Self::Shares(shares) => shares.len(),
            Self::Subnets(subnets) => subnets.len(),
        }
    }
}

impl RingSettings {
    /// Time from its opening until its last client may have moved, without regard to windows.
    pub fn duration(&self) -> Duration {
        let steps = u32::try_from(self.steps.count()).unwrap_or(u32::MAX);
        self.step.saturating_mul(steps.saturating_sub(1)).saturating_add(self.spread)
    }
}

pub(crate) fn read_rings(
    document: &mut Document,
    groups: &[GroupSettings],
    rollout: &RolloutSettings,
) -> Vec<RingSettings> {
    let (mut rings, mut sections) = (Vec::<RingSettings>::new(), Vec::<Section>::new());
    // The ring of each group.
    let mut assigned: BTreeMap<String, String> = BTreeMap::new();
    let mut after: Vec<Option<String>> = Vec::new();
    for mut s in document.take_tables("ring", None) {
        let name = s.read_required("name", label).unwrap_or_default();
        let ring_groups = read_ring_groups(&mut s, &name, groups, &mut assigned);
        after.push(s.read("after", label));
        let ring = RingSettings {
            location: s.location().cloned(),
            groups: ring_groups,
            after: rings.len().checked_sub(1),
            delay: time(&mut s, "delay", defaults::RING_DELAY),
            spread: time(&mut s, "spread", defaults::SPREAD),
            windows: read_windows(&mut s, "windows"),
            gate: s.read("gate", |text| choice(text, &GATES)).unwrap_or(Gate::Auto),
            steps: read_steps(&mut s),
            step: time(&mut s, "step", defaults::RING_DELAY),
            name,
        };
        if rings.iter().any(|other| other.name == ring.name && !ring.name.is_empty()) {
            s.refuse("name", format!("duplicate name {:?}: give each ring its own name", ring.name));
        }
        warn_disjoint_windows(&mut s, &ring, groups);
        if ring.steps.count() == 1 && s.is_given("step") {
            s.warn("step", "has no effect without shares or subnets: all clients move in one step");
        }
        if rings.len() == MAX_RINGS {
            s.refuse("name", format!("too many rings: configure at most {MAX_RINGS}"));
        }
        rings.push(ring);
        sections.push(s);
    }
    link_rings(&mut rings, &mut sections, &after);
    for (at, s) in sections.iter_mut().enumerate() {
        check_age(&rings, at, s, rollout);
    }
    if let Some(s) = sections.last_mut() {
        for name in group_names(groups).filter(|name| !assigned.contains_key(*name)) {
            s.warn("groups", format!("group {name} is in no ring: its clients move with this one"));
        }
    }
    sections.into_iter().for_each(|s| document.close(s));
    rings
}

fn read_ring_groups(
    s: &mut Section,
    ring: &str,
    groups: &[GroupSettings],
    assigned: &mut BTreeMap<String, String>,
) -> Vec<String> {
    let names = s.read_list("groups", |text| {
        check_group_exists(text, groups)?;
        match assigned.insert(text.to_owned(), ring.to_owned()) {
            None => Ok(text.to_owned()),
            Some(first) => {
                Err(format!("group {text:?} is also in ring {first:?}: remove it from one of them"))
            }
        }
    });
    if !s.is_given("groups") {
        s.refuse("groups", "missing required key: list the names of [[group]]s that the ring moves");
    }
    names.unwrap_or_default()
}

/// Warns of groups that may see a new revision only while they may not download it.
fn warn_disjoint_windows(s: &mut Section, ring: &RingSettings, groups: &[GroupSettings]) {
    for group in groups.iter().filter(|group| ring.groups.contains(&group.name)) {
        if !group.windows.overlaps(&ring.windows) {
            s.warn(
                "windows",
                format!(
                    "never overlap windows of group {}: its clients see a new revision hours before they may \
                         download it",
                    group.name
                ),
            );
        }
    }
}

/// Returns the names of all groups, the one of all other clients included.
fn group_names(groups: &[GroupSettings]) -> impl Iterator<Item = &str> {
    let default = (!groups.iter().any(GroupSettings::is_catch_all)).then_some(GroupSettings::DEFAULT);
    groups.iter().map(|group| group.name.as_str()).chain(default)
}

fn check_group_exists(name: &str, groups: &[GroupSettings]) -> Result<(), String> {
    if group_names(groups).any(|known| known == name) {
        return Ok(());
    }
    let known: Vec<&str> = group_names(groups).take(LISTED_GROUPS).collect();
    Err(format!("unknown group {name:?}: known groups are {}", known.join(", ")))
}

/// Links each ring to the one that its `after` names, and refuses cycles.
fn link_rings(rings: &mut [RingSettings], sections: &mut [Section], after: &[Option<String>]) {
    for (at, name) in after.iter().enumerate() {
        let Some(name) = name else { continue };
        let before = rings.iter().position(|ring| ring.name == *name);
        let (Some(ring), Some(s)) = (rings.get_mut(at), sections.get_mut(at)) else { continue };
        ring.after = before;
        if before.is_none() {
            s.refuse("after", format!("unknown ring {name:?}: name another [[ring]] or remove it"));
        }
    }
    for at in 0..rings.len() {
        let is_in_cycle = rings_before(rings, at).any(|before| before == at);
        if is_in_cycle && let (Some(ring), Some(s)) = (rings.get_mut(at), sections.get_mut(at)) {
            s.refuse(
                "after",
                format!("ring {:?} follows itself: remove after from one ring of the cycle", ring.name),
            );
            // Report each cycle once.
            ring.after = None;
        }
    }
}

/// Returns the places of the rings before one, the nearest first. It ends also in a cycle.
fn rings_before(rings: &[RingSettings], at: usize) -> impl Iterator<Item = usize> {
    let before = move |at: &usize| rings.get(*at).and_then(|ring| ring.after);
    std::iter::successors(before(&at), before).take(rings.len())
}

/// Warns of a ring that opens after revisions expire: it would see none of them.
fn check_age(rings: &[RingSettings], at: usize, s: &mut Section, rollout: &RolloutSettings) {
    let delay = rings.get(at).map_or(Duration::ZERO, |ring| ring.delay);
    let before = rings_before(rings, at).filter_map(|before| rings.get(before));
    let opens =
        before.fold(delay, |sum, before| sum.saturating_add(before.delay).saturating_add(before.duration()));
    if opens > rollout.max_age {
        let message = format!(
            "opens the ring {} after publication, beyond rollout.max_age ({}): revisions are kept longer for it",
            Time(opens),
            Time(rollout.max_age)
        );
        s.warn("delay", message);
    }
}

fn read_steps(s: &mut Section) -> Steps {
    let mut least = 1;
    let shares = s.read_list("shares", |text| {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        let share: u8 =
            number.parse().map_err(|_| format!("{text:?} is not a percentage: write it like 10 or 10%"))?;
        if share < least || share > 100 {
            return Err(format!(
                "{share} is not between {least} and 100: shares must rise, as in 10, 50, 100"
            ));
        }
        least = share.saturating_add(1);
        Ok(share)
    });
    let subnets = s.read_list("subnets", subnet);
    let count = shares.as_ref().map_or(0, Vec::len).max(subnets.as_ref().map_or(0, Vec::len));
    if count > MAX_STEPS {
        let key = if shares.is_some() { "shares" } else { "subnets" };
        s.refuse(key, format!("{count} steps are too many: use at most {MAX_STEPS}"));
    }
    match (shares, subnets) {
        (Some(_), Some(_)) => {
            s.refuse("shares", "are set beside subnets: set one of them");
            Steps::All
        }
        (Some(shares), None) if !shares.is_empty() => {
            if shares.last() != Some(&100) {
                s.refuse("shares", "end below 100, so some clients would never move: add 100");
            }
            Steps::Shares(shares)
        }
        (None, Some(subnets)) if !subnets.is_empty() => Steps::Subnets(subnets),
        _ => Steps::All,
    }
}
