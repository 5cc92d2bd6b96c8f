//! Requests from other relays. A peer of the site may follow a fill that a manager feeds, but causes no request of its
//! own. Fills of two relays can wait for each other: neither sees it in the requests it got, so it is probed for. The
//! probe is a `HEAD` with the follower's marks, sent where the fill's request went; a loop answers `508`.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::{sleep, timeout};

use crate::Proxy;
use crate::exchange::Exchange;
use crate::reply::Reply;
use gupd_cache::fill::{FillHandle, FillResponse};
use gupd_http::forwarding;
use gupd_http::instance;
use gupd_http::status::CacheStatus;
use gupd_net::shape::BandwidthClass;
use gupd_net::upstream::{Upstream, UpstreamRequest};

/// Share of `fill.peer_timeout`, in percent, that a peer waits for the head of a running fill: a little less than the
/// other relay waits for the response. A manager that needs longer, to build a delta, is asked twice, which costs less
/// than the wait.
const PEER_WAIT_PERCENT: u32 = 70;

/// Share of `fill.peer_timeout`, in percent, after which a fill is looked at again that asks the relay which asks for
/// it. That relay may have refused a moment ago, and the fill goes on to a manager: both would cross the line.
const SECOND_LOOK_PERCENT: u32 = 1;

/// Time that another relay's request follows a fill without a response head before the first probe, and between two
/// probes. Heads come sooner over nearly every line, and a loop costs no more than this.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Additional time where the fill has further upstreams to ask. One refusal ends a loop: it should come from the relay
/// without another upstream, so that this relay gets content from elsewhere that another one has.
const PROBE_DELAY: Duration = Duration::from_secs(2);

/// Returns the running fill that an `only-if-cached` request of another relay may follow.
///
/// Only fills that a manager feeds are offered, so that a follower never waits for itself. While a fill still asks its
/// own peers, its source is not known. Of two relays that ask each other, the one that goes first is then waited for,
/// and does not wait.
pub(crate) async fn offered_fill(
    proxy: &Proxy,
    exchange: &Exchange<'_>,
    variant: &str,
) -> Option<FillHandle> {
    if !instance::is_from_relay(&exchange.headers) {
        return None;
    }
    let fill = proxy.fills.find_running(exchange.key(), variant)?;
    if !fill.is_usable(proxy.cache.clock().now(), &exchange.control) {
        return None;
    }
    let asks_peers = || fill.current_upstream().is_none_or(|upstream| upstream.is_peer());
    let goes_first = exchange.generation.upstreams.instance().has_precedence_over_sender(&exchange.headers);
    let peer_timeout = exchange.generation.config.fill.peer_timeout;
    let share = |percent| peer_timeout.saturating_mul(percent).checked_div(100).unwrap_or_default();
    if asks_peers() && !goes_first {
        sleep(share(SECOND_LOOK_PERCENT)).await;
        if asks_peers() {
            return None;
        }
    }
    let wait = share(PEER_WAIT_PERCENT);
    timeout(wait, fill.is_from_manager()).await.ok()?.then_some(fill)
}

/// Waits for the outcome of a fill that another request started. `None` if the fill waits for this request.
pub(crate) async fn follower_outcome(exchange: &Exchange<'_>, fill: &FillHandle) -> Option<FillResponse> {
    if !instance::is_from_relay(&exchange.headers) {
        return Some(fill.response().await);
    }
    tokio::select! {
        outcome = fill.response() => Some(outcome),
        () = detect_loop(exchange, fill) => None,
    }
}

/// Ends when the fill is found to wait for the sender of this request.
async fn detect_loop(exchange: &Exchange<'_>, fill: &FillHandle) {
    let mut probed: Option<Arc<Upstream>> = None;
    loop {
        sleep(PROBE_INTERVAL).await;
        // A fill may go on to the next upstream, but does not come back to one. A peer and the tier never ask on.
        let is_new = |upstream: &Arc<Upstream>| {
            !upstream.is_peer()
                && !upstream.is_tier()
                && !probed.iter().any(|before| Arc::ptr_eq(before, upstream))
        };
        let Some(upstream) = fill.current_upstream().filter(is_new) else { continue };
        if !exchange.generation.upstreams.is_last(fill.upstream_order(), &upstream) {
            sleep(PROBE_DELAY).await;
        }
        if upstream.can_be_relay() && is_loop(exchange, &upstream).await {
            return;
        }
        probed = Some(upstream);
    }
}

/// Returns true if a request to this upstream comes back here.
async fn is_loop(exchange: &Exchange<'_>, upstream: &Arc<Upstream>) -> bool {
    let (upstreams, classification) = (&exchange.generation.upstreams, exchange.classification());
    let headers =
        forwarding::prepare_fill(&exchange.headers, exchange.version, classification, upstreams.instance());
    let probe = UpstreamRequest {
        method: Method::HEAD,
        client: Some(exchange.client_network()),
        ..UpstreamRequest::get(exchange.target.original.clone(), headers, BandwidthClass::default())
    };
    let answer = upstreams.send_to(upstream, &probe).await;
    answer.is_ok_and(|answer| answer.response.status() == StatusCode::LOOP_DETECTED)
}

/// The reply to an `only-if-cached` request that the store cannot answer (RFC 9111 §5.2.1.7).
pub(crate) fn not_stored(exchange: &Exchange<'_>) -> Reply {
    let reply = Reply::text(
        StatusCode::GATEWAY_TIMEOUT,
        "gupd: not stored, and the request accepts stored responses only\n",
    );
    reply.annotate(CacheStatus::OnlyIfCached, exchange.classification(), None)
}
