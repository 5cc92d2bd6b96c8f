//! The `[[ring]]`s: stages of a rollout, each with the groups whose clients it moves. Owns the type, its reading, and that
//! every ring comes after publication or after another one. When a ring opens is `rollout`'s to say.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::document::{Document, Section};
use super::settings::{choice, time};
use super::tables::label;
use super::units::Time;
use super::week::WeekWindows;
use super::{GroupSettings, Location, RolloutSettings, defaults, group, limit};

/// Rings at most: each keeps revisions that its clients see from being dropped.
const MAX_RINGS: usize = 32;

/// Steps of one ring, at most: a month's at one a day.
const MAX_STEPS: usize = 32;

/// `[[ring]]`
#[derive(Clone, Debug, PartialEq)]
pub struct RingSettings {
    /// Its name in orders, logs and metrics, unique: lower case, digits, `-`.
    pub name: String,
    /// The `[[ring]]` in the file.
    pub place: Option<Location>,
    /// Names of its groups. Never empty; no group is in two rings.
    pub groups: Vec<String>,
    /// The ring it comes after, by its place in the list; without one it begins with publication. There is no circle.
    pub after: Option<usize>,
    /// Time after the ring before is open to all of its clients, or after publication; 0 to 30 d.
    pub delay: Duration,
    /// The time over which clients move, each at its own moment; 0 to 7 d.
    pub spread: Duration,
    /// When clients may move.
    pub windows: WeekWindows,
    /// What opens it.
    pub gate: Gate,
    /// Whom it moves at a time.
    pub steps: Steps,
    /// Time between two steps; 0 to 30 d.
    pub step: Duration,
}

/// `ring.gate`: what opens a ring when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It opens by itself, unless the ring before shows trouble.
    Auto,
    /// An administrator promotes it.
    Manual,
}

/// Whom a ring moves at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// All of its clients.
    All,
    /// So many percent of them in all by each step, 1 to 100, rising, the last 100.
    Shares(Vec<u8>),
    /// Those of one subnet after the other; whoever is in none comes with the last.
    Subnets(Vec<IpNet>),
}

impl Steps {
    /// How many there are, 1 at least.
    pub fn count(&self) -> usize {
        match self {
            Self::All => 1,
            Self::Shares(shares) => shares.len(),
            Self::Subnets(subnets) => subnets.len(),
        }
    }
}

impl RingSettings {
    /// From its opening until its last client may have moved, windows aside.
    pub fn duration(&self) -> Duration {
        let steps = u32::try_from(self.steps.count()).unwrap_or(u32::MAX);
        self.step.saturating_mul(steps - 1).saturating_add(self.spread)
    }
}

const GATES: [(&str, Gate); 2] = [("auto", Gate::Auto), ("manual", Gate::Manual)];

pub(super) fn rings(
    document: &mut Document,
    groups: &[GroupSettings],
    rollout: &RolloutSettings,
) -> Vec<RingSettings> {
    let (mut rings, mut sections): (Vec<RingSettings>, Vec<Section>) = (Vec::new(), Vec::new());
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    let mut after: Vec<Option<String>> = Vec::new();
    for mut s in document.tables("ring", None) {
        let name = s.required("name", label).unwrap_or_default();
        let of = s.many("groups", |text| {
            known(text, groups)?;
            match taken.insert(text.to_owned(), name.clone()) {
                None => Ok(text.to_owned()),
                Some(first) => {
                    Err(format!("group {text:?} is in ring {first:?} too; leave it in one of them"))
                }
            }
        });
        if !s.given("groups") {
            s.refuse(
                "groups",
                "is missing: a ring that names no group moves nobody; give names of [[group]]s",
            );
        }
        after.push(s.one("after", label));
        let spread = time(&mut s, "spread", defaults::SPREAD);
        let ring = RingSettings {
            place: s.place().cloned(),
            groups: of.unwrap_or_default(),
            after: rings.len().checked_sub(1),
            delay: time(&mut s, "delay", defaults::RING_DELAY),
            spread,
            windows: limit::windows(&mut s, "windows"),
            gate: s.one("gate", |text| choice(text, &GATES)).unwrap_or(Gate::Auto),
            steps: steps(&mut s),
            step: time(&mut s, "step", defaults::RING_DELAY),
            name,
        };
        if rings.iter().any(|other: &RingSettings| other.name == ring.name && !ring.name.is_empty()) {
            s.refuse("name", format!("{:?} is the name of two rings; give each its own", ring.name));
        }
        if ring.steps.count() == 1 && s.given("step") {
            s.warn("step", "says nothing without shares or subnets: all clients move in one step");
        }
        if rings.len() == MAX_RINGS {
            s.refuse("name", format!("is that of one ring too many; give at most {MAX_RINGS}"));
        }
        rings.push(ring);
        sections.push(s);
    }
    chain(&mut rings, &mut sections, &after);
    for (at, s) in sections.iter_mut().enumerate() {
        check_age(&rings, at, s, rollout);
    }
    let last = rings.last().map(|ring| ring.name.clone());
    for (ring, s) in rings.iter().zip(sections) {
        let mut s = s;
        if Some(&ring.name) == last.as_ref() {
            for name in all(groups).filter(|name| !taken.contains_key(*name)) {
                s.warn(
                    "groups",
                    format!("do not name {name}, which is in no ring; its clients come with this one"),
                );
            }
        }
        document.close(s);
    }
    rings
}

