//! A change of the rollouts, whole: written down in one transaction with the catalogs that come and go with it, and then
//! shown. Owns that order, and what is told of the state to others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Task, warn_of_forgotten};
use crate::engine::{Current, Found, FoundCatalog};
use crate::record::{self, Record};
use crate::revision::{Catalog, Revision, RevisionNumber, version_key};
use crate::state::State;
use crate::views::Views;
use gupd_store::{ObjectCopy, ObjectKey, Publication, StoreError};

impl Task {
    /// Writes a state down with what belongs to it, and shows it.
    pub(super) async fn commit(
        &mut self,
        mut next: State,
        copies: Vec<ObjectCopy>,
        mut records: Vec<Record>,
    ) -> Result<(), StoreError> {
        // What is known here is of another store, and would be mixed with what that one has.
        if self.store.generation() != self.generation {
            return Err(StoreError::Replaced);
        }
        let now = self.clock.now();
        if let Some(rings) = &self.rules.rings {
            let gone = next.retire(rings, &self.rules.settings, now);
            if !gone.is_empty() {
                tracing::info!(revisions = ?gone, "revisions are kept no longer");
            }
        }
        let changes = record::changes(&self.written, &next);
        let removed: Vec<ObjectKey> = match changes.is_empty() {
            true => Vec::new(),
            false => {
                let dropped = dropped(&self.written, &next).into_iter();
                dropped.map(|(key, since)| version_key(since, &key).into()).collect()
            }
        };
        records.extend(changes);
        let (mut payloads, mut kept) = (self.payloads.clone(), Vec::new());
        for (key, of) in payloads.changes(&next) {
            records.push(record::payload(&key, of));
            kept.push((key, of.is_some()));
        }
        if !(records.is_empty() && copies.is_empty() && kept.is_empty() && removed.is_empty()) {
            let again = payloads.again();
            kept.extend(again.iter().map(|key| (key.clone(), true)));
            let unheld = self.store.publish(Publication { copies, pins: kept, records, removed }).await?;
            payloads.are_unheld(&again, unheld);
        }
        self.state = Arc::new(next);
        self.written = self.state.clone();
        self.payloads = payloads;
        self.show();
        Ok(())
    }

    /// Makes the switches of rules that clients have seen already, and shows them the state by these rules.
    pub(super) fn show(&mut self) {
        let shared = self.shared.clone();
        let mut switches = shared.switches();
        for switch in switches.drain(..) {
            self.follow(switch);
        }
        let now = self.clock.now();
        shared.current.store(Arc::new(Current {
            state: self.state.clone(),
            rings: self.rules.rings.clone(),
            settings: self.rules.settings.clone(),
            payloads: self.payloads.count(&self.state),
            troubles: self.troubles.clone(),
        }));
        self.rules.show(&self.state, now);
        drop(switches);
        self.measure(self.rules.views().as_deref());
    }

    fn measure(&self, views: Option<&Views>) {
        let metrics = &self.shared.metrics;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        metrics.revision.set(number(self.state.newest().map_or(0, |newest| newest.number.get())));
        metrics.revisions.set(number(self.state.revisions().count() as u64));
        metrics.halted.set(i64::from(self.state.halted().is_some()));
        metrics.ring.reset();
        metrics.trouble.reset();
        for (id, ring) in self.rules.rings.iter().flat_map(|rings| rings.iter()) {
            let name = [ring.settings.name.as_str()];
            let sees = views.and_then(|views| views.newest_in(id)).map_or(0, RevisionNumber::get);
            metrics.ring.with_label_values(&name).set(number(sees));
            let has_trouble = self.troubles.keys().any(|(_, ring)| *ring == id);
            metrics.trouble.with_label_values(&name).set(i64::from(has_trouble));
        }
    }

    /// What is held or released of groups that the configuration has no more.
    pub(super) fn forget_groups(&mut self) {
        let Some(rings) = &self.rules.rings else { return };
        warn_of_forgotten(&Arc::make_mut(&mut self.state).forget_groups(rings));
    }

    /// Removes what no record speaks of: after the index was lost, and made anew.
    pub(super) async fn tidy(&mut self, records: Vec<Record>) {
        let known: BTreeSet<ObjectKey> =
            versions(&self.state).into_iter().map(|(key, since)| version_key(since, &key).into()).collect();
        let stored = match self.store.copies().await {
            Ok(stored) => stored,
            Err(error) => return tracing::error!(%error, "catalogs of revisions cannot be listed"),
        };
        let stored: BTreeSet<ObjectKey> = stored.into_iter().collect();
        let lost = known.difference(&stored).count();
        if lost > 0 {
            tracing::error!(
                catalogs = lost,
                "catalogs of kept revisions are lost; clients that see those are told to come again"
            );
        }
        let removed: Vec<ObjectKey> = stored.difference(&known).cloned().collect();
        if records.is_empty() && removed.is_empty() {
            return;
        }
        let publication = Publication { records, removed, ..Publication::default() };
        if let Err(error) = self.store.publish(publication).await {
            tracing::warn!(%error, "what is left of old revisions cannot be removed now");
        }
    }
}

/// What is to be stored of a state that was just published: what is new is so in its newest revision.
pub(super) fn copies(before: &State, after: &State, found: &[Found]) -> Vec<ObjectCopy> {
    let by_key: BTreeMap<&ObjectKey, &FoundCatalog> = found
        .iter()
        .flat_map(|found| &found.catalogs)
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

/// Versions of catalogs that were kept before and are in no revision after. A version is in all revisions from its first to
/// its last, so the neighbours of a revision that goes say whether it is needed.
fn dropped(before: &State, after: &State) -> BTreeSet<(ObjectKey, RevisionNumber)> {
    let mut dropped = BTreeSet::new();
    for gone in before.revisions().filter(|revision| after.revision(revision.number).is_none()) {
        let older = after.revisions().rfind(|revision| revision.number < gone.number);
        let newer = after.revisions().find(|revision| revision.number > gone.number);
        for (key, catalog) in &gone.catalogs {
            let Catalog::Present { since, .. } = catalog else { continue };
            let has = |kept: &&Arc<Revision>| kept.catalogs.get(key) == Some(catalog);
            if !older.into_iter().chain(newer).any(|kept| has(&kept)) {
                dropped.insert((key.clone(), *since));
            }
        }
    }
    dropped
}

/// Every version of a catalog that some kept revision has.
fn versions(state: &State) -> BTreeSet<(ObjectKey, RevisionNumber)> {
    let catalogs = state.revisions().flat_map(|revision| &revision.catalogs);
    let present = catalogs.filter_map(|(key, catalog)| match catalog {
        Catalog::Present { since, .. } => Some((key.clone(), *since)),
        Catalog::Absent => None,
    });
    present.collect()
}
