//! Requests that are passed to an upstream and answered by its stream, without the cache. Also maps upstream failures
//! to the statuses that clients see when the relay has nothing better for them.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;

use crate::Proxy;
use crate::body::{BodyContent, BodyError};
use crate::budget::{check_upload, spend_upstream_request};
use crate::exchange::Exchange;
use crate::pipeline::StepResult;
use crate::relays::not_stored;
use crate::reply::Reply;
use gupd_cache::digest::{PassedContent, Subject};
use gupd_cache::fill::FillError;
use gupd_config::Class;
use gupd_http::authentication;
use gupd_http::conditional::is_requested;
use gupd_http::control::Directive;
use gupd_http::forwarding;
use gupd_http::key::{self, KeyBinding};
use gupd_http::refusal::Refusal;
use gupd_http::status::CacheStatus;
use gupd_net::field_names::FieldNames;
use gupd_net::shape::Purpose;
use gupd_net::traffic::{TransferCause, TransferLabels};
use gupd_net::upstream::{
    BodyBegin, CurrentUpstream, RequestBody, RequestBodyFault, UploadSpender, UpstreamBody, UpstreamError,
    UpstreamRequest, UpstreamResponse, read_begin,
};
use gupd_store::ObjectKey;

/// `Retry-After` in seconds where the end of a failure is not known. A quarter of a heartbeat: clients neither hammer a
/// manager that fails nor wait long for one that does not.
const RETRY_AFTER: u64 = 60;

/// `Retry-After` in seconds of a request above the limit of its route: most pass-through requests take less than one.
const PASS_THROUGH_RETRY_AFTER: u64 = 10;

/// Bytes of a body that the relay holds back before it sends the head, or all if there are fewer, as of a fill. Up to
/// here a failure becomes a `502`. hyper sends nothing at all of a response whose body breaks off at once.
const HOLD_BACK: usize = 64 << 10;

/// Maximum time of that, for a body that is written piece by piece.
const HOLD_BACK_TIME: Duration = Duration::from_millis(500);

/// Passes requests through that are never cached: methods besides `GET` and `HEAD`, private paths, and requests for
/// generic content with a body.
pub(crate) async fn pass_through(proxy: &Proxy, exchange: &Exchange<'_>, body: Incoming) -> StepResult {
    let max_upload = exchange.target.route.max_upload;
    let stall_timeout = exchange.generation.config.server.stall_timeout;
    let spender = UploadSpender { budgets: proxy.limits.budgets.clone(), client: exchange.client_network() };
    let body = RequestBody::streamed(body, stall_timeout, max_upload, Some(spender));
    if body.announced_bytes() > max_upload {
        let reply = proxy.refuse(Refusal::UploadTooLarge);
        return Break(reply.with_class(exchange.classification()));
    }
    let classification = exchange.classification();
    let has_body = !matches!(body, RequestBody::Empty);
    let is_content = matches!(classification.class, Class::Payload | Class::Catalog);
    if exchange.is_cacheable() && (is_content || classification.class == Class::Generic && !has_body) {
        // A body has no meaning in a GET (RFC 9110 §9.3.1): it cannot select another payload or catalog, and must not
        // lead past the store. It is dropped unread.
        return Continue(());
    }
    if exchange.is_cacheable() && exchange.control.has(Directive::OnlyIfCached) {
        return Break(not_stored(exchange));
    }
    if has_body {
        check_upload(proxy, exchange)?;
    }
    spend_upstream_request(proxy, exchange, false)?;
    if !exchange.is_cacheable() {
        let reply = Box::pin(forward_uncacheable(proxy, exchange, body)).await;
        return Break(reply.annotate(CacheStatus::Method, classification, None));
    }
    if is_withheld(proxy, exchange) {
        return Break(unproven(exchange).annotate(CacheStatus::Failed, classification, None));
    }
    let reply = Box::pin(forward(proxy, exchange, body)).await;
    Break(reply.annotate(CacheStatus::Bypass, classification, None))
}

async fn forward_uncacheable(proxy: &Proxy, exchange: &Exchange<'_>, body: RequestBody) -> Reply {
    let mut reply = forward(proxy, exchange, body).await;
    let status = reply.status();
    if !exchange.method.is_safe() && !status.is_client_error() && !status.is_server_error() {
        invalidate(proxy, exchange, reply.headers_mut()).await;
    }
    reply
}

/// Asks the upstreams of the target on behalf of this client alone.
pub(crate) async fn forward(proxy: &Proxy, exchange: &Exchange<'_>, body: RequestBody) -> Reply {
    let (generation, route) = (exchange.generation, &exchange.target.route);
    let patience = generation.config.lan.queue_timeout;
    match generation.pass_through.acquire(route, exchange.client_network(), patience).await {
        Some(slot) => send_alone(proxy, exchange, body).await.holding(slot),
        None => {
            let mut reply = proxy.refuse(Refusal::PassThroughLimit);
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(PASS_THROUGH_RETRY_AFTER));
            reply
        }
    }
}

