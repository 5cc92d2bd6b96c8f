//! Revalidation and prefetch: background requests for single objects. They go through the same lookup and the same
//! fills as clients' requests, so that neither is made twice. `refresh` decides when and for which objects.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};

use super::origin::spelled_target;
use super::{Background, OriginError};
use crate::Generation;
use gupd_cache::fill::{
    BackgroundFetch, FillError, FillRequest, FillResponse, FillResult, Joined, UnsharedReason,
};
use gupd_cache::{CacheEntry, CacheLookup};
use gupd_config::Class;
use gupd_http::{CacheControl, Verdict};
use gupd_net::shape::Purpose;
use gupd_store::{Object, ObjectKey};

/// Attempts at one object: the content may change meanwhile.
const MAX_TRIES: usize = 3;

/// Outcome of a background fetch.
#[derive(Debug)]
pub enum FetchOutcome {
    /// The stored response is valid, or a client is getting the new one.
    Unchanged,
    /// A new response is stored.
    New {
        /// The response.
        entry: Arc<CacheEntry>,
        /// A client has requested it meanwhile.
        for_client: bool,
    },
    /// The upstream has no response that could be stored.
    Nothing {
        /// The upstream's status, if it has no content.
        status: Option<StatusCode>,
    },
    /// The object is larger than the limit.
    TooLarge,
}

impl FetchOutcome {
    /// Returns the outcome of this fetch, or that of the fetch before if this one changed nothing.
    fn or(self, before: Self) -> Self {
        if matches!(self, Self::Unchanged) { before } else { self }
    }
}

impl Background {
    /// Revalidates a stored response, however fresh it is. A response that an upstream was asked for before the call does
    /// not count. This is no use by a client.
    ///
    /// # Errors
    /// When the configuration has no upstream for it, or none answers. The stored response stays.
    pub async fn revalidate(&self, object: &Object) -> Result<FetchOutcome, OriginError> {
        let generation = self.generations.load_full();
        self.fetch(&generation, generation.refetch_request(object)?, u64::MAX).await
    }

    /// Revalidates the stored response of a key, or fetches the object if none is stored.
    ///
    /// # Errors
    /// When the configuration has no upstream for it, or none answers.
    pub async fn revalidate_key(&self, key: &ObjectKey) -> Result<FetchOutcome, OriginError> {
        let generation = self.generations.load_full();
        self.fetch(&generation, generation.fill_request(key, HeaderMap::new())?, u64::MAX).await
    }

    /// Fetches the object of a key, if it has at most `max_bytes` and no fresh response is stored. `target` is its
    /// spelling upstream, if known. If the future is dropped, the bytes that have arrived are kept for the next fill.
    /// A negative response is not stored: no client has asked.
    ///
    /// # Errors
    /// When the configuration has no upstream for it, or its fill fails.
    pub async fn prefetch(
        &self,
        key: &ObjectKey,
        target: Option<&PathAndQuery>,
        max_bytes: u64,
    ) -> Result<FetchOutcome, OriginError> {
        let generation = self.generations.load_full();
        let mut request = generation.fill_request(key, HeaderMap::new())?;
        if let Some(target) = target {
            request.target = target.clone();
        }
        request.bandwidth.set_purpose(Purpose::Prefetch);
        let request = FillRequest { background: Some(BackgroundFetch::Prefetch), ..request };
        let mut fetched = self.fetch(&generation, request.clone(), max_bytes).await;
        // A payload is one object for all clients, and perhaps only the upstreams of a group have it.
        for binding in
            generation.policy.bindings().iter().filter(|_| request.classification.class == Class::Payload)
        {
            if !matches!(fetched, Ok(FetchOutcome::Nothing { .. }) | Err(_)) {
                break;
            }
            let request = FillRequest { upstream_order: binding.upstreams().clone(), ..request.clone() };
            fetched = self.fetch(&generation, request, max_bytes).await;
        }
        fetched
    }

