//! What each client sees: a snapshot of the state, made to be asked on every request of a catalog. Owns the verdict, as a
//! pure function of group, address and time; it takes no lock and allocates nothing. A snapshot is never changed, so a
//! client that asks several times within one sees one revision, or a newer one that its moment has brought.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::advance::{Waits, opening};
use super::moment::{Opening, share};
use super::revision::{Revision, RevisionNumber};
use super::rings::{Ring, RingId, Rings};
use super::state::{Progress, State};
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// How long a snapshot is good for: who looks at what is due makes one every 30 s. A clock that leaps past that was set, or
/// the machine slept.
pub(super) const LASTS: i64 = 10 * 60_000;

/// What every client sees.
#[derive(Debug)]
pub struct Views {
    /// The newest first.
    revisions: Vec<Seen>,
    rings: Vec<RingView>,
    groups: HashMap<GroupId, GroupView>,
    /// Views stand still since then.
    halted: Option<UnixMillis>,
    /// A clock that is set back moves nobody back.
    made: UnixMillis,
}

/// A client's right to a payload of a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// What it sees has it.
    Now,
    /// It was released at once: windows do not hold it up either.
    AtOnce,
    /// Later; when, if that is known. It may be later still.
    Later(Option<UnixMillis>),
    /// No revision has it yet.
    Unheard,
}

#[derive(Debug)]
struct Seen {
    revision: Arc<Revision>,
    /// The number as text, which clients' shares are drawn for.
    text: Box<str>,
    /// Since when it is for everyone.
    everyone: Option<UnixMillis>,
}

/// How far each revision, in the same order, has come in a ring.
#[derive(Debug)]
struct RingView {
    ring: Arc<Ring>,
    steps: Vec<Vec<Opening>>,
    /// When the first step that is not open may open.
    due: Vec<Option<UnixMillis>>,
}

#[derive(Debug)]
enum GroupView {
    Held { at: usize, since: UnixMillis },
    Ring { ring: RingId, released: RevisionNumber, since: UnixMillis },
}

impl State {
    /// What clients see from now on.
    pub fn views(&self, rings: &Rings, now: UnixMillis) -> Views {
        let order = || (0..self.revisions.len()).rev();
        let revisions = order().filter_map(|at| {
            let kept = self.revisions.get(at)?;
            let revision = kept.revision.clone()?;
            let text = revision.number.to_string().into();
            let everyone = match kept.progress {
                Progress::Everyone { since } => Some(since),
                Progress::Rings { .. } => None,
            };
            Some(Seen { revision, text, everyone })
        });
        let revisions: Vec<Seen> = revisions.collect();
        let outlook = self.outlook(rings, |_, _| false).into_iter();
        let dues: BTreeMap<(RevisionNumber, RingId), UnixMillis> = outlook
            .filter_map(|next| match next.waits {
                Waits::Until(due) => Some(((next.revision, next.ring), due)),
                _ => None,
            })
            .collect();
        let view = |id: RingId, ring: &Arc<Ring>| {
            let steps = order().filter_map(|at| self.revisions.get(at)).map(|kept| match &kept.progress {
                Progress::Everyone { .. } => Vec::new(),
                Progress::Rings { open, .. } => {
                    let steps = open.get(&ring.settings.name).into_iter().flatten();
                    steps.map(|opened| opening(*opened, ring, rings)).collect()
                }
            });
            let due = revisions.iter().map(|seen| dues.get(&(seen.revision.number, id)).copied());
            RingView { ring: ring.clone(), steps: steps.collect(), due: due.collect() }
        };
        let ring_views = rings.iter().map(|(id, ring)| view(id, ring)).collect();
        let place = |number: RevisionNumber| revisions.iter().position(|seen| seen.revision.number == number);
        let group = |name: &GroupId| {
            let held = self.held.get(name);
            let held =
                held.and_then(|(number, since)| Some(GroupView::Held { at: place(*number)?, since: *since }));
            let (released, since) = self.released.get(name).copied().unwrap_or_default();
            let by_ring = rings.of_group(name).map(|ring| GroupView::Ring { ring, released, since });
            Some((name.clone(), held.or(by_ring)?))
        };
        let groups = rings.groups().filter_map(group).collect();
        Views { groups, revisions, rings: ring_views, halted: self.halted, made: now }
    }
}

