//! The task of one fill: asks the upstreams, judges the response, stores its content and publishes the entry. Only the
//! task changes the fill's phase, so no other code can end a fill. If the task is dropped, its phase channel closes,
//! and followers see a failure. Content may change while it arrives, and the task then starts again.

mod body;
mod proof;
mod queue;
mod registration;
#[cfg(feature = "otlp")]
mod trace;
mod unfinished;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderMap, StatusCode, header};
use tokio::sync::{Notify, watch};

use super::accept::{AcceptedResponse, RejectedResponse};
use super::admission::FillPermit;
use super::handle::FillFlags;
use super::private_response::PrivateResponseSender;
use super::{
    BackgroundFetch, FillContent, FillContext, FillError, FillHandle, FillKey, FillOutcome, FillRequest,
    Phase, PrivateResponse, UnsharedReason,
};
use crate::CacheEntry;
use gupd_config::policy::Classification;
use gupd_config::{Class, UpstreamId};
use gupd_http::key;
use gupd_http::refusal::BudgetKind;
use gupd_http::validator::{add_validators, matches_stored};
use gupd_http::{VaryFields, compact, update};
use gupd_net::upstream::{
    CurrentUpstream, PeerProof, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams,
};
use gupd_store::{BodySource, CHUNK, CommittedObject, Object, UnfinishedFill};

/// Task of one fill.
pub(super) struct FillTask {
    context: Arc<FillContext>,
    upstreams: Arc<Upstreams>,
    request: Arc<FillRequest>,
    register_key: FillKey,
    phase: watch::Sender<Phase>,
    /// `None` while the fill is queued.
    permit: Option<FillPermit>,
    flags: Arc<FillFlags>,
    current_upstream: CurrentUpstream,
    /// Notified when a follower leaves, or wants bytes that no run brings.
    attention: Arc<Notify>,
    private_response: Option<PrivateResponseSender>,
    /// Upstreams of unusable responses and of content with a wrong digest. Others are asked first when the fill fetches
    /// it again.
    distrusted: Vec<UpstreamId>,
    /// Number of responses that the fill had not asked for.
    unrequested: usize,
    /// Number of times that other content replaced the arriving content.
    changes: u32,
    /// Stored response that the response of this fill replaces.
    replaced: Option<Arc<CacheEntry>>,
    /// Content bytes that have arrived.
    #[cfg(feature = "otlp")]
    received: u64,
}

/// Outcome of one response to a fill.
enum StepOutcome {
    /// The fill has ended.
    Done(FillOutcome),
    /// The content changed; the fill starts again with this response.
    Changed(Box<UpstreamResponse>),
    /// The response is unusable; the fill asks for the complete content without conditions.
    RetryUnconditionally,
}

impl FillTask {
    /// Creates the task of a new fill, the handle of its first follower, and the receiver for an unshared response.
    pub(super) fn new(
        context: Arc<FillContext>,
        upstreams: Arc<Upstreams>,
        request: FillRequest,
        register_key: FillKey,
    ) -> (Box<Self>, FillHandle, PrivateResponse) {
        let (phase, phases) = watch::channel(Phase::Asking);
        let (sender, private_response) = PrivateResponse::channel();
        let (attention, current_upstream) = (Arc::new(Notify::new()), CurrentUpstream::default());
        let number = context.started.fetch_add(1, Ordering::Relaxed);
        let flags = FillFlags::new(&request, request.background.is_none(), number);
        let fill =
            FillHandle::new(phases, &request, flags.clone(), current_upstream.clone(), attention.clone());
        // Boxed, because the future of the task would have room for it more than once.
        let task = Box::new(Self {
            context,
            upstreams,
            replaced: request.stale.clone(),
            request: Arc::new(request),
            register_key,
            phase,
            permit: None,
            flags,
            current_upstream,
            attention,
            private_response: Some(sender),
            distrusted: Vec::new(),
            unrequested: 0,
            changes: 0,
            #[cfg(feature = "otlp")]
            received: 0,
        });
        (task, fill, private_response)
    }

