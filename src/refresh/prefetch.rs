//! Prefetch: configured paths and predicted requests, one after the other, deltas first. It starts after a refresh, and
//! when a client has requested an unknown revision. It stops when the window closes, and continues in the next one.

use http::StatusCode;

use super::listing_predictor::ListingPredictor;
use super::revision_predictor::RevisionPredictor;
use super::task::{random, sleep_until};
use super::{MAX_FAILURES, RefreshWorker, TaskSettings};
use gupd_config::clock::UnixMillis;
use gupd_proxy::background::FetchOutcome;
use gupd_store::{Object, ObjectKey, StoreError};

/// Placeholder of the newest revision in `prefetch.paths`.
const ANY_REVISION: &str = "/*/";

/// A prefetch to start, or to continue.
#[derive(Debug)]
pub(super) struct PendingPrefetch {
    at: UnixMillis,
    /// Bytes that it may still fetch.
    left: u64,
}

impl PendingPrefetch {
    /// Starts at this time: the windows may have changed.
    pub(super) fn retry_at(&mut self, at: UnixMillis) {
        self.at = at;
    }
}

/// Predictors for the payloads of both protocols.
struct Predictors {
    revisions: RevisionPredictor,
    listing: ListingPredictor,
}

impl RefreshWorker {
    /// Plans the prefetch that follows a refresh; `None` if no window opens.
    pub(super) fn prefetch_after_refresh(&self, settings: &TaskSettings) -> Option<PendingPrefetch> {
        let now = self.clock.now();
        let at = match settings.schedule.closes(now) {
            Some(_) => now,
            None => settings.schedule.opening(now, random())?,
        };
        Some(PendingPrefetch { at, left: settings.prefetch.max_bytes })
    }

    /// Waits for a new revision if none is pending, or runs the pending prefetch until its end or the window's. May be
    /// dropped at any time; the prefetch stays pending then.
    pub(super) async fn run_prefetch(&self, settings: &TaskSettings, pending: &mut Option<PendingPrefetch>) {
        let Some(PendingPrefetch { at, left }) = pending else {
            self.background.new_revisions().wait().await;
            *pending = self.prefetch_after_refresh(settings);
            return;
        };
        self.clock.sleep_until(*at).await;
        let is_unfinished = match settings.schedule.closes(self.clock.now()) {
            None => true,
            Some(closes) => tokio::select! {
                biased;
                () = sleep_until(&self.clock, closes) => true,
                () = self.prefetch_all(settings, left) => false,
            },
        };
        let next = if is_unfinished { settings.schedule.opening(self.clock.now(), random()) } else { None };
        *pending = next.map(|at| PendingPrefetch { at, left: *left });
    }

    async fn prefetch_all(&self, settings: &TaskSettings, left: &mut u64) {
        if self.store.degradation().is_some() {
            return tracing::info!("prefetch skipped: the store is degraded");
        }
        let mut failures = 0;
        for key in self.prefetch_keys(settings).await {
            if *left == 0 {
                return tracing::info!("prefetch stopped: prefetch.max_bytes reached");
            }
            if failures == MAX_FAILURES {
                return tracing::warn!(failures, "prefetch stopped after consecutive failures");
            }
            let fetched = Box::pin(self.background.prefetch(&key, *left)).await;
            failures = if fetched.is_err() { failures + 1 } else { 0 };
            match fetched {
                Ok(FetchOutcome::New { entry, for_client }) => {
                    let bytes = entry.object.len;
                    *left = left.saturating_sub(bytes);
                    self.metrics.prefetched_bytes.inc_by(bytes);
                    tracing::info!(key = &*key, bytes, "prefetched");
                    if !for_client && let Err(error) = self.store.record_prefetch(&entry.object).await {
                        tracing::debug!(%error, "prefetch not recorded");
                    }
                }
                Ok(FetchOutcome::Unchanged | FetchOutcome::Nothing) => {}
                Ok(FetchOutcome::TooLarge) => {
                    tracing::info!(
                        key = &*key,
                        left = *left,
                        "not prefetched: larger than prefetch.max_bytes"
                    );
                }
                Err(error) => tracing::info!(key = &*key, %error, "not prefetched"),
            }
        }
    }

    /// Lists the keys to prefetch in their order.
    async fn prefetch_keys(&self, settings: &TaskSettings) -> Vec<ObjectKey> {
        let prefetch = &settings.prefetch;
        if !prefetch.learned && prefetch.paths.is_empty() {
            return Vec::new();
        }
        let predictors = self.train_predictors(prefetch.revisions).await.unwrap_or_else(|error| {
            tracing::error!(%error, "requests cannot be predicted: the store cannot be read");
            Predictors::new(prefetch.revisions)
        });
        let mut keys: Vec<ObjectKey> = Vec::new();
        for path in &prefetch.paths {
            match self.background.keys_of(path) {
                Ok(configured) => {
                    let known = configured.into_iter().filter_map(|key| match key.split_once(ANY_REVISION) {
                        // Without a known revision there is nothing to fetch.
                        Some((series, name)) => {
                            predictors.revisions.newest_key(series, name).map(ObjectKey::from)
                        }
                        None => Some(key),
                    });
                    keys.extend(known);
                }
                Err(error) => tracing::warn!(%error, "path of prefetch.paths cannot be requested"),
            }
        }
        if prefetch.learned {
            let listed = self.background.fills().digests().listed_keys();
            let listed = predictors.listing.predict(listed.iter().map(|key| key.as_str()));
            let predicted = predictors.revisions.predict().into_iter().chain(listed);
            keys.extend(predicted.filter(|key| self.background.is_payload_key(key)).map(ObjectKey::from));
        }
        keys
    }

    /// Trains the predictors with the stored payloads that clients requested.
    async fn train_predictors(&self, revisions: u32) -> Result<Predictors, StoreError> {
        let mut predictors = Predictors::new(revisions);
        let mut after = 0;
        loop {
            let page = self.store.page(after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let is_payload = |object: &&Object| {
                object.status == StatusCode::OK && self.background.is_payload_key(&object.key)
            };
            for object in page.iter().filter(is_payload) {
                let file = self.background.revision_file(&object.key);
                if let Some(file) = file {
                    self.background.new_revisions().record(file);
                    predictors.revisions.add_revision(file.series, file.number);
                }
                // An unused prefetch says nothing about clients.
                if !self.store.is_unused_prefetch(&object.key) {
                    file.into_iter().for_each(|file| predictors.revisions.add_request(file));
                    predictors.listing.add_request(&object.key);
                }
            }
        }
        for (series, newest) in self.background.new_revisions().list() {
            predictors.revisions.add_revision(&series, newest);
        }
        Ok(predictors)
    }
}

impl Predictors {
    fn new(revisions: u32) -> Self {
        Self { revisions: RevisionPredictor::new(revisions), listing: ListingPredictor::default() }
    }
}
