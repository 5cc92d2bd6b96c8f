//! Payloads that clients of kept revisions downloaded. Each is kept as long as one of these revisions, so that a group
//! that goes back to it finds the payload. Every revision between the first and the last of a payload counts: one that
//! was in use before and after was not useless between. Bounded; pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::revision::RevisionNumber;
use super::state::{EvictedPayloads, RolloutState};
use gupd_store::ObjectKey;

/// Maximum number of payloads: deltas and full sets of some dozens of contents in a thousand revisions are fewer.
/// Further ones are stored as any other object.
const MAX_PAYLOADS: usize = 20_000;

/// Number of pins repeated at once: look-ups of some milliseconds. One or two rounds have all payloads of a site.
const ROUND: usize = 1_000;

/// The first and the last revision of a payload.
pub(super) type RevisionRange = (RevisionNumber, RevisionNumber);

/// A payload's key and range; `None` if the payload is no longer kept.
type PayloadChange = (ObjectKey, Option<RevisionRange>);

/// The kept payloads.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptPayloads {
    stored: Arc<BTreeMap<ObjectKey, RevisionRange>>,
    /// Downloads since the last commit.
    fresh: HashMap<ObjectKey, RevisionRange>,
    /// Keys in `stored` that the store may not have: their fills were still running, or they were evicted.
    unconfirmed: BTreeSet<ObjectKey>,
    /// The last key of the current round.
    last_confirmed: Option<ObjectKey>,
    /// Payloads evicted since the start. Each counts once, however often it comes and goes.
    evicted: Arc<HashSet<ObjectKey>>,
}

impl KeptPayloads {
    pub(super) fn new(stored: BTreeMap<ObjectKey, RevisionRange>) -> Self {
        let unconfirmed = stored.keys().cloned().collect();
        Self { stored: Arc::new(stored), unconfirmed, ..Self::default() }
    }

    /// Records that a client of this revision downloads the payload.
    pub(super) fn record_download(&mut self, key: ObjectKey, revision: RevisionNumber) {
        let known = self.fresh.get(&key).or_else(|| self.stored.get(&key)).copied();
        let range =
            known.map_or((revision, revision), |(first, last)| (first.min(revision), last.max(revision)));
        let is_full = self.stored.len() + self.fresh.len() >= MAX_PAYLOADS;
        if known != Some(range) && (known.is_some() || !is_full) {
            self.fresh.insert(key, range);
        }
    }

    /// Takes the changes to store: new ranges, and payloads that are no longer kept.
    pub(super) fn changes(&mut self, state: &RolloutState) -> Vec<PayloadChange> {
        let numbers: BTreeSet<RevisionNumber> = state.revisions().map(|revision| revision.number).collect();
        let is_kept = |(first, last): RevisionRange| numbers.range(first..=last).next().is_some();
        let fresh: Vec<_> = self.fresh.drain().filter(|(_, range)| is_kept(*range)).collect();
        let old = self.stored.iter().filter(|(_, range)| !is_kept(**range));
        let old: Vec<ObjectKey> = old.map(|(key, _)| key.clone()).collect();
        if fresh.is_empty() && old.is_empty() {
            return Vec::new();
        }
        let stored = Arc::make_mut(&mut self.stored);
        let mut changes = Vec::with_capacity(fresh.len() + old.len());
        for key in old {
            stored.remove(&key);
            self.unconfirmed.remove(&key);
            if self.evicted.contains(&key) {
                Arc::make_mut(&mut self.evicted).remove(&key);
            }
            changes.push((key, None));
        }
        for (key, range) in fresh {
            stored.insert(key.clone(), range);
            changes.push((key, Some(range)));
        }
        changes
    }

    /// Returns the next unconfirmed payloads; their pins are repeated.
    pub(super) fn next_round(&mut self) -> Vec<ObjectKey> {
        let after = self.last_confirmed.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<ObjectKey> =
            self.unconfirmed.range((after, Bound::Unbounded)).take(ROUND).cloned().collect();
        self.last_confirmed = next.last().filter(|_| next.len() == ROUND).cloned();
        next
    }

    /// Confirms the pins of these and of all new payloads, but for the `missing` ones that the store does not have.
    pub(super) fn confirm(&mut self, pinned: &[ObjectKey], missing: Vec<ObjectKey>) {
        for key in pinned {
            self.unconfirmed.remove(key);
        }
        self.unconfirmed.extend(missing.into_iter().filter(|key| self.stored.contains_key(key)));
    }

