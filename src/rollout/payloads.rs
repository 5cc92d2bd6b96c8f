//! Which payloads clients of kept revisions took: they are kept as long as one of those revisions is, so that a group that
//! goes back to it finds them. Owns the first and the last revision of each, between which all count: one that was taken
//! before and after was not useless between. Bounded; pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::revision::RevisionNumber;
use super::state::{Gone, State};
use gupd_store::ObjectKey;

/// Payloads noted, at most: deltas and full sets of some dozens of contents in a thousand revisions are fewer. What does not
/// fit is kept as any other object is.
const MAX_PAYLOADS: usize = 20_000;

/// Payloads that the store is told of again at once: look-ups of some milliseconds, all of a site's in a round or two.
const ROUND: usize = 1_000;

/// A payload's key, and the first and the last revision that it is kept for; `None` if it is not any more.
type Change = (ObjectKey, Option<(RevisionNumber, RevisionNumber)>);

/// The payloads, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Payloads {
    taken: Arc<BTreeMap<ObjectKey, (RevisionNumber, RevisionNumber)>>,
    /// Those that were taken since it was last written down.
    fresh: HashMap<ObjectKey, (RevisionNumber, RevisionNumber)>,
    /// Those of the first that the store may not hold: they were still being fetched when they were written down, or had
    /// to go for room.
    unheld: BTreeSet<ObjectKey>,
    /// The last of them that the store was told of again.
    round: Option<ObjectKey>,
    /// Those that went for room since the start: each is counted once, however often it comes and goes.
    gone: Arc<HashSet<ObjectKey>>,
}

impl Payloads {
    pub(super) fn new(taken: BTreeMap<ObjectKey, (RevisionNumber, RevisionNumber)>) -> Self {
        let unheld = taken.keys().cloned().collect();
        Self { taken: Arc::new(taken), unheld, ..Self::default() }
    }

    /// A client that sees this revision takes it.
    pub(super) fn takes(&mut self, key: ObjectKey, revision: RevisionNumber) {
        let known = self.fresh.get(&key).or_else(|| self.taken.get(&key)).copied();
        let of =
            known.map_or((revision, revision), |(first, last)| (first.min(revision), last.max(revision)));
        if known == Some(of) || (known.is_none() && self.taken.len() + self.fresh.len() >= MAX_PAYLOADS) {
            return;
        }
        self.fresh.insert(key, of);
    }

    /// What is to be written down: which are kept and of which revisions, and which are not any more.
    pub(super) fn changes(&mut self, state: &State) -> Vec<Change> {
        let numbers: BTreeSet<RevisionNumber> = state.revisions().map(|revision| revision.number).collect();
        let is_kept =
            |(first, last): (RevisionNumber, RevisionNumber)| numbers.range(first..=last).next().is_some();
        let fresh: Vec<_> = self.fresh.drain().filter(|(_, of)| is_kept(*of)).collect();
        let gone: Vec<_> =
            self.taken.iter().filter(|(_, of)| !is_kept(**of)).map(|(key, _)| key.clone()).collect();
        if fresh.is_empty() && gone.is_empty() {
            return Vec::new();
        }
        let taken = Arc::make_mut(&mut self.taken);
        let mut changes = Vec::with_capacity(fresh.len() + gone.len());
        for key in gone {
            taken.remove(&key);
            self.unheld.remove(&key);
            if self.gone.contains(&key) {
                Arc::make_mut(&mut self.gone).remove(&key);
            }
            changes.push((key, None));
        }
        for (key, of) in fresh {
            taken.insert(key.clone(), of);
            changes.push((key, Some(of)));
        }
        changes
    }

    /// The next of those that the store may not hold: it is told of them again.
    pub(super) fn again(&mut self) -> Vec<ObjectKey> {
        let after = self.round.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<ObjectKey> =
            self.unheld.range((after, Bound::Unbounded)).take(ROUND).cloned().collect();
        self.round = next.last().filter(|_| next.len() == ROUND).cloned();
        next
    }

    /// Of these, and of all that are new, the store has `unheld` not.
    pub(super) fn are_unheld(&mut self, told: &[ObjectKey], unheld: Vec<ObjectKey>) {
        for key in told {
            self.unheld.remove(key);
        }
        self.unheld.extend(unheld.into_iter().filter(|key| self.taken.contains_key(key)));
    }