    async fn fill(&mut self) -> FillOutcome {
        if let Some(unproven) = self.find_hold().await {
            return self.refuse(&unproven);
        }
        if self.request.part.is_some() && self.requires_whole() {
            Arc::make_mut(&mut self.request).part = None;
        }
        if let Some(unfinished) = self.find_unfinished()
            && let Some(outcome) = Box::pin(self.continue_unfinished(unfinished)).await
        {
            return outcome;
        }
        // Peers are asked only at the start: a fill with followers must not wait for a peer that waits for this fill.
        let mut can_ask_peers = self.can_ask_peers();
        loop {
            let answer = {
                let outgoing = self.next_request();
                let can_ask_peers = std::mem::take(&mut can_ask_peers);
                tokio::select! {
                    answer = self.send_request(&outgoing, can_ask_peers) => answer.map(Box::new),
                    () = self.context.stopping.cancelled() => return self.fail(FillError::Stopped),
                }
            };
            let step = match answer {
                Ok(answer) => self.handle_response(answer).await,
                Err(error) => return self.fail(error.into()),
            };
            if let Some(outcome) = self.follow_changes(step).await {
                return outcome;
            }
            let request = Arc::make_mut(&mut self.request);
            (request.stale, request.part) = (None, None);
        }
    }

    /// Builds the request for the content, or for the part or the validation that the fill begins with.
    fn next_request(&self) -> UpstreamRequest {
        let mut headers = self.request.headers.clone();
        if let Some(stale) = &self.request.stale {
            add_validators(&mut headers, &stale.object.headers);
        } else if let Some(part) = self.part().and_then(|part| part.to_field(CHUNK)) {
            headers.insert(header::RANGE, part);
        }
        self.upstream_request(headers)
    }

    /// Continues an unfinished fill. `None` if the fill must ask for the content.
    async fn continue_unfinished(&mut self, unfinished: Box<UnfinishedFill>) -> Option<FillOutcome> {
        let step = self.resume_unfinished(*unfinished).await?;
        self.follow_changes(step).await
    }

    /// Handles responses until the content stops changing. `None` if the fill must ask again without conditions.
    async fn follow_changes(&mut self, mut step: StepOutcome) -> Option<FillOutcome> {
        loop {
            match step {
                StepOutcome::Done(outcome) => return Some(outcome),
                StepOutcome::Changed(changed) => step = Box::pin(self.handle_response(changed)).await,
                StepOutcome::RetryUnconditionally => return None,
            }
        }
    }

    /// Returns true if another relay of the site may supply the content. Immutable content and content with explicit
    /// freshness is the same there, unless it belongs to the managers of one binding. Only a manager can revalidate.
    fn can_ask_peers(&self) -> bool {
        matches!(self.request.classification.class, Class::Payload | Class::Generic)
            && key::split_key(&self.request.key).binding.is_none()
            && self.request.stale.is_none()
            && self.distrusted.is_empty()
    }

    async fn send_request(
        &self,
        outgoing: &UpstreamRequest,
        can_ask_peers: bool,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let order = &self.request.upstream_order;
        if can_ask_peers {
            let proof = self.peer_proof();
            if let Some(answer) = self.upstreams.query_peers(outgoing, proof).await {
                return Ok(answer);
            }
            // Every relay of the tier can write to it: TLS proves nothing about its content.
            if outgoing.tier_key.is_some() && proof != PeerProof::Tls {
                return self.upstreams.send_beside_tier(order, outgoing).await;
            }
        }
        let trusted: Vec<_> = order.iter().filter(|id| !self.distrusted.contains(id)).cloned().collect();
        // An upstream without the content has no say; the distrusted ones have it.
        if !trusted.is_empty()
            && trusted.len() < order.len()
            && let Ok(answer) = self.upstreams.send(&trusted, outgoing).await
            && answer.response.status().is_success()
        {
            return Ok(answer);
        }
        self.upstreams.send(order, outgoing).await
    }

    /// Drops a `206` or `304` to a request for the complete content: it is not the object. The fill asks again, another
    /// upstream first.
    fn refuse_unrequested(&mut self, answer: &UpstreamResponse) -> StepOutcome {
        let (upstream, status) = (answer.upstream.name.clone(), answer.response.status());
        let reason = format!("{status} was not requested").into();
        let error = UpstreamError::Response { upstream, reason };
        self.unrequested = self.unrequested.saturating_add(1);
        if self.unrequested > self.request.upstream_order.len() {
            return StepOutcome::Done(self.fail(error.into()));
        }
        tracing::warn!(%error, key = &*self.request.key, "asking for the complete content again");
        self.distrust(answer.upstream.id.clone());
        StepOutcome::RetryUnconditionally
    }

    fn upstream_request(&self, headers: HeaderMap) -> UpstreamRequest {
        UpstreamRequest {
            current_upstream: self.current_upstream.clone(),
            ..self.request.to_upstream(headers)
        }
    }

