//! Sending of one request to one upstream, and the order of upstreams. The module bounds the time; `selection` compares
//! upstreams, `state` admits requests and counts results, and `retry` asks one upstream after the other.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::select_all;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connected, capture_connection};
use tokio::time::{Instant, timeout};

use super::breaker::{Breaker, RequestKind};
use super::error::AttemptOutcome;
use super::limited_stream::LineHandle;
use super::selection;
use super::state::Permit;
use super::{
    RequestBody, TransferMeter, Upstream, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
    Upstreams, peers,
};
use gupd_config::UpstreamId;
use gupd_http::{authentication, framing};

/// Time-outs of a request.
#[derive(Debug)]
pub(super) struct RequestTimeouts {
    /// From the request to the response head.
    head: Duration,
    /// For all attempts together, and its deadline.
    total: Option<(Duration, Instant)>,
}

impl Upstreams {
    /// Sends a request to this upstream only.
    ///
    /// # Errors
    /// If it cannot be reached, times out or sends something other than HTTP; at once if it may not get requests.
    pub async fn send_to(
        &self,
        upstream: &Arc<Upstream>,
        outgoing: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        if upstream.is_peer() {
            let absent = || peers::absent_error(upstream);
            return self.ask_peer(upstream, outgoing).await.ok_or_else(absent);
        }
        if upstream.is_tier() {
            let absent = || peers::absent_error(upstream);
            return self.ask_tier(upstream, outgoing).await.ok_or_else(absent);
        }
        let Some(permit) = self.admit(upstream, outgoing) else {
            let retry = upstream.state.next_probe(self.clock.now(), &upstream.limits);
            return Err(UpstreamError::Unavailable { retry: retry.unwrap_or_default() });
        };
        self.send_admitted(permit, outgoing, &mut RequestTimeouts::single(self.settings.head_timeout)).await
    }

    /// Returns the time until the next probe of an upstream of `order`; `None` while one of them is available.
    pub fn time_to_probe(&self, order: &[UpstreamId]) -> Option<Duration> {
        let now = self.clock.now();
        let each = self.resolve(order).map(|upstream| upstream.state.next_probe(now, &upstream.limits));
        // `None` is less than any time.
        each.min().flatten()
    }

    /// Waits until no upstream of `order` is available.
    pub async fn wait_until_unavailable(&self, order: &[UpstreamId]) -> UpstreamError {
        let mut changes: Vec<_> = self.resolve(order).map(|upstream| upstream.state.changes()).collect();
        loop {
            match self.time_to_probe(order) {
                Some(retry) if !(retry.is_zero() && self.do_requests_probe()) => {
                    return UpstreamError::Unavailable { retry };
                }
                _ if changes.is_empty() => std::future::pending().await,
                _ => {}
            }
            // A sender lives as long as its upstream.
            let _changed = select_all(changes.iter_mut().map(|one| Box::pin(one.changed()))).await;
        }
    }

    /// Waits until this upstream is available, or its next probe must have ended.
    pub async fn wait_for_probe(&self, upstream: &Upstream) {
        let mut changes = upstream.state.changes();
        let Some(wait) = upstream.state.next_probe(self.clock.now(), &upstream.limits) else { return };
        let probing = if self.do_requests_probe() { Duration::ZERO } else { self.health.timeout };
        // The sender lives as long as the upstream; its value does not matter.
        let _either = timeout(wait.saturating_add(probing), changes.wait_for(Breaker::is_closed)).await;
    }

    /// Returns the healthy upstream of `order` that is first in line: the target of redirects.
    pub fn preferred(&self, order: &[UpstreamId]) -> Option<&Arc<Upstream>> {
        let preferred = self.order_by_preference(order).into_iter().find(|upstream| upstream.is_healthy())?;
        self.resolve(order).find(|upstream| Arc::ptr_eq(upstream, &preferred))
    }

