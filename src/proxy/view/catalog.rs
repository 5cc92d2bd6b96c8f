//! Catalogs of the client's visible revision. Every catalog that a client gets is of one revision, byte for byte as it
//! was published. A catalog that no revision has is asked for by `refresh` while the request waits, for a bounded time.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{current_view, visible_number};
use crate::Proxy;
use crate::background::PendingOutcome;
use crate::exchange::Exchange;
use crate::relays::not_stored;
use crate::reply::Reply;
use crate::representation;
use gupd_cache::{CacheEntry, CacheLookup};
use gupd_http::SelectingRequest;
use gupd_http::control::Directive;
use gupd_http::date;
use gupd_http::status::CacheStatus;
use gupd_rollout::revision::{Catalog, RevisionNumber, version_key};
use gupd_rollout::view::RevisionView;
use gupd_store::ObjectKey;

/// Longest wait for a catalog that no revision has: less than the timeout of updaters. It is published all the same,
/// and found by the next request.
const CATALOG_WAIT: Duration = Duration::from_secs(25);

/// `Retry-After` for a catalog that is not there now.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Answers with the catalog of the client's revision. Also returns the number of that revision.
pub(super) async fn serve_catalog(
    proxy: &Proxy,
    exchange: &mut Exchange<'_>,
    mut view: Arc<RevisionView>,
) -> (Reply, Option<RevisionNumber>) {
    let now = || proxy.cache.clock().now();
    let (client, mut group) = (exchange.address(), exchange.group.clone());
    let key = exchange.key().clone();
    let revision = view.visible_revision(&group.name, client, now());
    let has = revision.is_some_and(|revision| revision.catalogs.contains_key(&key));
    if !has && !view.has_catalog(&key) {
        if exchange.control.has(Directive::OnlyIfCached) {
            return (not_stored(exchange), visible_number(proxy, exchange, &view, &group));
        }
        let pending = proxy.background.pending_catalogs().wait_for(&key);
        let outcome = tokio::time::timeout(CATALOG_WAIT, pending).await;
        (view, group) = current_view(proxy, exchange).unwrap_or((view, group));
        let visible = visible_number(proxy, exchange, &view, &group);
        match outcome {
            Ok(PendingOutcome::Published) => {}
            Ok(PendingOutcome::Absent | PendingOutcome::Refused) => return (absent(exchange), visible),
            Ok(PendingOutcome::Unpublished) | Err(_) => return (unavailable(exchange), visible),
        }
    }
    let Some(revision) = view.visible_revision(&group.name, client, view.effective_time(now())) else {
        return (unavailable(exchange), None);
    };
    let reply = match revision.catalogs.get(&key) {
        Some(Catalog::Present { since, .. }) => {
            serve_version(proxy, exchange, &version_key(*since, &key).into()).await
        }
        Some(Catalog::Absent) => {
            proxy.background.missing_catalogs().record_request(&key, now());
            absent(exchange)
        }
        // A later revision brought it.
        None => absent(exchange),
    };
    (reply, Some(revision.number))
}

/// Answers with a version of a catalog, as it is stored.
async fn serve_version(proxy: &Proxy, exchange: &mut Exchange<'_>, version: &ObjectKey) -> Reply {
    // Only one variant of a version is stored, whatever its Vary: the relay asked for it without a client's fields.
    let request = SelectingRequest { headers: &HeaderMap::new(), target: exchange.target.original.as_str() };
    let found = proxy.cache.find(version, request, exchange.classification()).await;
    let error = match found {
        Ok(CacheLookup::Hit(entry)) => {
            remove_foreign_conditions(&mut exchange.headers, &entry);
            match representation::stored(proxy, exchange, &entry).await {
                Ok(reply) => {
                    let blob = Some(entry.object.blob);
                    return reply.annotate(CacheStatus::Hit, exchange.classification(), blob);
                }
                Err(error) => error.to_string(),
            }
        }
        Ok(CacheLookup::OtherVariant { .. } | CacheLookup::Miss) => "it is not stored".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::error!(key = &**version, error, "catalog of a kept revision not served");
    unavailable(exchange)
}

/// Removes conditions that may come from another revision. With them, a client would keep the catalog of that revision,
/// or combine parts of two revisions.
fn remove_foreign_conditions(headers: &mut Cow<'_, HeaderMap>, entry: &CacheEntry) {
    let modified = date::from_headers(&entry.object.headers, header::LAST_MODIFIED);
    let is_foreign = |since| modified.is_none() || date::parse(since) != modified;
    // A later date proves nothing: a client with a later revision does not have the earlier one that it sees now.
    if headers.get(header::IF_MODIFIED_SINCE).is_some_and(is_foreign) {
        headers.to_mut().remove(header::IF_MODIFIED_SINCE);
    }
    // The client resumes a download that may have been of another revision, and does not say of which.
    if headers.contains_key(header::RANGE) && !headers.contains_key(header::IF_RANGE) {
        headers.to_mut().remove(header::RANGE);
    }
}

/// The reply for a catalog that the revision does not have, which is normal to clients.
fn absent(exchange: &Exchange<'_>) -> Reply {
    let sentence = "gupd: no such catalog in the revision of this client\n";
    Reply::text(StatusCode::NOT_FOUND, sentence).annotate(CacheStatus::Hit, exchange.classification(), None)
}

fn unavailable(exchange: &Exchange<'_>) -> Reply {
    let sentence = "gupd: catalog not available now: retry after the time in Retry-After\n";
    let mut reply = Reply::text(StatusCode::SERVICE_UNAVAILABLE, sentence);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
    reply.annotate(CacheStatus::Failed, exchange.classification(), None)
}
