//! Fetching ahead: what the configuration lists and what clients will want by the learner, one after the other, deltas
//! first. It begins after a refresh, and when a client has asked for a revision that was not known; it stops when the
//! window closes, keeps what came, and goes on in the next window.

use http::StatusCode;

use super::learn::Learner;
use super::listed::Listed;
use super::{MAX_FAILURES, Settings, Worker, random, reached};
use gupd_config::clock::UnixMillis;
use gupd_config::policy::RevisionFile;
use gupd_proxy::background::FetchOutcome;
use gupd_store::{Object, ObjectKey, StoreError};

/// What stands for the newest revision in a path of `prefetch.paths`.
const ANY_REVISION: &str = "/*/";

/// A prefetch to come, or interrupted.
#[derive(Debug)]
pub(super) struct Pending {
    at: UnixMillis,
    /// Bytes it may still bring.
    left: u64,
}

impl Pending {
    /// The windows may have changed.
    pub(super) fn look_again(&mut self, now: UnixMillis) {
        self.at = now;
    }
}

/// What clients took, by both protocols.
struct Taken {
    revisions: Learner,
    listed: Listed,
}

impl Worker {
    /// What is to be fetched after a refresh.
    pub(super) fn after_refresh(&self, settings: &Settings) -> Option<Pending> {
        let now = self.clock.now();
        let at = match settings.schedule.closes(now) {
            Some(_) => now,
            None => settings.schedule.opening(now, random())?,
        };
        Some(Pending { at, left: settings.prefetch.max_bytes })
    }

    /// The next step: waits for a reason, or for the time, and then fetches until all is there or the window closes.
    /// May be dropped at any time; what is pending stays so.
    pub(super) async fn go_ahead(&self, settings: &Settings, pending: &mut Option<Pending>) {
        let Some(Pending { at, left }) = pending else {
            self.background.new_revisions().wait().await;
            *pending = self.after_refresh(settings);
            return;
        };
        self.clock.sleep_until(*at).await;
        let closed = match settings.schedule.closes(self.clock.now()) {
            None => true,
            Some(closes) => tokio::select! {
                biased;
                () = reached(&self.clock, closes) => true,
                () = self.fetch_all(settings, left) => false,
            },
        };
        let next = if closed { settings.schedule.opening(self.clock.now(), random()) } else { None };
        *pending = next.map(|at| Pending { at, left: *left });
    }

    async fn fetch_all(&self, settings: &Settings, left: &mut u64) {
        if self.store.degradation().is_some() {
            return tracing::info!("nothing is prefetched: the store's disk is not well");
        }
        let mut in_a_row = 0;
        for key in self.wanted(settings).await {
            if *left == 0 {
                return tracing::info!("prefetch.max_bytes have been fetched");
            }
            if in_a_row == MAX_FAILURES {
                return tracing::warn!("prefetch is given up: one request after the other fails");
            }
            let fetched = Box::pin(self.background.prefetch(&key, *left)).await;
            in_a_row = if fetched.is_err() { in_a_row + 1 } else { 0 };
            match fetched {
                Ok(FetchOutcome::New { entry, for_client }) => {
                    let bytes = entry.object.len;
                    *left = left.saturating_sub(bytes);
                    self.metrics.prefetched_bytes.inc_by(bytes);
                    tracing::info!(key = &*key, bytes, "prefetched");
                    if !for_client && let Err(error) = self.store.record_prefetch(&entry.object).await {
                        tracing::debug!(%error, "what was prefetched is not written down");
                    }
                }
                Ok(FetchOutcome::Unchanged | FetchOutcome::Nothing) => {}
                Ok(FetchOutcome::TooLarge) => {
                    tracing::info!(key = &*key, left = *left, "not prefetched: prefetch.max_bytes is less");
                }
                Err(error) => tracing::info!(key = &*key, %error, "not prefetched"),
            }
        }
    }

    /// Keys in the order they are fetched.
    async fn wanted(&self, settings: &Settings) -> Vec<ObjectKey> {
        let prefetch = &settings.prefetch;
        if !prefetch.learned && prefetch.paths.is_empty() {
            return Vec::new();
        }
        let taken = self.taken(prefetch.revisions).await.unwrap_or_else(|error| {
            tracing::error!(%error, "what to prefetch cannot be learned from the store");
            Taken::new(prefetch.revisions)
        });
        let mut wanted: Vec<ObjectKey> = Vec::new();
        for path in &prefetch.paths {
            match self.background.keys_of(path) {
                Ok(keys) => {
                    let known = keys.into_iter().filter_map(|key| match key.split_once(ANY_REVISION) {
                        // Of a revision that is not known yet, nothing.
                        Some((series, name)) => taken.revisions.of_newest(series, name).map(ObjectKey::from),
                        None => Some(key),
                    });
                    wanted.extend(known);
                }
                Err(error) => tracing::warn!(%error, "a path of prefetch.paths cannot be asked for"),
            }
        }
        if prefetch.learned {
            let listed = self.background.fills().digests().listed();
            let listed = taken.listed.wanted(listed.iter().map(|key| key.as_str()));
            let learned = taken.revisions.wanted().into_iter().chain(listed);
            wanted.extend(learned.filter(|key| self.background.is_payload_key(key)).map(ObjectKey::from));
        }
        wanted
    }

    /// What the store has of what clients took.
    async fn taken(&self, revisions: u32) -> Result<Taken, StoreError> {
        let mut taken = Taken::new(revisions);
        let mut after = 0;
        loop {
            let page = self.store.page(after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let is_content = |object: &&Object| {
                object.status == StatusCode::OK && self.background.is_payload_key(&object.key)
            };
            for object in page.iter().filter(is_content) {
                if let Some(RevisionFile { series, number, .. }) = RevisionFile::parse(&object.key) {
                    self.background.new_revisions().record(&object.key);
                    taken.revisions.exists(series, number);
                }
                // What was only prefetched says nothing of clients.
                if !self.store.is_unused_prefetch(&object.key) {
                    taken.revisions.taken(&object.key);
                    taken.listed.taken(&object.key);
                }
            }
        }
        for (series, newest) in self.background.new_revisions().list() {
            taken.revisions.exists(&series, newest);
        }
        Ok(taken)
    }
}

impl Taken {
    fn new(revisions: u32) -> Self {
        Self { revisions: Learner::new(revisions), listed: Listed::default() }
    }
}
