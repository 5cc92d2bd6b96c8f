//! Gates of rings: trouble that the clients of a ring have with a revision keeps the next step closed. Trouble outlasts
//! the revision's visibility: with a day's delay and three revisions a day, no client sees a revision any more when the
//! next ring is due. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::clients::Trouble;
use super::progress::no_trouble;
use super::revision::RevisionNumber;
use super::rings::{RingId, Rings};
use super::state::{RevisionProgress, RolloutState};
use gupd_config::clock::UnixMillis;

/// Trouble with a revision among the clients of a ring.
pub(crate) type Troubles = BTreeMap<(RevisionNumber, RingId), Trouble>;

impl RolloutState {
    /// Returns the revisions and rings whose clients decide on a pending step.
    pub(super) fn gate_dependencies(&self, rings: &Rings) -> BTreeSet<(RevisionNumber, RingId)> {
        let pending = self.pending_steps(rings, no_trouble);
        let gates = pending.iter().filter_map(|step| Some((step.id.revision, step.gate_ring(rings)?)));
        gates.filter(|(number, ring)| self.has_begun(*number, *ring, rings)).collect()
    }

    /// Records the trouble of clients; `should_close_gate` decides which trouble closes a gate. Trouble ends when clients that
    /// see the revision are well, but not because they see a newer one.
    pub(super) fn update_troubles(
        &mut self,
        rings: &Rings,
        now: &Troubles,
        should_close_gate: impl Fn(&Trouble) -> bool,
    ) {
        let mut newer: BTreeSet<RingId> = BTreeSet::new();
        for kept in self.revisions.iter_mut().rev() {
            let RevisionProgress::Rings { open, .. } = &kept.progress else { break };
            for (id, ring) in rings.iter() {
                let name = &ring.settings.name;
                match now.get(&(kept.number, id)) {
                    Some(trouble) if should_close_gate(trouble) => {
                        kept.troubles.entry(name.clone()).or_insert(*trouble);
                    }
                    Some(trouble) if trouble.clients > 0 && !newer.contains(&id) => {
                        kept.troubles.remove(name);
                    }
                    _ => {}
                }
                if open.get(name).is_some_and(|steps| !steps.is_empty()) {
                    newer.insert(id);
                }
            }
        }
    }

    /// Returns the trouble that holds back due steps.
    pub(super) fn blocking_troubles(&self, rings: &Rings, now: UnixMillis) -> Troubles {
        let pending = self.pending_steps(rings, no_trouble);
        let due = pending.iter().filter(|step| step.due().is_some_and(|due| due <= now));
        let gates = due.filter_map(|step| Some((step.id.revision, step.gate_ring(rings)?)));
        gates.filter_map(|gate| Some((gate, self.known_trouble(gate, rings)?))).collect()
    }

    /// Returns the trouble with a revision in a ring when it was last known.
    fn known_trouble(&self, (number, ring): (RevisionNumber, RingId), rings: &Rings) -> Option<Trouble> {
        let kept = self.revisions.iter().find(|kept| kept.number == number)?;
        kept.troubles.get(&rings.get(ring)?.settings.name).copied()
    }

    fn has_begun(&self, number: RevisionNumber, ring: RingId, rings: &Rings) -> bool {
        let at = self.revisions.iter().position(|kept| kept.number == number);
        at.zip(rings.get(ring)).is_some_and(|(at, ring)| self.open_steps(at, ring) > 0)
    }
}