async fn send_alone(proxy: &Proxy, exchange: &Exchange<'_>, body: RequestBody) -> Reply {
    let upstreams = &exchange.generation.upstreams;
    let (sender, instance) = (exchange.connection.sender, upstreams.instance());
    let mut headers = forwarding::prepare_passthrough(&exchange.headers, exchange.version, sender, instance);
    forwarding::decrement_max_forwards(exchange.method, &mut headers);
    if exchange.method.is_safe() && !matches!(body, RequestBody::Empty) {
        // Servers that expect no body here take it for the next request: of the next client, on a kept connection.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let outgoing = UpstreamRequest {
        method: exchange.method.clone(),
        target: exchange.target.original.clone(),
        headers,
        field_names: exchange.field_names(),
        body,
        bandwidth: exchange.bandwidth_class(exchange.classification(), Purpose::Client),
        current_upstream: CurrentUpstream::default(),
        client: Some(exchange.client_network()),
        pin: exchange.pin().cloned(),
        labels: TransferLabels {
            cause: TransferCause::PassThrough,
            content_type: Some(exchange.classification().content_type.clone()),
            form: Some(exchange.classification().form),
            group: Some(exchange.group.name.clone()),
        },
        tier_key: None,
    };
    match upstreams.send(exchange.target.upstreams(), &outgoing).await {
        Ok(UpstreamResponse { upstream, response, .. })
            if !is_requested(exchange.method, &exchange.headers, response.status(), response.headers()) =>
        {
            let status = response.status();
            tracing::warn!(upstream = &*upstream.name, %status, "upstream sent a response that was not requested");
            bad_gateway()
        }
        Ok(answer) => pass_on(proxy, exchange, answer).await,
        Err(UpstreamError::Client { fault: RequestBodyFault::TooLarge, .. }) => {
            proxy.refuse(Refusal::UploadTooLarge)
        }
        Err(error) => upstream_failed(exchange, &error),
    }
}

/// Passes an upstream's response on to the client. One whose body breaks off at its begin becomes a `502`, like one
/// whose whole content is there and does not match its announced digest. So does a `407`: the client would give this
/// relay its credentials for a proxy.
pub(crate) async fn pass_on(proxy: &Proxy, exchange: &Exchange<'_>, answer: UpstreamResponse) -> Reply {
    let upstream = answer.upstream.name.clone();
    let (head, mut body) = answer.response.into_parts();
    if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        tracing::warn!(upstream = &*upstream, "upstream asked for credentials of a proxy");
        return bad_gateway();
    }
    let expected = body.size_hint().exact();
    let begin = read_begin(&mut body, HOLD_BACK, HOLD_BACK_TIME).await;
    // A refusal is one without its body too: of an upload, after which the upstream resets the connection.
    if let Some(error) = begin.error.as_ref().filter(|_| !head.status.is_client_error()) {
        tracing::warn!(upstream = &*upstream, %error, "body of an upstream's response broke off at its begin");
        return bad_gateway();
    }
    let has_no_body = *exchange.method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED;
    let check = match has_no_body {
        true => None,
        false => {
            let subject = Subject::new(exchange.key(), head.status, exchange.classification());
            PassedContent::new(&proxy.fills, subject, &head.headers)
        }
    };
    let Ok(check) = verify_begin(check, &begin, &body) else { return bad_gateway() };
    let mut headers = head.headers;
    forwarding::prepare_response(&mut headers, head.version);
    exchange.relocation().rewrite(&mut headers);
    if exchange.target.is_proxied && head.status == StatusCode::UNAUTHORIZED {
        authentication::announce_proxy_support(&mut headers);
    }
    let expected = if has_no_body { Some(0) } else { expected };
    let idle_timeout = exchange.generation.config.fill.idle_timeout;
    let content = BodyContent::passed_on(begin, body, idle_timeout, check);
    Reply::new(head.status, headers, content, expected)
        .with_field_names(FieldNames::taken(head.extensions))
        .with_upstream(&upstream)
}

/// Verifies content that has arrived whole. Returns the check that content under way still needs.
fn verify_begin(
    check: Option<PassedContent>,
    begin: &BodyBegin,
    rest: &UpstreamBody,
) -> Result<Option<PassedContent>, BodyError> {
    let Some(mut check) = check.filter(|_| begin.error.is_none()) else { return Ok(None) };
    if !rest.is_end_stream() {
        return Ok(Some(check));
    }
    begin.pieces.iter().for_each(|piece| check.update(piece));
    if check.finish() { Ok(None) } else { Err(BodyError::Mismatch) }
}

