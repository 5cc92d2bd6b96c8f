//! A change as a whole: one transaction stores the state, its records, and the catalogs that come and go with it. Then
//! clients see it. This file owns that order and the snapshot of the rollouts in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::RolloutTask;
use crate::record::{self, Record};
use crate::revision::{Catalog, Revision, RevisionNumber, version_key};
use crate::state::{CollectedCatalog, RolloutState, SourceCatalogs};
use crate::status::RolloutSnapshot;
use crate::view::RevisionView;
use gupd_store::{ObjectCopy, ObjectKey, Publication, StoreError};

impl RolloutTask {
    /// Stores a state with what belongs to it, and shows it.
    pub(super) async fn commit(
        &mut self,
        mut next: RolloutState,
        copies: Vec<ObjectCopy>,
        mut records: Vec<Record>,
    ) -> Result<(), StoreError> {
        // This state is of another store, and must not mix with the state of the new one.
        if self.store.generation() != self.generation {
            return Err(StoreError::Replaced);
        }
        if let Some(rings) = &self.rules.rings {
            let removed = next.prune(rings, &self.rules.settings, self.clock.now());
            if !removed.is_empty() {
                tracing::info!(revisions = ?removed, "revisions removed");
            }
        }
        let changes = record::changes(&self.stored, &next);
        let removed: Vec<ObjectKey> = match changes.is_empty() {
            true => Vec::new(),
            false => dropped_versions(&self.stored, &next).into_iter().map(Version::into_key).collect(),
        };
        records.extend(changes);
        let (mut payloads, mut pins) = (self.payloads.clone(), Vec::new());
        for (key, range) in payloads.changes(&next) {
            records.push(record::payload(&key, range));
            pins.push((key, range.is_some()));
        }
        if !(records.is_empty() && copies.is_empty() && pins.is_empty() && removed.is_empty()) {
            let repeated = payloads.next_round();
            pins.extend(repeated.iter().map(|key| (key.clone(), true)));
            let missing = self.store.publish(Publication { copies, pins, records, removed }).await?;
            payloads.confirm(&repeated, missing);
        }
        self.state = Arc::new(next);
        self.stored = self.state.clone();
        self.payloads = payloads;
        self.show();
        Ok(())
    }

    /// Makes the switches of rules that clients have seen already, and shows the state by these rules.
    pub(super) fn show(&mut self) {
        let shared = self.shared.clone();
        let mut switches = shared.switches();
        for switch in switches.drain(..) {
            self.apply_switch(switch);
        }
        let now = self.clock.now();
        shared.snapshot.store(Arc::new(RolloutSnapshot {
            state: self.state.clone(),
            rings: self.rules.rings.clone(),
            settings: self.rules.settings.clone(),
            payloads: self.payloads.count(&self.state),
            troubles: self.troubles.clone(),
        }));
        self.rules.show(&self.state, now);
        drop(switches);
        self.update_metrics(self.rules.view().as_deref());
    }

    fn update_metrics(&self, view: Option<&RevisionView>) {
        let metrics = &self.shared.metrics;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.revision.set(number(self.state.newest().map_or(0, |newest| newest.number.get())));
        metrics.revisions.set(number(self.state.revisions().count() as u64));
        metrics.halted.set(i64::from(self.state.halted.is_some()));
        metrics.ring.reset();
        metrics.trouble.reset();
        for (id, ring) in self.rules.rings.iter().flat_map(|rings| rings.iter()) {
            let name = [ring.settings.name.as_str()];
            let newest = view.and_then(|view| view.newest_in_ring(id)).map_or(0, RevisionNumber::get);
            metrics.ring.with_label_values(&name).set(number(newest));
            let has_trouble = self.troubles.keys().any(|(_, ring)| *ring == id);
            metrics.trouble.with_label_values(&name).set(i64::from(has_trouble));
        }
    }

    /// Removes stray records, and versions of catalogs that no revision has: the index may have been rebuilt.
    pub(super) async fn remove_strays(&mut self, records: Vec<Record>) {
        let needed: BTreeSet<ObjectKey> = versions(&self.state).into_iter().map(Version::into_key).collect();
        let stored = match self.store.copies().await {
            Ok(stored) => stored,
            Err(error) => return tracing::error!(%error, "catalogs of revisions cannot be listed"),
        };
        let stored: BTreeSet<ObjectKey> = stored.into_iter().collect();
        let lost = needed.difference(&stored).count();
        if lost > 0 {
            tracing::error!(catalogs = lost, "catalogs of kept revisions lost: their clients get 503");
        }
        let removed: Vec<ObjectKey> = stored.difference(&needed).cloned().collect();
        if records.is_empty() && removed.is_empty() {
            return;
        }
        let publication = Publication { records, removed, ..Publication::default() };
        if let Err(error) = self.store.publish(publication).await {
            tracing::warn!(%error, "remains of old revisions cannot be removed now");
        }
    }
}

/// A stored version of a catalog: its plain key, and the first revision that has it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Version(ObjectKey, RevisionNumber);

impl Version {
    fn into_key(self) -> ObjectKey {
        version_key(self.1, &self.0).into()
    }
}

/// Returns the copies to store with a publication: the versions that are new in the newest revision.
pub(super) fn copies(
    before: &RolloutState,
    after: &RolloutState,
    collected: &[SourceCatalogs],
) -> Vec<ObjectCopy> {
    let by_key: BTreeMap<&ObjectKey, &CollectedCatalog> = collected
        .iter()
        .flat_map(|source| &source.catalogs)
        .filter_map(|(key, found)| Some((key, found.as_ref()?)))
        .collect();
    let Some(newest) = after.newest() else { return Vec::new() };
    let was = before.revision(newest.number);
    let new = newest.catalogs.iter().filter(|(key, catalog)| {
        matches!(catalog, Catalog::Present { since, .. } if *since == newest.number)
            && was.is_none_or(|was| was.catalogs.get(*key) != Some(catalog))
    });
    let copy = |(key, _): (&ObjectKey, &Catalog)| {
        let found = by_key.get(key)?;
        Some(ObjectCopy {
            object: found.object,
            blob: found.blob,
            key: version_key(newest.number, key).into(),
            last_used: found.last_used,
        })
    };
    new.filter_map(copy).collect()
}

/// Returns the versions that no revision has any more. A version is in all revisions from its first to its last, so the
/// neighbours of a removed revision tell if it is needed.
fn dropped_versions(before: &RolloutState, after: &RolloutState) -> BTreeSet<Version> {
    let mut dropped = BTreeSet::new();
    for removed in before.revisions().filter(|revision| after.revision(revision.number).is_none()) {
        let older = after.revisions().rfind(|revision| revision.number < removed.number);
        let newer = after.revisions().find(|revision| revision.number > removed.number);
        for (key, catalog) in &removed.catalogs {
            let Catalog::Present { since, .. } = catalog else { continue };
            let has = |kept: &Arc<Revision>| kept.catalogs.get(key) == Some(catalog);
            if !older.into_iter().chain(newer).any(has) {
                dropped.insert(Version(key.clone(), *since));
            }
        }
    }
    dropped
}

fn versions(state: &RolloutState) -> BTreeSet<Version> {
    let catalogs = state.revisions().flat_map(|revision| &revision.catalogs);
    let present = catalogs.filter_map(|(key, catalog)| match catalog {
        Catalog::Present { since, .. } => Some(Version(key.clone(), *since)),
        Catalog::Absent => None,
    });
    present.collect()
}
