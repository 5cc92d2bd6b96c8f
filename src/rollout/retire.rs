//! Which revisions go: those beyond `rollout.keep`, the oldest first, and those past `rollout.max_age`, but none that a
//! client may see, that has a name, or that a ring comes to next. Without the last, a ring slower than publication would
//! never come to anything: each revision would be gone before its turn.

use std::collections::BTreeSet;

use super::revision::RevisionNumber;
use super::rings::Rings;
use super::state::{Kept, State};
use gupd_config::RolloutSettings;
use gupd_config::clock::UnixMillis;

impl State {
    /// Drops what nobody needs; gives the numbers of those that went.
    pub fn retire(
        &mut self,
        rings: &Rings,
        settings: &RolloutSettings,
        now: UnixMillis,
    ) -> Vec<RevisionNumber> {
        // While views stand still, spreads do not end.
        let needed = self.needed(rings, self.halted.unwrap_or(now));
        let keep = usize::try_from(settings.keep).unwrap_or(usize::MAX);
        let max_age = i64::try_from(settings.max_age.as_millis()).unwrap_or(i64::MAX);
        let mut left = self.revisions.len();
        let mut gone = Vec::new();
        self.revisions.retain(|kept| {
            let published = kept.revision.as_ref().map_or(now, |revision| revision.published);
            let is_old = published.saturating_add(max_age) < now;
            let goes = (left > keep || is_old) && !needed.contains(&kept.number);
            if goes {
                left -= 1;
                gone.push(kept.number);
            }
            !goes
        });
        gone
    }

    /// Revisions that must stay.
    fn needed(&self, rings: &Rings, now: UnixMillis) -> BTreeSet<RevisionNumber> {
        let mut needed: BTreeSet<RevisionNumber> = self.names.values().copied().collect();
        needed.extend(self.held.values().chain(self.released.values()).map(|(number, _)| number));
        needed.extend(self.revisions.last().map(|kept| kept.number));
        let base = self.revisions.iter().rposition(Kept::is_for_everyone).unwrap_or(0);
        for (ring, settings) in rings.iter() {
            // What all of its clients see, and whatever is newer and has begun to move some.
            let seen = (base..self.revisions.len())
                .rev()
                .find(|at| self.complete_itself(*at, ring, rings).is_some_and(|complete| complete <= now))
                .unwrap_or(base);
            let begun = |at: &usize| *at == seen || self.steps_open(*at, settings) > 0;
            let newest = (seen..self.revisions.len()).filter(begun).max().unwrap_or(seen);
            let of = (seen..=newest).filter(begun).chain([newest + 1]);
            needed.extend(of.filter_map(|at| self.revisions.get(at)).map(|kept| kept.number));
        }
        needed
    }
}
