//! Peers: other relays of the site, which get a request before the managers. The module bounds the wait for them and
//! avoids one that failed. It relies on `Cache-Control: only-if-cached`, with which a peer never forwards the
//! request. The fill decides which content may come from peers. Their bytes stay on the LAN, without WAN limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tokio::time::timeout;

use super::breaker::BreakerSettings;
use super::connect::ConnectError;
use super::dial::Dialer;
use super::error::is_closed;
use super::pool::Pools;
use super::{
    RequestBody, TransferMeter, Upstream, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
    Upstreams,
};
use crate::metrics::NetMetrics;
use crate::shape::WanLimiter;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::{Config, PeerVerification};
use gupd_http::field::append_member;
use gupd_http::framing;

/// Time in milliseconds for which a failed peer gets no request: the cost is one time-out in so many.
const PAUSE: UnixMillis = 15_000;

/// The same for a peer that is this relay itself: the relays of a site may share one configuration.
const PAUSE_ITSELF: UnixMillis = 600_000;

/// State of a peer.
#[derive(Debug, Default)]
pub(super) struct PeerState {
    /// Time until which it gets no request; 0 while it answers.
    paused_until: AtomicI64,
    verify: PeerVerification,
}

/// Proof that the relay has, or needs, for content that a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerProof {
    /// The SHA-256 of the content is known.
    Listed,
    /// No proof is needed.
    Unneeded,
    /// Only TLS can prove it.
    Tls,
}

/// Outcome of a request to a peer, in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerOutcome {
    Served,
    Absent,
    Failed,
    Itself,
}

impl PeerOutcome {
    const ALL: [Self; 4] = [Self::Served, Self::Absent, Self::Failed, Self::Itself];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Itself => "itself",
        }
    }

    fn from_response<B, E>(response: Option<&Result<Response<B>, E>>) -> Self {
        match response {
            Some(Ok(response)) => match response.status() {
                // Errors and negative responses of a peer are for its own clients.
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => Self::Served,
                StatusCode::LOOP_DETECTED => Self::Itself,
                _ => Self::Absent,
            },
            Some(Err(_)) | None => Self::Failed,
        }
    }
}

/// Creates the configured peers. Connects to none.
pub(super) fn connect_peers(
    config: &Config,
    dialer: Dialer,
    clock: &Clock,
    metrics: &NetMetrics,
) -> Result<Vec<Arc<Upstream>>, ConnectError> {
    let wan = Arc::new(WanLimiter::unlimited(config, clock.clone()));
    let (mut pools, settings) =
        (Pools::new(config, dialer, wan, metrics)?, BreakerSettings::new(&config.health));
    let mut peers = Vec::with_capacity(config.peers.len());
    for peer in &config.peers {
        let pool = pools.create(&peer.as_upstream())?;
        for outcome in PeerOutcome::ALL {
            metrics.peer.requests.with_label_values(&[&peer.name, outcome.as_str()]);
        }
        let received = metrics.peer.received_bytes.with_label_values(&[&peer.name]);
        let upstream = Upstream::new(&peer.as_upstream(), settings, pool, received);
        let state = || PeerState { verify: peer.verify, ..PeerState::default() };
        let as_peer = |upstream| Arc::new(Upstream { peer: Some(state()), ..upstream });
        peers.extend(upstream.map(as_peer));
    }
    Ok(peers)
}

impl Upstreams {
    /// Sends a request to all available peers that may have this content by `proof`, at once, and returns the first
    /// response with content.
    pub async fn query_peers(
        &self,
        outgoing: &UpstreamRequest,
        proof: PeerProof,
    ) -> Option<UpstreamResponse> {
        let believed = self.peers.iter().filter(|peer| peer.is_believed(proof));
        let mut responses: FuturesUnordered<_> = believed.map(|peer| self.ask_peer(peer, outgoing)).collect();
        while let Some(response) = responses.next().await {
            if response.is_some() {
                return response;
            }
        }
        None
    }

