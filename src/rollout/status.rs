//! What an administrator is told of rollouts: revisions, rings, what opens next and when, and what is held up by what. Owns
//! the types that the admin address answers with and the command reads back; `survey` makes them of the state.

mod survey;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

pub use self::survey::Beside;
use super::revision::RevisionNumber;
use gupd_config as config;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;
use gupd_store::ObjectKey;

/// Hashes of catalogs in one status, those of the newest revisions first: about 10 MiB of text.
const MAX_HASHES: usize = 100_000;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When it was so.
    pub time: At,
    /// Since when no view moves.
    pub halted: Option<At>,
    /// Kept revisions, the newest first.
    pub revisions: Vec<RevisionStatus>,
    /// In the configuration's order.
    pub rings: Vec<RingStatus>,
    /// What is not open yet, the oldest revision first.
    pub next: Vec<Upcoming>,
    /// Every group, in the order of rings.
    pub groups: Vec<GroupStatus>,
    /// All clients that are known.
    pub clients: Clients,
}

/// A kept revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevisionStatus {
    /// Its number.
    pub number: RevisionNumber,
    /// When it was published.
    pub published: At,
    /// Names that it was given.
    pub names: Vec<String>,
    /// Whether no ring holds it back.
    pub everyone: bool,
    /// Catalogs that its managers had.
    pub present: usize,
    /// Catalogs that they are known not to have had.
    pub absent: usize,
    /// Catalogs that differ from the kept revision before it, or are in one of the two alone; `None` without one.
    pub changed: Option<usize>,
    /// Contents of managers of which it has a newer one than the kept revision before it.
    pub announced: Option<usize>,
    /// Payloads of it that are kept for its clients.
    pub kept: u64,
    /// Payloads of it that had to go for room.
    pub gone: u64,
    /// Clients that have it.
    pub clients: u64,
    /// SHA-256 of each catalog, by key; `null` for one that is absent. Only where it was asked for, and of the newest
    /// revisions if it is more than an answer takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogs: Option<BTreeMap<ObjectKey, Option<String>>>,
}

/// A ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingStatus {
    /// Its name.
    pub name: String,
    /// The ring that it comes after.
    pub after: Option<String>,
    /// `auto` or `manual`.
    pub gate: Gate,
    /// Its groups.
    pub groups: Vec<GroupId>,
    /// What its clients see, but for those that are held or released: the newest revision first, down to one that all of
    /// them may see.
    pub sees: Vec<Seen>,
    /// Its clients.
    pub clients: Clients,
}

/// What opens a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// Its time.
    Auto,
    /// An administrator.
    Manual,
}

/// A revision that clients of a ring see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Its number.
    pub revision: RevisionNumber,
    /// Steps that are open.
    pub open: usize,
    /// Steps that there are.
    pub steps: usize,
    /// The part of the clients whose moment has come, from 0 to 1; subnets count as equally large.
    pub moved: f64,
    /// When all have moved; `None` if a step is not open, or if everyone sees it anyway.
    pub complete: Option<At>,
}

/// A step that is not open yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upcoming {
    /// Of this revision.
    pub revision: RevisionNumber,
    /// Of this ring.
    pub ring: String,
    /// Which step, from 1.
    pub step: usize,
    /// Of how many.
    pub steps: usize,
    /// When it opens, if nothing holds it up until then.
    pub opens: Option<At>,
    /// When its first client moves then, which the ring's windows may put off.
    pub begins: Option<At>,
    /// When its last client moves then.
    pub complete: Option<At>,
    /// What holds it up, in words.
    pub blocked: Option<String>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: GroupId,
    /// Its ring.
    pub ring: String,
    /// What it is held at.
    pub held: Option<Fixed>,
    /// What it was released to at once.
    pub released: Option<Fixed>,
    /// The newest revision that some of its clients may see.
    pub newest: Option<RevisionNumber>,
    /// Its clients.
    pub clients: Clients,
}

/// A revision that an administrator has a group see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its number.
    pub revision: RevisionNumber,
    /// Since when.
    pub since: At,
}

/// What one client sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewStatus {
    /// The revision.
    pub revision: RevisionNumber,
    /// When that was published.
    pub published: At,
    /// The newest revision that there is.
    pub newest: RevisionNumber,
    /// The revision that it comes to see next, if that is foreseen.
    pub next: Option<RevisionNumber>,
    /// When, at the earliest.
    pub at: Option<At>,
}

/// Clients, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// How many are known.
    pub known: u64,
    /// By light: `green`, `yellow`, `red`, `grey`; those that none has are not there.
    pub lights: BTreeMap<String, u64>,
    /// By the revision that they have.
    pub revisions: BTreeMap<RevisionNumber, u64>,
}

/// An instant, written as in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub UnixMillis);

impl Gate {
    /// Its name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        }
    }
}

impl From<config::Gate> for Gate {
    fn from(gate: config::Gate) -> Self {
        match gate {
            config::Gate::Auto => Self::Auto,
            config::Gate::Manual => Self::Manual,
        }
    }
}

impl Clients {
    /// Those of both.
    pub fn add(&mut self, more: &Self) {
        self.known += more.known;
        for (light, count) in &more.lights {
            *self.lights.entry(light.clone()).or_default() += count;
        }
        for (revision, count) in &more.revisions {
            *self.revisions.entry(*revision).or_default() += count;
        }
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => serializer.collect_str(&time),
            // Later than any calendar goes: never.
            Err(_) => serializer.collect_str(&if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX }),
        }
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(Self(time.as_millisecond()))
    }
}
