//! What is not cached: passed to the manager and back as a stream, in both directions. Owns the mapping from what an
//! upstream did to what a client sees when there is nothing better to give it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use http_body::Body;

use super::body::Content;
use super::reply::Reply;
use super::{Asked, Generation};
use gupd_cache::Cache;
use gupd_cache::fill::{FillError, Fills};
use gupd_http::forwarding;
use gupd_http::key::{self, KeyBinding};
use gupd_net::shape::Purpose;
use gupd_net::upstream::{CurrentUpstream, RequestBody, UpstreamError, UpstreamRequest, UpstreamResponse};

/// When a client may ask again after something failed of which nobody knows when it is over, in seconds: about a
/// heartbeat's quarter, so that clients neither hammer a manager that fails nor wait long for one that does not.
const RETRY_AFTER: u64 = 60;

/// Asks the upstreams of a target on behalf of one client.
pub(super) async fn pass(asked: &Asked<'_>, body: RequestBody) -> Reply {
    let Asked { target, generation, .. } = asked;
    let instance = generation.upstreams.instance();
    let mut headers =
        forwarding::prepare_passthrough(asked.headers, asked.version, asked.peer.address, instance);
    forwarding::decrement_max_forwards(asked.method, &mut headers);
    let classified = generation.policy.classify(&target.route, target.normalized.path());
    let bandwidth = asked.bandwidth_class(&classified, Purpose::Client);
    let target_path = target.original.clone();
    let outgoing = UpstreamRequest {
        method: asked.method.clone(),
        target: target_path,
        headers,
        body,
        bandwidth,
        current_upstream: CurrentUpstream::default(),
    };
    match generation.upstreams.send(target.upstreams(), &outgoing).await {
        Ok(answer) => pass_on(asked.method, answer, generation),
        Err(error) => no_answer(asked, &error),
    }
}

/// Passes a manager's response on to one client.
pub(super) fn pass_on(method: &Method, answer: UpstreamResponse, generation: &Generation) -> Reply {
    let received = answer.upstream.received_bytes().clone();
    let (head, body) = answer.response.into_parts();
    let mut headers = head.headers;
    forwarding::prepare_response(&mut headers, head.version);
    let bodiless = *method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED;
    let expected = if bodiless { Some(0) } else { body.size_hint().exact() };
    let content = Content::passed_on(body, generation.config.fill.idle_timeout, received);
    Reply::new(head.status, headers, content, expected)
}

/// What a client sees when no upstream answered, or none that made sense.
fn no_answer(asked: &Asked<'_>, error: &UpstreamError) -> Reply {
    match error {
        UpstreamError::Connect { .. }
        | UpstreamError::HeadTimeout { .. }
        | UpstreamError::Unavailable { .. } => {
            unavailable(asked, StatusCode::GATEWAY_TIMEOUT, "gupd: no upstream answers\n")
        }
        UpstreamError::Client { .. } => {
            Reply::text(StatusCode::REQUEST_TIMEOUT, "gupd: the request's body did not arrive\n")
        }
        UpstreamError::Closed { .. } | UpstreamError::Response { .. } | UpstreamError::Request { .. } => {
            Reply::text(StatusCode::BAD_GATEWAY, "gupd: the upstream did not give a usable response\n")
        }
    }
}

/// What a client sees when the fill it waited for failed before its first byte.
pub(super) fn failed(asked: &Asked<'_>, error: &FillError) -> Reply {
    match error {
        FillError::Upstream(error) => no_answer(asked, error),
        FillError::ServerError { status, .. } => {
            unavailable(asked, *status, "gupd: the upstream has a server error\n")
        }
        FillError::BrokenOff { .. }
        | FillError::Changed { .. }
        | FillError::Mismatch { .. }
        | FillError::OpenEnded => {
            Reply::text(StatusCode::BAD_GATEWAY, "gupd: the upstream's transfer broke off\n")
        }
        FillError::Store(_) | FillError::Abandoned | FillError::Stopped => {
            unavailable(asked, StatusCode::SERVICE_UNAVAILABLE, "gupd: the relay cannot answer now\n")
        }
    }
}

/// A status that asks the client to come again later: while none of its upstreams is asked, when the next is tried.
fn unavailable(asked: &Asked<'_>, status: StatusCode, sentence: &'static str) -> Reply {
    let mut reply = Reply::text(status, sentence);
    let probe = asked.generation.upstreams.time_to_probe(asked.target.upstreams());
    // Not before, and never at once.
    let seconds =
        probe.map(|left| u64::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(RETRY_AFTER).max(1));
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.unwrap_or(RETRY_AFTER)));
    reply
}

/// Forgets what an unsafe request may have changed: its target, and what the response says it is about, if that is on
/// the same route (RFC 9111 §4.4).
pub(super) async fn invalidate(cache: &Cache, fills: &Fills, asked: &Asked<'_>, response: &HeaderMap) {
    let Asked { target, generation, .. } = asked;
    let about = [header::LOCATION, header::CONTENT_LOCATION].into_iter().filter_map(|name| {
        let place: Uri = response.get(name)?.to_str().ok()?.parse().ok()?;
        // Another origin's content is not this one's to forget; the relay's key has no origin, so a path will do.
        let path = place.authority().is_none().then(|| place.path_and_query().cloned())??;
        let normal = key::normalize(path.path(), path.query()).ok()?;
        let class = || generation.policy.classify(&target.route, normal.path()).class;
        let bound = target.binding().map(|binding| KeyBinding { binding, class: class() });
        Some(normal.key(&target.route.name, bound))
    });
    for key in std::iter::once(target.key()).chain(about) {
        fills.detach(&key);
        if let Err(error) = cache.invalidate(&Arc::from(key)).await {
            tracing::error!(%error, "cannot invalidate after an unsafe request");
        }
    }
}
