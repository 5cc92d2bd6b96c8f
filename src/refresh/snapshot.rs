//! When what was collected is of one moment. Files are asked for one after the other, so what one collect brings may be
//! of several moments; but if each file has the same bytes in two collects in a row, then none has changed between the
//! end of the first and the beginning of the second, and at that moment the manager had them all (Afek et al., Atomic
//! Snapshots of Shared Memory, 1993). Pure. What one upstream had says nothing of another: both collects are of one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gupd_config::clock::UnixMillis;
use gupd_rollout::revision::{Catalog, Revision};
use gupd_rollout::state::{CollectedCatalog, MAX_CATALOGS, source_of_key};
use gupd_store::ObjectKey;

/// Catalogs of a revision that there are none of, at most. Further ones are asked for whenever a client asks: clients may
/// make names up.
const MAX_ABSENT: usize = 1_000;

/// Catalogs of a revision whose keys have a query, at most. Managers answer any query with the same file, and each is
/// one more to be collected.
const MAX_QUERIED: usize = 256;

/// A source that could not be collected is left alone by clients' requests for so long: each of them would have it
/// collected again, in vain.
const REST: i64 = 30_000;

/// What an upstream has, by key; `None` is what it has not.
pub(super) type Collect = BTreeMap<ObjectKey, Option<CollectedCatalog>>;

/// Whether everything in `collected` was the same in `before`, all of which was asked for before any of it.
pub(super) fn agree(before: &Collect, collected: &Collect) -> bool {
    collected.iter().all(|(key, found)| before.get(key).is_some_and(|was| is_same(*was, *found)))
}

/// Whether a revision has exactly this.
pub(super) fn has(revision: Option<&Revision>, key: &str, found: Option<CollectedCatalog>) -> bool {
    let known = revision.and_then(|revision| revision.catalogs.get(key));
    known.is_some_and(|known| known.blob() == found.map(|found| found.blob))
}

/// What a revision has of a source, as if it had been collected. Its objects are not named: what has not changed is not
/// stored again.
pub(super) fn published(revision: Option<&Revision>, source: &str) -> Collect {
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

/// What is remembered of each source from one collect to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    last: HashMap<Arc<str>, (Arc<str>, Collect)>,
    rests: HashMap<Arc<str>, UnixMillis>,
}

impl Memory {
    /// The last collect of a source, if it was this upstream's.
    pub(super) fn last(&self, source: &str, upstream: &str) -> Collect {
        let last = self.last.get(source).filter(|(of, _)| **of == *upstream);
        last.map(|(_, collect)| collect.clone()).unwrap_or_default()
    }

    /// All of a source was collected.
    pub(super) fn keep(&mut self, source: &Arc<str>, upstream: &Arc<str>, collect: Collect) {
        self.rests.remove(source);
        self.last.insert(source.clone(), (upstream.clone(), collect));
    }

    /// A little more of it was asked for.
    pub(super) fn add(&mut self, source: &str, upstream: &str, more: &Collect) {
        if let Some((of, collect)) = self.last.get_mut(source)
            && **of == *upstream
        {
            collect.extend(more.iter().map(|(key, found)| (key.clone(), *found)));
        }
    }

    /// It could not be collected.
    pub(super) fn rest(&mut self, source: &Arc<str>, now: UnixMillis) {
        self.rests.insert(source.clone(), now);
    }

    /// Whether it is left alone.
    pub(super) fn rests(&self, source: &str, now: UnixMillis) -> bool {
        self.rests.get(source).is_some_and(|since| (*since..*since + REST).contains(&now))
    }

    /// Only these are still collected.
    pub(super) fn retain(&mut self, is_source: impl Fn(&str) -> bool) {
        self.last.retain(|source, _| is_source(source));
        self.rests.retain(|source, _| is_source(source));
    }
}

/// How many more catalogs there may be.
#[derive(Clone, Debug)]
pub(super) struct Room {
    catalogs: usize,
    queried: usize,
    absent: usize,
}

impl Room {
    pub(super) fn beside(revision: Option<&Revision>) -> Self {
        let mut room = Self { catalogs: MAX_CATALOGS, queried: MAX_QUERIED, absent: MAX_ABSENT };
        for (key, catalog) in revision.into_iter().flat_map(|revision| &revision.catalogs) {
            room.take(key, *catalog == Catalog::Absent);
        }
        room
    }

    /// Whether a catalog of this key may be asked for.
    pub(super) fn admits(&self, key: &str) -> bool {
        self.catalogs > 0 && (self.queried > 0 || !key.contains('?'))
    }

    /// Whether a revision can say of one more that there is none.
    pub(super) fn admits_absent(&self) -> bool {
        self.absent > 0
    }

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

    fn collect(catalogs: &[(&str, u8)]) -> Collect {
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
        fn what_two_collects_agree_on_is_one_version(
            publications in proptest::collection::vec(0..40_usize, 0..8),
            files in 1..8_usize,
        ) {
            let version = |at: usize| publications.iter().filter(|published| **published <= at).count();
            let read = |from: usize| -> Collect {
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
    fn a_source_rests_after_it_could_not_be_collected_until_it_is() {
        let (mut memory, source, upstream) = (Memory::default(), Arc::from("r"), Arc::from("m"));
        memory.rest(&source, 100);
        assert!(memory.rests("r", 100 + REST - 1) && !memory.rests("r", 100 + REST));
        assert!(!memory.rests("r", 99), "the clock was set back");
        memory.keep(&source, &upstream, collect(&[("r /a", 1)]));
        assert!(!memory.rests("r", 100));
        memory.add("r", "other", &collect(&[("r /b", 1)]));
        memory.add("r", "m", &collect(&[("r /c", 1)]));
        assert!(memory.last("r", "other").is_empty(), "another upstream's says nothing");
        assert_eq!(memory.last("r", "m"), collect(&[("r /a", 1), ("r /c", 1)]));
        memory.retain(|_| false);
        assert!(memory.last("r", "m").is_empty());
    }

    #[test]
    fn made_up_names_and_queries_do_not_take_all_of_the_room() {
        let mut room = Room::beside(None);
        (0..MAX_ABSENT).for_each(|at| room.take(&format!("r /{at}"), true));
        assert!(!room.admits_absent() && room.admits("r /a"));
        (0..MAX_QUERIED).for_each(|at| room.take(&format!("r /a?{at}"), false));
        assert!(!room.admits("r /a?b") && room.admits("r /a"));
        (0..MAX_CATALOGS).for_each(|at| room.take(&format!("r /{at}"), false));
        assert!(!room.admits("r /a"));
    }
}
