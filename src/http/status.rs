//! `Cache-Status` (RFC 9211): the relay's handling of a request, in one vocabulary for the field, the access log and
//! the metrics. A value is a statement made with the response; it decides nothing.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::field;
use super::freshness::RevalidationReason;
use super::unstorable::UnstorableReason;

/// The relay's handling of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatus {
    /// Served from the store without going forward.
    Hit,
    /// Served stale from the store, during validation.
    StaleWhileRevalidate,
    /// Served stale because validation failed: with this upstream's status, or without a response.
    StaleIfError(Option<StatusCode>),
    /// Served from the store after an upstream said `304`.
    Revalidated {
        /// Reason for the validation.
        why: RevalidationReason,
        /// True if another request's validation answered this one too.
        collapsed: bool,
    },
    /// Answered with the response of an upstream.
    Forwarded(ForwardReason, ForwardOutcome),
    /// Passed through: the class or the configuration keeps the path out of the cache.
    Bypass,
    /// Passed through: the method is never cached.
    Method,
    /// `504`: the client accepts only a stored response, and there is none.
    OnlyIfCached,
    /// `503`: the windows of the client's group defer the request.
    Deferred,
    /// A negative response: the site's policy denies the client this content.
    Denied,
    /// `307`: an administrator redirects clients to the manager.
    Redirected,
    /// An error of the relay: no upstream gave a response.
    Failed,
}

/// Short form of a [`CacheStatus`], in access logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheResult {
    /// Fresh, from the store.
    Hit,
    /// Stale, from the store.
    Stale,
    /// From the store, after an upstream confirmed it.
    Revalidated,
    /// From an upstream, because the stored response was stale.
    Expired,
    /// From an upstream, with the request of another client.
    Collapsed,
    /// From an upstream.
    Miss,
    /// Passed through.
    Bypass,
    /// See [`CacheStatus::OnlyIfCached`].
    OnlyIfCached,
    /// See [`CacheStatus::Deferred`].
    Deferred,
    /// See [`CacheStatus::Denied`].
    Denied,
    /// See [`CacheStatus::Redirected`].
    Redirected,
    /// See [`CacheStatus::Failed`].
    Failed,
}

impl CacheResult {
    /// Every result, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Hit,
        Self::Stale,
        Self::Revalidated,
        Self::Expired,
        Self::Collapsed,
        Self::Miss,
        Self::Bypass,
        Self::OnlyIfCached,
        Self::Deferred,
        Self::Denied,
        Self::Redirected,
        Self::Failed,
    ];

    /// The one spelling used in access logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Expired => "expired",
            Self::Collapsed => "collapsed",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::OnlyIfCached => "only-if-cached",
            Self::Deferred => "deferred",
            Self::Denied => "denied",
            Self::Redirected => "redirected",
            Self::Failed => "failed",
        }
    }
}

/// Reason for which a request was forwarded (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardReason {
    /// Nothing is stored under the key.
    UriMiss,
    /// The stored responses are for other selecting fields.
    VaryMiss,
    /// The stored response was stale, and an upstream had a new version.
    Stale,
    /// The stored response was not fresh enough for the request, and an upstream had a new version.
    Request,
    /// Only part of the requested bytes is stored.
    Partial,
}

/// Storage of a fetched response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardOutcome {
    /// It is stored.
    Stored,
    /// It is the response to another client's request, which this one follows.
    Collapsed,
    /// It is not stored, for this reason.
    NotStored(UnstorableReason),
    /// It is not stored, because the store failed.
    StoreFailed,
}

/// End of a response to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseEnd {
    /// Its last byte was handed to the connection.
    Complete,
    /// The client disconnected or stalled before the last byte.
    Client,
    /// The content broke off.
    Upstream,
}

/// A response that has ended, as a plain value for observers of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedResponse {
    /// Status code.
    pub status: StatusCode,
    /// Handling by the cache; `None` if the request was refused before the lookup.
    pub cache: Option<CacheStatus>,
    /// End of the response.
    pub end: ResponseEnd,
    /// True if it broke off because the content failed verification.
    pub is_damaged: bool,
    /// True if its content includes the last byte of the object.
    pub has_last_byte: bool,
    /// Bytes of body handed to the connection.
    pub bytes: u64,
}

