//! Fetching ahead: what the configuration lists and what clients will want by the learner, one after the other, deltas
//! first. It begins after a refresh, and when a client has asked for a revision that was not known; it stops when the
//! window closes, keeps what came, and goes on in the next window.

use std::sync::Arc;

use http::StatusCode;

use super::learn::Learner;
use super::{Settings, Worker, random, reached};
use crate::clock::UnixMillis;
use crate::policy::Numbered;
use crate::proxy::Fetched;
use crate::store::StoreError;

/// A prefetch to come, or interrupted.
#[derive(Debug)]
pub(super) struct Pending {
    at: UnixMillis,
    /// Bytes it may still bring.
    left: u64,
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
            self.proxy.news().heard().await;
            *pending = self.after_refresh(settings);
            return;
        };
        self.clock.reached(*at).await;
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
        for key in self.wanted(settings).await {
            if *left == 0 {
                return tracing::info!("prefetch.max_bytes have been fetched");
            }
            match Box::pin(self.proxy.fetch_ahead(&key, *left)).await {
                Ok(Fetched::New { entry, for_client }) => {
                    let bytes = entry.object.len;
                    *left = left.saturating_sub(bytes);
                    self.metrics.refresh.prefetched_bytes.inc_by(bytes);
                    tracing::info!(key = &*key, bytes, "prefetched");
                    if !for_client && let Err(error) = self.store.stored_ahead(&entry.object).await {
                        tracing::debug!(%error, "what was prefetched is not written down");
                    }
                }
                Ok(Fetched::Unchanged | Fetched::Nothing) => {}
                Ok(Fetched::TooLarge) => {
                    tracing::info!(key = &*key, left = *left, "not prefetched: prefetch.max_bytes is less");
                }
                Err(error) => tracing::info!(key = &*key, %error, "not prefetched"),
            }
        }
    }

    /// Keys in the order they are fetched.
    async fn wanted(&self, settings: &Settings) -> Vec<Arc<str>> {
        let listed = settings.prefetch.paths.iter().filter_map(|path| {
            let key = self.proxy.key_of(path);
            key.inspect_err(|error| tracing::warn!(%error, "a path of prefetch.paths cannot be asked for")).ok()
        });
        let mut wanted: Vec<Arc<str>> = listed.collect();
        if settings.prefetch.learned {
            match self.learned(settings).await {
                Ok(learned) => wanted.extend(learned.into_iter().map(Arc::from)),
                Err(error) => tracing::error!(%error, "what to prefetch cannot be learned from the store"),
            }
        }
        wanted
    }

    async fn learned(&self, settings: &Settings) -> Result<Vec<String>, StoreError> {
        let mut learner = Learner::new(settings.prefetch.revisions);
        let mut after = 0;
        loop {
            let page = self.store.page(after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for object in page.iter().filter(|object| object.status == StatusCode::OK) {
                let Some(Numbered { series, number, .. }) = Numbered::of(&object.key) else { continue };
                if !self.proxy.is_payload(&object.key) {
                    continue;
                }
                self.proxy.news().note(&object.key);
                learner.exists(series, number);
                // What was only prefetched says nothing of clients.
                if !self.store.is_ahead(&object.key) {
                    learner.taken(&object.key);
                }
            }
        }
        for (series, newest) in self.proxy.news().all() {
            learner.exists(&series, newest);
        }
        Ok(learner.wanted().into_iter().filter(|key| self.proxy.is_payload(key)).collect())
    }
}
