//! The gates of rings: before a step opens, the clients of the ring before must be well with the revision. Owns the
//! queries and the log; `rollout::troubled` decides.

use std::collections::BTreeSet;

use super::Task;
use crate::advance::{Advanced, Waits};
use crate::revision::RevisionNumber;
use crate::rings::{RingId, Rings};
use crate::state::State;
use crate::troubled::Troubles;
use gupd_config as config;
use gupd_config::clock::UnixMillis;

impl Task {
    /// Returns the trouble of clients with the revisions on which steps to come depend.
    pub(super) async fn watched(&self) -> Troubles {
        let Some(rings) = &self.rules.rings else { return Troubles::new() };
        let mut watched = Troubles::new();
        for (revision, ring) in self.state.watched(rings) {
            let Some(groups) = rings.get(ring).map(|ring| &ring.groups) else { continue };
            let trouble = self.shared.clients.trouble(revision, groups).await;
            watched.insert((revision, ring), trouble);
        }
        watched
    }

    /// Opens the steps that are due and that no trouble holds.
    pub(super) fn advance(&mut self, next: &mut State, watched: &Troubles, now: UnixMillis) -> Vec<Advanced> {
        let Some(rings) = &self.rules.rings else { return Vec::new() };
        let config::RolloutSettings { trouble_share, trouble_clients, .. } = self.rules.settings;
        next.update_troubles(rings, watched, |trouble| {
            trouble.is_above(trouble_share, u64::from(trouble_clients))
        });
        let troubles = held_up(next, rings, now);
        for ((revision, ring), trouble) in &troubles {
            if !self.troubles.contains_key(&(*revision, *ring)) {
                let ring = rings.get(*ring).map_or("", |ring| ring.settings.name.as_str());
                tracing::warn!(revision = revision.get(), ring, %trouble, "a ring has trouble; the next one does not open");
            }
        }
        let advanced = next.advance(rings, now, |revision, ring| troubles.contains_key(&(revision, ring)));
        self.troubles = troubles;
        advanced
    }
}

/// Returns the trouble that holds steps that are due.
fn held_up(state: &State, rings: &Rings, now: UnixMillis) -> Troubles {
    let coming = state.outlook(rings, |_, _| false);
    let due = coming.iter().filter(|next| matches!(next.waits, Waits::Until(due) if due <= now));
    let due: BTreeSet<(RevisionNumber, RingId)> =
        due.filter_map(|next| Some((next.revision, next.follows(rings)?))).collect();
    let mut troubles = state.troubles(rings);
    troubles.retain(|of, _| due.contains(of));
    troubles
}
