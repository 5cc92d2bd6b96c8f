//! Collection of the catalogs of one source (a route with its binding) from one of its upstreams. Rounds of requests
//! repeat until two in a row agree, all by the same upstream. A single catalog, or catalogs equal to the newest
//! revision, need one round. Otherwise nothing is collected. Catalogs that clients
//! come to wait for meanwhile are included. `snapshot` decides if the result is coherent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::RefreshWorker;
use super::revalidate::CONCURRENT_REQUESTS;
use super::snapshot::{Collection, CollectionHistory, RevisionCapacity, agree, has_catalog};
use gupd_config::clock::UnixMillis;
use gupd_net::shape::Purpose;
use gupd_proxy::background::{CatalogFetchError, CatalogSource, OriginError, PendingOutcome};
use gupd_rollout::revision::Revision;
use gupd_rollout::state::{CollectedCatalog, source_of_key};
use gupd_store::ObjectKey;

/// Maximum number of rounds with one upstream. Publication takes a manager a moment. An upstream whose files differ in
/// every round is several managers behind one name.
const MAX_ROUNDS: usize = 4;

/// Maximum number of pending catalogs in one collection, so that a client that makes names up cannot keep it from
/// ending. The remaining ones come next.
const MAX_PENDING: usize = 256;

/// A source to collect.
pub(super) struct SourceSelection<'a> {
    /// Prefix of its keys.
    pub(super) name: Arc<str>,
    /// Its selected catalogs, and when a client last requested each.
    pub(super) selected: BTreeMap<ObjectKey, UnixMillis>,
    /// The newest revision.
    pub(super) newest: Option<&'a Revision>,
    /// True to collect it even if no client waits for one of its catalogs.
    pub(super) is_whole: bool,
}

/// The collected catalogs of a source.
pub(super) struct CollectedSource {
    /// A coherent collection; `None` if only absent catalogs were requested.
    pub(super) catalogs: Option<Collection>,
    /// Pending catalogs that the upstream does not have.
    pub(super) absent: Collection,
    /// Pending catalogs that were requested.
    pub(super) requested: BTreeSet<ObjectKey>,
}

/// Reason that a source is not collected.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    #[error("it has no upstream")]
    NoUpstream,
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// A pending catalog failed before others were requested.
    #[error(transparent)]
    Pending(CatalogFetchError),
    #[error(transparent)]
    Fetch(#[from] CatalogFetchError),
    #[error(
        "catalogs of upstream {upstream} changed during each of {MAX_ROUNDS} rounds: if it is several managers behind one name, configure each as an upstream"
    )]
    Unsettled { upstream: Arc<str> },
}

impl CollectError {
    /// Returns true if the failure is of one name only: a client may have made it up.
    pub(super) fn is_of_one_name(&self) -> bool {
        matches!(self, Self::Pending(_))
    }
}

/// Answers for pending catalogs.
#[derive(Default)]
struct PendingAnswers {
    present: Collection,
    absent: Vec<ObjectKey>,
    failure: Option<CatalogFetchError>,
}

