//! Coherence of collected catalogs. Files are requested one after the other, so one collection may mix several
//! instants. But if each file has the same content in two collections in a row, none has changed between the end of the
//! first and the beginning of the second, and at that instant the manager had them all (Afek et al., Atomic Snapshots
//! of Shared Memory, 1993). Both collections must be of one upstream. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gupd_config::clock::UnixMillis;
use gupd_rollout::revision::{Catalog, Revision};
use gupd_rollout::state::{CollectedCatalog, MAX_CATALOGS, source_of_key};
use gupd_store::ObjectKey;

/// Maximum number of absent catalogs of a revision: clients may make names up. Further ones are requested again for
/// every client.
const MAX_ABSENT: usize = 1_000;

/// Maximum number of catalogs with a query in their keys. Managers answer every query with the same file, and each is one
/// more to collect.
const MAX_QUERIED: usize = 256;

/// Time after a failed collection in which requests of clients do not start another one, which would fail as well.
const BACK_OFF: i64 = 30_000;

/// Catalogs of an upstream by key; `None` for one that it does not have.
pub(super) type Collection = BTreeMap<ObjectKey, Option<CollectedCatalog>>;

/// Returns true if `before`, which was requested first, has every catalog of `collected` with the same content.
pub(super) fn agree(before: &Collection, collected: &Collection) -> bool {
    collected.iter().all(|(key, found)| before.get(key).is_some_and(|was| is_same(*was, *found)))
}

/// Returns true if a revision has a catalog with exactly this content, or the same absence.
pub(super) fn has_catalog(revision: Option<&Revision>, key: &str, found: Option<CollectedCatalog>) -> bool {
    let known = revision.and_then(|revision| revision.catalogs.get(key));
    known.is_some_and(|known| known.blob() == found.map(|found| found.blob))
}

/// Returns the catalogs of a source in a revision, as if they had been collected. They name no objects: unchanged
/// catalogs are not stored again.
pub(super) fn catalogs_of_source(revision: Option<&Revision>, source: &str) -> Collection {
    let catalogs = revision.into_iter().flat_map(|revision| &revision.catalogs);
    let of_source = catalogs.filter(|(key, _)| source_of_key(key) == source);
    let found = |catalog| match catalog {
        Catalog::Absent => None,
        Catalog::Present { blob, len, .. } => Some(CollectedCatalog { object: 0, blob, len, last_used: 0 }),
    };
    of_source.map(|(key, catalog)| (key.clone(), found(*catalog))).collect()
}

fn is_same(one: Option<CollectedCatalog>, other: Option<CollectedCatalog>) -> bool {
    one.map(|found| found.blob) == other.map(|found| found.blob)
}

/// The latest collection of each source, and recent failures.
#[derive(Debug, Default)]
pub(super) struct CollectionHistory {
    last: HashMap<Arc<str>, (Arc<str>, Collection)>,
    failures: HashMap<Arc<str>, UnixMillis>,
}

impl CollectionHistory {
    /// Returns the latest collection of a source, if it is of this upstream.
    pub(super) fn last(&self, source: &str, upstream: &str) -> Collection {
        let last = self.last.get(source).filter(|(of, _)| **of == *upstream);
        last.map(|(_, collect)| collect.clone()).unwrap_or_default()
    }

    /// Stores a collection of a whole source.
    pub(super) fn replace(&mut self, source: &Arc<str>, upstream: &Arc<str>, collect: Collection) {
        self.failures.remove(source);
        self.last.insert(source.clone(), (upstream.clone(), collect));
    }

    /// Extends the latest collection by further catalogs.
    pub(super) fn extend(&mut self, source: &str, upstream: &str, more: &Collection) {
        if let Some((of, collect)) = self.last.get_mut(source)
            && **of == *upstream
        {
            collect.extend(more.iter().map(|(key, found)| (key.clone(), *found)));
        }
    }

    /// Records a failure.
    pub(super) fn back_off(&mut self, source: &Arc<str>, now: UnixMillis) {
        self.failures.insert(source.clone(), now);
    }

    /// Returns true shortly after a failure.
    pub(super) fn is_backing_off(&self, source: &str, now: UnixMillis) -> bool {
        self.failures.get(source).is_some_and(|since| (*since..*since + BACK_OFF).contains(&now))
    }

    /// Drops other sources.
    pub(super) fn retain(&mut self, is_source: impl Fn(&str) -> bool) {
        self.last.retain(|source, _| is_source(source));
        self.failures.retain(|source, _| is_source(source));
    }
}

/// Room for further catalogs in a revision.
#[derive(Clone, Debug)]
pub(super) struct RevisionCapacity {
    catalogs: usize,
    queried: usize,
    absent: usize,
}

