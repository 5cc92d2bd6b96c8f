//! The revision visible to each client, as a snapshot of the state. Every request of a catalog asks it, so it takes no
//! lock and allocates nothing; the answer depends on group, address and time only. A snapshot never changes: a client
//! that asks twice sees the same revision, or a newer one once its scheduled start has come.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::progress::no_trouble;
use super::revision::{Revision, RevisionNumber};
use super::rings::{Ring, RingId, Rings};
use super::schedule::{StepSchedule, client_share};
use super::state::{RevisionProgress, RolloutState};
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// Time for which a snapshot is valid. The engine makes one at least every 30 s; a clock that is further ahead was set,
/// or the machine slept.
pub(super) const VALIDITY: i64 = 10 * 60_000;

/// The revisions visible to all clients.
#[derive(Debug)]
pub struct RevisionView {
    /// The newest first.
    revisions: Vec<ViewedRevision>,
    rings: Vec<RingView>,
    groups: HashMap<GroupId, GroupView>,
    /// Since when rollouts have been halted.
    halted: Option<UnixMillis>,
    /// Time of the snapshot. A clock that is set back moves no client back.
    made: UnixMillis,
}

/// A client's access to a numbered payload of a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadAccess {
    /// The visible revision has the payload.
    Visible,
    /// The group was released at once, which also overrides its windows.
    Released,
    /// A later revision has it. The time is the earliest possible, if one is known.
    Deferred(Option<UnixMillis>),
    /// No revision has it yet.
    Unannounced,
}

#[derive(Debug)]
struct ViewedRevision {
    revision: Arc<Revision>,
    /// The number as text: clients' shares are hashes of it.
    text: Box<str>,
    /// Since when the revision has been for everyone.
    everyone: Option<UnixMillis>,
}

/// Progress of each revision in a ring, in the same order.
#[derive(Debug)]
struct RingView {
    ring: Arc<Ring>,
    steps: Vec<Vec<StepSchedule>>,
    /// When the first pending step may open.
    due: Vec<Option<UnixMillis>>,
}

#[derive(Debug)]
enum GroupView {
    Held { at: usize, since: UnixMillis },
    Ring { ring: RingId, released: RevisionNumber, since: UnixMillis },
}

impl RolloutState {
    /// Makes the snapshot for clients.
    pub fn view(&self, rings: &Rings, now: UnixMillis) -> RevisionView {
        let newest_first = || self.revisions.iter().rev();
        let viewed = newest_first().filter_map(|kept| {
            let revision = kept.revision.clone()?;
            let text = revision.number.to_string().into();
            let everyone = match kept.progress {
                RevisionProgress::Everyone { since } => Some(since),
                RevisionProgress::Rings { .. } => None,
            };
            Some(ViewedRevision { revision, text, everyone })
        });
        let revisions: Vec<ViewedRevision> = viewed.collect();
        let pending = self.pending_steps(rings, no_trouble).into_iter();
        let dues: BTreeMap<(RevisionNumber, RingId), UnixMillis> =
            pending.filter_map(|step| Some(((step.id.revision, step.id.ring), step.due()?))).collect();
        let ring_view = |(id, ring): (RingId, &Arc<Ring>)| {
            let steps = newest_first().map(|kept| match &kept.progress {
                RevisionProgress::Everyone { .. } => Vec::new(),
                RevisionProgress::Rings { open, .. } => {
                    let steps = open.get(&ring.settings.name).into_iter().flatten();
                    steps.map(|step| StepSchedule::for_ring(*step, ring, rings)).collect()
                }
            });
            let due = revisions.iter().map(|viewed| dues.get(&(viewed.revision.number, id)).copied());
            RingView { ring: ring.clone(), steps: steps.collect(), due: due.collect() }
        };
        let ring_views = rings.iter().map(ring_view).collect();
        let position = |number| revisions.iter().position(|viewed| viewed.revision.number == number);
        let group_view = |name: &GroupId| {
            let held = self.held.get(name);
            let held =
                held.and_then(|(to, since)| Some(GroupView::Held { at: position(*to)?, since: *since }));
            let (released, since) = self.released.get(name).copied().unwrap_or_default();
            let by_ring = rings.ring_of_group(name).map(|ring| GroupView::Ring { ring, released, since });
            Some((name.clone(), held.or(by_ring)?))
        };
        let groups = rings.groups().filter_map(group_view).collect();
        RevisionView { groups, revisions, rings: ring_views, halted: self.halted, made: now }
    }
}