impl Views {
    /// The revision that a client of this group sees; `None` before there is one, or if the group is of another
    /// configuration.
    pub fn of(&self, group: &str, client: IpAddr, now: UnixMillis) -> Option<&Arc<Revision>> {
        self.revisions.get(self.place(group, client, now)?).map(|seen| &seen.revision)
    }

    /// What the time is for clients: one that leaps moves nobody, until it is known what time it is for rollouts.
    pub fn time(&self, now: UnixMillis) -> UnixMillis {
        now.min(self.made.saturating_add(LASTS))
    }

    /// The newest revision.
    pub fn newest(&self) -> Option<&Arc<Revision>> {
        self.revisions.first().map(|seen| &seen.revision)
    }

    /// Each revision, the newest first.
    pub fn revisions(&self) -> impl Iterator<Item = &Arc<Revision>> {
        self.revisions.iter().map(|seen| &seen.revision)
    }

    /// Whether there is a group of this name.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Whether the catalog of this key is in some revision, or known to be in none.
    pub fn knows(&self, key: &str) -> bool {
        self.newest().is_some_and(|newest| newest.catalogs.contains_key(key))
    }

    /// The newest revision that a ring has begun to move its clients to.
    pub fn newest_in(&self, ring: RingId) -> Option<RevisionNumber> {
        let steps = &self.rings.get(ring)?.steps;
        let mut each = self.revisions.iter().zip(steps);
        let seen = each.find(|(seen, steps)| seen.everyone.is_some() || !steps.is_empty());
        seen.map(|(seen, _)| seen).or(self.revisions.last()).map(|seen| seen.revision.number)
    }

    /// The newest revision that some clients of a group may see.
    pub fn newest_of(&self, group: &str) -> Option<RevisionNumber> {
        let (ring, released) = match self.groups.get(group)? {
            GroupView::Held { at, .. } => return self.revisions.get(*at).map(|seen| seen.revision.number),
            GroupView::Ring { ring, released, .. } => (self.rings.get(*ring)?, *released),
        };
        let mut each = self.revisions.iter().zip(&ring.steps);
        let seen = each.find(|(seen, steps)| {
            seen.everyone.is_some() || seen.revision.number <= released || !steps.is_empty()
        });
        seen.map(|(seen, _)| seen).or(self.revisions.last()).map(|seen| seen.revision.number)
    }

    /// Whether a client may have the payload of this number, of this content of a manager.
    pub fn due(&self, group: &str, client: IpAddr, series: &str, number: u64, now: UnixMillis) -> Due {
        let has = |seen: &Seen| seen.revision.sequences.get(series).is_some_and(|newest| *newest >= number);
        if !self.revisions.first().is_some_and(has) {
            return Due::Unheard;
        }
        let Some(at) = self.place(group, client, now) else { return Due::Later(Some(now)) };
        if self.revisions.get(at).is_some_and(has) {
            let released = match self.groups.get(group) {
                Some(GroupView::Ring { released, .. }) => *released,
                _ => RevisionNumber::NONE,
            };
            let at_once = self.revisions.get(at).is_some_and(|seen| seen.revision.number <= released);
            return if at_once { Due::AtOnce } else { Due::Now };
        }
        let ring = match self.groups.get(group) {
            Some(GroupView::Ring { ring, .. }) if self.halted.is_none() => self.rings.get(*ring),
            _ => None,
        };
        // The soonest of all revisions that have it.
        let moment = |(at, seen): (usize, &Seen)| ring?.moment(at, seen, client);
        Due::Later(self.revisions.iter().enumerate().filter(|(_, seen)| has(seen)).filter_map(moment).min())
    }

