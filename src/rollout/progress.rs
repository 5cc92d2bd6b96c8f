//! Progress of rollouts: the next step of each ring for a revision, the condition it waits for, and its opening. This
//! file owns the rules of delay, gate and trouble. A newer revision that has come as far overtakes an older one, which
//! then waits for nothing more. A step opens at the time of the call: after a month of downtime one step opens at a
//! time.

use std::time::Duration;

use super::revision::RevisionNumber;
use super::rings::{Ring, RingId, Rings};
use super::schedule::{OpenedStep, StepSchedule};
use super::state::{KeptRevision, RevisionProgress, RolloutState};
use gupd_config::clock::UnixMillis;
use gupd_config::{Gate, GroupId};

/// A step of a ring for one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepId {
    /// The revision.
    pub revision: RevisionNumber,
    /// The ring.
    pub ring: RingId,
    /// The step, from 0.
    pub step: usize,
}

/// A step that is not open yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingStep {
    /// The step.
    pub id: StepId,
    /// The condition it waits for.
    pub condition: StepCondition,
}

/// Condition that a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepCondition {
    /// The ring before must be complete, and it is not known when it will be.
    Before(RingId),
    /// This time must come.
    Until(UnixMillis),
    /// An administrator must promote the ring.
    Promotion,
    /// The clients of this ring must recover from trouble with the revision.
    Trouble(RingId),
    /// The rollback of a group of this ring from the revision must end.
    RolledBack(RingId),
}

/// Predicate for callers that ignore trouble: always false.
pub(super) fn no_trouble(_: RevisionNumber, _: RingId) -> bool {
    false
}

impl PendingStep {
    /// Returns when the step may open, if only time is missing.
    pub fn due(&self) -> Option<UnixMillis> {
        match self.condition {
            StepCondition::Until(due) => Some(due),
            _ => None,
        }
    }

    /// Returns the ring whose clients decide on the step: the one before, or the ring itself for a further step.
    pub fn gate_ring(&self, rings: &Rings) -> Option<RingId> {
        let settings = &rings.get(self.id.ring)?.settings;
        match (self.id.step, settings.gate) {
            (_, Gate::Manual) => None,
            (0, Gate::Auto) => settings.after,
            (_, Gate::Auto) => Some(self.id.ring),
        }
    }
}

impl RolloutState {
    /// Opens every due step without trouble in its gate ring. Nothing opens during a halt.
    pub fn advance(
        &mut self,
        rings: &Rings,
        now: UnixMillis,
        has_trouble: impl Fn(RevisionNumber, RingId) -> bool,
    ) -> Vec<StepId> {
        let mut opened = Vec::new();
        if self.halted.is_some() {
            return opened;
        }
        let (order, mut newer) = (rings.dependency_order(), Lookahead::new(rings, has_trouble));
        // The newest first: an older revision need not open what a newer one has opened.
        for at in self.under_way() {
            for ring in order.iter().copied() {
                while let Some(step) = newer.pending_step(self, at, ring)
                    && step.due().is_some_and(|due| due <= now)
                    && self.open_step(at, ring, rings, now)
                {
                    opened.push(step.id);
                }
            }
            newer.include(self, at);
        }
        self.settle(rings, now);
        opened
    }

    /// Returns the next step of each ring for each revision that has one, the oldest revision first.
    pub fn pending_steps(
        &self,
        rings: &Rings,
        has_trouble: impl Fn(RevisionNumber, RingId) -> bool,
    ) -> Vec<PendingStep> {
        let (mut pending, mut newer) = (Vec::new(), Lookahead::new(rings, has_trouble));
        for at in self.under_way() {
            pending.extend(rings.iter().rev().filter_map(|(ring, _)| newer.pending_step(self, at, ring)));
            newer.include(self, at);
        }
        pending.reverse();
        pending
    }

    /// Returns when a step opens or completes next; `None` if no such time is known.
    pub fn next_change(&self, rings: &Rings, now: UnixMillis) -> Option<UnixMillis> {
        if self.halted.is_some() {
            return None;
        }
        let opens = self.pending_steps(rings, no_trouble).into_iter().filter_map(|step| step.due());
        let completes = self
            .under_way()
            .flat_map(|at| rings.iter().filter_map(move |(ring, _)| self.completion_of(at, ring, rings)));
        opens.chain(completes).filter(|at| *at > now).min()
    }

