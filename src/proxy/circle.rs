//! Fills that wait for one another around a circle of relays. A request that comes round is refused; but two relays that
//! ask each other at the same moment each have a fill already, and each one's request follows the other's, for ever.
//! Nobody in such a circle sees it from what came, so it is looked for: a `HEAD` with the follower's marks goes where
//! the fill's own request went, and follows there as that does, until it meets a mark of its own. Relies on `instance`
//! for marks and on `upstream` to ask; what the follower is told is `shared`'s to say.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::sleep;

use super::{Asked, Proxy};
use gupd_cache::fill::{self, Fill};
use gupd_config::policy::Classification;
use gupd_http::forwarding;
use gupd_http::instance;
use gupd_net::shape::BandwidthClass;
use gupd_net::upstream::{CurrentUpstream, RequestBody, Upstream, UpstreamRequest};

/// How long another relay's request follows a fill without a response head before the first look, and between two
/// looks. Heads come sooner over nearly every line, and who is in a circle has lost no more than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much longer where the fill has further upstreams to go to. One refusal ends a circle: it should be by the relay
/// that has nobody else to ask, so that it gets what another one has from elsewhere.
const DEFERENCE: Duration = Duration::from_secs(2);

impl Proxy {
    /// Waits for the outcome of a fill that others have begun; `None` if it waits for whoever asks.
    pub(super) async fn outcome_for(
        &self,
        asked: &Asked<'_>,
        fill: &Fill,
        classified: &Classification,
    ) -> Option<fill::Outcome> {
        if !instance::is_from_relay(asked.headers) {
            return Some(fill.outcome().await);
        }
        tokio::select! {
            outcome = fill.outcome() => Some(outcome),
            () = waits_for_sender(asked, fill, classified) => None,
        }
    }
}

/// Ends when the fill is found to wait for whoever sent this request.
async fn waits_for_sender(asked: &Asked<'_>, fill: &Fill, classified: &Classification) {
    let upstreams = &asked.generation.upstreams;
    let mut looked: Option<Arc<Upstream>> = None;
    loop {
        sleep(PATIENCE).await;
        // It may go on to the next upstream, but does not come back to one.
        let is_new = |now: &Arc<Upstream>| {
            // A peer never asks on.
            !now.is_peer() && !looked.iter().any(|before| Arc::ptr_eq(before, now))
        };
        let Some(upstream) = fill.asks().filter(is_new) else { continue };
        if !upstreams.is_last(fill.order(), &upstream) {
            sleep(DEFERENCE).await;
        }
        if upstream.can_be_relay() && comes_back_from(&upstream, asked, classified).await {
            return;
        }
        looked = Some(upstream);
    }
}

/// Whether what is asked of this upstream comes back here.
async fn comes_back_from(upstream: &Arc<Upstream>, asked: &Asked<'_>, classified: &Classification) -> bool {
    let upstreams = &asked.generation.upstreams;
    let look = UpstreamRequest {
        method: Method::HEAD,
        target: asked.target.original.clone(),
        headers: forwarding::prepare_fill(
            asked.headers,
            asked.version,
            classified.class,
            upstreams.instance(),
        ),
        body: RequestBody::Empty,
        bandwidth: BandwidthClass::default(),
        current_upstream: CurrentUpstream::default(),
    };
    let answer = upstreams.send_to(upstream, &look).await;
    answer.is_ok_and(|answer| answer.response.status() == StatusCode::LOOP_DETECTED)
}