    async fn fetch(
        &self,
        generation: &Generation,
        mut request: FillRequest,
        max_bytes: u64,
    ) -> Result<FetchOutcome, OriginError> {
        if request.classification.class == Class::Private || generation.classify(&request.key).is_none() {
            return Ok(FetchOutcome::Nothing { status: None });
        }
        let is_prefetch = is_prefetch(&request);
        let called_at = self.cache.clock().now();
        // Outcome of a fill that began before the call.
        let mut earlier = FetchOutcome::Unchanged;
        let mut last = FillError::Abandoned;
        for _ in 0..MAX_TRIES {
            if self.is_prefetched(generation, &mut request).await? {
                return Ok(FetchOutcome::Unchanged);
            }
            let (fill, begun) = match self.fills.join(request.clone(), &generation.upstreams) {
                // No client waits for a response that cannot be shared.
                Joined::Started(fill, _handover) => (fill, true),
                Joined::Following(fill) => (fill, false),
                Joined::Completed(fill) => {
                    fill.fetch_all().await;
                    continue;
                }
                Joined::Stored(entry) if is_prefetch || entry.object.request_time > called_at => {
                    return Ok(earlier);
                }
                Joined::Stored(_) => continue,
            };
            if !begun && is_prefetch && fill.is_for_client() {
                return Ok(FetchOutcome::Unchanged);
            }
            if let Some(outcome) = reject_response(&fill.response().await, max_bytes) {
                return Ok(outcome);
            }
            let is_recent =
                |entry: &CacheEntry| begun || is_prefetch || entry.object.request_time > called_at;
            match fill.fetch_all().await {
                FillResult::Stored(entry) => {
                    let is_recent = is_recent(&entry);
                    let outcome = stored(&request, entry, fill.is_for_client());
                    if is_recent {
                        return Ok(outcome.or(earlier));
                    }
                    earlier = outcome.or(earlier);
                }
                FillResult::NotModified(entry) if is_recent(&entry) => return Ok(earlier),
                FillResult::NotModified(_) => {}
                FillResult::NotKept if !begun && !is_prefetch => {}
                FillResult::NotKept => return Ok(FetchOutcome::Nothing { status: None }),
                FillResult::Failed(
                    error @ (FillError::Changed { .. } | FillError::Mismatch { .. } | FillError::Abandoned),
                ) => last = error,
                FillResult::Failed(error) => return Err(error.into()),
            }
        }
        Err(last.into())
    }

    /// Looks the object up and completes `request` with the stored response. Returns true if a prefetch finds a fresh
    /// one.
    async fn is_prefetched(
        &self,
        generation: &Generation,
        request: &mut FillRequest,
    ) -> Result<bool, OriginError> {
        match self.cache.find(&request.key, request.selecting(), &request.classification).await? {
            CacheLookup::Miss => request.stale = None,
            CacheLookup::OtherVariant { variant } => (request.variant, request.stale) = (variant, None),
            CacheLookup::Hit(entry) if !self.fills.digests().prove_stored(&entry).await => {
                request.variant.clone_from(&entry.object.selecting);
                request.target = spelled_target(&entry.object)?;
                request.stale = None;
            }
            CacheLookup::Hit(entry)
                if generation.is_failure_of_other_upstreams(&request.upstream_order, &entry) =>
            {
                request.stale = Some(entry);
            }
            CacheLookup::Hit(entry) => {
                let now = self.cache.clock().now();
                let verdict = entry.evaluate(now, &CacheControl::default());
                if is_prefetch(request) && verdict == Verdict::Fresh {
                    return Ok(true);
                }
                request.variant.clone_from(&entry.object.selecting);
                request.target = spelled_target(&entry.object)?;
                request.stale = Some(entry);
            }
        }
        Ok(false)
    }
}

fn is_prefetch(request: &FillRequest) -> bool {
    request.background == Some(BackgroundFetch::Prefetch)
}

/// Returns the outcome if the content of a response is not to be fetched.
fn reject_response(response: &FillResponse, max_bytes: u64) -> Option<FetchOutcome> {
    match response {
        FillResponse::Unshared(UnsharedReason::NotPrefetched(status)) => {
            Some(FetchOutcome::Nothing { status: Some(*status) })
        }
        FillResponse::Content(flow) => {
            let length = flow.length?;
            let missing = length.saturating_sub(flow.available_bytes(0..length));
            (missing > max_bytes).then_some(FetchOutcome::TooLarge)
        }
        _ => None,
    }
}

fn stored(request: &FillRequest, entry: Arc<CacheEntry>, for_client: bool) -> FetchOutcome {
    if entry.object.status != StatusCode::OK {
        return FetchOutcome::Nothing { status: Some(entry.object.status) };
    }
    if let Some(stale) = &request.stale {
        if request.background == Some(BackgroundFetch::Revalidation) && !for_client {
            entry.touch(stale.object.last_used());
        }
        if stale.object.blob == entry.object.blob {
            return FetchOutcome::Unchanged;
        }
    }
    FetchOutcome::New { entry, for_client }
}
