//! Which rings have trouble with which revision, as far as something waits for it: the question that gates ask of the
//! tracker of clients. Owns which pairs are asked about, and when trouble is too much.

use std::collections::{BTreeMap, BTreeSet};

use super::advance::Waits;
use super::clients::{Clients, Ended, Trouble};
use super::revision::Number;
use super::rings::{RingId, Rings};
use super::state::State;
use crate::config::Rollout;

/// Trouble that keeps something from opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles(BTreeMap<(Number, RingId), Trouble>);

impl Troubles {
    /// What there is now.
    ///
    /// # Errors
    /// When nobody tracks clients any more.
    pub async fn ask(
        state: &State,
        rings: &Rings,
        settings: &Rollout,
        clients: &Clients,
    ) -> Result<Self, Ended> {
        let mut troubles = BTreeMap::new();
        for (revision, id) in awaited(state, rings) {
            let Some(ring) = rings.get(id) else { continue };
            let trouble = clients.trouble(revision, &ring.groups).await?;
            if trouble.is_above(settings.trouble_share, settings.trouble_clients.into()) {
                troubles.insert((revision, id), trouble);
            }
        }
        Ok(Self(troubles))
    }

    /// Whether a ring has trouble with a revision.
    pub fn has(&self, revision: Number, ring: RingId) -> bool {
        self.0.contains_key(&(revision, ring))
    }

    /// The same in words.
    pub fn words(&self, revision: Number, ring: RingId) -> Option<String> {
        self.0.get(&(revision, ring)).map(ToString::to_string)
    }
}

/// Revisions and rings of whose trouble something depends that is next: the ring before, and the ring itself for the steps
/// that may follow at once. What opens later is asked about then.
fn awaited(state: &State, rings: &Rings) -> BTreeSet<(Number, RingId)> {
    let next = state.outlook(rings, |_, _| false).into_iter();
    let next = next.filter(|next| matches!(next.waits, Waits::Until(_)));
    let of = next.flat_map(|next| {
        let before = rings.get(next.ring).and_then(|ring| ring.settings.after);
        before.into_iter().chain([next.ring]).map(move |ring| (next.revision, ring))
    });
    of.collect()
}