    /// Judges one response, and stores its content if it may be shared.
    async fn handle_response(&mut self, answer: Box<UpstreamResponse>) -> StepOutcome {
        let status = answer.response.status();
        let is_requested = match status {
            StatusCode::NOT_MODIFIED => self.request.stale.is_some(),
            StatusCode::PARTIAL_CONTENT => self.part().is_some(),
            _ => true,
        };
        if !is_requested {
            return self.refuse_unrequested(&answer);
        }
        if let (StatusCode::NOT_MODIFIED, Some(stale)) = (status, self.request.stale.clone()) {
            return Box::pin(self.apply_not_modified(&stale, &answer)).await;
        }
        if status.is_server_error() && !self.can_store_error(&answer) {
            let error = FillError::ServerError { upstream: answer.upstream.name.clone(), status };
            self.hand_over(*answer);
            return StepOutcome::Done(self.fail(error));
        }
        let is_content = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
        // A partial response of another range, and 416, are judged like those to clients.
        if self.request.background == Some(BackgroundFetch::Prefetch)
            && !is_content
            && status != StatusCode::RANGE_NOT_SATISFIABLE
        {
            return StepOutcome::Done(self.end_unshared(UnsharedReason::NotPrefetched(status)));
        }
        let expect = |status, headers: &HeaderMap| self.expect(status, headers);
        let rules = (&*self.context.cache, self.upstreams.are_authenticated(&self.request.upstream_order));
        match AcceptedResponse::from_response(answer, &self.request, self.part(), rules, expect) {
            Ok(accepted) => self.store_response(accepted).await,
            Err(RejectedResponse::Unusable) => StepOutcome::RetryUnconditionally,
            Err(RejectedResponse::Unstorable(answer, _)) if self.is_withheld(&answer) => {
                StepOutcome::Done(self.refuse_unseen(&answer))
            }
            Err(RejectedResponse::Unstorable(answer, why)) => {
                // A transient reason, or an error for this request, says nothing about later responses.
                let class = self.request.classification.class;
                let is_lasting = why.is_lasting() && !status.is_client_error();
                if is_lasting && !matches!(class, Class::Payload | Class::Catalog) {
                    self.context.cache.remember_unstorable(&self.request, why);
                }
                // The client gets a newer response, which cannot replace the stored one.
                if let Some(replaced) = self.replaced.as_ref().filter(|_| status == StatusCode::OK) {
                    replaced.mark_outdated();
                }
                self.hand_over(*answer);
                StepOutcome::Done(self.end_unshared(UnsharedReason::Unstorable(why)))
            }
        }
    }

    /// Returns true if the upstream permits to store this server error. It never replaces stored content, which is
    /// worth more while the upstream fails.
    fn can_store_error(&self, answer: &UpstreamResponse) -> bool {
        let FillRequest { client_headers, classification, stale, .. } = &*self.request;
        let (status, headers) = (answer.response.status(), answer.response.headers());
        classification.class == Class::Generic
            && stale.as_ref().is_none_or(|stale| stale.object.status.is_server_error())
            && self.context.cache.check_storable(client_headers, status, headers, Class::Generic).is_ok()
    }

    /// Publishes the committed object.
    async fn finish_stored(&self, content: &FillContent, committed: CommittedObject) -> FillOutcome {
        let CommittedObject { object, source, deduplicated } = committed;
        tracing::debug!(key = &*self.request.key, blob = %object.blob, len = object.len, "stored");
        if let Some(client) = self.request.client {
            self.context.budgets.spend(BudgetKind::NewBytes, client, self.request.key.len() as u64);
        }
        match self.publish((object, source), &content.head.selecting, &content.head.classification).await {
            Some(entry) => {
                if let Some(publisher) = &self.context.publisher {
                    publisher.offer(&entry);
                }
                self.set_phase(Phase::Stored { entry });
            }
            // Followers read to the end from the phase `Complete`.
            None => return FillOutcome::Outdated,
        }
        if deduplicated { FillOutcome::Deduplicated } else { FillOutcome::Stored }
    }