impl RefreshWorker {
    /// Collects a source from the first upstream that answers for all of it.
    pub(super) async fn collect(
        &self,
        source: &SourceSelection<'_>,
        history: &mut CollectionHistory,
        capacity: &mut RevisionCapacity,
    ) -> Result<CollectedSource, CollectError> {
        let mut failure = CollectError::NoUpstream;
        for upstream in self.background.catalog_sources(&ObjectKey::from(format!("{} /", source.name)))? {
            let mut left = capacity.clone();
            let before = history.last(&source.name, upstream.name());
            match self.collect_from(&upstream, source, before, &mut left).await {
                Ok(collected) => {
                    *capacity = left;
                    if let Some(all) = &collected.catalogs {
                        history.replace(&source.name, upstream.name(), all.clone());
                    }
                    history.extend(&source.name, upstream.name(), &collected.absent);
                    return Ok(collected);
                }
                // The upstream works. Another one would not be more coherent.
                Err(error @ CollectError::Unsettled { .. }) => return Err(error),
                Err(error) => {
                    if !error.is_of_one_name() {
                        tracing::warn!(upstream = &**upstream.name(), source = &*source.name, %error,
                            "catalogs not collected from this upstream");
                    }
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn collect_from(
        &self,
        upstream: &CatalogSource,
        source: &SourceSelection<'_>,
        mut before: Collection,
        capacity: &mut RevisionCapacity,
    ) -> Result<CollectedSource, CollectError> {
        let mut selected = source.selected.clone();
        let (mut requested, mut absent) = (BTreeSet::new(), Collection::new());
        for round in 0..MAX_ROUNDS {
            let pending = self.fetch_pending(upstream, source, &mut requested, capacity).await;
            let is_unanswered = pending.present.is_empty() && pending.absent.is_empty();
            absent.extend(pending.absent.into_iter().map(|key| (key, None)));
            if round == 0 && !source.is_whole {
                match pending.failure {
                    Some(error) if is_unanswered => return Err(CollectError::Pending(error)),
                    _ if pending.present.is_empty() => {
                        return Ok(CollectedSource { catalogs: None, absent, requested });
                    }
                    _ => {}
                }
            }
            // A single pending catalog is coherent with whatever does not change around it.
            let (mut repeated, now) = (selected.clone(), self.clock.now());
            if pending.present.len() > 1 {
                repeated.extend(pending.present.keys().map(|key| (key.clone(), now)));
            }
            selected.extend(pending.present.keys().map(|key| (key.clone(), now)));
            before.extend(pending.present);
            let collected = self.fetch_all(upstream, &repeated).await?;
            let mut is_coherent = agree(&before, &collected);
            before.extend(collected);
            before.retain(|key, _| selected.contains_key(key));
            // Clients may see exactly these already, so they have been coherent.
            is_coherent |= before.iter().all(|(key, found)| has_catalog(source.newest, key, *found));
            if is_coherent || selected.len() == 1 {
                return Ok(CollectedSource { catalogs: Some(before), absent, requested });
            }
        }
        Err(CollectError::Unsettled { upstream: upstream.name().clone() })
    }

    /// Fetches all of these catalogs from one upstream. The first failure ends it.
    async fn fetch_all(
        &self,
        upstream: &CatalogSource,
        keys: &BTreeMap<ObjectKey, UnixMillis>,
    ) -> Result<Collection, CatalogFetchError> {
        let fetch = |(key, last_used): (&ObjectKey, &UnixMillis)| {
            let (key, last_used) = (key.clone(), *last_used);
            async move { self.fetch_catalog(upstream, key, last_used, Purpose::Revalidation).await }
        };
        stream::iter(keys.iter().map(fetch)).buffer_unordered(CONCURRENT_REQUESTS).try_collect().await
    }

    /// Fetches the pending catalogs of this source until no more are pending, or enough were fetched.
    async fn fetch_pending(
        &self,
        upstream: &CatalogSource,
        source: &SourceSelection<'_>,
        requested: &mut BTreeSet<ObjectKey>,
        capacity: &mut RevisionCapacity,
    ) -> PendingAnswers {
        let mut answers = PendingAnswers::default();
        loop {
            let (mut new, mut left) = (Vec::new(), capacity.clone());
            for key in self.background.pending_catalogs().keys() {
                if requested.len() == MAX_PENDING {
                    break;
                }
                if source_of_key(&key) == &*source.name
                    && !requested.contains(&key)
                    && !self.answer_without_request(source, &key, &left).await
                {
                    left.take(&key, false);
                    requested.insert(key.clone());
                    new.push(key);
                }
            }
            if new.is_empty() {
                return answers;
            }
            let now = self.clock.now();
            let fetch = |key: ObjectKey| async move {
                let answer = self.fetch_catalog(upstream, key.clone(), now, Purpose::Client).await;
                (key, answer)
            };
            let mut fetched = stream::iter(new.into_iter().map(fetch)).buffer_unordered(CONCURRENT_REQUESTS);
            while let Some((key, answer)) = fetched.next().await {
                match answer {
                    Ok((key, Some(found))) => {
                        capacity.take(&key, false);
                        answers.present.insert(key, Some(found));
                    }
                    Ok((key, None)) if capacity.admits_absent() => {
                        capacity.take(&key, true);
                        answers.absent.push(key);
                    }
                    Ok((key, None)) => {
                        self.background.pending_catalogs().resolve(&key, PendingOutcome::Absent);
                    }
                    Err(error) => {
                        tracing::debug!(%error, key = &*key, "pending catalog not fetched");
                        answers.failure = Some(error);
                    }
                }
            }
        }
    }

    /// Answers the clients that wait for a catalog which need not be requested. Returns true if it did.
    async fn answer_without_request(
        &self,
        source: &SourceSelection<'_>,
        key: &ObjectKey,
        capacity: &RevisionCapacity,
    ) -> bool {
        let outcome = if source.newest.is_some_and(|newest| newest.catalogs.contains_key(key)) {
            PendingOutcome::Published
        } else if !self.background.is_catalog_key(key) || !capacity.admits(key) {
            PendingOutcome::Refused
        } else if !capacity.admits_absent() && self.background.was_absent(key).await {
            PendingOutcome::Absent
        } else {
            return false;
        };
        self.background.pending_catalogs().resolve(key, outcome);
        true
    }

    async fn fetch_catalog(
        &self,
        upstream: &CatalogSource,
        key: ObjectKey,
        last_used: UnixMillis,
        purpose: Purpose,
    ) -> Result<(ObjectKey, Option<CollectedCatalog>), CatalogFetchError> {
        let entry = Box::pin(self.background.fetch_catalog(upstream, &key, purpose)).await?;
        let found = entry.map(|entry| {
            // The relay's own fetch is no use of the catalog: keep the time of the clients' last use.
            entry.touch(last_used);
            let object = &entry.object;
            CollectedCatalog { object: object.id, blob: object.blob, len: object.len, last_used }
        });
        Ok((key, found))
    }
}
