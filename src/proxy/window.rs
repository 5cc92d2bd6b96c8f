//! The step in which a client's schedule window may defer a download. Only `GET` requests for a manager's payloads are
//! deferred: a `HEAD` costs nothing, and catalogs only list what exists. A response that has
//! begun is never cut off by a window that closes.

use std::ops::ControlFlow::{Break, Continue};

use http::{HeaderValue, Method, StatusCode, header};

use crate::Proxy;
use crate::exchange::{Exchange, Lookup};
use crate::hit::{Served, serve_stored};
use crate::pipeline::StepResult;
use crate::reply::Reply;
use gupd_config::OutsideWindow;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::ScheduledStart;
use gupd_http::Verdict;
use gupd_http::status::CacheStatus;
use gupd_net::traffic::WaitReason;

/// Defers a download until its scheduled start: `503` with the exact `Retry-After`. Outside its window, a group
/// with `outside = cached-only` still gets fresh responses from the store. Without windows this costs one comparison.
pub(crate) async fn defer_outside_window(proxy: &Proxy, exchange: &Exchange<'_>) -> StepResult {
    if !exchange.group.has_schedule() || exchange.skips_windows || *exchange.method != Method::GET {
        return Continue(());
    }
    Box::pin(check_window(proxy, exchange)).await
}

async fn check_window(proxy: &Proxy, exchange: &Exchange<'_>) -> StepResult {
    let (generation, group) = (exchange.generation, exchange.group);
    let (route, path) = (&exchange.target.route, exchange.target.normalized.path());
    let revision = generation.policy.revision(route, path, || exchange.classification().class);
    let Some(revision) = revision else { return Continue(()) };
    let now = proxy.cache.clock().now();
    let first_seen = match proxy.first_seen.get(revision) {
        Some(first_seen) => first_seen,
        None => {
            // Unknown since the start: the site has known it for as long as this payload is stored.
            let stored = match exchange.lookup(proxy).await {
                Lookup::Found(entry) => entry.object.response_time.min(now),
                _ => now,
            };
            proxy.first_seen.remember(revision, stored)
        }
    };
    let opens = match generation.policy.scheduled_start(group, exchange.address(), revision, first_seen, now)
    {
        ScheduledStart::Now | ScheduledStart::Emergency => return Continue(()),
        ScheduledStart::Later { at: opens } => opens,
    };
    if group.settings.outside == OutsideWindow::CachedOnly
        && let Lookup::Found(entry) = exchange.lookup(proxy).await
        && entry.evaluate(now, &exchange.control) == Verdict::Fresh
        && let Served::Reply(reply) = serve_stored(proxy, exchange, entry).await
    {
        return Break(reply);
    }
    proxy.metrics.deferred.with_label_values(&[&group.name]).inc();
    Break(deferred(exchange, opens, now))
}

/// The reply to a download that may start at `opens`. `Retry-After` counts seconds (RFC 9110 §10.2.3), rounded
/// up so that a client that obeys does not come too early.
pub(crate) fn deferred(exchange: &Exchange<'_>, opens: UnixMillis, now: UnixMillis) -> Reply {
    let seconds = opens.abs_diff(now).div_ceil(1_000);
    let traffic = exchange.generation.upstreams.traffic();
    traffic.add_wait(now, exchange.address(), WaitReason::Deferred, seconds.saturating_mul(1_000));
    let sentence = "gupd: download deferred by a window or rollout: retry after the time in Retry-After\n";
    let mut reply = Reply::text(StatusCode::SERVICE_UNAVAILABLE, sentence);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    reply.annotate(CacheStatus::Deferred, exchange.classification(), None)
}
