//! How a rollout comes forward: which step of which ring is next for a revision, what it waits for, and that it opens.
//! Owns the rules of delay, gate and trouble. A newer revision that has come as far overtakes an older one, which then
//! waits for nothing more. What opens, opens at the time of the call: who comes back after a month goes on from there, one
//! stage at a time.

use std::fmt;

use super::moment::{Opened, Opening};
use super::revision::RevisionNumber;
use super::rings::{Ring, RingId, Rings};
use super::state::{Kept, Progress, State};
use gupd_config::Gate;
use gupd_config::GroupId;
use gupd_config::clock::UnixMillis;

/// A step that is not open yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// Of this revision.
    pub revision: RevisionNumber,
    /// Of this ring.
    pub ring: RingId,
    /// This step of it.
    pub step: usize,
    /// What it waits for.
    pub waits: Waits,
}

/// What a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The ring before is not open to all of its clients, and when that is nobody knows.
    Before(RingId),
    /// This time.
    Until(UnixMillis),
    /// An administrator.
    Promotion,
    /// The ring whose clients have trouble with the revision.
    Trouble(RingId),
    /// The ring of which a group was rolled back from the revision.
    RolledBack(RingId),
}

/// A step that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// Of this revision.
    pub revision: RevisionNumber,
    /// Of this ring.
    pub ring: RingId,
    /// This step of it.
    pub step: usize,
}

impl Next {
    /// The ring whose clients show whether it may open: the one before, or itself for a further step.
    pub fn follows(&self, rings: &Rings) -> Option<RingId> {
        let settings = &rings.get(self.ring)?.settings;
        match (self.step, settings.gate) {
            (_, Gate::Manual) => None,
            (0, Gate::Auto) => settings.after,
            (_, Gate::Auto) => Some(self.ring),
        }
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}, ring {}, step {}", self.revision, self.ring + 1, self.step + 1)
    }
}

impl State {
    /// Opens every step whose time has come and whose ring before has no trouble, of which `troubled` tells by revision
    /// and ring. While it is halted nothing opens.
    pub fn advance(
        &mut self,
        rings: &Rings,
        now: UnixMillis,
        troubled: impl Fn(RevisionNumber, RingId) -> bool,
    ) -> Vec<Advanced> {
        let mut advanced = Vec::new();
        if self.halted.is_some() {
            return advanced;
        }
        let (order, mut ahead) = (rings.in_order(), Ahead::of_none(rings));
        // The newest first: what it opens, none before it needs to.
        for at in self.under_way() {
            for ring in order.iter().copied() {
                while let Some(Next { revision, step, waits: Waits::Until(due), .. }) =
                    self.next_of(at, ring, rings, &ahead, &troubled)
                    && due <= now
                    && self.open(at, ring, rings, now)
                {
                    advanced.push(Advanced { revision, ring, step });
                }
            }
            ahead.pass(self, at, rings);
        }
        self.settle(rings, now);
        advanced
    }

    /// What each ring waits for, of each revision that has something to wait for; the oldest first.
    pub fn outlook(&self, rings: &Rings, troubled: impl Fn(RevisionNumber, RingId) -> bool) -> Vec<Next> {
        let (mut coming, mut ahead) = (Vec::new(), Ahead::of_none(rings));
        for at in self.under_way() {
            let next = rings.iter().rev();
            coming.extend(next.filter_map(|(ring, _)| self.next_of(at, ring, rings, &ahead, &troubled)));
            ahead.pass(self, at, rings);
        }
        coming.reverse();
        coming
    }

    /// When there is something to do again; `None` for as long as nothing happens.
    pub fn next_change(&self, rings: &Rings, now: UnixMillis) -> Option<UnixMillis> {
        if self.halted.is_some() {
            return None;
        }
        let opens = self.outlook(rings, |_, _| false).into_iter().filter_map(|next| match next.waits {
            Waits::Until(due) => Some(due),
            _ => None,
        });
        let completes = self
            .under_way()
            .flat_map(|at| rings.iter().filter_map(move |(ring, _)| self.complete_itself(at, ring, rings)));
        opens.chain(completes).filter(|at| *at > now).min()
    }

