//! Retention of revisions: those beyond `rollout.keep` go, the oldest first, and those older than `rollout.max_age`.
//! Revisions stay that a client may see, that have a name, or that a ring comes to next. Without the last rule, a ring
//! slower than publication would never advance: each revision would be gone before its turn.

use std::collections::BTreeSet;

use super::revision::RevisionNumber;
use super::rings::Rings;
use super::state::{KeptRevision, RolloutState};
use gupd_config::RolloutSettings;
use gupd_config::clock::UnixMillis;

impl RolloutState {
    /// Removes revisions that are not needed. Returns their numbers.
    pub fn prune(
        &mut self,
        rings: &Rings,
        settings: &RolloutSettings,
        now: UnixMillis,
    ) -> Vec<RevisionNumber> {
        // Spreads do not end during a halt.
        let needed = self.needed(rings, self.halted.unwrap_or(now));
        let keep = usize::try_from(settings.keep).unwrap_or(usize::MAX);
        let max_age = i64::try_from(settings.max_age.as_millis()).unwrap_or(i64::MAX);
        let mut left = self.revisions.len();
        let mut removed = Vec::new();
        self.revisions.retain(|kept| {
            let published = kept.revision.as_ref().map_or(now, |revision| revision.published);
            let is_old = published.saturating_add(max_age) < now;
            let is_removed = (left > keep || is_old) && !needed.contains(&kept.number);
            if is_removed {
                left -= 1;
                removed.push(kept.number);
            }
            !is_removed
        });
        removed
    }

    fn needed(&self, rings: &Rings, now: UnixMillis) -> BTreeSet<RevisionNumber> {
        let mut needed: BTreeSet<RevisionNumber> = self.names.values().copied().collect();
        needed.extend(self.held.values().chain(self.released.values()).map(|(number, _)| number));
        needed.extend(self.revisions.last().map(|kept| kept.number));
        let base = self.revisions.iter().rposition(KeptRevision::is_for_everyone).unwrap_or(0);
        for (id, ring) in rings.iter() {
            // The revision that all clients of the ring see, and newer ones that have begun to move some.
            let seen = (base..self.revisions.len())
                .rev()
                .find(|at| self.completion_of(*at, id, rings).is_some_and(|complete| complete <= now))
                .unwrap_or(base);
            let has_begun = |at: &usize| *at == seen || self.open_steps(*at, ring) > 0;
            let newest = (seen..self.revisions.len()).rfind(has_begun).unwrap_or(seen);
            let needed_here = (seen..=newest).filter(has_begun).chain([newest + 1]);
            needed.extend(needed_here.filter_map(|at| self.revisions.get(at)).map(|kept| kept.number));
        }
        needed
    }
}
