//! The other relays of the site, asked before the managers are. Owns how little is waited for them, and that one that
//! failed is left alone for a while; relies on `Cache-Control: only-if-cached`, with which a peer never asks on. What
//! may be had from peers is the fill's to say. Their bytes stay on the site's network: no limit of the line's is theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tokio::time::timeout;

use super::breaker::Limits;
use super::connect::ConnectError;
use super::dial::Dialer;
use super::error::is_closed;
use super::pool::Pools;
use super::{
    RequestBody, Upstream, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams,
};
use crate::metrics::NetMetrics;
use crate::shape::WanLimiter;
use gupd_config::Config;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_http::field::append_member;

/// Time to the response head, with what it takes to connect. What a peer is about to have, it waits for itself, for most
/// of this; all else takes it a moment.
const HEAD: Duration = Duration::from_secs(1);

/// A peer that failed is not asked for this long, in milliseconds: what is lost by it is one time-out in so many.
const SHUN: UnixMillis = 15_000;

/// One that is this relay itself is not asked for this long, in milliseconds: the relays of a site may share one file.
const SHUN_ITSELF: UnixMillis = 600_000;

/// What a relay knows of a peer.
#[derive(Debug, Default)]
pub(super) struct Peering {
    /// 0 while it answers.
    shunned_until: AtomicI64,
}

/// What came of asking a peer, in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    Absent,
    Failed,
    Itself,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Served, Self::Absent, Self::Failed, Self::Itself];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Itself => "itself",
        }
    }

    fn of<B, E>(answer: Option<&Result<Response<B>, E>>) -> Self {
        match answer {
            Some(Ok(response)) => match response.status() {
                // Its errors and what it knows to be missing are for its own clients.
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => Self::Served,
                StatusCode::LOOP_DETECTED => Self::Itself,
                _ => Self::Absent,
            },
            Some(Err(_)) | None => Self::Failed,
        }
    }
}

/// Prepares to ask the configured peers.
pub(super) fn of(
    config: &Config,
    dialer: Dialer,
    clock: &Clock,
    metrics: &NetMetrics,
) -> Result<Vec<Arc<Upstream>>, ConnectError> {
    let wan = Arc::new(WanLimiter::unlimited(config, clock.clone()));
    let (mut pools, limits) = (Pools::new(config, dialer, wan)?, Limits::new(&config.health));
    let mut peers = Vec::with_capacity(config.peers.len());
    for peer in &config.peers {
        let pool = pools.toward(&peer.as_upstream())?;
        for outcome in Outcome::ALL {
            metrics.peer_requests.with_label_values(&[&peer.name, outcome.as_str()]);
        }
        let received = metrics.peer_bytes.with_label_values(&[&peer.name]);
        let upstream = Upstream::new(&peer.as_upstream(), limits, pool, received);
        let as_peer = |upstream| Arc::new(Upstream { peering: Some(Peering::default()), ..upstream });
        peers.extend(upstream.map(as_peer));
    }
    Ok(peers)
}

impl Upstreams {
    /// Asks the peers that answer, all at once; the first that has it. One that fails is not asked for a while.
    pub async fn query_peers(&self, outgoing: &UpstreamRequest) -> Option<UpstreamResponse> {
        let mut asked: FuturesUnordered<_> =
            self.peers.iter().map(|peer| self.ask_peer(peer, outgoing)).collect();
        while let Some(answer) = asked.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Asks this peer, if it answers these days. `None` also if it has not got it.
    pub(super) async fn ask_peer(
        &self,
        peer: &Arc<Upstream>,
        outgoing: &UpstreamRequest,
    ) -> Option<UpstreamResponse> {
        let request_time = self.clock.now();
        let peering = peer.peering.as_ref().filter(|peering| peering.is_due(request_time))?;
        let mut request = peer.request(outgoing).ok()?;
        append_member(request.headers_mut(), header::CACHE_CONTROL, "only-if-cached");
        outgoing.current_upstream.set(peer);
        let answer = timeout(HEAD, peer.answer(&request)).await.ok();
        let (outcome, response_time) = (Outcome::of(answer.as_ref()), self.clock.now());
        self.metrics.peer_requests.with_label_values(&[&*peer.name, outcome.as_str()]).inc();
        let shunned = match outcome {
            Outcome::Served | Outcome::Absent => 0,
            Outcome::Failed => SHUN,
            Outcome::Itself => SHUN_ITSELF,
        };
        if shunned > 0 {
            tracing::info!(
                peer = &*peer.name,
                outcome = outcome.as_str(),
                "not asking this peer for a while"
            );
        }
        peering.shun(response_time, shunned);
        peer.show(shunned == 0);
        let response = answer.and_then(Result::ok).filter(|_| outcome == Outcome::Served)?;
        let mut outstanding = peer.standing.load.request();
        outstanding.expect(response.body().size_hint().exact());
        let response = response.map(|body| UpstreamBody::new(body, None, outstanding));
        Some(UpstreamResponse { upstream: peer.clone(), request_time, response_time, response })
    }
}

/// What a peer that gave nothing is to whoever asked it for more of what it gave.
pub(super) fn is_absent(peer: &Upstream) -> UpstreamError {
    let reason = Arc::from("it is a peer, which has not got it any more or does not answer");
    UpstreamError::Connect { upstream: peer.name.clone(), reason }
}

impl Upstream {
    /// One that closed a kept connection just as the request went out is asked anew.
    async fn answer(&self, request: &Request<RequestBody>) -> Result<Response<Incoming>, legacy::Error> {
        match self.pool.client().request(request.clone()).await {
            Err(error) if is_closed(&error) => self.pool.client().request(request.clone()).await,
            answer => answer,
        }
    }
}

impl Peering {
    /// Whether to ask now. When its time is over, one request finds out for all.
    fn is_due(&self, now: UnixMillis) -> bool {
        let until = self.shunned_until.load(Ordering::Relaxed);
        // One that is shunned for longer than anyone is was so before the clock was set back.
        until == 0
            || !(1..=SHUN_ITSELF).contains(&(until - now))
                && self
                    .shunned_until
                    .compare_exchange(until, now + SHUN, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
    }

    fn shun(&self, now: UnixMillis, time: UnixMillis) {
        self.shunned_until.store(if time > 0 { now + time } else { 0 }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_failed_is_left_alone_and_then_asked_by_one() {
        let peering = Peering::default();
        assert!(peering.is_due(1_000) && peering.is_due(1_000));
        peering.shun(1_000, SHUN);
        assert!(!peering.is_due(1_000) && !peering.is_due(999 + SHUN));
        assert!(peering.is_due(1_000 + SHUN), "one may see");
        assert!(!peering.is_due(1_000 + SHUN), "while the others do not wait");
        peering.shun(2_000 + SHUN, 0);
        assert!(peering.is_due(2_000 + SHUN) && peering.is_due(2_000 + SHUN));
        peering.shun(SHUN_ITSELF * 10, SHUN);
        assert!(peering.is_due(5_000), "the clock was set back");
    }
}
