//! Trouble that the clients of a ring have had with a revision, which keeps the next step closed. It is not forgotten when
//! a newer revision becomes visible to the same clients: with a day's delay and three revisions a day, no client sees a
//! revision any more when the next ring is due. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::clients::Trouble;
use super::revision::RevisionNumber;
use super::rings::{RingId, Rings};
use super::state::{Progress, State};

/// Trouble with a revision among the clients of a ring.
pub(super) type Troubles = BTreeMap<(RevisionNumber, RingId), Trouble>;

impl State {
    /// Returns the revisions and rings whose clients decide whether a step to come may open.
    pub(super) fn watched(&self, rings: &Rings) -> BTreeSet<(RevisionNumber, RingId)> {
        let coming = self.outlook(rings, |_, _| false);
        let follows = coming.iter().filter_map(|next| Some((next.revision, next.follows(rings)?)));
        follows.filter(|(number, ring)| self.has_begun(*number, *ring, rings)).collect()
    }

    /// Applies the trouble that clients have now; `is_trouble` says which of it holds a gate. Trouble ends when clients
    /// that see the revision are well, but not because they see a newer one.
    pub(super) fn update_troubles(
        &mut self,
        rings: &Rings,
        now: &Troubles,
        is_trouble: impl Fn(&Trouble) -> bool,
    ) {
        let mut newer: BTreeSet<RingId> = BTreeSet::new();
        for kept in self.revisions.iter_mut().rev() {
            let Progress::Rings { open, .. } = &kept.progress else { break };
            for (ring, settings) in rings.iter() {
                let name = &settings.settings.name;
                match now.get(&(kept.number, ring)) {
                    Some(trouble) if is_trouble(trouble) => {
                        kept.troubled.entry(name.clone()).or_insert(*trouble);
                    }
                    Some(trouble) if trouble.clients > 0 && !newer.contains(&ring) => {
                        kept.troubled.remove(name);
                    }
                    _ => {}
                }
                if open.get(name).is_some_and(|steps| !steps.is_empty()) {
                    newer.insert(ring);
                }
            }
        }
    }

    /// Returns the trouble that there is, or was when it was last known.
    pub(super) fn troubles(&self, rings: &Rings) -> Troubles {
        let each = self.revisions.iter().flat_map(|kept| {
            let known = kept.troubled.iter();
            known.filter_map(|(name, trouble)| Some(((kept.number, rings.named(name)?), *trouble)))
        });
        each.collect()
    }

    fn has_begun(&self, number: RevisionNumber, ring: RingId, rings: &Rings) -> bool {
        let at = self.revisions.iter().position(|kept| kept.number == number);
        at.zip(rings.get(ring)).is_some_and(|(at, ring)| self.steps_open(at, ring) > 0)
    }
}