    /// Of payloads that had to go for room, how many and how large they were, by kept revision.
    pub(super) fn given_up(
        &mut self,
        gone: Vec<(ObjectKey, u64)>,
        state: &State,
    ) -> Vec<(RevisionNumber, Gone)> {
        let mut of: BTreeMap<RevisionNumber, Gone> = BTreeMap::new();
        for (key, bytes) in gone {
            let Some((first, last)) = self.taken.get(&key).copied() else { continue };
            self.unheld.insert(key.clone());
            if !Arc::make_mut(&mut self.gone).insert(key) {
                continue;
            }
            for revision in state.revisions().filter(|revision| (first..=last).contains(&revision.number)) {
                let gone = of.entry(revision.number).or_default();
                gone.payloads += 1;
                gone.bytes += bytes;
            }
        }
        of.into_iter().collect()
    }

    /// How many are kept of each revision.
    pub(super) fn count(&self, state: &State) -> BTreeMap<RevisionNumber, u64> {
        let mut counts: BTreeMap<RevisionNumber, u64> =
            state.revisions().map(|revision| (revision.number, 0)).collect();
        for (first, last) in self.taken.values() {
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

    fn state(revisions: u64) -> State {
        let mut state = State::default();
        state.announce("a", 1, 0).unwrap();
        for number in 2..=revisions {
            state.announce("a", number, i64::try_from(number).unwrap() * 10_000_000).unwrap();
        }
        state
    }

    #[test]
    fn a_payload_is_kept_from_the_first_revision_whose_clients_took_it_to_the_last() {
        let (mut payloads, mut state) = (Payloads::default(), state(4));
        payloads.takes("full".into(), 3.into());
        payloads.takes("full".into(), 1.into());
        payloads.takes("delta".into(), 4.into());
        payloads.takes("of none".into(), 9.into());
        let mut changes = payloads.changes(&state);
        changes.sort();
        assert_eq!(
            changes,
            [("delta".into(), Some((4.into(), 4.into()))), ("full".into(), Some((1.into(), 3.into())))]
        );
        assert_eq!(payloads.changes(&state), []);
        assert_eq!(payloads.count(&state), [1, 2, 3, 4].map(|number| (number.into(), 1)).into());
        let gone = payloads.given_up(vec![("full".into(), 7), ("unknown".into(), 9)], &state);
        assert_eq!(gone, [1, 2, 3].map(|number| (number.into(), Gone { payloads: 1, bytes: 7 })));
        assert_eq!(payloads.again(), ["full".into()]);
        state.revisions.drain(..3);
        assert_eq!(payloads.changes(&state), [("full".into(), None)]);
        assert_eq!(payloads.again(), []);
    }

    #[test]
    fn what_comes_and_goes_is_counted_once() {
        let (mut payloads, state) = (Payloads::default(), state(1));
        payloads.takes("full".into(), 1.into());
        payloads.changes(&state);
        assert_eq!(payloads.given_up(vec![("full".into(), 7)], &state).len(), 1);
        assert_eq!(payloads.given_up(vec![("full".into(), 7)], &state), []);
    }

    #[test]
    fn the_store_is_told_again_in_rounds_of_what_it_may_not_hold() {
        let keys: Vec<ObjectKey> = (0..ROUND + 2).map(|at| format!("{at:04}").into()).collect();
        let mut payloads =
            Payloads::new(keys.iter().map(|key| (key.clone(), (1.into(), 1.into()))).collect());
        assert_eq!([payloads.again(), payloads.again()], [&keys[..ROUND], &keys[ROUND..]]);
        assert_eq!(payloads.again(), keys[..ROUND]);
        payloads.are_unheld(&keys, vec![keys[7].clone(), "of none".into()]);
        payloads.round = None;
        assert_eq!(payloads.again(), keys[7..8]);
    }

    #[test]
    fn what_is_taken_again_and_again_is_written_down_once() {
        let (mut payloads, state) = (Payloads::default(), state(1));
        for _ in 0..5 {
            payloads.takes("full".into(), 1.into());
        }
        assert_eq!(payloads.changes(&state).len(), 1);
        payloads.takes("full".into(), 1.into());
        assert_eq!(payloads.changes(&state), []);
    }
}