    /// Shifts the running steps so that views at `now` equal those at `since`. `now` may be before `since`
    /// if the clock was set back.
    pub fn resume_from(&mut self, rings: &Rings, since: UnixMillis, now: UnixMillis) {
        for kept in &mut self.revisions {
            let RevisionProgress::Rings { since: began, open } = &mut kept.progress else { continue };
            *began += now - since.max(*began);
            for (name, steps) in open {
                let Some(ring) = rings.find(name).and_then(|ring| rings.get(ring)) else { continue };
                for step in steps {
                    *step = step.resumed(&StepSchedule::for_ring(*step, ring, rings), since, now);
                }
            }
        }
    }

    /// Replaces the rings by those of another configuration: exactly the clients that have moved by `since` have moved
    /// at `now`, whatever the new windows and spreads. Without rings the state is cleared. Returns groups that were
    /// held or released and no longer exist.
    pub fn replace_rings(
        &mut self,
        before: Option<&Rings>,
        after: Option<&Rings>,
        since: UnixMillis,
        now: UnixMillis,
    ) -> Vec<GroupId> {
        if let Some(before) = before.filter(|_| self.halted.is_none()) {
            self.resume_from(before, since, now);
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

    /// Keeps the progress of a ring that has another name by now: the new ring that shares a group with it.
    fn rename_rings(&mut self, before: &Rings, after: &Rings) {
        let removed = before.iter().filter(|(_, ring)| after.find(&ring.settings.name).is_none());
        for (_, old) in removed {
            let mut added = after.iter().filter(|(_, ring)| before.find(&ring.settings.name).is_none());
            let renamed = added.find(|(_, ring)| ring.groups.iter().any(|group| old.groups.contains(group)));
            let Some((_, new)) = renamed else { continue };
            for kept in &mut self.revisions {
                if let RevisionProgress::Rings { open, .. } = &mut kept.progress
                    && let Some(steps) = open.remove(&old.settings.name)
                {
                    open.entry(new.settings.name.clone()).or_insert(steps);
                }
                if let Some(trouble) = kept.troubles.remove(&old.settings.name) {
                    kept.troubles.insert(new.settings.name.clone(), trouble);
                }
            }
        }
    }

    /// Opens the next step of a ring now. Returns false if there is none.
    pub(super) fn open_step(&mut self, at: usize, ring: RingId, rings: &Rings, now: UnixMillis) -> bool {
        let (Some(kept), Some(ring)) = (self.revisions.get_mut(at), rings.get(ring)) else { return false };
        let RevisionProgress::Rings { open, .. } = &mut kept.progress else { return false };
        let steps = open.entry(ring.settings.name.clone()).or_default();
        let is_left = steps.len() < ring.step_count();
        if is_left {
            steps.push(OpenedStep::now(now));
        }
        is_left
    }

    /// Marks revisions that are complete in every ring as being for everyone.
    pub(super) fn settle(&mut self, rings: &Rings, now: UnixMillis) {
        for at in 0..self.revisions.len() {
            if self.revisions[at].is_for_everyone() {
                continue;
            }
            let mut all = rings.iter().map(|(ring, _)| self.completion_of(at, ring, rings));
            if all.all(|complete| complete.is_some_and(|complete| complete <= now)) {
                self.revisions[at].progress = RevisionProgress::Everyone { since: now };
            }
        }
        // A release lasts until a newer revision is for everyone. Until then it keeps the windows of groups open, which
        // do not depend on rings.
        let base = self.revisions.iter().rfind(|kept| kept.is_for_everyone());
        let base = base.map_or(RevisionNumber::NONE, |kept| kept.number);
        self.released.retain(|_, (released, _)| *released >= base);
    }

    /// Returns when a ring is complete for this revision or a newer one.
    pub(super) fn completion_since(&self, at: usize, ring: RingId, rings: &Rings) -> Option<UnixMillis> {
        (at..self.revisions.len()).filter_map(|at| self.completion_of(at, ring, rings)).min()
    }

    /// Returns when a ring is complete for this very revision.
    pub(super) fn completion_of(&self, at: usize, ring: RingId, rings: &Rings) -> Option<UnixMillis> {
        let ring = rings.get(ring)?;
        match &self.revisions.get(at)?.progress {
            RevisionProgress::Everyone { .. } => Some(UnixMillis::MIN),
            RevisionProgress::Rings { open, .. } => {
                let steps = open.get(&ring.settings.name).filter(|steps| steps.len() >= ring.step_count())?;
                let completion = |step: &OpenedStep| {
                    if step.all { step.at } else { StepSchedule::for_ring(*step, ring, rings).completion() }
                };
                steps.iter().map(completion).max()
            }
        }
    }

    /// Counts the open steps of a ring for this very revision; all steps if it is for everyone.
    pub(super) fn open_steps(&self, at: usize, ring: &Ring) -> usize {
        match self.revisions.get(at).map(|kept| &kept.progress) {
            Some(RevisionProgress::Everyone { .. }) => ring.step_count(),
            Some(RevisionProgress::Rings { open, .. }) => {
                open.get(&ring.settings.name).map_or(0, |steps| steps.len().min(ring.step_count()))
            }
            None => 0,
        }
    }

    /// Positions of the revisions that rings still move clients to, the newest first. A revision for everyone overtakes
    /// all older ones.
    fn under_way(&self) -> impl Iterator<Item = usize> + use<> {
        let base = self.revisions.iter().rposition(KeptRevision::is_for_everyone).map_or(0, |base| base + 1);
        (base..self.revisions.len()).rev()
    }

    /// Returns true if a group of this ring was rolled back from the revision.
    fn is_rolled_back(&self, number: RevisionNumber, ring: RingId, rings: &Rings) -> bool {
        let range = |group| Some((self.held.get(group)?.0, *self.rolled_back.get(group)?));
        let has_left = |group| range(group).is_some_and(|(to, from)| to < number && number <= from);
        rings.get(ring).is_some_and(|ring| ring.groups.iter().any(has_left))
    }
}

/// How far each ring has come with newer revisions than the one at hand. With it each revision is visited once.
struct Lookahead<'a, F> {
    rings: &'a Rings,
    has_trouble: F,
    newer: Vec<RingReach>,
}

/// How far a ring has come.
#[derive(Clone, Copy, Default)]
struct RingReach {
    complete: Option<UnixMillis>,
    open_steps: usize,
}

impl<'a, F: Fn(RevisionNumber, RingId) -> bool> Lookahead<'a, F> {
    fn new(rings: &'a Rings, has_trouble: F) -> Self {
        Self { rings, has_trouble, newer: rings.iter().map(|_| RingReach::default()).collect() }
    }

