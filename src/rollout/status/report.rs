//! Reports on the rollouts in force. Pure functions of a snapshot, the counts of clients, and the time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{
    ClientCounts, GroupStatus, MAX_HASHES, Obstacle, PinnedRevision, RevisionStatus, RingProgress,
    RingStatus, Status, UpcomingStep, UtcTime, ViewStatus,
};
use crate::gate::Troubles;
use crate::progress::{PendingStep, StepCondition};
use crate::revision::{Catalog, Revision, RevisionNumber};
use crate::rings::{Ring, RingId, Rings};
use crate::schedule::{OpenedStep, StepSchedule};
use crate::state::{RevisionProgress, RolloutState};
use crate::view::RevisionView;
use gupd_config::clock::UnixMillis;
use gupd_config::{GroupId, RolloutSettings, Steps};
use gupd_store::ObjectKey;

/// The rollouts in force.
#[derive(Debug)]
pub struct RolloutSnapshot {
    /// Their state.
    pub state: Arc<RolloutState>,
    /// The rings; `None` without any.
    pub rings: Option<Arc<Rings>>,
    /// The settings.
    pub settings: RolloutSettings,
    /// Number of kept payloads by revision.
    pub payloads: BTreeMap<RevisionNumber, u64>,
    /// Trouble that keeps the step after a ring closed.
    pub troubles: Troubles,
}

/// Counts of clients by group.
type CountsByGroup = BTreeMap<GroupId, ClientCounts>;

impl Status {
    /// Reports on a snapshot with these rings; `hashes` includes those of catalogs.
    pub fn new(
        snapshot: &RolloutSnapshot,
        rings: &Rings,
        clients: &CountsByGroup,
        hashes: bool,
        now: UnixMillis,
    ) -> Self {
        let (state, mut all_clients) = (&*snapshot.state, ClientCounts::default());
        clients.values().for_each(|group| all_clients.add(group));
        let ring = |(id, ring): (RingId, &Arc<Ring>)| RingStatus {
            name: ring.settings.name.clone(),
            after: ring.settings.after.map(|after| rings.name_of(after).to_owned()),
            gate: ring.settings.gate,
            groups: ring.groups.clone(),
            sees: state.visible_in_ring(id, ring, rings, now),
            clients: count_groups(clients, &ring.groups),
        };
        Self {
            time: UtcTime(now),
            halted: state.halted.map(UtcTime),
            revisions: revisions(snapshot, &all_clients, hashes),
            rings: rings.iter().map(ring).collect(),
            next: upcoming_steps(snapshot, rings, now),
            groups: groups(state, rings, clients, now),
            clients: all_clients,
        }
    }
}

impl ViewStatus {
    /// Reports on a client of this group; `None` before the first revision.
    pub fn for_client(view: &RevisionView, group: &str, client: IpAddr, now: UnixMillis) -> Option<Self> {
        let (visible, newest) = (view.visible_revision(group, client, now)?, view.newest()?);
        let next = view.next_visible(group, client, now);
        Some(Self {
            revision: visible.number,
            published: UtcTime(visible.published),
            newest: newest.number,
            next: next.map(|(revision, _)| revision),
            at: next.map(|(_, at)| UtcTime(at)),
        })
    }
}

fn count_groups(clients: &CountsByGroup, groups: &[GroupId]) -> ClientCounts {
    let mut counts = ClientCounts::default();
    groups.iter().filter_map(|group| clients.get(group)).for_each(|group| counts.add(group));
    counts
}

fn revisions(snapshot: &RolloutSnapshot, clients: &ClientCounts, hashes: bool) -> Vec<RevisionStatus> {
    let (state, mut room) = (&*snapshot.state, if hashes { MAX_HASHES } else { 0 });
    let each = state.revisions.iter().enumerate().rev().filter_map(|(at, kept)| {
        let revision = kept.revision.as_ref()?;
        let before = at.checked_sub(1).and_then(|at| state.revisions.get(at)?.revision.as_deref());
        let present = revision.catalogs.values().filter(|catalog| catalog.blob().is_some()).count();
        let has_room = hashes && revision.catalogs.len() <= room;
        // Once a revision finds no room, the older ones are left out as well.
        room = if has_room { room - revision.catalogs.len() } else { 0 };
        let names = state.names.iter().filter(|(_, number)| **number == kept.number);
        Some(RevisionStatus {
            number: kept.number,
            published: UtcTime(revision.published),
            names: names.map(|(name, _)| name.clone()).collect(),
            everyone: kept.is_for_everyone(),
            present,
            absent: revision.catalogs.len() - present,
            changed: before.map(|before| count_changed(before, revision)),
            announced: before.map(|before| count_announced(before, revision)),
            kept: snapshot.payloads.get(&kept.number).copied().unwrap_or(0),
            gone: kept.evicted.payloads,
            clients: clients.revisions.get(&kept.number).copied().unwrap_or(0),
            catalogs: has_room.then(|| catalog_hashes(revision)),
        })
    });
    each.collect()
}

fn count_changed(before: &Revision, revision: &Revision) -> usize {
    let blob = |of: &Revision, key| of.catalogs.get(key).map(|catalog: &Catalog| catalog.blob());
    let new = revision.catalogs.keys().filter(|key| blob(before, *key) != blob(revision, *key)).count();
    new + before.catalogs.keys().filter(|key| !revision.catalogs.contains_key(*key)).count()
}

fn count_announced(before: &Revision, revision: &Revision) -> usize {
    let sequences = revision.sequences.iter();
    sequences.filter(|(series, number)| before.sequences.get(*series) != Some(*number)).count()
}