impl RevisionView {
    /// Returns the revision visible to a client of this group; `None` before the first revision, or if the
    /// configuration of this view does not have the group.
    pub fn visible_revision(&self, group: &str, client: IpAddr, now: UnixMillis) -> Option<&Arc<Revision>> {
        self.revisions.get(self.position(group, client, now)?).map(|viewed| &viewed.revision)
    }

    /// Returns the time for clients. A clock that leaps ahead moves no client until the engine has looked at it.
    pub fn effective_time(&self, now: UnixMillis) -> UnixMillis {
        now.min(self.made.saturating_add(VALIDITY))
    }

    /// The newest revision.
    pub fn newest(&self) -> Option<&Arc<Revision>> {
        self.revisions.first().map(|viewed| &viewed.revision)
    }

    /// Every revision, the newest first.
    pub fn revisions(&self) -> impl Iterator<Item = &Arc<Revision>> {
        self.revisions.iter().map(|viewed| &viewed.revision)
    }

    /// Returns true if there is a group of this name.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Returns true if the newest revision has the catalog of this key, or says that there is none.
    pub fn has_catalog(&self, key: &str) -> bool {
        self.newest().is_some_and(|newest| newest.catalogs.contains_key(key))
    }

    /// Returns the newest revision that a ring has begun to move its clients to.
    pub fn newest_in_ring(&self, ring: RingId) -> Option<RevisionNumber> {
        self.newest_begun(self.rings.get(ring)?, RevisionNumber::NONE)
    }

    /// Returns the newest revision that is visible to some clients of a group.
    pub fn newest_in_group(&self, group: &str) -> Option<RevisionNumber> {
        match self.groups.get(group)? {
            GroupView::Held { at, .. } => self.revisions.get(*at).map(|viewed| viewed.revision.number),
            GroupView::Ring { ring, released, .. } => self.newest_begun(self.rings.get(*ring)?, *released),
        }
    }

    fn newest_begun(&self, ring: &RingView, released: RevisionNumber) -> Option<RevisionNumber> {
        let mut each = self.revisions.iter().zip(&ring.steps);
        let begun = each.find(|(viewed, steps)| viewed.is_for_all(released) || !steps.is_empty());
        begun.map(|(viewed, _)| viewed).or(self.revisions.last()).map(|viewed| viewed.revision.number)
    }

    /// Decides on a client's access to the payload of this number of a manager's content.
    pub fn payload_access(
        &self,
        group: &str,
        client: IpAddr,
        (series, number): (&str, u64),
        now: UnixMillis,
    ) -> PayloadAccess {
        let has = |viewed: &ViewedRevision| {
            viewed.revision.sequences.get(series).is_some_and(|newest| *newest >= number)
        };
        if !self.revisions.first().is_some_and(has) {
            return PayloadAccess::Unannounced;
        }
        let visible = self.position(group, client, now).and_then(|at| self.revisions.get(at));
        let Some(visible) = visible else { return PayloadAccess::Deferred(Some(now)) };
        let (ring, released) = match self.groups.get(group) {
            Some(GroupView::Ring { ring, released, .. }) => (self.rings.get(*ring), *released),
            _ => (None, RevisionNumber::NONE),
        };
        if has(visible) {
            let is_released = visible.revision.number <= released;
            return if is_released { PayloadAccess::Released } else { PayloadAccess::Visible };
        }
        // The earliest start of all revisions that have it.
        let ring = ring.filter(|_| self.halted.is_none());
        let having = self.revisions.iter().enumerate().filter(|(_, viewed)| has(viewed));
        PayloadAccess::Deferred(having.filter_map(|(at, viewed)| ring?.start(at, viewed, client)).min())
    }

