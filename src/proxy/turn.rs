//! The stage between route and look-up: whether the windows of a client's group let it begin this download now. Owns
//! what a client gets that comes before its turn; `policy` says when that is. Only `GET`s of a manager's payloads are
//! held up: a `HEAD` costs nothing, and by catalogs clients learn, they do not download. A response that has begun
//! is never cut off by a window that closes.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};

use super::reply::Reply;
use super::shared::Use;
use super::{Asked, Proxy};
use gupd_cache::Found;
use gupd_config::OutsideWindow;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::{Classification, ScheduledStart};
use gupd_http::Verdict;
use gupd_http::status::CacheStatus;

impl Proxy {
    /// What a client gets whose turn comes later; `None` if it may have what it asks for. For a group without windows
    /// and spread, and so without groups, this is one comparison.
    pub(super) async fn before_its_turn(&self, asked: &Asked<'_>) -> Option<Reply> {
        if !asked.group.has_schedule() || *asked.method != Method::GET {
            return None;
        }
        Box::pin(self.judge(asked)).await
    }

    async fn judge(&self, asked: &Asked<'_>) -> Option<Reply> {
        let Asked { target, group, generation, .. } = asked;
        let revision = generation.policy.revision(&target.route, target.normalized.path())?;
        let now = self.cache.clock().now();
        let seen = match self.first_seen.of(revision) {
            Some(seen) => seen,
            None => self.first_seen.remember(revision, self.stored_at(asked, now).await),
        };
        let opens =
            match generation.policy.scheduled_start(group, asked.peer.address.ip(), revision, seen, now) {
                ScheduledStart::Now | ScheduledStart::Emergency => return None,
                ScheduledStart::Later { at: opens } => opens,
            };
        let classified = generation.policy.classify(&target.route, target.normalized.path());
        if group.settings.outside == OutsideWindow::CachedOnly
            && let Some(reply) = self.without_upstreams(asked, &classified).await
        {
            return Some(reply);
        }
        self.metrics.deferred.with_label_values(&[&group.name]).inc();
        Some(deferred(opens, now).told(CacheStatus::Deferred, &classified, None))
    }

    /// When the site first knew of a revision that nobody asked for since the start: as early as the payload asked for
    /// was stored, and else now.
    async fn stored_at(&self, asked: &Asked<'_>, now: UnixMillis) -> UnixMillis {
        let classified =
            asked.generation.policy.classify(&asked.target.route, asked.target.normalized.path());
        let key = Arc::from(asked.target.key());
        match self.cache.find(&key, asked.headers, &classified).await {
            Ok(Found::Entry(entry)) => entry.object.response_time.min(now),
            _ => now,
        }
    }

    /// A fresh response from the store, which asks nobody.
    async fn without_upstreams(&self, asked: &Asked<'_>, classified: &Classification) -> Option<Reply> {
        let key = Arc::from(asked.target.key());
        let Ok(Found::Entry(entry)) = self.cache.find(&key, asked.headers, classified).await else {
            return None;
        };
        let is_fresh = entry.freshness.evaluate(self.cache.clock().now(), &asked.control) == Verdict::Fresh;
        if !is_fresh || (entry.is_new() && self.is_disowned(&entry).await) {
            return None;
        }
        match self.use_stored(asked, &entry).await {
            Use::Reply(reply) => Some(reply),
            Use::Revalidate(_) | Use::Damaged | Use::Unreadable => None,
        }
    }
}

// RFC 9110 §10.2.3 as seconds, rounded up: who comes then is not too early.
pub(super) fn deferred(opens: UnixMillis, now: UnixMillis) -> Reply {
    let seconds = opens.abs_diff(now).div_ceil(1_000);
    let sentence = "gupd: the windows of this site give this client a later turn: see Retry-After\n";
    let mut reply = Reply::text(StatusCode::SERVICE_UNAVAILABLE, sentence);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    reply
}