fn catalog_hashes(revision: &Revision) -> BTreeMap<ObjectKey, Option<String>> {
    let hash = |catalog: &Catalog| catalog.blob().map(|blob| blob.to_string());
    revision.catalogs.iter().map(|(key, catalog)| (key.clone(), hash(catalog))).collect()
}

impl RolloutState {
    /// Returns the revisions visible to a ring's clients, the newest first, down to one that all of them see.
    fn visible_in_ring(&self, id: RingId, ring: &Ring, rings: &Rings, now: UnixMillis) -> Vec<RingProgress> {
        let mut visible = Vec::new();
        for at in (0..self.revisions.len()).rev() {
            let progress = self.ring_progress(at, id, ring, rings, now);
            let is_complete = progress.moved >= 1.0;
            if progress.open > 0 {
                visible.push(progress);
            }
            if is_complete {
                break;
            }
        }
        visible
    }

    fn ring_progress(
        &self,
        at: usize,
        id: RingId,
        ring: &Ring,
        rings: &Rings,
        now: UnixMillis,
    ) -> RingProgress {
        let (now, steps) = (self.halted.unwrap_or(now), ring.step_count());
        let revision = self.revisions[at].number;
        let RevisionProgress::Rings { open, .. } = &self.revisions[at].progress else {
            return RingProgress { revision, open: steps, steps, moved: 1.0, complete: None };
        };
        let opened = open.get(&ring.settings.name).map_or(&[][..], Vec::as_slice);
        let parts = opened.iter().zip(step_parts(&ring.settings.steps));
        let moved: f64 =
            parts.map(|(step, part)| StepSchedule::for_ring(*step, ring, rings).moved(now) * part).sum();
        let complete =
            self.completion_since(at, id, rings).filter(|_| opened.len() >= steps && self.halted.is_none());
        RingProgress {
            revision,
            open: opened.len().min(steps),
            steps,
            // The sum of fractions may miss 1 by a rounding error.
            moved: if moved > 1.0 - 1e-9 { 1.0 } else { moved },
            complete: complete.filter(|at| *at > UnixMillis::MIN).map(UtcTime),
        }
    }
}

/// Returns the part of a ring's clients that each step moves.
fn step_parts(steps: &Steps) -> Vec<f64> {
    match steps {
        Steps::All => vec![1.0],
        Steps::Shares(shares) => {
            let before = std::iter::once(0).chain(shares.iter().copied());
            shares.iter().zip(before).map(|(share, before)| f64::from(share - before) / 100.0).collect()
        }
        Steps::Subnets(subnets) => vec![1.0 / subnets.len() as f64; subnets.len()],
    }
}

fn upcoming_steps(snapshot: &RolloutSnapshot, rings: &Rings, now: UnixMillis) -> Vec<UpcomingStep> {
    let (state, troubles) = (&snapshot.state, &snapshot.troubles);
    let pending = state.pending_steps(rings, |revision, ring| troubles.contains_key(&(revision, ring)));
    let upcoming = |pending: PendingStep| {
        let (id, ring) = (pending.id, rings.get(pending.id.ring)?);
        let obstacle = match pending.condition {
            _ if state.halted.is_some() => {
                Some((Obstacle::Halt, "halted; gupd rollout resume ends that".to_owned()))
            }
            StepCondition::Before(before) => {
                Some((Obstacle::Ring, format!("waits for ring {}", rings.name_of(before))))
            }
            StepCondition::Promotion => {
                Some((Obstacle::Promotion, format!("waits for gupd rollout promote {}", ring.settings.name)))
            }
            StepCondition::Trouble(gate) => {
                let trouble = troubles.get(&(id.revision, gate)).map(ToString::to_string);
                let trouble = trouble.unwrap_or_default();
                Some((Obstacle::Trouble, format!("ring {} has trouble: {trouble}", rings.name_of(gate))))
            }
            StepCondition::RolledBack(gate) => {
                let ring = rings.name_of(gate);
                Some((
                    Obstacle::Trouble,
                    format!("ring {ring} was rolled back from it, until that is released"),
                ))
            }
            StepCondition::Until(_) => None,
        };
        let opens = pending.due().filter(|_| obstacle.is_none()).map(|due| due.max(now));
        let schedule = opens.map(|opens| StepSchedule::for_ring(OpenedStep::now(opens), ring, rings));
        Some(UpcomingStep {
            revision: id.revision,
            ring: ring.settings.name.clone(),
            step: id.step + 1,
            steps: ring.step_count(),
            opens: opens.map(UtcTime),
            begins: schedule.as_ref().map(|schedule| UtcTime(schedule.scheduled_start(0))),
            complete: schedule.map(|schedule| UtcTime(schedule.completion())),
            obstacle: obstacle.as_ref().map(|(kind, _)| *kind),
            blocked: obstacle.map(|(_, words)| words),
        })
    };
    pending.into_iter().filter_map(upcoming).collect()
}

fn groups(state: &RolloutState, rings: &Rings, clients: &CountsByGroup, now: UnixMillis) -> Vec<GroupStatus> {
    let view = state.view(rings, now);
    let pinned = |(revision, since): &(RevisionNumber, UnixMillis)| PinnedRevision {
        revision: *revision,
        since: UtcTime(*since),
    };
    let status = |ring: &Arc<Ring>, name: &GroupId| GroupStatus {
        name: name.clone(),
        ring: ring.settings.name.clone(),
        held: state.held.get(name).map(pinned),
        released: state.released.get(name).map(pinned),
        newest: view.newest_in_group(name),
        clients: clients.get(name).cloned().unwrap_or_default(),
    };
    rings.iter().flat_map(|(_, ring)| ring.groups.iter().map(|name| status(ring, name))).collect()
}

#[cfg(test)]
mod tests;
