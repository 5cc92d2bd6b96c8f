//! A refresh where there are rings: every source is collected by itself, whole or not at all, and what was collected is
//! published together, as one revision. So is what clients ask for that no revision has. Owns what is made of a source
//! that could not be collected, and that whoever waits for a catalog is told.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogs::CatalogOutcome;
use super::collect::{Collected, Source, Uncollected};
use super::known::Known;
use super::snapshot::{Collect, Memory, Room, has, published};
use super::{Report, Settings, Worker};
use gupd_proxy::background::PendingOutcome;
use gupd_rollout::revision::{Catalog, Revision};
use gupd_rollout::state::{PublishOutcome, SourceCatalogs, source_of_key};
use gupd_rollout::view::RevisionView;
use gupd_store::ObjectKey;

impl Worker {
    /// Collects every source, and publishes what was collected.
    pub(super) async fn refresh_whole(
        &self,
        settings: &Settings,
        views: &RevisionView,
        memory: &mut Memory,
    ) -> Report {
        let known = match self.known(settings, views, true).await {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(%error, "the catalogs to refresh cannot be listed");
                return Report { failed: 1, ..Report::default() };
            }
        };
        memory.retain(|source| known.contains_key(source));
        self.publish_what_is_there(known, true, views, memory).await
    }

    /// Answers for catalogs that clients wait for and no revision has, whatever the windows.
    pub(super) async fn take_arrivals(&self, settings: &Settings, memory: &mut Memory) {
        let pending = self.background.pending_catalogs();
        let waiting = pending.keys();
        let let_go = |is_one: &dyn Fn(&str) -> bool| {
            let them = waiting.iter().filter(|key| is_one(key));
            them.for_each(|key| pending.resolve(key, PendingOutcome::Unpublished));
        };
        let Some(views) = self.rollouts.view().as_ref().cloned() else { return let_go(&|_| true) };
        let now = self.clock.now();
        let_go(&|key| memory.rests(source_of_key(key), now));
        let sources: BTreeSet<&str> = waiting.iter().map(|key| source_of_key(key)).collect();
        let sources = sources.into_iter().filter(|source| !memory.rests(source, now));
        // The first revision has all that is known.
        let is_first = views.newest().is_none();
        let mut known = match self.known(settings, &views, is_first).await {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(%error, "the catalogs beside those that clients ask for cannot be listed");
                return let_go(&|_| true);
            }
        };
        let known = sources.map(|name| (name.into(), known.remove(name).unwrap_or_default())).collect();
        self.publish_what_is_there(known, is_first, &views, memory).await;
    }

    async fn publish_what_is_there(
        &self,
        known: Known,
        is_whole: bool,
        views: &RevisionView,
        memory: &mut Memory,
    ) -> Report {
        let newest = views.newest().map(|newest| &**newest);
        let (mut report, mut room) = (Report::default(), Room::beside(newest));
        let (mut found, mut asked, mut outcomes) = (Vec::new(), BTreeSet::new(), Outcomes::default());
        for (name, known) in known {
            let catalogs = known.len() as u64;
            report.asked += catalogs;
            let source = Source { name, known, newest, is_whole };
            match self.collect(&source, memory, &mut room).await {
                Ok(collected) => {
                    asked.extend(collected.asked.iter().cloned());
                    outcomes.add(&collected, newest);
                    found.extend(whole(source, collected));
                }
                Err(error) => {
                    report.failed += catalogs.max(is_whole.into());
                    self.failed(&source, &error, memory);
                }
            }
        }
        match self.publish(found).await {
            Some(published) => {
                report.changed = outcomes.changed;
                report.revision = match published {
                    PublishOutcome::New(number) | PublishOutcome::Joined(number) => Some(number),
                    PublishOutcome::Unchanged => None,
                };
                self.count(&outcomes, report.failed);
            }
            None => {
                report.failed = report.asked.max(1);
                self.count(&Outcomes::default(), report.failed);
            }
        }
        self.tell_of(asked);
        report
    }

    async fn publish(&self, found: Vec<SourceCatalogs>) -> Option<PublishOutcome> {
        if found.is_empty() {
            return Some(PublishOutcome::Unchanged);
        }
        match self.rollouts.publish(found).await {
            Ok(published) => Some(published),
            Err(error) => {
                tracing::error!(%error, "what was collected is not published");
                None
            }
        }
    }

    /// Nothing of a source is published; whoever waits for something of it may come again.
    fn failed(&self, source: &Source<'_>, error: &Uncollected, memory: &mut Memory) {
        if error.is_of_one_name() {
            tracing::info!(source = &*source.name, %error, "nobody gives what a client asks for");
        } else {
            tracing::error!(source = &*source.name, %error,
                "nothing of a source is published: its catalogs are not of one moment; clients keep what they see");
            memory.rest(&source.name, self.clock.now());
        }
        for key in self.background.pending_catalogs().keys() {
            if source_of_key(&key) == &*source.name {
                self.background.pending_catalogs().resolve(&key, PendingOutcome::Unpublished);
            }
        }
    }

    fn tell_of(&self, asked: BTreeSet<ObjectKey>) {
        let views = self.rollouts.view().as_ref().cloned();
        let newest = views.as_ref().and_then(|views| views.newest());
        if let Some(newest) = newest {
            let absent = newest.catalogs.iter().filter(|(_, catalog)| **catalog == Catalog::Absent);
            self.background.missing_catalogs().replace(absent.map(|(key, _)| key), self.clock.now());
        }
        for key in asked {
            let is_there = newest.is_some_and(|newest| newest.catalogs.contains_key(&key));
            let arrived = if is_there { PendingOutcome::Published } else { PendingOutcome::Unpublished };
            self.background.pending_catalogs().resolve(&key, arrived);
        }
    }

    fn count(&self, outcomes: &Outcomes, failed: u64) {
        let Outcomes { changed, unchanged, missing } = *outcomes;
        let all = [
            (CatalogOutcome::Changed, changed),
            (CatalogOutcome::Unchanged, unchanged),
            (CatalogOutcome::Missing, missing),
            (CatalogOutcome::Failed, failed),
        ];
        for (outcome, count) in all {
            self.metrics.catalogs.with_label_values(&[outcome.as_str()]).inc_by(count);
        }
    }
}

/// What came of catalogs that were collected.
#[derive(Default)]
struct Outcomes {
    changed: u64,
    unchanged: u64,
    missing: u64,
}

impl Outcomes {
    fn add(&mut self, collected: &Collected, newest: Option<&Revision>) {
        for (key, found) in collected.catalogs.iter().flatten().chain(&collected.absent) {
            let count = match (has(newest, key, *found), found) {
                (true, Some(_)) => &mut self.unchanged,
                (true, None) => &mut self.missing,
                (false, _) => &mut self.changed,
            };
            *count += 1;
        }
    }
}

/// All that a revision is to have of a source; `None` if there is nothing new to say.
fn whole(source: Source<'_>, collected: Collected) -> Option<SourceCatalogs> {
    let Collected { catalogs, absent, .. } = collected;
    if catalogs.is_none() && absent.is_empty() {
        return None;
    }
    let mut all: Collect = catalogs.unwrap_or_else(|| published(source.newest, &source.name));
    all.extend(absent);
    Some(SourceCatalogs { source: source.name, catalogs: BTreeMap::from_iter(all) })
}