    /// Sends a request and waits for the response head, without counting the result.
    pub(super) async fn send_once(
        &self,
        upstream: &Arc<Upstream>,
        outgoing: &UpstreamRequest,
        timeouts: &mut RequestTimeouts,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let request = upstream.request(outgoing)?;
        outgoing.current_upstream.set(upstream);
        let mut outstanding = upstream.state.load.add_request();
        let request_time = self.clock.now();
        let mut response = match &outgoing.pin {
            // Boxed, like everything rare: every request would have room for it.
            Some(pin) => Box::pin(upstream.send_pinned((pin, outgoing.client), request, timeouts)).await?,
            None => upstream.send_pooled(request, outgoing.client, timeouts).await?,
        };
        check_head(&mut response)
            .map_err(|reason| UpstreamError::Response { upstream: upstream.name.clone(), reason })?;
        if let Some(proxy) = upstream.pool.forward_proxy()
            && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED
        {
            let reason = proxy.credentials_error();
            return Err(UpstreamError::Connect { upstream: upstream.name.clone(), reason });
        }
        upstream.note_relay(&response);
        let line =
            response.extensions().get::<LineHandle>().map(|line| line.assign(outgoing.bandwidth.clone()));
        let length = response.body().size_hint().exact();
        outstanding.expect(length);
        let meter = TransferMeter::new(self, upstream, outgoing, response.status(), length == Some(0));
        Ok(UpstreamResponse {
            upstream: upstream.clone(),
            request_time,
            response_time: self.clock.now(),
            response: response.map(|body| UpstreamBody::new(body, line, outstanding, meter)),
        })
    }

    pub(super) async fn send_admitted(
        &self,
        permit: Permit,
        outgoing: &UpstreamRequest,
        timeouts: &mut RequestTimeouts,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let answer = self.send_once(permit.upstream(), outgoing, timeouts).await;
        if !matches!(answer, Err(UpstreamError::Request { .. })) {
            let outcome = answer.as_ref().map(|answer| answer.response.status()).map_err(UpstreamError::kind);
            self.metrics.count_upstream(&permit.upstream().name, outcome);
        }
        permit.record(&AttemptOutcome::from_result(&answer, timeouts.head).on_path_of(outgoing));
        answer
    }

    pub(super) fn admit(&self, upstream: &Arc<Upstream>, outgoing: &UpstreamRequest) -> Option<Permit> {
        // A probe must be short: a request without a body, which another upstream can serve if it fails.
        let soon = outgoing.is_repeatable() && matches!(outgoing.body, RequestBody::Empty);
        let kind = if soon && self.do_requests_probe() { RequestKind::Probing } else { RequestKind::Regular };
        upstream.admit(&self.clock, kind, self.next_sequence())
    }

    /// Returns true if client requests probe, because no task does.
    fn do_requests_probe(&self) -> bool {
        !self.is_checked.load(Ordering::Relaxed)
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Returns the upstreams of `order`, sorted by preference at this moment.
    pub fn order_by_preference(&self, order: &[UpstreamId]) -> Vec<Arc<Upstream>> {
        let now = self.clock.now();
        let mut candidates: Vec<_> = self
            .resolve(order)
            .zip(1..)
            .map(|(upstream, position)| upstream.candidate(position, now))
            .collect();
        selection::sort_by_preference(&mut candidates);
        candidates.into_iter().map(|candidate| candidate.upstream).collect()
    }

    /// Returns the upstreams of `order`, healthy ones first, then by priority. Equals do not alternate: with two
    /// versions of content, catalogs would go back and forth.
    pub fn order_by_rank(&self, order: &[UpstreamId]) -> Vec<Arc<Upstream>> {
        let rank = |(upstream, position): (&Arc<Upstream>, u32)| {
            ((!upstream.is_healthy(), upstream.priority.unwrap_or(position)), upstream.clone())
        };
        let mut ranked: Vec<_> = self.resolve(order).zip(1..).map(rank).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, upstream)| upstream).collect()
    }

    pub(super) fn resolve(&self, order: &[UpstreamId]) -> impl Iterator<Item = &Arc<Upstream>> {
        order.iter().filter_map(|id| self.get(id))
    }
}

