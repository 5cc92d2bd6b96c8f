//! Responses from the store. The hit path is one step: a fresh response with its head in memory. Without
//! limits it takes no lock of ours, does not wait if the body is in memory, spawns nothing and classifies nothing.

use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

use crate::Proxy;
use crate::exchange::{Exchange, Repeat};
use crate::pipeline::StepResult;
use crate::reply::Reply;
use crate::representation;
use gupd_cache::CacheEntry;
use gupd_http::Verdict;
use gupd_http::freshness::RevalidationReason;
use gupd_http::status::CacheStatus;
use gupd_net::shape::Purpose;

/// Answers with a stored response if its head is in memory and it is fresh.
pub(crate) async fn serve_hit(proxy: &Proxy, exchange: &mut Exchange<'_>) -> StepResult {
    if !exchange.is_cacheable() {
        return Continue(());
    }
    let Some(entry) = exchange.hot_entry(proxy) else { return Continue(()) };
    let now = proxy.cache.clock().now();
    if exchange.is_failure_of_other_upstreams(entry)
        || entry.evaluate(now, &exchange.control) != Verdict::Fresh
        || entry.is_reload_due(now, &exchange.control)
    {
        return Continue(());
    }
    match representation::stored(proxy, exchange, entry).await {
        Ok(reply) => Break(reply.annotate(CacheStatus::Hit, &entry.classification, Some(entry.object.blob))),
        Err(_) => {
            exchange.repeat_lookup(Repeat::Damaged);
            Continue(())
        }
    }
}

/// Result of serving a stored response.
pub(crate) enum Served {
    Reply(Reply),
    /// It has to be revalidated first.
    Stale(RevalidationReason),
    /// It was damaged, and is no longer stored.
    Damaged,
    /// The disk does not give it now; it may be good.
    Unreadable,
}

/// Serves a stored response if it may be used without waiting for an upstream (RFC 9111 §4.2, RFC 5861 §3).
pub(crate) async fn serve_stored(proxy: &Proxy, exchange: &Exchange<'_>, entry: &Arc<CacheEntry>) -> Served {
    let status = match entry.evaluate(proxy.cache.clock().now(), &exchange.control) {
        Verdict::Revalidate(why) => return Served::Stale(why),
        Verdict::Fresh => CacheStatus::Hit,
        Verdict::StaleWhileRevalidate => {
            let mut request = exchange.fill_request(entry.object.selecting.clone(), Some(entry.clone()));
            request.bandwidth = exchange.bandwidth_class(&entry.classification, Purpose::Revalidation);
            // Its outcome is for later requests.
            let _background = proxy.fills.join(request, &exchange.generation.upstreams);
            CacheStatus::StaleWhileRevalidate
        }
    };
    match representation::stored(proxy, exchange, entry).await {
        Ok(reply) => Served::Reply(reply.annotate(status, &entry.classification, Some(entry.object.blob))),
        // The repair has logged the damage, and discarded the blob.
        Err(error) if error.is_damage() => Served::Damaged,
        Err(error) => {
            let key = &*entry.object.key;
            tracing::debug!(%error, key, "stored response not readable: passing the request through");
            Served::Unreadable
        }
    }
}