/// Returns true if the route holds unproven content, and nothing could prove the content that this request alone asks
/// for.
pub(crate) fn is_withheld(proxy: &Proxy, exchange: &Exchange<'_>) -> bool {
    let upstreams = &exchange.generation.upstreams;
    let is_authenticated = upstreams.are_authenticated(exchange.target.upstreams());
    let subject = Subject::new(exchange.key(), StatusCode::OK, exchange.classification());
    *exchange.method == Method::GET && proxy.fills.digests().is_withheld(subject, is_authenticated)
}

/// The reply when content is not proven.
pub(crate) fn unproven(exchange: &Exchange<'_>) -> Reply {
    unavailable(
        exchange,
        StatusCode::SERVICE_UNAVAILABLE,
        "gupd: the content is not proven and is withheld: retry after the time in Retry-After\n",
    )
}

/// The reply when no upstream gave a usable response.
fn upstream_failed(exchange: &Exchange<'_>, error: &UpstreamError) -> Reply {
    match error {
        UpstreamError::Connect { .. }
        | UpstreamError::HeadTimeout { .. }
        | UpstreamError::Unavailable { .. } => unavailable(
            exchange,
            StatusCode::GATEWAY_TIMEOUT,
            "gupd: no upstream answered: retry after the time in Retry-After\n",
        ),
        UpstreamError::Client { fault: RequestBodyFault::Broken, .. } => {
            Reply::text(StatusCode::BAD_REQUEST, "gupd: the request body broke off or has invalid chunks\n")
        }
        UpstreamError::Client { .. } => {
            Reply::text(StatusCode::REQUEST_TIMEOUT, "gupd: the request body did not arrive in time\n")
        }
        UpstreamError::Closed { .. } | UpstreamError::Response { .. } | UpstreamError::Request { .. } => {
            bad_gateway()
        }
    }
}

fn bad_gateway() -> Reply {
    Reply::text(StatusCode::BAD_GATEWAY, "gupd: no usable response from the upstream\n")
}

/// The reply when the fill failed before its first byte.
pub(crate) fn fill_failed(exchange: &Exchange<'_>, error: &FillError) -> Reply {
    match error {
        FillError::Upstream(error) => upstream_failed(exchange, error),
        FillError::ServerError { status, .. } => unavailable(
            exchange,
            *status,
            "gupd: server error of the upstream: retry after the time in Retry-After\n",
        ),
        FillError::Unproven { .. } => unproven(exchange),
        FillError::BrokenOff { .. }
        | FillError::Changed { .. }
        | FillError::Mismatch { .. }
        | FillError::Corrupt { .. }
        | FillError::OpenEnded => {
            Reply::text(StatusCode::BAD_GATEWAY, "gupd: transfer from the upstream broke off\n")
        }
        FillError::Store(_) | FillError::Abandoned | FillError::Busy | FillError::Stopped => unavailable(
            exchange,
            StatusCode::SERVICE_UNAVAILABLE,
            "gupd: the relay cannot answer now: retry after the time in Retry-After\n",
        ),
    }
}

/// A status with `Retry-After`: the time to the next probe while the circuits of all upstreams are open.
fn unavailable(exchange: &Exchange<'_>, status: StatusCode, sentence: &'static str) -> Reply {
    let probe = exchange.generation.upstreams.time_to_probe(exchange.target.upstreams());
    // Rounded up to a second at least: not before the probe, and never at once.
    let seconds =
        |left: std::time::Duration| u64::try_from(left.as_millis().div_ceil(1_000)).map(|s| s.max(1));
    let seconds = probe.and_then(|left| seconds(left).ok()).unwrap_or(RETRY_AFTER);
    let mut reply = Reply::text(status, sentence);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    reply
}

/// Removes objects that an unsafe request may have changed: its target, and the targets in the response, if they are on
/// the same route (RFC 9111 §4.4). Payloads and catalogs stay: they change by their own rules, and a `POST` that a
/// manager happens to answer with `200` would cost another download.
async fn invalidate(proxy: &Proxy, exchange: &Exchange<'_>, response: &HeaderMap) {
    let Exchange { target, generation, .. } = exchange;
    let named = [header::LOCATION, header::CONTENT_LOCATION].into_iter().filter_map(|name| {
        // Another origin's content is not this one's to remove.
        let path = exchange.relocation().own_target(response.get(name)?.to_str().ok()?)?;
        let normal = key::normalize(path.path(), path.query()).ok()?;
        let classified = generation.policy.classify(&target.route, normal.path());
        if classified.class != Class::Generic {
            return None;
        }
        let normal = normal.with_query(classified.key_query());
        let bound = target.binding().map(|binding| KeyBinding { binding, class: classified.class });
        Some(ObjectKey::from(normal.key(&target.route.name, bound)))
    });
    let own = (exchange.classification().class == Class::Generic).then(|| exchange.key().clone());
    for key in own.into_iter().chain(named) {
        let _overtaken = proxy.fills.detach(&key);
        if let Err(error) = proxy.cache.invalidate(&key).await {
            tracing::error!(%error, "stored response not invalidated after an unsafe request");
        }
    }
}