    /// The newer revision that a client comes to see first, and when: of a step that is not open, at the earliest. `None`
    /// if that is not foreseen, or if it sees the newest.
    pub fn comes_next(
        &self,
        group: &str,
        client: IpAddr,
        now: UnixMillis,
    ) -> Option<(RevisionNumber, UnixMillis)> {
        let GroupView::Ring { ring, .. } = self.groups.get(group)? else { return None };
        let (ring, sees) = (self.rings.get(*ring)?, self.place(group, client, now)?);
        let newer = self.revisions.iter().enumerate().take(sees).filter(|_| self.halted.is_none());
        let moment =
            |(at, seen): (usize, &Seen)| Some((seen.revision.number, ring.moment(at, seen, client)?));
        newer.filter_map(moment).min_by_key(|(_, at)| *at)
    }

    /// Whether a group's view does not come to a number that no revision has, of a content that is known, before an
    /// administrator says so.
    pub fn holds_back(&self, group: &str, series: &str) -> bool {
        let stands_still =
            self.halted.is_some() || matches!(self.groups.get(group), Some(GroupView::Held { .. }));
        stands_still && self.newest().is_some_and(|newest| newest.sequences.contains_key(series))
    }

    /// Since when a client could have seen more than the revision that it was given, or has to see less.
    pub fn since(
        &self,
        group: &str,
        client: IpAddr,
        given: RevisionNumber,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        let at = self.place(group, client, now)?;
        let (ring, released, since) = match self.groups.get(group)? {
            GroupView::Held { since, .. } => return Some(*since),
            GroupView::Ring { ring, released, since } => (self.rings.get(*ring)?, *released, *since),
        };
        let newer =
            self.revisions.iter().enumerate().skip(at).take_while(|(_, seen)| seen.revision.number > given);
        let moved = newer.filter_map(|(at, seen)| {
            let by_ring = ring.moment(at, seen, client).filter(|_| ring.has_moved(at, seen, client, now));
            // Of an opening that was interrupted, when somebody moved is not known any more.
            let by_ring = by_ring.map(|moment| moment.max(seen.revision.published));
            let at_once = (seen.revision.number <= released).then_some(since);
            by_ring.into_iter().chain(at_once).chain(seen.everyone).min()
        });
        moved.min()
    }

    fn place(&self, group: &str, client: IpAddr, now: UnixMillis) -> Option<usize> {
        let now = self.halted.unwrap_or(now.max(self.made));
        let (ring, released) = match self.groups.get(group) {
            Some(GroupView::Held { at, .. }) => return Some(*at),
            Some(GroupView::Ring { ring, released, .. }) => (self.rings.get(*ring)?, *released),
            // Of a configuration that comes or goes at this moment: what it may see is not known here.
            None => return None,
        };
        let sees = |(at, seen): (usize, &Seen)| {
            seen.everyone.is_some()
                || seen.revision.number <= released
                || ring.has_moved(at, seen, client, now)
        };
        let each = self.revisions.iter().enumerate();
        each.map(|each| (each.0, sees(each)))
            .find(|(_, sees)| *sees)
            .map(|(at, _)| at)
            .or(self.revisions.len().checked_sub(1))
    }
}

impl RingView {
    fn has_moved(&self, at: usize, seen: &Seen, client: IpAddr, now: UnixMillis) -> bool {
        let steps = self.steps.get(at).filter(|steps| !steps.is_empty());
        let opening = steps.and_then(|steps| steps.get(self.ring.step(client)));
        opening.is_some_and(|opening| {
            opening.complete() <= now || opening.moment(share(client, &seen.text)) <= now
        })
    }

    /// When a client comes to see a revision; of a step that is not open, when that may be at the earliest.
    fn moment(&self, at: usize, seen: &Seen, client: IpAddr) -> Option<UnixMillis> {
        match self.steps.get(at)?.get(self.ring.step(client)) {
            Some(opening) => Some(opening.moment(share(client, &seen.text))),
            None => self.due.get(at).copied().flatten(),
        }
    }
}
