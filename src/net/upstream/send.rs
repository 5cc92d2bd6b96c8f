//! Asking: one upstream, or one after the other until one answers. Owns how long that may take and what may be asked
//! twice; relies on `choice` for the order and on `standing` for who may be asked at all, and tells it what came of it.
//! A second manager gets a request only if the first cannot have acted on it (RFC 9110 §9.2.2).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::select_all;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use tokio::time::{Instant, timeout};

use super::breaker::Breaker;
use super::error::{Verdict, is_unavailable};
use super::limited_stream::Line;
use super::selection;
use super::state::Permit;
use super::{
    RequestBody, Upstream, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams, peers,
};
use gupd_config::UpstreamId;

/// How long to wait for an answer.
#[derive(Debug)]
pub(super) struct Patience {
    /// From a request to the response head.
    head: Duration,
    /// All tries together, and when that is over.
    total: Option<(Duration, Instant)>,
}

impl Upstreams {
    /// Asks the upstreams of `order`, as the route has them, until one gives a final answer. One that cannot be
    /// reached, does not answer in time or answers `502`, `503`, `504` or `508` passes the request to the next.
    ///
    /// # Errors
    /// What went wrong with the last one asked; at once, if none may be asked.
    pub async fn send(
        &self,
        order: &[UpstreamId],
        outgoing: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let total = self.settings.total_timeout;
        let head = self.settings.head_timeout.min(total);
        let mut patience = Patience { head, total: Some((total, Instant::now() + total)) };
        let (mut busy, mut failed): (Option<UpstreamResponse>, Option<UpstreamError>) = (None, None);
        for upstream in self.order_by_preference(order) {
            if patience.is_over() {
                break;
            }
            let Some(permit) = self.admit(&upstream, outgoing) else { continue };
            if let Some(UpstreamResponse { upstream, response, .. }) = busy.take() {
                tracing::warn!(upstream = &*upstream.name, status = %response.status(), "asking the next upstream");
            }
            let mut answer = self.ask_by(permit, outgoing, &mut patience).await;
            if matches!(answer, Err(UpstreamError::Closed { .. }))
                && outgoing.is_repeatable()
                && let Some(permit) = self.admit(&upstream, outgoing)
            {
                // Most likely a kept connection, closed by its idle time-out just as the request went out; a new one
                // tells (RFC 9112 §9.3.1).
                answer = self.ask_by(permit, outgoing, &mut patience).await;
            }
            match answer {
                Ok(answer) if outgoing.is_repeatable() && is_unavailable(answer.response.status()) => {
                    busy = Some(answer);
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::warn!(%error, "upstream did not answer");
                    let unsent = matches!(error, UpstreamError::Connect { .. }) && outgoing.body.is_whole();
                    failed = Some(error);
                    if !unsent && !outgoing.is_repeatable() {
                        break;
                    }
                }
            }
        }
        busy.map_or_else(|| Err(failed.unwrap_or_else(|| self.refusal(order))), Ok)
    }

    /// Asks this upstream and no other.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer in time, or answers with something that is not HTTP; at once, if it may
    /// not be asked.
    pub async fn send_to(
        &self,
        upstream: &Arc<Upstream>,
        outgoing: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        if upstream.is_peer() {
            let absent = || peers::is_absent(upstream);
            return self.ask_peer(upstream, outgoing).await.ok_or_else(absent);
        }
        let Some(permit) = self.admit(upstream, outgoing) else {
            let retry = upstream.standing.next_probe(self.clock.now(), &upstream.limits);
            return Err(UpstreamError::Unavailable { retry: retry.unwrap_or_default() });
        };
        self.ask_by(permit, outgoing, &mut Patience::of_one(self.settings.head_timeout)).await
    }

    /// Time until an upstream of `order` is tried again; `None` while one of them may be asked.
    pub fn time_to_probe(&self, order: &[UpstreamId]) -> Option<Duration> {
        let now = self.clock.now();
        let each = self.of(order).map(|upstream| upstream.standing.next_probe(now, &upstream.limits));
        // None is less than any time.
        each.min().flatten()
    }

    /// Waits until no request may be sent to any upstream of `order`.
    pub async fn wait_until_unavailable(&self, order: &[UpstreamId]) -> UpstreamError {
        let mut changes: Vec<_> = self.of(order).map(|upstream| upstream.standing.changes()).collect();
        loop {
            match self.time_to_probe(order) {
                Some(retry) if !(retry.is_zero() && self.requests_probe()) => {
                    return UpstreamError::Unavailable { retry };
                }
                _ if changes.is_empty() => std::future::pending().await,
                _ => {}
            }
            // A sender lives as long as its upstream.
            let _changed = select_all(changes.iter_mut().map(|one| Box::pin(one.changed()))).await;
        }
    }

    /// Waits while this upstream may not be asked, until it may or its next probe must have ended.
    pub async fn wait_for_probe(&self, upstream: &Upstream) {
        let mut changes = upstream.standing.changes();
        let Some(wait) = upstream.standing.next_probe(self.clock.now(), &upstream.limits) else { return };
        let probing = if self.requests_probe() { Duration::ZERO } else { self.health.timeout };
        // The sender lives as long as the upstream; there is nothing to do with what it sent.
        let _either = timeout(wait + probing, changes.wait_for(Breaker::is_closed)).await;
    }

    /// The healthy upstream of `order` that would be asked first: where to send who cannot be served here.
    pub fn preferred(&self, order: &[UpstreamId]) -> Option<&Arc<Upstream>> {
        let preferred = self.order_by_preference(order).into_iter().find(|upstream| upstream.is_healthy())?;
        self.of(order).find(|upstream| Arc::ptr_eq(upstream, &preferred))
    }

