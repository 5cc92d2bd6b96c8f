//! The state of rollouts as an administrator is told of it. Pure: made of the state, the rings, the time, and of what is
//! known beside the state.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::advance::{Next, Waits, opening};
use super::super::moment::Opened;
use super::super::revision::{Catalog, Revision, RevisionNumber};
use super::super::rings::{Ring, RingId, Rings};
use super::super::state::{Progress, State};
use super::super::views::Views;
use super::{
    At, Clients, Fixed, GroupStatus, MAX_HASHES, RevisionStatus, RingStatus, Seen, Status, Upcoming,
    ViewStatus,
};
use gupd_config::GroupId;
use gupd_config::Steps;
use gupd_config::clock::UnixMillis;
use gupd_store::ObjectKey;

/// What is known of rollouts beside their state.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// Trouble in words that keeps what comes after a ring from opening, of a revision.
    pub trouble: &'a dyn Fn(RevisionNumber, RingId) -> Option<String>,
    /// Payloads that are kept for a revision.
    pub kept: &'a dyn Fn(RevisionNumber) -> u64,
    /// Clients by group.
    pub clients: &'a BTreeMap<GroupId, Clients>,
}

impl Status {
    /// How things are now; with the catalogs' hashes if `hashes` says so.
    pub fn of(state: &State, rings: &Rings, beside: Beside<'_>, hashes: bool, now: UnixMillis) -> Self {
        let mut clients = Clients::default();
        beside.clients.values().for_each(|group| clients.add(group));
        Self {
            time: At(now),
            halted: state.halted.map(At),
            revisions: revisions(state, beside, &clients, hashes),
            rings: rings
                .iter()
                .map(|(id, ring)| RingStatus::of(state, rings, id, ring, beside, now))
                .collect(),
            next: upcoming(state, rings, beside, now),
            groups: groups(state, rings, beside, now),
            clients,
        }
    }
}

impl ViewStatus {
    /// What a client of this group sees; `None` before there is a revision.
    pub fn of(views: &Views, group: &str, client: IpAddr, now: UnixMillis) -> Option<Self> {
        let (sees, newest) = (views.of(group, client, now)?, views.newest()?);
        let next = views.comes_next(group, client, now);
        Some(Self {
            revision: sees.number,
            published: At(sees.published),
            newest: newest.number,
            next: next.map(|(revision, _)| revision),
            at: next.map(|(_, at)| At(at)),
        })
    }
}

fn revisions(state: &State, beside: Beside<'_>, clients: &Clients, hashes: bool) -> Vec<RevisionStatus> {
    let mut room = if hashes { MAX_HASHES } else { 0 };
    let each = state.revisions.iter().enumerate().rev().filter_map(|(at, kept)| {
        let revision = kept.revision.as_ref()?;
        let before = at.checked_sub(1).and_then(|at| state.revisions.get(at)?.revision.as_deref());
        let present = revision.catalogs.values().filter(|catalog| catalog.blob().is_some()).count();
        let is_told = hashes && revision.catalogs.len() <= room;
        // Those before the first that finds no room are not told of either.
        room = if is_told { room - revision.catalogs.len() } else { 0 };
        let names = state.names.iter().filter(|(_, number)| **number == kept.number);
        Some(RevisionStatus {
            number: kept.number,
            published: At(revision.published),
            names: names.map(|(name, _)| name.clone()).collect(),
            everyone: kept.is_for_everyone(),
            present,
            absent: revision.catalogs.len() - present,
            changed: before.map(|before| changed(before, revision)),
            announced: before.map(|before| announced(before, revision)),
            kept: (beside.kept)(kept.number),
            gone: kept.gone.payloads,
            clients: clients.revisions.get(&kept.number).copied().unwrap_or(0),
            catalogs: is_told.then(|| hashes_of(revision)),
        })
    });
    each.collect()
}

fn changed(before: &Revision, revision: &Revision) -> usize {
    let blob = |of: &Revision, key| of.catalogs.get(key).map(|catalog: &Catalog| catalog.blob());
    let new = revision.catalogs.keys().filter(|key| blob(before, *key) != blob(revision, *key)).count();
    new + before.catalogs.keys().filter(|key| !revision.catalogs.contains_key(*key)).count()
}

fn announced(before: &Revision, revision: &Revision) -> usize {
    revision
        .sequences
        .iter()
        .filter(|(series, number)| before.sequences.get(*series) != Some(*number))
        .count()
}

fn hashes_of(revision: &Revision) -> BTreeMap<ObjectKey, Option<String>> {
    let hash = |catalog: &Catalog| catalog.blob().map(|blob| blob.to_string());
    revision.catalogs.iter().map(|(key, catalog)| (key.clone(), hash(catalog))).collect()
}

