//! One refresh: every catalog in the store, and those that are listed, once. What nobody has asked for in
//! `store.max_unused` is not in the store any more; a refresh does not count as asking.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};

use super::snapshot::Memory;
use super::{MAX_FAILURES, Report, Settings, Worker};
use gupd_proxy::background::{FetchOutcome, OriginError};
use gupd_store::{Object, ObjectKey, StoreError};

/// Catalogs asked for at once: a line with a delay is used, a manager is not flooded by a thousand sites.
pub(super) const AT_ONCE: usize = 4;

/// Catalogs of one refresh, at most: a LiveUpdate server has hundreds of products in some languages.
const MAX_CATALOGS: usize = 10_000;

/// Outcome of asking for one catalog, in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CatalogOutcome {
    Changed,
    Unchanged,
    Missing,
    Failed,
}

impl CatalogOutcome {
    pub(super) const ALL: [Self; 4] = [Self::Changed, Self::Unchanged, Self::Missing, Self::Failed];

    /// The one spelling used in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

/// A catalog to ask for.
enum Catalog {
    Stored(Box<Object>),
    Listed(ObjectKey),
}

impl Worker {
    /// Asks whether every catalog is still what its upstream has; where there are rings, all of them together.
    pub(super) async fn refresh(&self, settings: &Settings, memory: &mut Memory) -> Report {
        let views = self.rollouts.view().as_ref().cloned();
        match views {
            Some(views) => self.refresh_whole(settings, &views, memory).await,
            None => self.refresh_each(settings).await,
        }
    }

    async fn refresh_each(&self, settings: &Settings) -> Report {
        let mut report = Report::default();
        let stored = self.stored_catalogs().await.unwrap_or_else(|error| {
            tracing::error!(%error, "the catalogs to refresh cannot be listed");
            report.failed += 1;
            Vec::new()
        });
        let mut catalogs: Vec<Catalog> =
            stored.into_iter().map(|object| Catalog::Stored(Box::new(object))).collect();
        let stored: BTreeSet<ObjectKey> = catalogs.iter().map(|catalog| catalog.key().clone()).collect();
        for path in &settings.catalogs {
            match self.background.keys_of(path) {
                Ok(keys) => {
                    let unknown = keys.into_iter().filter(|key| !stored.contains(key));
                    catalogs.extend(unknown.map(Catalog::Listed));
                }
                Err(error) => {
                    tracing::warn!(%error, "a catalog of refresh.catalogs cannot be asked for");
                    report.failed += 1;
                }
            }
        }
        report.asked = catalogs.len() as u64;
        let mut asked = stream::iter(catalogs).map(|catalog| self.ask_for(catalog)).buffer_unordered(AT_ONCE);
        let (mut left, mut in_a_row) = (report.asked, 0);
        while in_a_row < MAX_FAILURES
            && let Some(outcome) = asked.next().await
        {
            left -= 1;
            in_a_row = if outcome.is_err() { in_a_row + 1 } else { 0 };
            let outcome = match outcome {
                Ok(FetchOutcome::New { .. }) => {
                    report.changed += 1;
                    CatalogOutcome::Changed
                }
                Ok(FetchOutcome::Unchanged) => CatalogOutcome::Unchanged,
                Ok(FetchOutcome::Nothing | FetchOutcome::TooLarge) => CatalogOutcome::Missing,
                Err(_) => {
                    report.failed += 1;
                    CatalogOutcome::Failed
                }
            };
            self.metrics.catalogs.with_label_values(&[outcome.as_str()]).inc();
        }
        report.failed += left;
        self.metrics.catalogs.with_label_values(&[CatalogOutcome::Failed.as_str()]).inc_by(left);
        report
    }

    async fn ask_for(&self, catalog: Catalog) -> Result<FetchOutcome, OriginError> {
        let outcome = match &catalog {
            Catalog::Stored(object) => Box::pin(self.background.revalidate(object)).await,
            Catalog::Listed(key) => Box::pin(self.background.revalidate_key(key)).await,
        };
        if let Err(error) = &outcome {
            tracing::debug!(%error, key = &**catalog.key(), "a catalog could not be refreshed");
        }
        outcome
    }

    /// Every catalog that is stored for clients, whichever a revision may have.
    pub(super) async fn stored_catalogs(&self) -> Result<Vec<Object>, StoreError> {
        let (mut catalogs, mut after) = (Vec::new(), 0);
        while catalogs.len() < MAX_CATALOGS {
            let page = self.store.page(after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            catalogs.extend(page.into_iter().filter(|object| self.background.is_catalog(object)));
        }
        catalogs.truncate(MAX_CATALOGS);
        Ok(catalogs)
    }
}

impl Catalog {
    fn key(&self) -> &ObjectKey {
        match self {
            Self::Stored(object) => &object.key,
            Self::Listed(key) => key,
        }
    }
}