    /// Counts a revision as newer.
    fn include(&mut self, state: &RolloutState, at: usize) {
        for (id, ring) in self.rings.iter() {
            let complete = self.completion(state, at, id);
            if let Some(reach) = self.newer.get_mut(id) {
                let open_steps = reach.open_steps.max(state.open_steps(at, ring));
                *reach = RingReach { complete, open_steps };
            }
        }
    }

    /// Returns when a ring is complete for this revision or a newer one.
    fn completion(&self, state: &RolloutState, at: usize, ring: RingId) -> Option<UnixMillis> {
        let newer = self.newer.get(ring).and_then(|reach| reach.complete);
        newer.into_iter().chain(state.completion_of(at, ring, self.rings)).min()
    }

    /// Returns the next step of a ring for a revision, unless a newer one has come further.
    fn pending_step(&self, state: &RolloutState, at: usize, ring: RingId) -> Option<PendingStep> {
        let (kept, settings) = (state.revisions.get(at)?, &self.rings.get(ring)?.settings);
        let RevisionProgress::Rings { since, open } = &kept.progress else { return None };
        let opened = open.get(&settings.name).map_or(&[][..], Vec::as_slice);
        let step = opened.len();
        if step >= settings.steps.count() || self.newer.get(ring)?.open_steps > step {
            return None;
        }
        let id = StepId { revision: kept.number, ring, step };
        let pending = |condition| Some(PendingStep { id, condition });
        let (gate, due) = match (opened.last(), settings.after) {
            (Some(last), _) => (Some(ring), last.since.saturating_add(millis(settings.step))),
            (None, _) if settings.gate == Gate::Manual => return pending(StepCondition::Promotion),
            (None, None) => (None, since.saturating_add(millis(settings.delay))),
            (None, Some(before)) => match self.completion(state, at, before) {
                Some(complete) => (Some(before), complete.saturating_add(millis(settings.delay))),
                None => return pending(StepCondition::Before(before)),
            },
        };
        pending(match gate.filter(|_| settings.gate == Gate::Auto) {
            Some(gate) if state.is_rolled_back(kept.number, gate, self.rings) => {
                StepCondition::RolledBack(gate)
            }
            Some(gate) if (self.has_trouble)(kept.number, gate) => StepCondition::Trouble(gate),
            _ => StepCondition::Until(due),
        })
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}