    /// Returns the newer revision that becomes visible to a client first, and when: the earliest time for a pending
    /// step. `None` if that is not known, or if the client sees the newest.
    pub fn next_visible(
        &self,
        group: &str,
        client: IpAddr,
        now: UnixMillis,
    ) -> Option<(RevisionNumber, UnixMillis)> {
        let GroupView::Ring { ring, .. } = self.groups.get(group)? else { return None };
        let (ring, visible) = (self.rings.get(*ring)?, self.position(group, client, now)?);
        let newer = self.revisions.iter().enumerate().take(visible).filter(|_| self.halted.is_none());
        let starts = newer.filter_map(|(at, viewed)| {
            let start = ring.start(at, viewed, client)?;
            Some((viewed.revision.number, start))
        });
        starts.min_by_key(|(_, at)| *at)
    }

    /// Returns true if only a command can make newer numbers of this content visible to the group.
    pub fn is_frozen(&self, group: &str, series: &str) -> bool {
        let is_frozen =
            self.halted.is_some() || matches!(self.groups.get(group), Some(GroupView::Held { .. }));
        is_frozen && self.newest().is_some_and(|newest| newest.sequences.contains_key(series))
    }

    /// Returns since when a revision other than `given` has been visible to a client.
    pub fn differs_since(
        &self,
        group: &str,
        client: IpAddr,
        given: RevisionNumber,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        let at = self.position(group, client, now)?;
        let (ring, released, since) = match self.groups.get(group)? {
            GroupView::Held { since, .. } => return Some(*since),
            GroupView::Ring { ring, released, since } => (self.rings.get(*ring)?, *released, *since),
        };
        let visible = self.revisions.iter().enumerate().skip(at);
        let newer = visible.take_while(|(_, viewed)| viewed.revision.number > given);
        let starts = newer.filter_map(|(at, viewed)| {
            let by_ring = ring.start(at, viewed, client).filter(|_| ring.has_moved(at, viewed, client, now));
            // An interrupted step does not know any more when a client moved.
            let by_ring = by_ring.map(|start| start.max(viewed.revision.published));
            let by_release = (viewed.revision.number <= released).then_some(since);
            by_ring.into_iter().chain(by_release).chain(viewed.everyone).min()
        });
        starts.min()
    }

    /// Position of the revision visible to a client.
    fn position(&self, group: &str, client: IpAddr, now: UnixMillis) -> Option<usize> {
        let now = self.halted.unwrap_or(now.max(self.made));
        // A configuration that comes or goes right now may have another group.
        let (ring, released) = match self.groups.get(group)? {
            GroupView::Held { at, .. } => return Some(*at),
            GroupView::Ring { ring, released, .. } => (self.rings.get(*ring)?, *released),
        };
        let is_visible = |(at, viewed): (usize, &ViewedRevision)| {
            viewed.is_for_all(released) || ring.has_moved(at, viewed, client, now)
        };
        self.revisions.iter().enumerate().position(is_visible).or(self.revisions.len().checked_sub(1))
    }
}

impl ViewedRevision {
    /// Returns true if all clients of a group see it that was released up to `released`.
    fn is_for_all(&self, released: RevisionNumber) -> bool {
        self.everyone.is_some() || self.revision.number <= released
    }
}

impl RingView {
    fn has_moved(&self, at: usize, viewed: &ViewedRevision, client: IpAddr, now: UnixMillis) -> bool {
        let steps = self.steps.get(at).filter(|steps| !steps.is_empty());
        let step = steps.and_then(|steps| steps.get(self.ring.step_of(client)));
        step.is_some_and(|step| {
            step.completion() <= now || step.scheduled_start(client_share(client, &viewed.text)) <= now
        })
    }

    /// Returns when a client moves to a revision: the earliest time for a pending step.
    fn start(&self, at: usize, viewed: &ViewedRevision, client: IpAddr) -> Option<UnixMillis> {
        match self.steps.get(at)?.get(self.ring.step_of(client)) {
            Some(step) => Some(step.scheduled_start(client_share(client, &viewed.text))),
            None => self.due.get(at).copied().flatten(),
        }
    }
}