/// Every group there is, that of all others too.
fn all(groups: &[GroupSettings]) -> impl Iterator<Item = &str> {
    let rest = (!groups.iter().any(GroupSettings::is_catch_all)).then_some(GroupSettings::DEFAULT);
    groups.iter().map(|group| group.name.as_str()).chain(rest)
}

fn known(name: &str, groups: &[GroupSettings]) -> Result<(), String> {
    if all(groups).any(|known| known == name) {
        return Ok(());
    }
    let known: Vec<&str> = all(groups).take(8).collect();
    Err(format!("there is no group {name:?}; the groups are {}", known.join(", ")))
}

/// Has each ring come after the one that it names.
fn chain(rings: &mut [RingSettings], sections: &mut [Section], after: &[Option<String>]) {
    for (at, named) in after.iter().enumerate() {
        let (Some(named), Some(s)) = (named, sections.get_mut(at)) else { continue };
        match rings.iter().position(|ring| ring.name == *named) {
            Some(before) => rings[at].after = Some(before),
            None => s.refuse("after", format!("there is no ring {named:?}; name one, or leave it out")),
        }
    }
    for at in 0..rings.len() {
        let walk = std::iter::successors(rings[at].after, |before| rings[*before].after);
        if walk.take(rings.len()).any(|before| before == at) {
            sections[at].refuse(
                "after",
                format!(
                    "{:?} comes after itself by way of it; let one ring of the circle begin",
                    rings[at].name
                ),
            );
            // So that each circle is told of once.
            rings[at].after = None;
        }
    }
}

/// A ring that opens later than revisions are kept for would see none of them.
fn check_age(rings: &[RingSettings], at: usize, s: &mut Section, rollout: &RolloutSettings) {
    let before = std::iter::successors(rings[at].after, |before| rings[*before].after).take(rings.len());
    let opens = before.fold(rings[at].delay, |sum, before| {
        sum.saturating_add(rings[before].delay).saturating_add(rings[before].duration())
    });
    if opens > rollout.max_age {
        let message = format!(
            "has it open {} after publication, and rollout.max_age is {}: revisions are kept longer for it",
            Time(opens),
            Time(rollout.max_age)
        );
        s.warn("delay", message);
    }
}

fn steps(s: &mut Section) -> Steps {
    let mut least = 1;
    let shares = s.many("shares", |text| {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        let share: u8 =
            number.parse().map_err(|_| format!("{text:?} is not a share; write it like 10 or 10%"))?;
        if share < least || share > 100 {
            return Err(format!("{share} is not from {least} to 100; shares rise, as in 10, 50, 100"));
        }
        least = share + 1;
        Ok(share)
    });
    let subnets = s.many("subnets", group::subnet);
    let most = shares.as_ref().map_or(0, Vec::len).max(subnets.as_ref().map_or(0, Vec::len));
    if most > MAX_STEPS {
        let key = if shares.is_some() { "shares" } else { "subnets" };
        s.refuse(key, format!("are {most} steps; give at most {MAX_STEPS}"));
    }
    match (shares, subnets) {
        (Some(_), Some(_)) => {
            s.refuse("shares", "are given beside subnets; give one of them");
            Steps::All
        }
        (Some(shares), None) if !shares.is_empty() => {
            if shares.last() != Some(&100) {
                s.refuse("shares", "end before 100: the rest of the clients would never move; add 100");
            }
            Steps::Shares(shares)
        }
        (None, Some(subnets)) if !subnets.is_empty() => Steps::Subnets(subnets),
        _ => Steps::All,
    }
}
