//! State of all rollouts as one value: kept revisions, the progress of each, and what administrators have commanded.
//! This file owns publication and the stored form; [`progress`](super::progress), [`retention`](super::retention) and
//! [`command`](super::command) change the state. Pure: the engine changes a copy, stores it, and only then shows it to
//! clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clients::Trouble;
use super::revision::{Catalog, Revision, RevisionNumber};
use super::schedule::OpenedStep;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;
use gupd_store::{BlobId, ObjectKey};

/// Maximum number of catalogs of a revision, absent ones included: a LiveUpdate server has hundreds of products in some
/// languages. Further ones are ignored.
pub const MAX_CATALOGS: usize = 10_000;

/// Maximum number of manager contents of a revision: a manager has some dozens.
const MAX_SERIES: usize = 1_024;

/// Maximum number of revisions. Rings need fewer, and `rollout.keep` is below it.
const MAX_REVISIONS: usize = 250;

/// Time within which announcements form one revision. Clients announce by their heartbeats, one content after the
/// other, what a manager has published at once.
const ANNOUNCED_TOGETHER: i64 = 15 * 60 * 1_000;

/// The state of all rollouts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RolloutState {
    /// The number given last.
    pub(super) last: RevisionNumber,
    /// Kept revisions, the oldest first.
    pub(super) revisions: Vec<KeptRevision>,
    /// Names given by administrators.
    pub(super) names: BTreeMap<String, RevisionNumber>,
    /// Groups pinned to a revision, and since when.
    pub(super) held: BTreeMap<GroupId, (RevisionNumber, UnixMillis)>,
    /// Pinned groups that were rolled back, and the revision that they were rolled back from.
    pub(super) rolled_back: BTreeMap<GroupId, RevisionNumber>,
    /// Groups released at once, up to which revision, and when.
    pub(super) released: BTreeMap<GroupId, (RevisionNumber, UnixMillis)>,
    /// Since when rollouts have been halted.
    pub(super) halted: Option<UnixMillis>,
}

/// A kept revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptRevision {
    pub(super) number: RevisionNumber,
    /// Stored in a record of its own: large, and rarely changed.
    #[serde(skip)]
    pub(super) revision: Option<Arc<Revision>>,
    pub(super) progress: RevisionProgress,
    /// Trouble of its clients, by the ring's name.
    #[serde(default, rename = "troubled", skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) troubles: BTreeMap<String, Trouble>,
    #[serde(rename = "gone")]
    pub(super) evicted: EvictedPayloads,
}

impl KeptRevision {
    /// Returns true if no ring holds it back.
    pub(super) fn is_for_everyone(&self) -> bool {
        matches!(self.progress, RevisionProgress::Everyone { .. })
    }
}

/// How far a revision has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RevisionProgress {
    /// No ring has held it back since then.
    Everyone { since: UnixMillis },
    /// The opened steps by the ring's name, and the start of the first rings' delays.
    Rings { since: UnixMillis, open: BTreeMap<String, Vec<OpenedStep>> },
}

/// Payloads of a kept revision that were evicted for room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictedPayloads {
    /// Their number.
    pub payloads: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// All catalogs of one source, as one upstream had them at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceCatalogs {
    /// Prefix of the keys: the route, and the upstream binding if there is one.
    pub source: Arc<str>,
    /// Catalogs by plain key; `None` for one that the upstream does not have.
    pub catalogs: BTreeMap<ObjectKey, Option<CollectedCatalog>>,
}

/// A catalog as it is stored under its plain key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectedCatalog {
    /// `Object::id`.
    pub object: i64,
    /// Its content.
    pub blob: BlobId,
    /// Its length in bytes.
    pub len: u64,
    /// When a client last asked for it.
    pub last_used: UnixMillis,
}

#[cfg(test)]
impl CollectedCatalog {
    /// A catalog with content that stands for a version.
    pub(super) fn of_version(version: u8) -> Self {
        Self { object: 0, blob: [version; 32].into(), len: 1, last_used: 0 }
    }
}

/// Outcome of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Nothing is new.
    Unchanged,
    /// Catalogs or contents that were not known before joined this revision.
    Joined(RevisionNumber),
    /// This revision is new.
    New(RevisionNumber),
}

/// Rings or names keep too many revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "nothing is published: rings and names keep {MAX_REVISIONS} revisions already: promote the rings, or remove names"
)]
pub struct TooManyRevisions;

impl RolloutState {
    /// Attaches the revisions' contents, which are stored by themselves. Removes revisions without contents, and what
    /// refers to them. Returns a message for each.
    pub(super) fn attach_contents(
        &mut self,
        mut contents: BTreeMap<RevisionNumber, Revision>,
    ) -> Vec<String> {
        let mut losses = Vec::new();
        self.revisions.retain_mut(|kept| {
            kept.revision = contents.remove(&kept.number).map(Arc::new);
            if kept.revision.is_none() {
                losses.push(format!("revision {} is lost: its clients now see another one", kept.number));
            }
            kept.revision.is_some()
        });
        let numbers: Vec<RevisionNumber> = self.revisions.iter().map(|kept| kept.number).collect();
        self.names.retain(|_, number| numbers.contains(number));
        self.held.retain(|_, (number, _)| numbers.contains(number));
        self.rolled_back.retain(|group, _| self.held.contains_key(group));
        losses
    }

    /// Every revision, the oldest first.
    pub fn revisions(&self) -> impl DoubleEndedIterator<Item = &Arc<Revision>> {
        self.revisions.iter().filter_map(|kept| kept.revision.as_ref())
    }

