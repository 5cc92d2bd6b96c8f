//! Refresh with rings: each source is collected whole or not at all, and all collected sources are published as one
//! revision. Catalogs that clients wait for and no revision has are published in the same way. This file owns the
//! treatment of sources that cannot be collected, and answers every waiting client.

use std::collections::{BTreeMap, BTreeSet};

use super::collect::{CollectError, CollectedSource, SourceSelection};
use super::revalidate::CatalogOutcome;
use super::selection::CatalogSelection;
use super::snapshot::{Collection, CollectionHistory, RevisionCapacity, catalogs_of_source, has_catalog};
use super::{RefreshReport, RefreshWorker, TaskSettings};
use gupd_proxy::background::PendingOutcome;
use gupd_rollout::revision::{Catalog, Revision};
use gupd_rollout::state::{PublishOutcome, SourceCatalogs, source_of_key};
use gupd_rollout::view::RevisionView;
use gupd_store::ObjectKey;

impl RefreshWorker {
    /// Collects every source, and publishes a revision.
    pub(super) async fn refresh_coherently(
        &self,
        settings: &TaskSettings,
        view: &RevisionView,
        history: &mut CollectionHistory,
    ) -> RefreshReport {
        let selection = match self.select_catalogs(settings, view, true).await {
            Ok(selection) => selection,
            Err(error) => {
                tracing::error!(%error, "catalogs to refresh cannot be listed");
                return RefreshReport { failed: 1, ..RefreshReport::default() };
            }
        };
        history.retain(|source| selection.contains_key(source));
        self.collect_and_publish(selection, true, view, history).await
    }

    /// Collects the catalogs that clients wait for and no revision has, also outside windows.
    pub(super) async fn collect_pending(&self, settings: &TaskSettings, history: &mut CollectionHistory) {
        let (keys, now) = (self.background.pending_catalogs().keys(), self.clock.now());
        let Some(view) = self.rollouts.view().as_ref().cloned() else { return self.reject_pending(|_| true) };
        self.reject_pending(|key| history.is_backing_off(source_of_key(key), now));
        let sources: BTreeSet<&str> = keys.iter().map(|key| source_of_key(key)).collect();
        let sources = sources.into_iter().filter(|source| !history.is_backing_off(source, now));
        // The first revision has every known catalog.
        let is_first = view.newest().is_none();
        let mut selection = match self.select_catalogs(settings, &view, is_first).await {
            Ok(selection) => selection,
            Err(error) => {
                tracing::error!(%error, "catalogs beside those that clients wait for cannot be listed");
                return self.reject_pending(|_| true);
            }
        };
        let selection =
            sources.map(|source| (source.into(), selection.remove(source).unwrap_or_default())).collect();
        self.collect_and_publish(selection, is_first, &view, history).await;
    }

    async fn collect_and_publish(
        &self,
        selection: CatalogSelection,
        is_whole: bool,
        view: &RevisionView,
        history: &mut CollectionHistory,
    ) -> RefreshReport {
        let newest = view.newest().map(|newest| &**newest);
        let (mut report, mut capacity) = (RefreshReport::default(), RevisionCapacity::after(newest));
        let (mut collected, mut requested) = (Vec::new(), BTreeSet::new());
        let mut counts = CatalogCounts::default();
        for (name, selected) in selection {
            let catalogs = selected.len() as u64;
            report.asked += catalogs;
            let source = SourceSelection { name, selected, newest, is_whole };
            match self.collect(&source, history, &mut capacity).await {
                Ok(result) => {
                    requested.extend(result.requested.iter().cloned());
                    counts.add(&result, newest);
                    collected.extend(source_catalogs(source, result));
                }
                Err(error) => {
                    report.failed += catalogs.max(is_whole.into());
                    self.handle_failure(&source, &error, history);
                }
            }
        }
        match self.publish(collected).await {
            Some(published) => {
                report.changed = counts.changed;
                report.revision = match published {
                    PublishOutcome::New(number) | PublishOutcome::Joined(number) => Some(number),
                    PublishOutcome::Unchanged => None,
                };
            }
            None => {
                report.failed = report.asked.max(1);
                counts = CatalogCounts::default();
            }
        }
        self.count_catalogs(CatalogOutcome::Changed, counts.changed);
        self.count_catalogs(CatalogOutcome::Unchanged, counts.unchanged);
        self.count_catalogs(CatalogOutcome::Missing, counts.missing);
        self.count_catalogs(CatalogOutcome::Failed, report.failed);
        self.answer_pending(requested);
        report
    }