    /// Has views stand still from `since` until `now`: what is under way goes on from where it was then. `now` may be
    /// before `since`, if the clock was set back.
    pub fn stood_still(&mut self, rings: &Rings, since: UnixMillis, now: UnixMillis) {
        for kept in &mut self.revisions {
            let Progress::Rings { since: began, open } = &mut kept.progress else { continue };
            *began += now - since.max(*began);
            for (name, steps) in open {
                let Some(ring) = rings.named(name).and_then(|ring| rings.get(ring)) else { continue };
                for opened in steps {
                    *opened = opened.interrupted(&opening(*opened, ring, rings), since, now);
                }
            }
        }
    }

    /// Goes on by the rings of another configuration: clients that have moved by `since` have at `now`, whatever the new
    /// windows and spreads. Without rings all is forgotten. Returns groups that were held or released and are gone.
    pub fn switch(
        &mut self,
        before: Option<&Rings>,
        after: Option<&Rings>,
        since: UnixMillis,
        now: UnixMillis,
    ) -> Vec<GroupId> {
        if let Some(before) = before.filter(|_| self.halted.is_none()) {
            self.stood_still(before, since, now);
        }
        let Some(after) = after else {
            self.clear();
            return Vec::new();
        };
        if let Some(before) = before {
            self.rename_rings(before, after);
        }
        self.forget_groups(after)
    }

    /// Has a ring that has another name by now go on from where it was: it is the one with a group in common.
    pub fn rename_rings(&mut self, before: &Rings, after: &Rings) {
        let gone = before.iter().filter(|(_, ring)| after.named(&ring.settings.name).is_none());
        for (_, was) in gone {
            let mut new = after.iter().filter(|(_, ring)| before.named(&ring.settings.name).is_none());
            let is = new.find(|(_, ring)| ring.groups.iter().any(|group| was.groups.contains(group)));
            let Some((_, is)) = is else { continue };
            for kept in &mut self.revisions {
                if let Progress::Rings { open, .. } = &mut kept.progress
                    && let Some(steps) = open.remove(&was.settings.name)
                {
                    open.entry(is.settings.name.clone()).or_insert(steps);
                }
                if let Some(trouble) = kept.troubled.remove(&was.settings.name) {
                    kept.troubled.insert(is.settings.name.clone(), trouble);
                }
            }
        }
    }

    /// Opens the next step of a ring now; whether there was one.
    pub(super) fn open(&mut self, at: usize, ring: RingId, rings: &Rings, now: UnixMillis) -> bool {
        let (Some(kept), Some(ring)) = (self.revisions.get_mut(at), rings.get(ring)) else { return false };
        let Progress::Rings { open, .. } = &mut kept.progress else { return false };
        let steps = open.entry(ring.settings.name.clone()).or_default();
        let is_left = steps.len() < ring.steps();
        if is_left {
            steps.push(Opened::at(now));
        }
        is_left
    }

    /// Marks revisions that every ring has come to the end of.
    pub(super) fn settle(&mut self, rings: &Rings, now: UnixMillis) {
        for at in 0..self.revisions.len() {
            if self.revisions[at].is_for_everyone() {
                continue;
            }
            let mut all = rings.iter().map(|(ring, _)| self.complete_itself(at, ring, rings));
            if all.all(|complete| complete.is_some_and(|complete| complete <= now)) {
                self.revisions[at].progress = Progress::Everyone { since: now };
            }
        }
        // What everyone sees needs no release any more once there is something newer: until then windows of groups, which
        // know nothing of rings, stay open for it.
        let base = self.revisions.iter().rev().find(|kept| kept.is_for_everyone());
        let base = base.map_or(RevisionNumber::NONE, |kept| kept.number);
        self.released.retain(|_, (released, _)| *released >= base);
    }

    /// When a ring is open to all of its clients, of this revision or of a newer one.
    pub(super) fn complete(&self, at: usize, ring: RingId, rings: &Rings) -> Option<UnixMillis> {
        (at..self.revisions.len()).filter_map(|at| self.complete_itself(at, ring, rings)).min()
    }

    /// How many steps of a ring are open, of this revision itself; all of them for everyone's.
    pub(super) fn steps_open(&self, at: usize, ring: &Ring) -> usize {
        match self.revisions.get(at).map(|kept| &kept.progress) {
            Some(Progress::Everyone { .. }) => ring.steps(),
            Some(Progress::Rings { open, .. }) => {
                open.get(&ring.settings.name).map_or(0, |steps| steps.len().min(ring.steps()))
            }
            None => 0,
        }
    }

