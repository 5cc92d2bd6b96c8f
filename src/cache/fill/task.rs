//! The task of one fill: asks, judges the response, has its content fetched, leaves it to be found. Owns the phase, so
//! no one else can say how a fill ended; if the task is dropped, its followers see that as a failure. Relies on `begin`
//! to turn an answer into a flow and on `fetch` for the bytes, which it does not touch itself.

mod content;

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};
use tokio::sync::{Notify, oneshot, watch};

use super::begin::{Begun, NotBegun};
use super::fetch::Followers;
use super::{
    FillContent, FillError, FillHandle, FillKey, FillOutcome, FillRequest, Leaving, Phase, Shared,
    UnsharedReason,
};
use crate::CacheEntry;
use gupd_config::Class;
use gupd_config::policy::Classification;
use gupd_http::key;
use gupd_http::storable::check_storable;
use gupd_http::validator::{add_validators, matches_stored};
use gupd_http::{VaryFields, update};
use gupd_net::metrics::GaugeGuard;
use gupd_net::upstream::{CurrentUpstream, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams};
use gupd_store::{CHUNK, CommittedObject, Object};

pub(super) struct Task {
    shared: Arc<Shared>,
    upstreams: Arc<Upstreams>,
    wanted: FillRequest,
    phase: watch::Sender<Phase>,
    /// Shows followers who is asked.
    asking: CurrentUpstream,
    /// Followers came for something, or went.
    attention: Arc<Notify>,
    hand: Option<oneshot::Sender<UpstreamResponse>>,
    /// What came first was not what was announced.
    again: bool,
    /// How often other content took the place of what was coming.
    changes: u32,
}

