//! Selection of the catalogs to collect, by source: those of the newest revision that clients requested last, within
//! `store.max_unused`, those stored before there were revisions, and configured ones. Other catalogs stay in the
//! revisions that have them, and are not in the next one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::requested::retain_latest;
use super::{RefreshWorker, TaskSettings};
use gupd_config::clock::UnixMillis;
use gupd_rollout::revision::{Catalog, version_key};
use gupd_rollout::state::{MAX_CATALOGS, source_of_key};
use gupd_rollout::view::RevisionView;
use gupd_store::{ObjectKey, Store, StoreError};

/// Maximum number of absent catalogs, those requested last. It leaves room for pending ones until the next revision.
const MAX_ABSENT: usize = 500;

/// Catalogs by source, and when a client last requested each.
pub(super) type CatalogSelection = BTreeMap<Arc<str>, BTreeMap<ObjectKey, UnixMillis>>;

impl RefreshWorker {
    /// Selects the catalogs to collect. With `with_stored`, also catalogs that no revision has.
    pub(super) async fn select_catalogs(
        &self,
        settings: &TaskSettings,
        view: &RevisionView,
        with_stored: bool,
    ) -> Result<CatalogSelection, StoreError> {
        let now = self.clock.now();
        let max_unused = i64::try_from(settings.max_unused.as_millis()).unwrap_or(i64::MAX);
        // The store must know of the first client after a long pause.
        if with_stored && let Err(error) = self.background.record_uses().await {
            tracing::debug!(%error, "latest uses of catalogs not recorded");
        }
        let (configured, _) = self.configured_catalogs(settings);
        let stored = if with_stored { self.stored_catalogs(&configured).await? } else { Vec::new() };
        let mut selected = self.select_from_revision(view, now).await?;
        for object in stored {
            selected.entry(object.key.clone()).or_insert(object.last_used());
        }
        // Store maintenance may not have removed unused ones yet.
        selected.retain(|_, last_used| now.saturating_sub(*last_used) <= max_unused);
        let mut selected: Vec<_> = selected.into_iter().collect();
        retain_latest(&mut selected, |(key, last_used)| (key, *last_used), |key| configured.contains(key));
        let mut selected: BTreeMap<_, _> = selected.into_iter().collect();
        if with_stored {
            selected.extend(configured.into_iter().map(|key| (key, now)));
        }
        let mut by_source = CatalogSelection::new();
        for (key, last_used) in selected.into_iter().take(MAX_CATALOGS) {
            by_source.entry(source_of_key(&key).into()).or_default().insert(key, last_used);
        }
        Ok(by_source)
    }

    /// Returns the keys of `refresh.catalogs`, and the number of its paths that no route takes.
    pub(super) fn configured_catalogs(&self, settings: &TaskSettings) -> (BTreeSet<ObjectKey>, u64) {
        let (mut configured, mut failed) = (BTreeSet::new(), 0);
        for path in &settings.catalogs {
            match self.background.keys_of(path) {
                Ok(keys) => configured.extend(keys),
                Err(error) => {
                    tracing::warn!(%error, "path of refresh.catalogs cannot be requested");
                    failed += 1;
                }
            }
        }
        (configured, failed)
    }

    /// Selects the catalogs of the newest revision.
    async fn select_from_revision(
        &self,
        view: &RevisionView,
        now: UnixMillis,
    ) -> Result<BTreeMap<ObjectKey, UnixMillis>, StoreError> {
        let (mut selected, mut absent) = (BTreeMap::new(), Vec::new());
        let Some(newest) = view.newest() else { return Ok(selected) };
        for (key, catalog) in newest.catalogs.iter().filter(|(key, _)| self.background.is_catalog_key(key)) {
            match catalog {
                Catalog::Absent => {
                    let last_request = self.background.missing_catalogs().last_request(key);
                    absent.push((last_request.unwrap_or(now), key));
                }
                Catalog::Present { .. } => {
                    let last_used = last_used(&self.store, view, key).await?.unwrap_or(newest.published);
                    selected.insert(key.clone(), last_used);
                }
            }
        }
        absent.sort_unstable_by_key(|(last_request, _)| Reverse(*last_request));
        let absent = absent.into_iter().take(MAX_ABSENT);
        selected.extend(absent.map(|(last_request, key)| (key.clone(), last_request)));
        Ok(selected)
    }
}

/// Returns when a client last received any version of a catalog.
async fn last_used(store: &Store, view: &RevisionView, key: &str) -> Result<Option<UnixMillis>, StoreError> {
    let (mut last, mut seen) = (None, None);
    for revision in view.revisions() {
        let Some(Catalog::Present { since, .. }) = revision.catalogs.get(key) else { continue };
        // Revisions with the same version are neighbours.
        if seen.replace(*since) == Some(*since) {
            continue;
        }
        for version in store.lookup(&version_key(*since, key)).await? {
            last = last.max(Some(version.last_used()));
        }
    }
    Ok(last)
}