    async fn apply_not_modified(&mut self, stale: &CacheEntry, answer: &UpstreamResponse) -> StepOutcome {
        let fields = answer.response.headers();
        if !matches_stored(fields, &stale.object.headers) {
            return StepOutcome::RetryUnconditionally;
        }
        let mut updated = stale.object.headers.clone();
        let class = stale.classification.class;
        update::apply_not_modified(&mut updated, fields.clone(), class);
        update::add_date(&mut updated, answer.response_time);
        let updated = compact(&updated);
        let cache = &self.context.cache;
        let client_headers = &self.request.client_headers;
        let storable = cache.check_storable(client_headers, stale.object.status, &updated, class);
        let refreshed = match storable {
            Ok(()) => Ok(cache.refresh(stale, updated, answer.request_time, answer.response_time).await),
            // The response was public and no longer is: it must not stay in the store.
            Err(_) => match cache.invalidate(&stale.object.key).await {
                Ok(_) => return StepOutcome::RetryUnconditionally,
                Err(error) => Err(error),
            },
        };
        StepOutcome::Done(match refreshed {
            Ok(object) => match self
                .publish((object, stale.body_source()), &stale.selecting, &stale.classification)
                .await
            {
                Some(entry) => {
                    self.set_phase(Phase::NotModified { entry });
                    FillOutcome::NotModified
                }
                None => return StepOutcome::RetryUnconditionally,
            },
            Err(error) => self.fail(error.into()),
        })
    }

    fn end_unshared(&mut self, why: UnsharedReason) -> FillOutcome {
        tracing::debug!(key = &*self.request.key, why = why.as_str(), "response not shared");
        self.unregister();
        self.set_phase(Phase::Unshared { why });
        FillOutcome::Unshared
    }

    fn fail(&mut self, error: FillError) -> FillOutcome {
        // Content without a proof is reported once, and refused for each client.
        let is_known = matches!(
            error,
            FillError::Upstream(UpstreamError::Unavailable { .. }) | FillError::Unproven { .. }
        );
        if is_known || matches!(error, FillError::Abandoned | FillError::Stopped) {
            tracing::debug!(%error, key = &*self.request.key, "fill stopped");
        } else {
            tracing::warn!(%error, key = &*self.request.key, "fill failed");
        }
        let outcome = error.outcome();
        self.unregister();
        self.set_phase(Phase::Failed { error, successor: None });
        outcome
    }

    /// Starts the fill again under a new phase channel. Later requests follow the new content. A reader of the old
    /// content goes on with the new one if its bytes are equal there, and sees a broken transfer otherwise.
    fn restart(&mut self, error: FillError) {
        tracing::warn!(%error, key = &*self.request.key, "fill restarted");
        let (phase, phases) = watch::channel(Phase::Asking);
        let old = std::mem::replace(&mut self.phase, phase);
        let mut running = self.context.lock();
        let number = self.context.started.fetch_add(1, Ordering::Relaxed);
        self.flags = FillFlags::new(&self.request, self.flags.is_for_client(), number);
        let (current, attention) = (self.current_upstream.clone(), self.attention.clone());
        let fill = FillHandle::new(phases, &self.request, self.flags.clone(), current, attention);
        running.insert(self.register_key.clone(), fill.clone());
        drop(running);
        // Followers of the old fill continue with the new one, which must not end unfollowed before they do.
        old.send_replace(Phase::Failed { error, successor: Some(Box::new(fill)) });
    }

    /// Sends the response to the client that started the fill. The client may have gone; then the response is dropped.
    fn hand_over(&mut self, answer: UpstreamResponse) {
        if let Some(sender) = self.private_response.take() {
            sender.send(answer);
        }
    }

    /// Sends the cookies of a shared response to the client that started the fill, before its head is published.
    fn hand_over_cookies(&mut self, cookies: HeaderMap) {
        if !cookies.is_empty()
            && let Some(sender) = self.private_response.take()
        {
            sender.send_cookies(cookies);
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Inserts the object into the cache and removes the fill from the register, atomically for new requests. `None`,
    /// and the object is invalidated, if an unsafe request changed it during the fill (RFC 9111 §4.4).
    async fn publish(
        &self,
        (object, source): (Object, BodySource),
        selecting: &VaryFields,
        classification: &Classification,
    ) -> Option<Arc<CacheEntry>> {
        let entry = {
            let mut running = self.context.lock();
            let (cache, selecting, classification) =
                (&self.context.cache, selecting.clone(), classification.clone());
            self.remove_from(&mut running).then(|| match source {
                BodySource::Blob { .. } => cache.insert(object, selecting, classification),
                BodySource::Partial(_) => {
                    cache.insert_negative((object, source), selecting, classification, self.request.client)
                }
            })
        };
        if entry.is_none()
            && let Err(error) = Box::pin(self.context.cache.invalidate(&self.request.key)).await
        {
            tracing::error!(%error, key = &*self.request.key, "cannot invalidate an object that changed during its fill");
        }
        entry
    }
}