impl RingStatus {
    fn of(
        state: &State,
        rings: &Rings,
        id: RingId,
        ring: &Ring,
        beside: Beside<'_>,
        now: UnixMillis,
    ) -> Self {
        let mut clients = Clients::default();
        let of_groups = ring.groups.iter().filter_map(|group| beside.clients.get(group));
        of_groups.for_each(|group| clients.add(group));
        let mut sees = Vec::new();
        for at in (0..state.revisions.len()).rev() {
            let seen = state.seen(at, id, ring, rings, now);
            let is_all = seen.moved >= 1.0;
            if seen.open > 0 {
                sees.push(seen);
            }
            if is_all {
                break;
            }
        }
        let after = ring.settings.after.and_then(|after| rings.get(after));
        Self {
            name: ring.settings.name.clone(),
            after: after.map(|after| after.settings.name.clone()),
            gate: ring.settings.gate.into(),
            groups: ring.groups.clone(),
            sees,
            clients,
        }
    }
}

impl State {
    /// How far a revision has come in a ring.
    fn seen(&self, at: usize, id: RingId, ring: &Ring, rings: &Rings, now: UnixMillis) -> Seen {
        let (now, steps) = (self.halted.unwrap_or(now), ring.steps());
        let revision = self.revisions[at].number;
        let Progress::Rings { open, .. } = &self.revisions[at].progress else {
            return Seen { revision, open: steps, steps, moved: 1.0, complete: None };
        };
        let opened = open.get(&ring.settings.name).map_or(&[][..], Vec::as_slice);
        let parts = opened.iter().zip(parts(&ring.settings.steps));
        let moved: f64 = parts.map(|(opened, part)| opening(*opened, ring, rings).moved(now) * part).sum();
        let complete =
            self.complete(at, id, rings).filter(|_| opened.len() >= steps && self.halted.is_none());
        Seen {
            revision,
            open: opened.len().min(steps),
            steps,
            // What is left of adding fractions.
            moved: if moved > 1.0 - 1e-9 { 1.0 } else { moved },
            complete: complete.filter(|at| *at > UnixMillis::MIN).map(At),
        }
    }
}

/// The part of a ring's clients that each step moves.
fn parts(steps: &Steps) -> Vec<f64> {
    match steps {
        Steps::All => vec![1.0],
        Steps::Shares(shares) => {
            let before = std::iter::once(0).chain(shares.iter().copied());
            shares.iter().zip(before).map(|(share, before)| f64::from(share - before) / 100.0).collect()
        }
        Steps::Subnets(subnets) => vec![1.0 / subnets.len() as f64; subnets.len()],
    }
}

fn upcoming(state: &State, rings: &Rings, beside: Beside<'_>, now: UnixMillis) -> Vec<Upcoming> {
    let outlook = state.outlook(rings, |revision, ring| (beside.trouble)(revision, ring).is_some());
    let name = |ring: RingId| rings.get(ring).map_or("", |ring| ring.settings.name.as_str());
    let told = |Next { revision, ring: id, step, waits }: Next| {
        let ring = rings.get(id)?;
        let blocked = match (&waits, state.halted) {
            (_, Some(_)) => Some("halted; gupd rollout resume ends that".to_owned()),
            (Waits::Before(before), _) => Some(format!("waits for ring {}", name(*before))),
            (Waits::Promotion, _) => Some(format!("waits for gupd rollout promote {}", name(id))),
            (Waits::Trouble(of), _) => {
                let trouble = (beside.trouble)(revision, *of).unwrap_or_default();
                Some(format!("ring {} has trouble: {trouble}", name(*of)))
            }
            (Waits::RolledBack(of), _) => {
                Some(format!("ring {} was rolled back from it, until that is released", name(*of)))
            }
            (Waits::Until(_), None) => None,
        };
        let opens = match waits {
            Waits::Until(due) if blocked.is_none() => Some(due.max(now)),
            _ => None,
        };
        let then = opens.map(|opens| opening(Opened::at(opens), ring, rings));
        Some(Upcoming {
            revision,
            ring: ring.settings.name.clone(),
            step: step + 1,
            steps: ring.steps(),
            opens: opens.map(At),
            begins: then.as_ref().map(|opening| At(opening.moment(0))),
            complete: then.map(|opening| At(opening.complete())),
            blocked,
        })
    };
    outlook.into_iter().filter_map(told).collect()
}

fn groups(state: &State, rings: &Rings, beside: Beside<'_>, now: UnixMillis) -> Vec<GroupStatus> {
    let views = state.views(rings, now);
    let fixed =
        |(revision, since): &(RevisionNumber, UnixMillis)| Fixed { revision: *revision, since: At(*since) };
    let told = |ring: &Arc<Ring>, name: &GroupId| GroupStatus {
        name: name.clone(),
        ring: ring.settings.name.clone(),
        held: state.held.get(name).map(fixed),
        released: state.released.get(name).map(fixed),
        newest: views.newest_of(name),
        clients: beside.clients.get(name).cloned().unwrap_or_default(),
    };
    rings.iter().flat_map(|(_, ring)| ring.groups.iter().map(|name| told(ring, name))).collect()
}

#[cfg(test)]
mod tests;
