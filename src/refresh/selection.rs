//! Which catalogs are collected: those of the newest revision that a client has asked for within `store.max_unused`, those
//! that were stored before there were revisions, and those that are listed, by their source. What nobody asks for stays
//! in the revisions that have it, and is not in the next.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Settings, Worker};
use gupd_config::clock::UnixMillis;
use gupd_rollout::revision::{Catalog, version_key};
use gupd_rollout::state::{MAX_CATALOGS, source_of_key};
use gupd_rollout::view::RevisionView;
use gupd_store::{ObjectKey, Store, StoreError};

/// Absent catalogs that are collected again, those that were asked for last: beside them there is room for what clients
/// ask for until the next revision.
const MAX_ABSENT: usize = 500;

/// Catalogs by source, and when a client last asked for each.
pub(super) type Known = BTreeMap<Arc<str>, BTreeMap<ObjectKey, UnixMillis>>;

impl Worker {
    /// The catalogs to collect, `also_stored` those that are in no revision.
    pub(super) async fn known(
        &self,
        settings: &Settings,
        views: &RevisionView,
        also_stored: bool,
    ) -> Result<Known, StoreError> {
        let now = self.clock.now();
        let unused = i64::try_from(settings.max_unused.as_millis()).unwrap_or(i64::MAX);
        let is_used = |last_asked: &UnixMillis| now.saturating_sub(*last_asked) <= unused;
        let mut known: BTreeMap<ObjectKey, UnixMillis> = BTreeMap::new();
        let mut absent: Vec<(UnixMillis, &ObjectKey)> = Vec::new();
        // Whoever comes first after a long absence is not known to the store yet.
        if also_stored && let Err(error) = self.background.record_uses().await {
            tracing::debug!(%error, "what was used lately is not known");
        }
        if let Some(newest) = views.newest() {
            for (key, catalog) in
                newest.catalogs.iter().filter(|(key, _)| self.background.is_catalog_key(key))
            {
                match catalog {
                    Catalog::Absent => {
                        absent
                            .push((self.background.missing_catalogs().last_request(key).unwrap_or(now), key));
                    }
                    Catalog::Present { .. } => {
                        let last = last_used(&self.store, views, key).await?.unwrap_or(newest.published);
                        known.insert(key.clone(), last);
                    }
                }
            }
        }
        absent.sort_unstable_by_key(|(last_asked, _)| Reverse(*last_asked));
        known.extend(absent.into_iter().take(MAX_ABSENT).map(|(last_asked, key)| (key.clone(), last_asked)));
        if also_stored {
            for object in self.stored_catalogs().await? {
                known.entry(object.key.clone()).or_insert(object.last_used());
            }
        }
        // Some may still be stored: the store's upkeep comes when it comes.
        known.retain(|_, last_asked| is_used(last_asked));
        if also_stored {
            for path in &settings.catalogs {
                match self.background.keys_of(path) {
                    Ok(keys) => known.extend(keys.into_iter().map(|key| (key, now))),
                    Err(error) => {
                        tracing::warn!(%error, "a catalog of refresh.catalogs cannot be asked for");
                    }
                }
            }
        }
        let mut by_source = Known::new();
        for (key, last_asked) in known.into_iter().take(MAX_CATALOGS) {
            by_source.entry(source_of_key(&key).into()).or_default().insert(key, last_asked);
        }
        Ok(by_source)
    }
}

/// When a client last got any version of a catalog.
async fn last_used(store: &Store, views: &RevisionView, key: &str) -> Result<Option<UnixMillis>, StoreError> {
    let (mut last, mut seen) = (None, None);
    for revision in views.revisions() {
        let Some(Catalog::Present { since, .. }) = revision.catalogs.get(key) else { continue };
        // Revisions that have the same version stand together.
        if seen.replace(*since) == Some(*since) {
            continue;
        }
        for version in store.lookup(&version_key(*since, key)).await? {
            last = last.max(Some(version.last_used()));
        }
    }
    Ok(last)
}