impl ResponseEnd {
    /// Returns the label for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}

impl CacheStatus {
    /// Returns the label for access logs and metrics.
    pub const fn result(self) -> CacheResult {
        match self {
            Self::Hit => CacheResult::Hit,
            Self::StaleWhileRevalidate | Self::StaleIfError(_) => CacheResult::Stale,
            Self::Revalidated { .. } => CacheResult::Revalidated,
            Self::Forwarded(_, ForwardOutcome::Collapsed) => CacheResult::Collapsed,
            Self::Forwarded(ForwardReason::Stale, _) => CacheResult::Expired,
            Self::Forwarded(..) => CacheResult::Miss,
            Self::Bypass | Self::Method => CacheResult::Bypass,
            Self::OnlyIfCached => CacheResult::OnlyIfCached,
            Self::Deferred => CacheResult::Deferred,
            Self::Denied => CacheResult::Denied,
            Self::Redirected => CacheResult::Redirected,
            Self::Failed => CacheResult::Failed,
        }
    }

    /// The spelling of its [`result`](Self::result).
    pub const fn as_str(self) -> &'static str {
        self.result().as_str()
    }

    /// Returns true if the whole body was stored at the time of the request.
    pub const fn is_from_store(self) -> bool {
        matches!(
            self,
            Self::Hit | Self::StaleWhileRevalidate | Self::StaleIfError(_) | Self::Revalidated { .. }
        )
    }

    /// Returns true if this client's bytes did not cross the WAN.
    pub const fn is_wan_free(self) -> bool {
        self.is_from_store() || matches!(self, Self::Forwarded(_, ForwardOutcome::Collapsed))
    }

    /// Appends the relay's member after the present ones: the first is nearest to the origin. A response generated by
    /// the relay gets none (§2).
    pub fn append_to(self, headers: &mut HeaderMap) {
        if let Some(value) = self.value() {
            headers.append(header::CACHE_STATUS, value);
        }
    }

    fn value(self) -> Option<HeaderValue> {
        const HIT: HeaderValue = HeaderValue::from_static("gupd; hit");
        const STORED: HeaderValue = HeaderValue::from_static("gupd; fwd=uri-miss; stored");
        const COLLAPSED: HeaderValue = HeaderValue::from_static("gupd; fwd=uri-miss; collapsed");
        const REVALIDATED: HeaderValue = HeaderValue::from_static("gupd; fwd=stale; fwd-status=304");
        const BYPASS: HeaderValue = HeaderValue::from_static("gupd; fwd=bypass");
        const METHOD: HeaderValue = HeaderValue::from_static("gupd; fwd=method");

        Some(match self {
            Self::Hit => HIT,
            Self::StaleWhileRevalidate => {
                HeaderValue::from_static("gupd; hit; detail=stale-while-revalidate")
            }
            // Without a response nothing was forwarded in the sense of §2.2.
            Self::StaleIfError(None) => HeaderValue::from_static("gupd; hit; detail=stale-if-error"),
            Self::StaleIfError(Some(status)) => field::composed(format!(
                "gupd; fwd=stale; fwd-status={}; detail=stale-if-error",
                status.as_u16()
            )),
            Self::Revalidated { why: RevalidationReason::Stale, collapsed: false } => REVALIDATED,
            Self::Revalidated { why, collapsed } => {
                let collapsed = if collapsed { "; collapsed" } else { "" };
                let why = ForwardReason::from(why).as_str();
                field::composed(format!("gupd; fwd={why}; fwd-status=304{collapsed}"))
            }
            Self::Forwarded(ForwardReason::UriMiss, ForwardOutcome::Stored) => STORED,
            Self::Forwarded(ForwardReason::UriMiss, ForwardOutcome::Collapsed) => COLLAPSED,
            Self::Forwarded(forward, outcome) => {
                let (parameter, detail) = match outcome {
                    ForwardOutcome::Stored => ("; stored", ""),
                    ForwardOutcome::Collapsed => ("; collapsed", ""),
                    ForwardOutcome::NotStored(reason) => ("; detail=", reason.as_str()),
                    ForwardOutcome::StoreFailed => ("; detail=", "store-failed"),
                };
                field::composed(format!("gupd; fwd={}{parameter}{detail}", forward.as_str()))
            }
            Self::Bypass => BYPASS,
            Self::Method => METHOD,
            Self::OnlyIfCached | Self::Deferred | Self::Denied | Self::Redirected | Self::Failed => {
                return None;
            }
        })
    }
}