    /// Places of the revisions that rings still move somebody to, the newest first: what is for everyone overtakes all before.
    fn under_way(&self) -> impl Iterator<Item = usize> + use<> {
        let base = self.revisions.iter().rposition(Kept::is_for_everyone).map_or(0, |base| base + 1);
        (base..self.revisions.len()).rev()
    }

    /// When a ring is open to all of its clients, of this revision itself.
    pub(super) fn complete_itself(&self, at: usize, ring: RingId, rings: &Rings) -> Option<UnixMillis> {
        let ring = rings.get(ring)?;
        match &self.revisions.get(at)?.progress {
            Progress::Everyone { .. } => Some(UnixMillis::MIN),
            Progress::Rings { open, .. } => {
                let steps = open.get(&ring.settings.name).filter(|steps| steps.len() >= ring.steps())?;
                let complete = |opened: &Opened| {
                    if opened.all { opened.at } else { opening(*opened, ring, rings).complete() }
                };
                steps.iter().map(complete).max()
            }
        }
    }

    fn next_of(
        &self,
        at: usize,
        ring: RingId,
        rings: &Rings,
        ahead: &Ahead,
        troubled: &impl Fn(RevisionNumber, RingId) -> bool,
    ) -> Option<Next> {
        let (kept, settings) = (self.revisions.get(at)?, &rings.get(ring)?.settings);
        let Progress::Rings { since, open } = &kept.progress else { return None };
        let opened = open.get(&settings.name).map_or(&[][..], Vec::as_slice);
        let step = opened.len();
        if step >= settings.steps.count() || ahead.rings.get(ring)?.open > step {
            return None;
        }
        let next = |waits| Some(Next { revision: kept.number, ring, step, waits });
        let (before, due) = match (opened.last(), settings.after) {
            (Some(last), _) => (Some(ring), last.since.saturating_add(millis(settings.step))),
            (None, _) if settings.gate == Gate::Manual => return next(Waits::Promotion),
            (None, None) => (None, since.saturating_add(millis(settings.delay))),
            (None, Some(before)) => match ahead.complete(self, at, before, rings) {
                Some(complete) => (Some(before), complete.saturating_add(millis(settings.delay))),
                None => return next(Waits::Before(before)),
            },
        };
        match before.filter(|_| settings.gate == Gate::Auto) {
            Some(before) if self.is_rolled_back(kept.number, before, rings) => {
                next(Waits::RolledBack(before))
            }
            Some(before) if troubled(kept.number, before) => next(Waits::Trouble(before)),
            _ => next(Waits::Until(due)),
        }
    }

    /// Whoever rolls the pilot back from a revision does not want it to go on by itself.
    fn is_rolled_back(&self, number: RevisionNumber, ring: RingId, rings: &Rings) -> bool {
        let from = |group| Some((self.held.get(group)?.0, *self.rolled_back.get(group)?));
        let is_it = |group| from(group).is_some_and(|(to, from)| to < number && number <= from);
        rings.get(ring).is_some_and(|ring| ring.groups.iter().any(is_it))
    }
}

/// How far each ring has come with whatever is newer than the revision that is looked at: so each is looked at once, of
/// a thousand too.
struct Ahead {
    rings: Vec<Reached>,
}

#[derive(Clone, Copy, Default)]
struct Reached {
    /// When it is open to all of its clients.
    complete: Option<UnixMillis>,
    /// Steps that are open.
    open: usize,
}

impl Ahead {
    fn of_none(rings: &Rings) -> Self {
        Self { rings: rings.iter().map(|_| Reached::default()).collect() }
    }

    /// Goes on to the revision before.
    fn pass(&mut self, state: &State, at: usize, rings: &Rings) {
        for (id, ring) in rings.iter() {
            let complete = self.complete(state, at, id, rings);
            if let Some(reached) = self.rings.get_mut(id) {
                *reached = Reached { complete, open: reached.open.max(state.steps_open(at, ring)) };
            }
        }
    }

    /// When a ring is open to all of its clients, of this revision or of a newer one.
    fn complete(&self, state: &State, at: usize, ring: RingId, rings: &Rings) -> Option<UnixMillis> {
        let newer = self.rings.get(ring).and_then(|reached| reached.complete);
        newer.into_iter().chain(state.complete_itself(at, ring, rings)).min()
    }
}

/// A step as its ring's windows and spread have it.
pub(super) fn opening(opened: Opened, ring: &Ring, rings: &Rings) -> Opening {
    Opening::new(opened, &ring.settings.windows, ring.settings.spread, rings.calendar())
}

fn millis(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}