/// How a fill, or one try of it, ended.
enum StepOutcome {
    Finally(FillOutcome),
    /// The content changed under it; the fill goes on with the new content from its beginning.
    Changed(UpstreamResponse),
    /// What came is of no use here; ask for everything.
    Unconditionally,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        upstreams: Arc<Upstreams>,
        wanted: FillRequest,
        phase: watch::Sender<Phase>,
        asking: CurrentUpstream,
        attention: Arc<Notify>,
        hand: oneshot::Sender<UpstreamResponse>,
    ) -> Self {
        Self {
            shared,
            upstreams,
            wanted,
            phase,
            asking,
            attention,
            hand: Some(hand),
            again: false,
            changes: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let permit = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            Ok(permit) = shared.permits.acquire() => Ok(permit),
            // Whoever waits behind others for an upstream that fails them need not wait longer than they.
            error = self.upstreams.wait_until_unavailable(&self.wanted.upstream_order) => Err(error),
        };
        let _running = GaugeGuard::increment(&shared.metrics.running);
        let outcome = match permit {
            Ok(_permit) => self.fill().await,
            Err(error) => self.fail(error.into()),
        };
        shared.metrics.ended.with_label_values(&[outcome.as_str()]).inc();
    }

    async fn fill(&mut self) -> FillOutcome {
        if let Some(left) = self.left_unfinished()
            && let Some(ended) = self.go_on_with(left).await
            && let Some(outcome) = self.settle(ended).await
        {
            return outcome;
        }
        // Once, at the beginning: what others begin to follow must not come to wait for them.
        let mut peers = self.may_have_from_peers();
        loop {
            let mut headers = self.wanted.headers.clone();
            if let Some(stale) = &self.wanted.stale {
                add_validators(&mut headers, &stale.object.headers);
            } else if let Some(part) = self.part().and_then(|part| part.to_field(CHUNK)) {
                headers.insert(header::RANGE, part);
            }
            let outgoing = self.outgoing(headers);
            let peers = std::mem::take(&mut peers);
            let answer = tokio::select! {
                answer = self.ask(&outgoing, peers) => answer,
                () = self.shared.stopping.cancelled() => return self.fail(FillError::Stopped),
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return self.fail(error.into()),
            };
            let ended = self.take(answer).await;
            if let Some(outcome) = self.settle(ended).await {
                return outcome;
            }
            self.wanted.stale = None;
            self.wanted.part = None;
        }
    }

    /// Follows changes of the content to their end; `None` if everything is to be asked for, without conditions.
    async fn settle(&mut self, mut ended: StepOutcome) -> Option<FillOutcome> {
        loop {
            match ended {
                StepOutcome::Finally(outcome) => return Some(outcome),
                StepOutcome::Changed(changed) => ended = self.take(changed).await,
                StepOutcome::Unconditionally => return None,
            }
        }
    }

    /// Whether another relay of the site may give what is wanted. What is immutable or says itself how long it is good
    /// is the same there, but for what is the content of one binding's managers; whether something is still good, only a
    /// manager knows.
    fn may_have_from_peers(&self) -> bool {
        matches!(self.wanted.classification.class, Class::Payload | Class::Generic)
            && key::split_key(&self.wanted.key).binding.is_none()
            && self.wanted.stale.is_none()
            && !self.again
    }

    async fn ask(&self, outgoing: &UpstreamRequest, peers: bool) -> Result<UpstreamResponse, UpstreamError> {
        if peers && let Some(answer) = self.upstreams.query_peers(outgoing).await {
            return Ok(answer);
        }
        self.upstreams.send(&self.wanted.upstream_order, outgoing).await
    }

    fn outgoing(&self, headers: HeaderMap) -> UpstreamRequest {
        let asking = self.asking.clone();
        UpstreamRequest {
            current_upstream: asking,
            ..UpstreamRequest::get(self.wanted.target.clone(), headers, self.wanted.bandwidth.clone())
        }
    }

    /// Judges one response and, if it is for everyone, takes it in.
    async fn take(&mut self, answer: UpstreamResponse) -> StepOutcome {
        let status = answer.response.status();
        if let (StatusCode::NOT_MODIFIED, Some(stale)) = (status, self.wanted.stale.clone()) {
            return self.not_modified(&stale, &answer).await;
        }
        if status.is_server_error() {
            let error = FillError::ServerError { upstream: answer.upstream.name.clone(), status };
            self.hand_over(answer);
            return StepOutcome::Finally(self.fail(error));
        }
        let expect = |status, headers: &HeaderMap| self.expect(status, headers);
        match Begun::of(answer, &self.wanted, self.part(), &self.shared.cache, expect) {
            Ok(begun) => self.take_in(begun).await,
            Err(NotBegun::Unusable) => StepOutcome::Unconditionally,
            Err(NotBegun::Unstorable(answer, why)) => {
                // For others, what one request or one moment brought about says nothing.
                let class = self.wanted.classification.class;
                if why.is_lasting() && !matches!(class, Class::Payload | Class::Catalog) {
                    self.shared.cache.remember_unstorable(&self.wanted.key, why);
                }
                self.hand_over(*answer);
                StepOutcome::Finally(self.unshared(UnsharedReason::Unstorable(why)))
            }
        }
    }

    async fn stored(&self, flow: &FillContent, committed: CommittedObject) -> FillOutcome {
        let CommittedObject { object, deduplicated, .. } = committed;
        tracing::debug!(key = &*self.wanted.key, blob = %object.blob, len = object.len, "stored");
        match self.leave_behind(object, &flow.head.selecting, &flow.head.classification).await {
            Some(entry) => self.show(Phase::Stored { entry }),
            // Its followers have their bytes.
            None => return FillOutcome::Outdated,
        }
        if deduplicated { FillOutcome::Deduplicated } else { FillOutcome::Stored }
    }

    async fn not_modified(&mut self, stale: &CacheEntry, answer: &UpstreamResponse) -> StepOutcome {
        let fields = answer.response.headers();
        if !matches_stored(fields, &stale.object.headers) {
            return StepOutcome::Unconditionally;
        }
        let mut updated = stale.object.headers.clone();
        update::apply_not_modified(&mut updated, fields.clone(), stale.classification.class);
        update::add_date(&mut updated, answer.response_time);
        let cache = &self.shared.cache;
        let still = check_storable(
            &Method::GET,
            &self.wanted.client_headers,
            stale.object.status,
            &updated,
            stale.classification.class,
        );
        let refreshed = match still {
            Ok(()) => Ok(cache.refresh(stale, updated, answer.request_time, answer.response_time).await),
            // What was public is not any more: it must not stay.
            Err(_) => match cache.invalidate(&stale.object.key).await {
                Ok(()) => return StepOutcome::Unconditionally,
                Err(error) => Err(error),
            },
        };
        StepOutcome::Finally(match refreshed {
            Ok(object) => match self.leave_behind(object, &stale.selecting, &stale.classification).await {
                Some(entry) => {
                    self.show(Phase::NotModified { entry });
                    FillOutcome::NotModified
                }
                None => return StepOutcome::Unconditionally,
            },
            Err(error) => self.fail(error.into()),
        })
    }

    fn unshared(&mut self, why: UnsharedReason) -> FillOutcome {
        tracing::debug!(key = &*self.wanted.key, why = why.as_str(), "not shared");
        self.leave();
        self.show(Phase::Unshared { why });
        FillOutcome::Unshared
    }

    fn fail(&mut self, error: FillError) -> FillOutcome {
        let is_known = matches!(error, FillError::Upstream(UpstreamError::Unavailable { .. }));
        if is_known || matches!(error, FillError::Abandoned | FillError::Stopped) {
            tracing::debug!(%error, key = &*self.wanted.key, "fill stopped");
        } else {
            tracing::warn!(%error, key = &*self.wanted.key, "fill failed");
        }
        let outcome = error.outcome();
        self.leave();
        self.show(Phase::Failed { error });
        outcome
    }

    /// Whoever asks from now on follows the new content; who has bytes of the old sees a broken transfer.
    fn begin_again(&mut self, error: FillError) {
        tracing::warn!(%error, key = &*self.wanted.key, "the fill begins again");
        let (phase, receiver) = watch::channel(Phase::Asking);
        let old = std::mem::replace(&mut self.phase, phase);
        let mut running = self.shared.lock();
        let for_client = running.get(&self.register_key()).map(|fill| fill.for_client.clone());
        let for_client = for_client.unwrap_or_default();
        let asking = self.asking.clone();
        let leaving = Leaving(self.attention.clone());
        let fill = FillHandle {
            phase: receiver,
            for_client,
            asking,
            upstream_order: self.wanted.upstream_order.clone(),
            leaving,
        };
        running.insert(self.register_key(), fill);
        drop(running);
        old.send_replace(Phase::Failed { error });
    }

    /// The client may have gone; then nobody needs the response.
    fn hand_over(&mut self, answer: UpstreamResponse) {
        if let Some(hand) = self.hand.take() {
            let _gone = hand.send(answer);
        }
    }

    fn show(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Leaves what was stored to be found, from the moment on at which requests no longer join this fill. `None`, and
    /// nothing is left, if an unsafe request has changed it meanwhile (RFC 9111 §4.4).
    async fn leave_behind(
        &self,
        object: Object,
        selecting: &VaryFields,
        classification: &Classification,
    ) -> Option<Arc<CacheEntry>> {
        let entry = {
            let mut running = self.shared.lock();
            self.strike(&mut running)
                .then(|| self.shared.cache.insert(object, selecting.clone(), classification.clone()))
        };
        if entry.is_none()
            && let Err(error) = self.shared.cache.invalidate(&self.wanted.key).await
        {
            tracing::error!(%error, key = &*self.wanted.key, "cannot forget what was changed meanwhile");
        }
        entry
    }

    /// New requests no longer join this fill, but begin their own.
    fn leave(&self) {
        self.strike(&mut self.shared.lock());
    }

    /// Whether it was in the register until now.
    fn strike(&self, running: &mut HashMap<FillKey, FillHandle>) -> bool {
        self.is_registered(running) && running.remove(&self.register_key()).is_some()
    }

    /// Whether this is still the fill that its key's requests join.
    fn is_registered(&self, running: &HashMap<FillKey, FillHandle>) -> bool {
        let registered = running.get(&self.register_key());
        registered.is_some_and(|fill| fill.phase.same_channel(&self.phase.subscribe()))
    }

    fn register_key(&self) -> FillKey {
        (self.wanted.key.clone(), self.wanted.variant.clone())
    }
}

impl Followers for Task {
    fn are_there(&self) -> bool {
        // The register holds one receiver; everyone who follows holds another.
        let registered = usize::from(self.is_registered(&self.shared.lock()));
        self.phase.receiver_count() > registered
    }

    fn gone_for_good(&self) -> bool {
        let mut running = self.shared.lock();
        let registered = usize::from(self.is_registered(&running));
        let gone = self.phase.receiver_count() <= registered;
        if gone {
            self.strike(&mut running);
        }
        gone
    }
}

impl Drop for Task {
    /// However the task ends, also by a panic or with the runtime, its object can be filled again.
    fn drop(&mut self) {
        self.leave();
    }
}
