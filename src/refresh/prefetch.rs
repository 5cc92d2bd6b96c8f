//! Prefetch: configured paths and predicted requests, one after the other, deltas first. It starts after a refresh, and
//! when a client has requested an unknown revision. It stops when the window closes, and continues in the next one.

use http::StatusCode;
use http::uri::PathAndQuery;

use super::listing_predictor::ListingPredictor;
use super::revision_predictor::RevisionPredictor;
use super::spelling::FolderSpellings;
use super::task::{random, sleep_until};
use super::{MAX_FAILURES, RefreshWorker, TaskSettings};
use gupd_config::clock::UnixMillis;
use gupd_config::policy::RevisionFile;
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

/// Predictors for the payloads of both protocols, and the spelling of their folders.
struct Predictors {
    revisions: RevisionPredictor,
    listing: ListingPredictor,
    folders: FolderSpellings,
}

/// An object to prefetch.
struct PrefetchTarget {
    key: ObjectKey,
    /// Its spelling upstream, if known.
    target: Option<PathAndQuery>,
}

/// Reason why an object was not prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrefetchFailure {
    /// The upstream has no content for it.
    Absent,
    /// It exceeds what is left of `prefetch.max_bytes`.
    TooLarge,
    /// No upstream answered, or the transfer failed.
    Failed,
}

impl PrefetchFailure {
    pub(super) const ALL: [Self; 3] = [Self::Absent, Self::TooLarge, Self::Failed];

    /// Label in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::TooLarge => "too-large",
            Self::Failed => "failed",
        }
    }
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
        for PrefetchTarget { key, target } in self.prefetch_targets(settings).await {
            if *left == 0 {
                return tracing::info!("prefetch stopped: prefetch.max_bytes reached");
            }
            if failures == MAX_FAILURES {
                return tracing::warn!(failures, "prefetch stopped after consecutive failures");
            }
            let fetched = Box::pin(self.background.prefetch(&key, target.as_ref(), *left)).await;
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
                Ok(FetchOutcome::Unchanged) => {}
                Ok(FetchOutcome::Nothing { status }) => {
                    self.count_failure(PrefetchFailure::Absent);
                    let status = status.map(|status| status.as_u16());
                    tracing::warn!(key = &*key, status, "not prefetched: the upstream has no content for it");
                }
                Ok(FetchOutcome::TooLarge) => {
                    self.count_failure(PrefetchFailure::TooLarge);
                    tracing::info!(
                        key = &*key,
                        left = *left,
                        "not prefetched: larger than prefetch.max_bytes"
                    );
                }
                Err(error) => {
                    self.count_failure(PrefetchFailure::Failed);
                    tracing::warn!(key = &*key, %error, "not prefetched");
                }
            }
        }
    }

    fn count_failure(&self, reason: PrefetchFailure) {
        self.metrics.prefetch_failures.with_label_values(&[reason.as_str()]).inc();
    }

    /// Lists the objects to prefetch in their order.
    async fn prefetch_targets(&self, settings: &TaskSettings) -> Vec<PrefetchTarget> {
        let prefetch = &settings.prefetch;
        if !prefetch.learned && prefetch.paths.is_empty() {
            return Vec::new();
        }
        let predictors = self.train_predictors(prefetch.revisions).await.unwrap_or_else(|error| {
            tracing::error!(%error, "requests cannot be predicted: the store cannot be read");
            Predictors::new(prefetch.revisions)
        });
        let mut targets: Vec<PrefetchTarget> = Vec::new();
        for path in &prefetch.paths {
            match self.background.keys_of(path) {
                Ok(configured) => {
                    targets.extend(configured.into_iter().filter_map(|key| predictors.configured(key, path)));
                }
                Err(error) => tracing::warn!(%error, "path of prefetch.paths cannot be requested"),
            }
        }
        if prefetch.learned {
            let listed = self.background.fills().digests().listed_keys();
            let listed =
                listed.iter().filter_map(|key| Some((key.as_str(), self.background.stamp_digits(key)?)));
            let listed = predictors.listing.predict(listed);
            let predicted = predictors.revisions.predict().into_iter().chain(listed);
            let payloads = predicted.filter(|key| self.background.is_payload_key(key)).map(ObjectKey::from);
            targets
                .extend(payloads.map(|key| PrefetchTarget { target: predictors.folders.target(&key), key }));
        }
        targets
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
                    predictors.folders.add(object);
                    file.into_iter().for_each(|file| predictors.revisions.add_request(file));
                    if let Some(digits) = self.background.stamp_digits(&object.key) {
                        predictors.listing.add_request(&object.key, digits);
                    }
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
        Self {
            revisions: RevisionPredictor::new(revisions),
            listing: ListingPredictor::default(),
            folders: FolderSpellings::default(),
        }
    }

    /// Returns the target of a path of `prefetch.paths`, spelled as it is written; `None` if it asks for the newest
    /// revision of a content and none is known.
    fn configured(&self, key: ObjectKey, path: &PathAndQuery) -> Option<PrefetchTarget> {
        let Some((series, name)) = key.split_once(ANY_REVISION) else {
            return Some(PrefetchTarget { key, target: Some(path.clone()) });
        };
        let newest = self.revisions.newest_revision(series)?;
        let target = path.as_str().replacen(ANY_REVISION, &format!("/{newest}/"), 1).parse().ok();
        Some(PrefetchTarget { key: RevisionFile::format_key(series, newest, name).into(), target })
    }
}