    /// Sends a request and waits for the head of its response. Counts nothing.
    pub(super) async fn send_once(
        &self,
        upstream: &Arc<Upstream>,
        outgoing: &UpstreamRequest,
        patience: &mut Patience,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let request = upstream.request(outgoing)?;
        outgoing.current_upstream.set(upstream);
        let mut outstanding = upstream.standing.load.request();
        let request_time = self.clock.now();
        let response = self.head(upstream, request, &outgoing.body, patience).await?;
        if let Some(proxy) = upstream.pool.asked_in_its_place()
            && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED
        {
            let reason = proxy.asks_for_credentials();
            return Err(UpstreamError::Connect { upstream: upstream.name.clone(), reason });
        }
        upstream.learn(&response);
        let line = response.extensions().get::<Line>().map(|line| line.hold(outgoing.bandwidth.clone()));
        outstanding.expect(response.body().size_hint().exact());
        Ok(UpstreamResponse {
            upstream: upstream.clone(),
            request_time,
            response_time: self.clock.now(),
            response: response.map(|body| UpstreamBody::new(body, line, outstanding)),
        })
    }

    async fn ask_by(
        &self,
        permit: Permit,
        outgoing: &UpstreamRequest,
        patience: &mut Patience,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let answer = self.send_once(permit.upstream(), outgoing, patience).await;
        if !matches!(answer, Err(UpstreamError::Request { .. })) {
            let outcome = answer.as_ref().map(|answer| answer.response.status()).map_err(UpstreamError::kind);
            self.metrics.count_upstream(&permit.upstream().name, outcome);
        }
        let verdict = Verdict::of(&answer, patience.head);
        permit.settle(&if self.requests_probe() { verdict } else { verdict.of_one_path() });
        answer
    }

    /// Waits for the response head. The time for it begins anew as long as the request's body is on its way: a large
    /// report on a thin line takes longer to send than a manager has to answer it. So it does when the relay's own
    /// limits held the connection up: what hyper has taken of a body is not on its way yet.
    async fn head(
        &self,
        upstream: &Upstream,
        mut request: Request<RequestBody>,
        body: &RequestBody,
        patience: &mut Patience,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let connection = capture_connection(&mut request);
        let mut answer = std::pin::pin!(upstream.pool.client().request(request));
        let mut progress = body.progress();
        loop {
            let limit = patience.left();
            if let Ok(answer) = timeout(limit, &mut answer).await {
                let kept = || Line::of(&connection).is_some_and(|line| line.has_answered());
                return answer
                    .map_err(|error| UpstreamError::of_client(&error, upstream.name.clone(), kept()));
            }
            let now = body.progress();
            let held_up = Line::of(&connection).is_some_and(|line| line.waited_within(limit));
            if now == progress && !body.waits_for_client() && !held_up {
                return Err(UpstreamError::HeadTimeout { upstream: upstream.name.clone(), after: limit });
            }
            progress = now;
            patience.renew();
        }
    }

    fn admit(&self, upstream: &Arc<Upstream>, outgoing: &UpstreamRequest) -> Option<Permit> {
        // A probe is over soon: it has no body that takes its time, and whoever fails with it may be helped elsewhere.
        let soon = outgoing.is_repeatable() && matches!(outgoing.body, RequestBody::Empty);
        upstream.admit(&self.clock, soon && self.requests_probe(), self.next_turn())
    }

    /// While nobody else does, requests find out whether an upstream is back.
    fn requests_probe(&self) -> bool {
        !self.is_checked.load(Ordering::Relaxed)
    }

    pub(super) fn next_turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn refusal(&self, order: &[UpstreamId]) -> UpstreamError {
        if order.is_empty() {
            return UpstreamError::Request { reason: Arc::from("its route has no upstream") };
        }
        UpstreamError::Unavailable { retry: self.time_to_probe(order).unwrap_or_default() }
    }

    /// The upstreams of `order`, in the order in which they are asked now.
    pub fn order_by_preference(&self, order: &[UpstreamId]) -> Vec<Arc<Upstream>> {
        let now = self.clock.now();
        let mut candidates: Vec<_> =
            self.of(order).zip(1..).map(|(upstream, place)| upstream.candidate(place, now)).collect();
        selection::order(&mut candidates);
        candidates.into_iter().map(|candidate| candidate.upstream).collect()
    }

    /// The upstreams of `order`: those that are well first, then by priority. Equals do not take turns: of two that are
    /// not of one version, catalogs would go to and fro.
    pub fn order_by_rank(&self, order: &[UpstreamId]) -> Vec<Arc<Upstream>> {
        let rank = |(upstream, place): (&Arc<Upstream>, u32)| {
            ((!upstream.is_healthy(), upstream.priority.unwrap_or(place)), upstream.clone())
        };
        let mut ranked: Vec<_> = self.of(order).zip(1..).map(rank).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, upstream)| upstream).collect()
    }

    pub(super) fn of(&self, order: &[UpstreamId]) -> impl Iterator<Item = &Arc<Upstream>> {
        order.iter().filter_map(|id| self.get(id))
    }
}

impl Patience {
    /// For one request to one upstream.
    pub(super) fn of_one(head: Duration) -> Self {
        Self { head, total: None }
    }

    fn left(&self) -> Duration {
        let total = self.total.map(|(_, end)| end.saturating_duration_since(Instant::now()));
        total.map_or(self.head, |total| total.min(self.head))
    }

    fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    fn renew(&mut self) {
        if let Some((total, end)) = &mut self.total {
            *end = Instant::now() + *total;
        }
    }
}