    async fn publish(&self, collected: Vec<SourceCatalogs>) -> Option<PublishOutcome> {
        if collected.is_empty() {
            return Some(PublishOutcome::Unchanged);
        }
        let published = self.rollouts.publish(collected).await;
        published.inspect_err(|error| tracing::error!(%error, "collected catalogs not published")).ok()
    }

    /// Publishes nothing of a source. Clients that wait for its catalogs may come again.
    fn handle_failure(
        &self,
        source: &SourceSelection<'_>,
        error: &CollectError,
        history: &mut CollectionHistory,
    ) {
        let name = &*source.name;
        if error.is_of_one_name() {
            tracing::info!(source = name, %error, "catalog that a client waits for has no upstream now");
        } else {
            tracing::error!(source = name, %error, "source not collected coherently: clients keep their revision");
            history.back_off(&source.name, self.clock.now());
        }
        self.reject_pending(|key| source_of_key(key) == name);
    }

    /// Tells clients that wait for these catalogs to come again.
    fn reject_pending(&self, is_rejected: impl Fn(&str) -> bool) {
        let pending = self.background.pending_catalogs();
        for key in pending.keys().iter().filter(|key| is_rejected(key)) {
            pending.resolve(key, PendingOutcome::Unpublished);
        }
    }

    /// Answers the clients that wait for requested catalogs.
    fn answer_pending(&self, requested: BTreeSet<ObjectKey>) {
        let view = self.rollouts.view().as_ref().cloned();
        let newest = view.as_ref().and_then(|view| view.newest());
        if let Some(newest) = newest {
            let absent = newest.catalogs.iter().filter(|(_, catalog)| **catalog == Catalog::Absent);
            self.background.missing_catalogs().replace(absent.map(|(key, _)| key), self.clock.now());
        }
        for key in requested {
            let is_there = newest.is_some_and(|newest| newest.catalogs.contains_key(&key));
            let outcome = if is_there { PendingOutcome::Published } else { PendingOutcome::Unpublished };
            self.background.pending_catalogs().resolve(&key, outcome);
        }
    }
}

/// Counts of collected catalogs by outcome.
#[derive(Default)]
struct CatalogCounts {
    changed: u64,
    unchanged: u64,
    missing: u64,
}

impl CatalogCounts {
    fn add(&mut self, collected: &CollectedSource, newest: Option<&Revision>) {
        for (key, found) in collected.catalogs.iter().flatten().chain(&collected.absent) {
            let count = match (has_catalog(newest, key, *found), found) {
                (true, Some(_)) => &mut self.unchanged,
                (true, None) => &mut self.missing,
                (false, _) => &mut self.changed,
            };
            *count += 1;
        }
    }
}

/// Returns all catalogs of a source for the next revision; `None` if nothing is new.
fn source_catalogs(source: SourceSelection<'_>, collected: CollectedSource) -> Option<SourceCatalogs> {
    let CollectedSource { catalogs, absent, .. } = collected;
    if catalogs.is_none() && absent.is_empty() {
        return None;
    }
    let mut all: Collection = catalogs.unwrap_or_else(|| catalogs_of_source(source.newest, &source.name));
    all.extend(absent);
    Some(SourceCatalogs { source: source.name, catalogs: BTreeMap::from_iter(all) })
}
