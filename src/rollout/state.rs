//! All that is known of rollouts, as one value: which revisions there are, how far each has come, what an administrator has
//! ordered. Owns how a revision comes to be (`publish`, `announce`) and how all of it is written down; `advance` moves it
//! on with time, `retire` drops what nobody needs, `orders` does what is ordered. Pure: whoever owns it changes a copy,
//! writes that down, and only then shows it to clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clients::Trouble;
use super::moment::Opened;
use super::revision::{Catalog, Revision, RevisionNumber};
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;
use gupd_store::{BlobId, ObjectKey};

/// Catalogs of a revision at most, also those that are absent: a LiveUpdate server has hundreds of products in some
/// languages. Further ones are none.
pub const MAX_CATALOGS: usize = 10_000;

/// Contents of managers of a revision, at most: a manager has some dozens.
const MAX_SERIES: usize = 1_024;

/// Revisions at most: what rings hold on to is less, and `rollout.keep` is within it.
const MAX_REVISIONS: usize = 250;

/// Clients announce what a manager has published at once by their heartbeats, one content after the other: within this
/// time it is one revision.
const ANNOUNCED_TOGETHER: i64 = 15 * 60 * 1_000;

/// The state of all rollouts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The last number that was given.
    pub(super) last: RevisionNumber,
    /// Kept revisions, the oldest first.
    pub(super) revisions: Vec<Kept>,
    /// Names that an administrator gave.
    pub(super) names: BTreeMap<String, RevisionNumber>,
    /// Groups whose view does not move, what it is, and since when.
    pub(super) held: BTreeMap<GroupId, (RevisionNumber, UnixMillis)>,
    /// Those of them that were rolled back, and from which revision.
    pub(super) rolled_back: BTreeMap<GroupId, RevisionNumber>,
    /// Groups that were released at once, up to a revision, and when.
    pub(super) released: BTreeMap<GroupId, (RevisionNumber, UnixMillis)>,
    /// Since when no view moves.
    pub(super) halted: Option<UnixMillis>,
}

/// A revision that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) number: RevisionNumber,
    /// Written down by itself: it is large, and hardly changes.
    #[serde(skip)]
    pub(super) revision: Option<Arc<Revision>>,
    pub(super) progress: Progress,
    /// What trouble its clients had, by the ring's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) troubled: BTreeMap<String, Trouble>,
    /// Payloads of it that had to go for room.
    pub(super) gone: Gone,
}

impl Kept {
    /// Whether no ring holds it back.
    pub(super) fn is_for_everyone(&self) -> bool {
        matches!(self.progress, Progress::Everyone { .. })
    }
}

/// How far a revision has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Progress {
    /// No ring holds it back, since then.
    Everyone { since: UnixMillis },
    /// The steps that are open, by the ring's name, and since when the first rings' delays run.
    Rings { since: UnixMillis, open: BTreeMap<String, Vec<Opened>> },
}

/// What had to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// How many payloads.
    pub payloads: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// All catalogs of one source, as its upstream has had them at one moment. What is `None` it had not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The route, and the binding if there is one: what the keys begin with.
    pub source: Arc<str>,
    /// By plain key: the bytes and their number.
    pub catalogs: BTreeMap<ObjectKey, Option<(BlobId, u64)>>,
}

/// What came of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Everything is as it was.
    Nothing,
    /// What nobody had known of is now in this revision.
    Joined(RevisionNumber),
    /// This revision is new.
    New(RevisionNumber),
}

/// Why nothing is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// Rings that never open hold on to all of them.
    #[error(
        "{MAX_REVISIONS} revisions are kept already, which rings or names hold on to; open the rings, or take names away"
    )]
    TooMany,
}