impl ForwardReason {
    /// Returns the value of the `fwd` parameter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Partial => "partial",
        }
    }
}

impl From<RevalidationReason> for ForwardReason {
    fn from(why: RevalidationReason) -> Self {
        match why {
            RevalidationReason::Stale => Self::Stale,
            RevalidationReason::Request => Self::Request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<(CacheStatus, Option<&'static str>, &'static str)> {
        use CacheStatus::*;
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        vec![
            (Hit, Some("gupd; hit"), "hit"),
            (StaleWhileRevalidate, Some("gupd; hit; detail=stale-while-revalidate"), "stale"),
            (StaleIfError(None), Some("gupd; hit; detail=stale-if-error"), "stale"),
            (
                StaleIfError(Some(unavailable)),
                Some("gupd; fwd=stale; fwd-status=503; detail=stale-if-error"),
                "stale",
            ),
            (
                Revalidated { why: RevalidationReason::Stale, collapsed: false },
                Some("gupd; fwd=stale; fwd-status=304"),
                "revalidated",
            ),
            (
                Revalidated { why: RevalidationReason::Request, collapsed: true },
                Some("gupd; fwd=request; fwd-status=304; collapsed"),
                "revalidated",
            ),
            (
                Forwarded(ForwardReason::UriMiss, ForwardOutcome::Stored),
                Some("gupd; fwd=uri-miss; stored"),
                "miss",
            ),
            (
                Forwarded(ForwardReason::UriMiss, ForwardOutcome::Collapsed),
                Some("gupd; fwd=uri-miss; collapsed"),
                "collapsed",
            ),
            (
                Forwarded(ForwardReason::VaryMiss, ForwardOutcome::Stored),
                Some("gupd; fwd=vary-miss; stored"),
                "miss",
            ),
            (
                Forwarded(ForwardReason::Stale, ForwardOutcome::Stored),
                Some("gupd; fwd=stale; stored"),
                "expired",
            ),
            (
                Forwarded(ForwardReason::Request, ForwardOutcome::StoreFailed),
                Some("gupd; fwd=request; detail=store-failed"),
                "miss",
            ),
            (
                Forwarded(ForwardReason::Partial, ForwardOutcome::NotStored(UnstorableReason::NoStore)),
                Some("gupd; fwd=partial; detail=no-store"),
                "miss",
            ),
            (Bypass, Some("gupd; fwd=bypass"), "bypass"),
            (Method, Some("gupd; fwd=method"), "bypass"),
            (OnlyIfCached, None, "only-if-cached"),
            (Deferred, None, "deferred"),
            (Denied, None, "denied"),
            (Redirected, None, "redirected"),
            (Failed, None, "failed"),
        ]
    }

    #[test]
    fn status_values_follow_rfc_9211() {
        for (status, member, label) in samples() {
            let value = status.value();
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), member);
            assert_eq!(status.as_str(), label);
        }
    }

    #[test]
    fn cache_results_are_exactly_those_that_occur() {
        let mut occurring: Vec<_> = samples().iter().map(|(status, ..)| status.result()).collect();
        occurring.sort_unstable();
        occurring.dedup();
        assert_eq!(occurring, CacheResult::ALL);
        assert!(CacheResult::ALL.iter().enumerate().all(|(at, result)| *result as usize == at));
    }

    #[test]
    fn own_member_comes_after_those_nearer_the_origin() {
        let mut headers = HeaderMap::new();
        headers.append(header::CACHE_STATUS, HeaderValue::from_static("parent; hit"));
        CacheStatus::Hit.append_to(&mut headers);
        CacheStatus::Failed.append_to(&mut headers);
        let members: Vec<_> = headers.get_all(header::CACHE_STATUS).iter().collect();
        assert_eq!(members, ["parent; hit", "gupd; hit"]);
    }
}