    /// The newest revision.
    pub fn newest(&self) -> Option<&Arc<Revision>> {
        self.revisions().next_back()
    }

    /// The revision of this number, if it is kept.
    pub fn revision(&self, number: RevisionNumber) -> Option<&Arc<Revision>> {
        self.revisions().find(|revision| revision.number == number)
    }

    /// Publishes the catalogs of sources, each source whole; other sources keep their catalogs. The first revision is
    /// for everyone, since there is no other to see.
    ///
    /// # Errors
    /// When there are too many revisions; nothing has changed.
    pub fn publish(
        &mut self,
        collected: &[SourceCatalogs],
        now: UnixMillis,
    ) -> Result<PublishOutcome, TooManyRevisions> {
        let (mut catalogs, sequences) = match self.newest() {
            Some(newest) => (newest.catalogs.clone(), newest.sequences.clone()),
            None => (BTreeMap::new(), BTreeMap::new()),
        };
        let (mut changed, mut joined) = (false, false);
        let number = self.last.next();
        for SourceCatalogs { source, catalogs: found } in collected {
            // A catalog that clients no longer ask for makes no new revision.
            catalogs.retain(|key, _| source_of_key(key) != &**source || found.contains_key(key));
            for (key, found) in found {
                match catalogs.get(key) {
                    Some(known) if known.blob() == found.map(|found| found.blob) => continue,
                    None if catalogs.len() >= MAX_CATALOGS => continue,
                    None => joined = true,
                    Some(_) => changed = true,
                }
                let new = match *found {
                    Some(CollectedCatalog { blob, len, .. }) => Catalog::Present { since: number, blob, len },
                    None => Catalog::Absent,
                };
                catalogs.insert(key.clone(), new);
            }
        }
        if !changed && !joined {
            return Ok(PublishOutcome::Unchanged);
        }
        if !changed && let Some(newest) = self.revisions.last_mut().and_then(|kept| kept.revision.as_mut()) {
            let into = newest.number;
            for catalog in catalogs.values_mut() {
                // A version is stored under the first revision that has it.
                if let Catalog::Present { since, .. } = catalog
                    && *since == number
                {
                    *since = into;
                }
            }
            // Clients may see every catalog that it has.
            Arc::make_mut(newest).catalogs.extend(catalogs);
            return Ok(PublishOutcome::Joined(into));
        }
        self.add(catalogs, sequences, now)
    }

    /// Records that a manager gave a client the payload of this number of a content. The first number of a content
    /// makes no revision: its clients have had others before.
    ///
    /// # Errors
    /// When there are too many revisions; nothing has changed.
    pub fn announce(
        &mut self,
        series: &str,
        number: u64,
        now: UnixMillis,
    ) -> Result<PublishOutcome, TooManyRevisions> {
        let Some(newest) = self.newest().cloned() else {
            let sequences = BTreeMap::from([(Arc::from(series), number)]);
            return self.add(BTreeMap::new(), sequences, now);
        };
        match newest.sequences.get(series) {
            Some(known) if *known >= number => return Ok(PublishOutcome::Unchanged),
            Some(_) => {}
            None if newest.sequences.len() >= MAX_SERIES => return Ok(PublishOutcome::Unchanged),
            None => {
                let series: Arc<str> = series.into();
                for revision in self.revisions.iter_mut().filter_map(|kept| kept.revision.as_mut()) {
                    Arc::make_mut(revision).sequences.insert(series.clone(), number);
                }
                return Ok(PublishOutcome::Joined(newest.number));
            }
        }
        let is_recent = (newest.published..newest.published + ANNOUNCED_TOGETHER).contains(&now);
        let is_first = self.revisions.len() == 1;
        if is_recent
            && !is_first
            && let Some(newest) = self.revisions.last_mut().and_then(|kept| kept.revision.as_mut())
        {
            Arc::make_mut(newest).sequences.insert(series.into(), number);
            return Ok(PublishOutcome::Joined(newest.number));
        }
        let mut sequences = newest.sequences.clone();
        sequences.insert(series.into(), number);
        self.add(newest.catalogs.clone(), sequences, now)
    }

    /// Removes all revisions and commands. Numbers are still never given twice.
    pub(super) fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Counts payloads of a revision that were evicted.
    pub(super) fn record_evictions(&mut self, number: RevisionNumber, evicted: EvictedPayloads) {
        if let Some(kept) = self.revisions.iter_mut().find(|kept| kept.number == number) {
            kept.evicted.payloads += evicted.payloads;
            kept.evicted.bytes += evicted.bytes;
        }
    }

    fn add(
        &mut self,
        catalogs: BTreeMap<ObjectKey, Catalog>,
        sequences: BTreeMap<Arc<str>, u64>,
        now: UnixMillis,
    ) -> Result<PublishOutcome, TooManyRevisions> {
        if self.revisions.len() >= MAX_REVISIONS {
            return Err(TooManyRevisions);
        }
        self.last = self.last.next();
        let number = self.last;
        let progress = match self.revisions.is_empty() {
            true => RevisionProgress::Everyone { since: now },
            false => RevisionProgress::Rings { since: now, open: BTreeMap::new() },
        };
        let revision = Some(Arc::new(Revision { number, published: now, catalogs, sequences }));
        let (troubles, evicted) = (BTreeMap::new(), EvictedPayloads::default());
        self.revisions.push(KeptRevision { number, revision, progress, troubles, evicted });
        Ok(PublishOutcome::New(number))
    }
}

/// Returns the source of a plain key: its route, and its upstream binding if it has one.
pub fn source_of_key(key: &str) -> &str {
    key.find(" /").map_or("", |at| &key[..at])
}