    /// Counts evicted payloads, given by key and size, by kept revision.
    pub(super) fn count_evictions(
        &mut self,
        evicted: Vec<(ObjectKey, u64)>,
        state: &RolloutState,
    ) -> Vec<(RevisionNumber, EvictedPayloads)> {
        let mut counts: BTreeMap<RevisionNumber, EvictedPayloads> = BTreeMap::new();
        for (key, bytes) in evicted {
            let Some((first, last)) = self.stored.get(&key).copied() else { continue };
            self.unconfirmed.insert(key.clone());
            if !Arc::make_mut(&mut self.evicted).insert(key) {
                continue;
            }
            for revision in state.revisions().filter(|revision| (first..=last).contains(&revision.number)) {
                let count = counts.entry(revision.number).or_default();
                count.payloads += 1;
                count.bytes += bytes;
            }
        }
        counts.into_iter().collect()
    }

    /// Counts the kept payloads of each revision.
    pub(super) fn count(&self, state: &RolloutState) -> BTreeMap<RevisionNumber, u64> {
        let mut counts: BTreeMap<RevisionNumber, u64> =
            state.revisions().map(|revision| (revision.number, 0)).collect();
        for (first, last) in self.stored.values() {
            for (_, count) in counts.range_mut(first..=last) {
                *count += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(revisions: u64) -> RolloutState {
        let mut state = RolloutState::default();
        state.announce("a", 1, 0).unwrap();
        for number in 2..=revisions {
            state.announce("a", number, i64::try_from(number).unwrap() * 10_000_000).unwrap();
        }
        state
    }

    #[test]
    fn payload_is_kept_from_first_to_last_revision_of_its_clients() {
        let (mut payloads, mut state) = (KeptPayloads::default(), state(4));
        payloads.record_download("full".into(), 3.into());
        payloads.record_download("full".into(), 1.into());
        payloads.record_download("delta".into(), 4.into());
        payloads.record_download("of none".into(), 9.into());
        let mut changes = payloads.changes(&state);
        changes.sort();
        assert_eq!(
            changes,
            [("delta".into(), Some((4.into(), 4.into()))), ("full".into(), Some((1.into(), 3.into())))]
        );
        assert_eq!(payloads.changes(&state), []);
        assert_eq!(payloads.count(&state), [1, 2, 3, 4].map(|number| (number.into(), 1)).into());
        let gone = payloads.count_evictions(vec![("full".into(), 7), ("unknown".into(), 9)], &state);
        assert_eq!(gone, [1, 2, 3].map(|number| (number.into(), EvictedPayloads { payloads: 1, bytes: 7 })));
        assert_eq!(payloads.next_round(), ["full".into()]);
        state.revisions.drain(..3);
        assert_eq!(payloads.changes(&state), [("full".into(), None)]);
        assert_eq!(payloads.next_round(), []);
    }

    #[test]
    fn repeated_eviction_counts_once() {
        let (mut payloads, state) = (KeptPayloads::default(), state(1));
        payloads.record_download("full".into(), 1.into());
        payloads.changes(&state);
        assert_eq!(payloads.count_evictions(vec![("full".into(), 7)], &state).len(), 1);
        assert_eq!(payloads.count_evictions(vec![("full".into(), 7)], &state), []);
    }

    #[test]
    fn unconfirmed_payloads_are_repeated_in_rounds() {
        let keys: Vec<ObjectKey> = (0..ROUND + 2).map(|at| format!("{at:04}").into()).collect();
        let mut payloads =
            KeptPayloads::new(keys.iter().map(|key| (key.clone(), (1.into(), 1.into()))).collect());
        assert_eq!([payloads.next_round(), payloads.next_round()], [&keys[..ROUND], &keys[ROUND..]]);
        assert_eq!(payloads.next_round(), keys[..ROUND]);
        payloads.confirm(&keys, vec![keys[7].clone(), "of none".into()]);
        payloads.last_confirmed = None;
        assert_eq!(payloads.next_round(), keys[7..8]);
    }

    #[test]
    fn repeated_download_is_stored_once() {
        let (mut payloads, state) = (KeptPayloads::default(), state(1));
        for _ in 0..5 {
            payloads.record_download("full".into(), 1.into());
        }
        assert_eq!(payloads.changes(&state).len(), 1);
        payloads.record_download("full".into(), 1.into());
        assert_eq!(payloads.changes(&state), []);
    }
}