impl State {
    /// Gives the revisions their contents, which are written down by themselves. One without goes, with all that
    /// speaks of it; what went, in words.
    pub(super) fn take_contents(&mut self, mut contents: BTreeMap<RevisionNumber, Revision>) -> Vec<String> {
        let mut losses = Vec::new();
        self.revisions.retain_mut(|kept| {
            kept.revision = contents.remove(&kept.number).map(Arc::new);
            if kept.revision.is_none() {
                losses.push(format!("revision {} is lost, and whoever saw it sees another one", kept.number));
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

    /// Since when no view moves.
    pub fn halted(&self) -> Option<UnixMillis> {
        self.halted
    }

    /// Takes what sources have, each whole; what is not among them stays. The first revision is for everyone, since
    /// there is nothing else to see.
    ///
    /// # Errors
    /// When there are too many; nothing has changed.
    pub fn publish(&mut self, collected: &[Collected], now: UnixMillis) -> Result<Published, Unpublished> {
        let (mut catalogs, sequences) = match self.newest() {
            Some(newest) => (newest.catalogs.clone(), newest.sequences.clone()),
            None => (BTreeMap::new(), BTreeMap::new()),
        };
        let (mut changed, mut joined) = (false, false);
        let number = self.last.next();
        for Collected { source, catalogs: found } in collected {
            // That nobody asks for something any more is no news.
            catalogs.retain(|key, _| source_of(key) != &**source || found.contains_key(key));
            for (key, found) in found {
                let known = catalogs.get(key);
                match (known, found) {
                    (Some(known), found) if known.blob() == found.map(|(blob, _)| blob) => continue,
                    (None, _) if catalogs.len() >= MAX_CATALOGS => continue,
                    (None, _) => joined = true,
                    (Some(_), _) => changed = true,
                }
                let new = match *found {
                    Some((blob, len)) => Catalog::Present { since: number, blob, len },
                    None => Catalog::Absent,
                };
                catalogs.insert(key.clone(), new);
            }
        }
        if !changed && !joined {
            return Ok(Published::Nothing);
        }
        if !changed && let Some(newest) = self.revisions.last_mut().and_then(|kept| kept.revision.as_mut()) {
            let into = newest.number;
            for catalog in catalogs.values_mut() {
                // It is stored under the revision that it is first seen in.
                if let Catalog::Present { since, .. } = catalog
                    && *since == number
                {
                    *since = into;
                }
            }
            // Clients may see all that it has.
            Arc::make_mut(newest).catalogs.extend(catalogs);
            return Ok(Published::Joined(into));
        }
        self.add(catalogs, sequences, now)
    }

    /// A manager has given a client the payload of this number, of this content. The first number of a content is no
    /// news: its clients have had others before.
    ///
    /// # Errors
    /// When there are too many; nothing has changed.
    pub fn announce(&mut self, series: &str, number: u64, now: UnixMillis) -> Result<Published, Unpublished> {
        let Some(newest) = self.newest().cloned() else {
            let sequences = BTreeMap::from([(Arc::from(series), number)]);
            return self.add(BTreeMap::new(), sequences, now);
        };
        match newest.sequences.get(series) {
            Some(known) if *known >= number => return Ok(Published::Nothing),
            Some(_) => {}
            None if newest.sequences.len() >= MAX_SERIES => return Ok(Published::Nothing),
            None => {
                let series: Arc<str> = series.into();
                for kept in &mut self.revisions {
                    if let Some(revision) = &mut kept.revision {
                        Arc::make_mut(revision).sequences.insert(series.clone(), number);
                    }
                }
                return Ok(Published::Joined(newest.number));
            }
        }
        let is_recent = (newest.published..newest.published + ANNOUNCED_TOGETHER).contains(&now);
        let is_first = self.revisions.len() == 1;
        if is_recent
            && !is_first
            && let Some(newest) = self.revisions.last_mut().and_then(|kept| kept.revision.as_mut())
        {
            Arc::make_mut(newest).sequences.insert(series.into(), number);
            return Ok(Published::Joined(newest.number));
        }
        let mut sequences = newest.sequences.clone();
        sequences.insert(series.into(), number);
        self.add(newest.catalogs.clone(), sequences, now)
    }

    /// Forgets all that was published and ordered, but for the numbers that were given.
    pub(super) fn clear(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Kept payloads of these revisions had to go for room.
    pub fn gave_up(&mut self, number: RevisionNumber, lost: Gone) {
        if let Some(kept) = self.revisions.iter_mut().find(|kept| kept.number == number) {
            kept.gone.payloads += lost.payloads;
            kept.gone.bytes += lost.bytes;
        }
    }

    fn add(
        &mut self,
        catalogs: BTreeMap<ObjectKey, Catalog>,
        sequences: BTreeMap<Arc<str>, u64>,
        now: UnixMillis,
    ) -> Result<Published, Unpublished> {
        if self.revisions.len() >= MAX_REVISIONS {
            return Err(Unpublished::TooMany);
        }
        self.last = self.last.next();
        let number = self.last;
        let progress = match self.revisions.is_empty() {
            true => Progress::Everyone { since: now },
            false => Progress::Rings { since: now, open: BTreeMap::new() },
        };
        let revision = Some(Arc::new(Revision { number, published: now, catalogs, sequences }));
        let (troubled, gone) = (BTreeMap::new(), Gone::default());
        self.revisions.push(Kept { number, revision, progress, troubled, gone });
        Ok(Published::New(number))
    }
}

/// What a plain key begins with: its route, and its binding if it has one.
pub fn source_of(key: &str) -> &str {
    key.find(" /").map_or("", |at| &key[..at])
}
