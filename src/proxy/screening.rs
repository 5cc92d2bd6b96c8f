//! The first steps of a request, which never read the index: targets that are refused, content that the policy blocks,
//! and the redirect while the relay drains. Blocked content is
//! neither a refusal nor a failure in metrics: the administrator wants it.

use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use crate::exchange::Exchange;
use crate::pipeline::StepResult;
use crate::reply::Reply;
use crate::{Generation, Proxy, view};
use gupd_config::ClosedTo;
use gupd_http::forwarding;
use gupd_http::refusal::Refusal;
use gupd_http::status::CacheStatus;
use gupd_http::target::{OwnAddresses, Target, TargetRules};
use gupd_net::listen::ClientConnection;
use gupd_net::redirect::DrainMode;

/// `Retry-After` of a relay without upstreams, in seconds: an administrator is at work.
const NOT_CONFIGURED_RETRY: HeaderValue = HeaderValue::from_static("300");

/// Opens the exchange of a request with a valid target. Ends `OPTIONS` requests that go no further, loops, and
/// everything that is not content of a configured upstream.
pub(crate) fn open_exchange<'a>(
    proxy: &Proxy,
    head: &'a Parts,
    connection: &'a ClientConnection,
    generation: &'a Arc<Generation>,
) -> StepResult<Exchange<'a>> {
    let is_gateway = connection.listener().is_gateway();
    if is_gateway && !matches!(head.method, Method::GET | Method::HEAD) {
        return Break(proxy.refuse(Refusal::NotContent));
    }
    if forwarding::is_final_recipient(&head.method, &head.uri, &head.headers) {
        return Break(Reply::options());
    }
    // Before any wait: a request in a loop must not wait for anything that may wait for it.
    if generation.upstreams.instance().has_passed(&head.headers) {
        return Break(proxy.refuse(Refusal::Loop));
    }
    let rules = TargetRules {
        policy: &generation.policy,
        is_upstream: &|scheme, authority| generation.upstreams.has_authority(scheme, authority),
        max_uri_bytes: generation.config.server.max_uri_bytes,
        own: OwnAddresses {
            local: connection.local,
            listen: &generation.config.server.listen,
            public_names: &generation.config.server.public_names,
        },
    };
    match Target::parse(&head.method, &head.uri, head.version, &head.headers, &rules) {
        Ok(_) if generation.config.upstreams.is_empty() => {
            let mut reply = proxy.refuse(Refusal::NotConfigured);
            reply.headers_mut().insert(header::RETRY_AFTER, NOT_CONFIGURED_RETRY);
            Break(reply)
        }
        Ok(target) => {
            let exchange = Exchange::new(head, connection, target, generation);
            if is_gateway && !exchange.classification().class.is_content() {
                return Break(proxy.refuse(Refusal::NotContent));
            }
            Continue(exchange)
        }
        Err(refusal) => Break(proxy.refuse(refusal)),
    }
}

/// Refuses clients that the server or the route does not serve. Costs one comparison without access lists.
pub(crate) fn refuse_unserved_client(proxy: &Proxy, exchange: &Exchange<'_>) -> StepResult {
    if exchange.connection.is_permitted() && exchange.target.route.access.permits(exchange.address()) {
        return Continue(());
    }
    exchange.generation.upstreams.traffic().add_refused(exchange.address());
    Break(proxy.refuse(Refusal::ClientDenied))
}

/// Refuses requests that the route does not pass to its upstreams. A hot entry has its classification, so that hits are
/// not classified again.
pub(crate) fn refuse_closed_path(proxy: &Proxy, exchange: &Exchange<'_>) -> StepResult {
    let (route, method) = (&exchange.target.route, exchange.method);
    if route.passes_every_path(method) {
        return Continue(());
    }
    let hot = exchange.is_cacheable().then(|| exchange.hot_entry(proxy)).flatten();
    let classification = hot.map_or_else(|| exchange.classification(), |entry| &entry.classification);
    let Err(closed) = route.check_pass(method, classification) else { return Continue(()) };
    let mut reply = proxy.refuse(closed.into()).with_class(classification);
    if let Some(allowed) = route.pass.allowed(classification.class)
        && let Ok(allowed) = HeaderValue::try_from(allowed)
        && closed == ClosedTo::Method
    {
        reply.headers_mut().insert(header::ALLOW, allowed);
    }
    Break(reply)
}

/// Answers requests for blocked content with the status of the policy, for catalogs `404`. Costs one comparison where
/// nothing is blocked.
pub(crate) fn deny_blocked_content(proxy: &Proxy, exchange: &mut Exchange<'_>) -> StepResult {
    let (policy, group, route) = (&exchange.generation.policy, exchange.group, &exchange.target.route);
    if !policy.can_deny(group, route) {
        return Continue(());
    }
    let classification = exchange.classification();
    let Some(status) = policy.denial_status(group, route, classification) else { return Continue(()) };
    proxy.metrics.denied.with_label_values(&[&*group.name, &*classification.content_type]).inc();
    let sentence = "gupd: the policy of this site blocks this content type for this client\n";
    let reply = Reply::text(status, sentence).annotate(CacheStatus::Denied, classification, None);
    view::observe_denial(proxy, exchange);
    Break(reply)
}

/// Redirects clients to a healthy manager while the relay drains. Without one the relay serves them itself, as it does
/// requests that a redirect would bring back: those in absolute form.
pub(crate) fn redirect_while_draining(proxy: &Proxy, exchange: &Exchange<'_>) -> StepResult {
    let (generation, target) = (exchange.generation, &exchange.target);
    // A client beyond the site cannot reach the manager.
    let stays = target.is_proxied || exchange.connection.listener().is_gateway();
    if proxy.drain.get() != DrainMode::Redirecting || stays {
        return Continue(());
    }
    let Some(location) = generation.public.redirect_location(&generation.upstreams, target) else {
        return Continue(());
    };
    let mut reply = Reply::text(StatusCode::TEMPORARY_REDIRECT, "");
    reply.headers_mut().insert(header::LOCATION, location);
    Break(reply.annotate(CacheStatus::Redirected, exchange.classification(), None))
}
