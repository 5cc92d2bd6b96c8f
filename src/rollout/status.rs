//! Status of rollouts for administrators: revisions, rings, upcoming steps and their obstacles. This file owns the
//! types that the admin listener answers with and the command line reads back; `report` fills them in.

mod report;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::ToSchema;

pub use self::report::RolloutSnapshot;
use super::revision::RevisionNumber;
use gupd_config::clock::UnixMillis;
use gupd_config::{Gate, GroupId};
use gupd_store::ObjectKey;

/// Maximum number of catalog hashes in one status, the newest revisions first: about 10 MiB of text.
const MAX_HASHES: usize = 100_000;

/// Status of all rollouts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Time of the status.
    pub time: UtcTime,
    /// Since when rollouts have been halted.
    pub halted: Option<UtcTime>,
    /// Kept revisions, the newest first.
    pub revisions: Vec<RevisionStatus>,
    /// Rings in the configuration's order.
    pub rings: Vec<RingStatus>,
    /// Pending steps, the oldest revision first.
    pub next: Vec<UpcomingStep>,
    /// Every group, in the order of rings.
    pub groups: Vec<GroupStatus>,
    /// All known clients.
    pub clients: ClientCounts,
}

/// A kept revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RevisionStatus {
    /// Its number.
    pub number: RevisionNumber,
    /// Time of its publication.
    pub published: UtcTime,
    /// Its names.
    pub names: Vec<String>,
    /// True if no ring holds it back.
    pub everyone: bool,
    /// Number of catalogs with content.
    pub present: usize,
    /// Number of catalogs that its managers did not have.
    pub absent: usize,
    /// Number of catalogs that differ from the kept revision before it, or are in one of the two alone; `None` for the
    /// first.
    pub changed: Option<usize>,
    /// Number of manager contents that are newer than in the kept revision before it.
    pub announced: Option<usize>,
    /// Number of payloads kept for its clients.
    pub kept: u64,
    /// Number of its payloads that were evicted.
    pub gone: u64,
    /// Number of clients that have it.
    pub clients: u64,
    /// SHA-256 of each catalog by key, `null` for an absent one. Only on request, and for the newest revisions if all
    /// would exceed the limit of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    pub catalogs: Option<BTreeMap<ObjectKey, Option<String>>>,
}

/// A ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingStatus {
    /// Its name.
    pub name: String,
    /// The ring that it follows.
    pub after: Option<String>,
    /// Its gate.
    #[schema(value_type = String)]
    pub gate: Gate,
    /// Its groups.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupId>,
    /// Revisions visible to its clients that are neither held nor released: the newest first, down to one that all of
    /// them may see.
    pub sees: Vec<RingProgress>,
    /// Its clients.
    pub clients: ClientCounts,
}

/// Progress of a revision in a ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingProgress {
    /// Its number.
    pub revision: RevisionNumber,
    /// Number of open steps.
    pub open: usize,
    /// Number of steps.
    pub steps: usize,
    /// Part of the clients that have moved, from 0 to 1; subnets count as equally large.
    pub moved: f64,
    /// When all have moved; `None` if a step is pending, or if the revision is for everyone.
    pub complete: Option<UtcTime>,
}

/// A step that is not open yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UpcomingStep {
    /// The revision.
    pub revision: RevisionNumber,
    /// The ring.
    pub ring: String,
    /// The step, from 1.
    pub step: usize,
    /// Number of steps.
    pub steps: usize,
    /// When it opens, if nothing blocks it until then.
    pub opens: Option<UtcTime>,
    /// When its first client moves then: windows of the ring may be closed at first.
    pub begins: Option<UtcTime>,
    /// When its last client moves then.
    pub complete: Option<UtcTime>,
    /// Its obstacle, in words.
    pub blocked: Option<String>,
    /// Kind of the obstacle.
    #[serde(default)]
    pub obstacle: Option<Obstacle>,
}

/// Kind of obstacle before a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Obstacle {
    /// Rollouts are halted.
    Halt,
    /// An earlier ring is not complete, which takes its time.
    Ring,
    /// An administrator must promote the ring.
    Promotion,
    /// Clients of an earlier ring have trouble, or it was rolled back.
    Trouble,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Its name.
    #[schema(value_type = String)]
    pub name: GroupId,
    /// Its ring.
    pub ring: String,
    /// The revision that it is held at.
    pub held: Option<PinnedRevision>,
    /// The revision that it was released to at once.
    pub released: Option<PinnedRevision>,
    /// The newest revision visible to some of its clients.
    pub newest: Option<RevisionNumber>,
    /// Its clients.
    pub clients: ClientCounts,
}

/// A revision that a command makes visible to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PinnedRevision {
    /// Its number.
    pub revision: RevisionNumber,
    /// Since when.
    pub since: UtcTime,
}

/// The revision visible to one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ViewStatus {
    /// The revision.
    pub revision: RevisionNumber,
    /// Time of its publication.
    pub published: UtcTime,
    /// The newest revision.
    pub newest: RevisionNumber,
    /// The revision that becomes visible to it next, if that is known.
    pub next: Option<RevisionNumber>,
    /// The earliest time for that.
    pub at: Option<UtcTime>,
}

/// Counts of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClientCounts {
    /// Number of known clients.
    pub known: u64,
    /// Number by status: `green`, `yellow`, `red`, `grey`; a status without clients is left out.
    pub lights: BTreeMap<String, u64>,
    /// Number by the revision that they have.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub revisions: BTreeMap<RevisionNumber, u64>,
}

/// A time in the form of RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct UtcTime(pub UnixMillis);

impl ClientCounts {
    /// Adds other clients.
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

impl Serialize for UtcTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => serializer.collect_str(&time),
            // Beyond every calendar: never.
            Err(_) => serializer.collect_str(&if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX }),
        }
    }
}

impl<'de> Deserialize<'de> for UtcTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(Self(time.as_millisecond()))
    }
}
