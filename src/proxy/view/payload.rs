//! Numbered payloads of a manager: whether the client's revision has reached the number. A request for a new number
//! announces a revision, but only if the manager has the payload: clients can make numbers up.

use http::StatusCode;

use super::current_view;
use crate::Proxy;
use crate::exchange::{Exchange, Lookup};
use gupd_cache::fill::{FillResponse, Joined};
use gupd_config::policy::Group;
use gupd_http::control::Directive;
use gupd_http::key;
use gupd_rollout::state::PublishOutcome;
use gupd_rollout::view::{PayloadAccess, RevisionView};

/// Decides on the client's access to a numbered payload.
pub(super) async fn check_payload(
    proxy: &Proxy,
    exchange: &mut Exchange<'_>,
    view: &RevisionView,
) -> PayloadAccess {
    let key = exchange.key().clone();
    let Some(file) = key::revision_file(&exchange.generation.policy, &key) else {
        return PayloadAccess::Visible;
    };
    let client = exchange.address();
    let access = |view: &RevisionView, group: &Group| {
        let now = view.effective_time(proxy.cache.clock().now());
        view.payload_access(&group.name, client, (file.series, file.number), now)
    };
    let first = access(view, exchange.group);
    if first != PayloadAccess::Unannounced {
        return first;
    }
    // A number that is not confirmed, or cannot be recorded, is not staged: content is not delayed for it, except where
    // an administrator holds the group.
    let is_held = view.is_frozen(&exchange.group.name, file.series);
    let unstaged = if is_held { PayloadAccess::Deferred(None) } else { first };
    match exists(proxy, exchange).await {
        Some(true) => {}
        Some(false) => return first,
        None => return unstaged,
    }
    match proxy.rollouts.announce(file.series, file.number).await {
        Ok(PublishOutcome::Unchanged) => {}
        Ok(PublishOutcome::New(_) | PublishOutcome::Joined(_)) => {
            proxy.background.new_revisions().notify(file);
        }
        Err(error) => {
            tracing::warn!(%error, key = &*key, "new revision not recorded");
            return unstaged;
        }
    }
    current_view(proxy, exchange).map_or(first, |(view, group)| access(&view, &group))
}

/// Returns true if a payload is stored or its manager has it. The manager is asked as the client asks, and its response
/// is stored. `None` if this cannot be found out.
async fn exists(proxy: &Proxy, exchange: &mut Exchange<'_>) -> Option<bool> {
    let variant = match exchange.lookup(proxy).await {
        Lookup::Found(entry) => return Some(entry.object.status == StatusCode::OK),
        // A later step reports the failure.
        Lookup::Failed => return None,
        Lookup::OtherVariant { variant } => variant.clone(),
        Lookup::Missing => String::new(),
    };
    if exchange.control.has(Directive::OnlyIfCached)
        || proxy.cache.unstorable(exchange.key(), || exchange.hash_sent_fields()).is_some()
    {
        return None;
    }
    let request = exchange.fill_request(variant, None);
    let outcome = match proxy.fills.join(request, &exchange.generation.upstreams) {
        Joined::Started(fill, _) | Joined::Following(fill) | Joined::Completed(fill) => fill.response().await,
        Joined::Stored(entry) => FillResponse::Stored(entry),
    };
    if let FillResponse::Stored(entry) | FillResponse::NotModified(entry) = &outcome {
        exchange.set_lookup(entry);
    }
    let status = outcome.status()?;
    Some(matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT))
}