impl RevisionCapacity {
    /// The room that is left beside the catalogs of a revision.
    pub(super) fn after(revision: Option<&Revision>) -> Self {
        let mut capacity = Self { catalogs: MAX_CATALOGS, queried: MAX_QUERIED, absent: MAX_ABSENT };
        for (key, catalog) in revision.into_iter().flat_map(|revision| &revision.catalogs) {
            capacity.take(key, *catalog == Catalog::Absent);
        }
        capacity
    }

    /// Returns true if there is room for a catalog of this key.
    pub(super) fn admits(&self, key: &str) -> bool {
        self.catalogs > 0 && (self.queried > 0 || !key.contains('?'))
    }

    /// Returns true if there is room for an absent catalog.
    pub(super) fn admits_absent(&self) -> bool {
        self.absent > 0
    }

    /// Takes room for a catalog.
    pub(super) fn take(&mut self, key: &str, is_absent: bool) {
        self.catalogs = self.catalogs.saturating_sub(1);
        self.queried = self.queried.saturating_sub(key.contains('?').into());
        self.absent = self.absent.saturating_sub(is_absent.into());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(version: u8) -> Option<CollectedCatalog> {
        Some(CollectedCatalog { object: version.into(), blob: [version; 32].into(), len: 1, last_used: 0 })
    }

    fn collect(catalogs: &[(&str, u8)]) -> Collection {
        catalogs.iter().map(|(key, version)| ((*key).into(), found(*version))).collect()
    }

    #[test]
    fn only_the_same_bytes_of_the_same_keys_agree() {
        let one = collect(&[("r /a", 1), ("r /b", 2)]);
        assert!(agree(&one, &one));
        assert!(agree(&one, &collect(&[("r /a", 1)])), "more was asked for before");
        assert!(!agree(&collect(&[("r /a", 1)]), &one), "nothing was known of one");
        assert!(!agree(&one, &collect(&[("r /a", 1), ("r /b", 3)])));
        let mut gone = one.clone();
        gone.insert("r /b".into(), None);
        assert!(!agree(&one, &gone) && !agree(&gone, &one) && agree(&gone, &gone));
        let again = Some(CollectedCatalog { object: 9, last_used: 9, ..found(1).unwrap() });
        assert!(agree(&one, &BTreeMap::from([("r /a".into(), again)])), "stored again, with the same bytes");
    }

    proptest! {
        /// The manager publishes whole versions, at any time; files are read one after the other.
        #[test]
        fn agreeing_collections_are_one_version(
            publications in proptest::collection::vec(0..40_usize, 0..8),
            files in 1..8_usize,
        ) {
            let version = |at: usize| publications.iter().filter(|published| **published <= at).count();
            let read = |from: usize| -> Collection {
                (0..files).map(|file| {
                    (ObjectKey::from(format!("r /{file}")), found(u8::try_from(version(from + file)).unwrap()))
                }).collect()
            };
            for begin in 0..20 {
                let (first, second) = (read(begin), read(begin + files));
                let versions = second.values().flatten().map(|found| found.object);
                if agree(&first, &second) {
                    prop_assert_eq!(versions.clone().min(), versions.max());
                }
            }
        }
    }

    #[test]
    fn failed_source_backs_off_until_it_is_collected() {
        let (mut history, source, upstream) = (CollectionHistory::default(), Arc::from("r"), Arc::from("m"));
        history.back_off(&source, 100);
        assert!(
            history.is_backing_off("r", 100 + BACK_OFF - 1) && !history.is_backing_off("r", 100 + BACK_OFF)
        );
        assert!(!history.is_backing_off("r", 99), "the clock was set back");
        history.replace(&source, &upstream, collect(&[("r /a", 1)]));
        assert!(!history.is_backing_off("r", 100));
        history.extend("r", "other", &collect(&[("r /b", 1)]));
        history.extend("r", "m", &collect(&[("r /c", 1)]));
        assert!(history.last("r", "other").is_empty(), "another upstream's says nothing");
        assert_eq!(history.last("r", "m"), collect(&[("r /a", 1), ("r /c", 1)]));
        history.retain(|_| false);
        assert!(history.last("r", "m").is_empty());
    }

    #[test]
    fn invented_names_and_queries_leave_room() {
        let mut capacity = RevisionCapacity::after(None);
        (0..MAX_ABSENT).for_each(|at| capacity.take(&format!("r /{at}"), true));
        assert!(!capacity.admits_absent() && capacity.admits("r /a"));
        (0..MAX_QUERIED).for_each(|at| capacity.take(&format!("r /a?{at}"), false));
        assert!(!capacity.admits("r /a?b") && capacity.admits("r /a"));
        (0..MAX_CATALOGS).for_each(|at| capacity.take(&format!("r /{at}"), false));
        assert!(!capacity.admits("r /a"));
    }
}
