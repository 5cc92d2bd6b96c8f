//! Refresh without rings: configured catalogs and those that clients requested last are revalidated, each for itself. A
//! catalog that no client has requested within `store.max_unused` is no longer stored; a refresh does not count as a
//! request.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};

use super::requested::{MAX_REQUESTED, retain_latest};
use super::snapshot::CollectionHistory;
use super::{MAX_FAILURES, RefreshReport, RefreshWorker, TaskSettings};
use gupd_proxy::background::{FetchOutcome, OriginError};
use gupd_store::{Object, ObjectKey, StoreError};

/// Number of concurrent requests: enough to use a line with a long delay, and few for a manager with a thousand sites.
pub(super) const CONCURRENT_REQUESTS: usize = 4;

/// Outcome of one catalog in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CatalogOutcome {
    Changed,
    Unchanged,
    Missing,
    Failed,
}

impl CatalogOutcome {
    pub(super) const ALL: [Self; 4] = [Self::Changed, Self::Unchanged, Self::Missing, Self::Failed];

    /// Label in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

/// A catalog to revalidate.
enum RefreshTarget {
    Stored(Box<Object>),
    Configured(ObjectKey),
}

impl RefreshWorker {
    /// Refreshes all catalogs: coherently where there are rings, each for itself otherwise.
    pub(super) async fn refresh(
        &self,
        settings: &TaskSettings,
        history: &mut CollectionHistory,
    ) -> RefreshReport {
        let view = self.rollouts.view().as_ref().cloned();
        match view {
            Some(view) => self.refresh_coherently(settings, &view, history).await,
            None => self.revalidate_all(settings).await,
        }
    }

    async fn revalidate_all(&self, settings: &TaskSettings) -> RefreshReport {
        let (mut configured, failed) = self.configured_catalogs(settings);
        let mut report = RefreshReport { failed, ..RefreshReport::default() };
        let stored = self.stored_catalogs(&configured).await.unwrap_or_else(|error| {
            tracing::error!(%error, "catalogs to refresh cannot be listed");
            report.failed += 1;
            Vec::new()
        });
        for object in &stored {
            configured.remove(&object.key);
        }
        let stored = stored.into_iter().map(|object| RefreshTarget::Stored(Box::new(object)));
        let targets: Vec<_> = stored.chain(configured.into_iter().map(RefreshTarget::Configured)).collect();
        report.asked = targets.len() as u64;
        let outcomes = stream::iter(targets).map(|target| self.revalidate(target));
        let mut outcomes = outcomes.buffer_unordered(CONCURRENT_REQUESTS);
        let (mut left, mut failures) = (report.asked, 0);
        while failures < MAX_FAILURES
            && let Some(outcome) = outcomes.next().await
        {
            left -= 1;
            failures = if outcome.is_err() { failures + 1 } else { 0 };
            let outcome = match outcome {
                Ok(FetchOutcome::New { .. }) => {
                    report.changed += 1;
                    CatalogOutcome::Changed
                }
                Ok(FetchOutcome::Unchanged) => CatalogOutcome::Unchanged,
                Ok(FetchOutcome::Nothing { .. } | FetchOutcome::TooLarge) => CatalogOutcome::Missing,
                Err(_) => {
                    report.failed += 1;
                    CatalogOutcome::Failed
                }
            };
            self.count_catalogs(outcome, 1);
        }
        report.failed += left;
        self.count_catalogs(CatalogOutcome::Failed, left);
        report
    }

    async fn revalidate(&self, target: RefreshTarget) -> Result<FetchOutcome, OriginError> {
        let outcome = match &target {
            RefreshTarget::Stored(object) => Box::pin(self.background.revalidate(object)).await,
            RefreshTarget::Configured(key) => Box::pin(self.background.revalidate_key(key)).await,
        };
        if let Err(error) = &outcome {
            tracing::debug!(%error, key = &**target.key(), "catalog not refreshed");
        }
        outcome
    }

    pub(super) fn count_catalogs(&self, outcome: CatalogOutcome, count: u64) {
        self.metrics.catalogs.with_label_values(&[outcome.as_str()]).inc_by(count);
    }

    /// Lists the catalogs that are stored for clients, and not for a revision: those that clients requested last, and
    /// configured ones.
    pub(super) async fn stored_catalogs(
        &self,
        configured: &BTreeSet<ObjectKey>,
    ) -> Result<Vec<Object>, StoreError> {
        let retain = |catalogs: &mut Vec<Object>| {
            // A catalog that is replaced between two pages is listed twice.
            let identity = |object: &Object| (object.key.clone(), object.selecting.clone());
            catalogs.sort_by_cached_key(|object| (identity(object), Reverse(object.id)));
            catalogs.dedup_by(|one, other| identity(one) == identity(other));
            retain_latest(
                catalogs,
                |object| (&object.key, object.last_used()),
                |key| configured.contains(key),
            );
        };
        let (mut catalogs, mut after) = (Vec::new(), 0);
        loop {
            let page = self.store.page(after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            catalogs.extend(page.into_iter().filter(|object| self.background.is_catalog(object)));
            if catalogs.len() >= 2 * MAX_REQUESTED + configured.len() {
                retain(&mut catalogs);
            }
        }
        retain(&mut catalogs);
        Ok(catalogs)
    }
}

impl RefreshTarget {
    fn key(&self) -> &ObjectKey {
        match self {
            Self::Stored(object) => &object.key,
            Self::Configured(key) => key,
        }
    }
}