impl Upstream {
    /// Sends a request on any connection, and waits for the response head.
    async fn send_pooled(
        &self,
        mut request: Request<RequestBody>,
        client: Option<IpAddr>,
        timeouts: &mut RequestTimeouts,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let connection = capture_connection(&mut request);
        let (body, line) = (request.body().clone(), || LineHandle::from_request(&connection));
        let mut connecting = connection.clone();
        let answer = async {
            let mut answer = std::pin::pin!(self.pool.client().request(request));
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                _connected = connecting.wait_for_connection_metadata() => {}
            }
            line().into_iter().for_each(|line| line.begin_request(client));
            answer.await
        };
        let answer = wait_for_head(answer, &body, line, timeouts).await;
        match answer {
            Ok(Ok(response)) => {
                // The connection belongs to a user although no request has said so.
                if authentication::binds_connection(response.headers()) {
                    connection.connection_metadata().as_ref().map(Connected::poison);
                }
                Ok(response)
            }
            Ok(Err(error)) => {
                let was_kept = line().is_some_and(|line| line.has_answered());
                Err(UpstreamError::from_client_error(&error, self.name.clone(), was_kept))
            }
            Err(after) => Err(UpstreamError::HeadTimeout { upstream: self.name.clone(), after }),
        }
    }
}

/// Waits for the response head.
///
/// The time-out starts again while the request's body is in transit: a large report on a slow line takes longer to send
/// than a manager takes to answer. It also does while the relay's limits hold the connection back, since bytes that
/// hyper has taken are not sent yet.
///
/// # Errors
/// The time-out.
pub(super) async fn wait_for_head<T>(
    answer: impl Future<Output = T>,
    body: &RequestBody,
    line: impl Fn() -> Option<LineHandle>,
    timeouts: &mut RequestTimeouts,
) -> Result<T, Duration> {
    let mut answer = std::pin::pin!(answer);
    let mut progress = body.progress();
    loop {
        let limit = timeouts.left();
        if let Ok(answer) = timeout(limit, &mut answer).await {
            return Ok(answer);
        }
        let now = body.progress();
        let is_held_up = line().is_some_and(|line| line.was_limited_within(limit));
        if now == progress && !body.is_waiting_for_client() && !is_held_up {
            return Err(limit);
        }
        progress = now;
        timeouts.renew();
    }
}

impl RequestTimeouts {
    /// Creates the time-out of one request to one upstream.
    pub(super) fn single(head: Duration) -> Self {
        Self { head, total: None }
    }

    /// Creates the time-outs of attempts at several upstreams.
    pub(super) fn shared(head: Duration, total: Duration) -> Self {
        let now = Instant::now();
        Self { head: head.min(total), total: Some((total, now.checked_add(total).unwrap_or(now))) }
    }

    pub(super) fn left(&self) -> Duration {
        let total = self.total.map(|(_, end)| end.saturating_duration_since(Instant::now()));
        total.map_or(self.head, |total| total.min(self.head))
    }

    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    fn renew(&mut self) {
        if let Some((total, end)) = &mut self.total {
            let now = Instant::now();
            *end = now.checked_add(*total).unwrap_or(now);
        }
    }
}

/// Refuses a response head that no client may get for any request.
fn check_head(response: &mut Response<Incoming>) -> Result<(), Arc<str>> {
    // The relay passes on no `Upgrade`, so none may follow it (RFC 9110 §15.2.2). A client would take the bytes that
    // come next for another protocol.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Arc::from("status 101 (Switching Protocols) without a request to upgrade"));
    }
    framing::normalize(response.headers_mut()).map_err(|error| Arc::from(error.to_string()))
}