    /// Sends a request to this peer, if it is available. `None` also if it lacks the content.
    pub(super) async fn ask_peer(
        &self,
        peer: &Arc<Upstream>,
        outgoing: &UpstreamRequest,
    ) -> Option<UpstreamResponse> {
        let request_time = self.clock.now();
        let peer_state = peer.peer.as_ref().filter(|peer_state| peer_state.is_due(request_time))?;
        let mut request = peer.request(outgoing).ok()?;
        append_member(request.headers_mut(), header::CACHE_CONTROL, "only-if-cached");
        outgoing.current_upstream.set(peer);
        let response = timeout(self.settings.peer_timeout, peer.send_request(&request)).await.ok();
        let (outcome, response_time) = (PeerOutcome::from_response(response.as_ref()), self.clock.now());
        self.metrics.peer.requests.with_label_values(&[&*peer.name, outcome.as_str()]).inc();
        let pause = match outcome {
            PeerOutcome::Served | PeerOutcome::Absent => 0,
            PeerOutcome::Failed => PAUSE,
            PeerOutcome::Itself => PAUSE_ITSELF,
        };
        if pause > 0 {
            tracing::info!(peer = &*peer.name, outcome = outcome.as_str(), "peer circuit opened");
        }
        peer_state.pause_for(response_time, pause);
        peer.set_health(pause == 0);
        let mut response = response.and_then(Result::ok).filter(|_| outcome == PeerOutcome::Served)?;
        framing::normalize(response.headers_mut()).ok()?;
        let mut outstanding = peer.state.load.add_request();
        outstanding.expect(response.body().size_hint().exact());
        let meter = TransferMeter::new(self, peer, outgoing, response.status(), false);
        let response = response.map(|body| UpstreamBody::new(body, None, outstanding, meter));
        Some(UpstreamResponse { upstream: peer.clone(), request_time, response_time, response })
    }
}

/// Returns the error of a peer that stopped serving content which it had begun.
pub(super) fn absent_error(peer: &Upstream) -> UpstreamError {
    let reason = Arc::from("the peer no longer has the content or does not answer");
    UpstreamError::Connect { upstream: peer.name.clone(), reason }
}

impl Upstream {
    /// Returns true if content of this peer is accepted with this proof.
    fn is_believed(&self, proof: PeerProof) -> bool {
        let verify = self.peer.as_ref().map(|peer_state| peer_state.verify).unwrap_or_default();
        match proof {
            PeerProof::Listed => true,
            PeerProof::Unneeded => verify == PeerVerification::Off,
            PeerProof::Tls => verify == PeerVerification::Off && self.is_authenticated(),
        }
    }

    /// Retries on a new connection if a kept one closed just as the request left.
    async fn send_request(
        &self,
        request: &Request<RequestBody>,
    ) -> Result<Response<Incoming>, legacy::Error> {
        match self.pool.client().request(request.clone()).await {
            Err(error) if is_closed(&error) => self.pool.client().request(request.clone()).await,
            response => response,
        }
    }
}

impl PeerState {
    /// Returns true if it may get a request. After the pause one request probes for all.
    fn is_due(&self, now: UnixMillis) -> bool {
        let until = self.paused_until.load(Ordering::Relaxed);
        // A longer pause than the maximum was set before the clock moved back.
        until == 0
            || !(1..=PAUSE_ITSELF).contains(&until.saturating_sub(now))
                && self
                    .paused_until
                    .compare_exchange(until, now.saturating_add(PAUSE), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
    }

    fn pause_for(&self, now: UnixMillis, time: UnixMillis) {
        self.paused_until.store(if time > 0 { now.saturating_add(time) } else { 0 }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_peer_is_paused_then_probed_by_one_request() {
        let peer_state = PeerState::default();
        assert!(peer_state.is_due(1_000) && peer_state.is_due(1_000));
        peer_state.pause_for(1_000, PAUSE);
        assert!(!peer_state.is_due(1_000) && !peer_state.is_due(999 + PAUSE));
        assert!(peer_state.is_due(1_000 + PAUSE), "one may see");
        assert!(!peer_state.is_due(1_000 + PAUSE), "while the others do not wait");
        peer_state.pause_for(2_000 + PAUSE, 0);
        assert!(peer_state.is_due(2_000 + PAUSE) && peer_state.is_due(2_000 + PAUSE));
        peer_state.pause_for(PAUSE_ITSELF * 10, PAUSE);
        assert!(peer_state.is_due(5_000), "the clock was set back");
    }
}
