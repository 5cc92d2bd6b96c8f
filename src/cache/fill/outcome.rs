//! Outcomes and errors of fills. Each outcome has one spelling, which logs and metrics share.

use std::sync::Arc;

use gupd_net::upstream::{UpstreamError, UpstreamFailure};
use gupd_store::StoreError;

/// Reason why a fill did not produce its object.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// No upstream answered.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// An upstream answered with a server error.
    #[error("upstream {upstream} answered {status}")]
    ServerError {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// Status, 500 to 599.
        status: http::StatusCode,
    },
    /// The transfer broke off and could not be resumed.
    #[error("upstream {upstream}: the transfer broke off at byte {at} and cannot be resumed: {reason}")]
    BrokenOff {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// Bytes that had arrived.
        at: u64,
        /// Cause of the last failed attempt.
        reason: Arc<str>,
    },
    /// The content changed during the transfer; a new fill has started.
    #[error("upstream {upstream}: the content changed while it was transferred")]
    Changed {
        /// Name of the upstream.
        upstream: Arc<str>,
    },
    /// The content differs from its announced digest; a new fill has started.
    #[error("upstream {upstream}: the content does not match its announced digest; fetching it again")]
    Mismatch {
        /// Name of the upstream.
        upstream: Arc<str>,
    },
    /// As many downloads as allowed match neither the announced digest nor each other.
    #[error("upstream {upstream}: the content is corrupt and differs at each download: check the line")]
    Corrupt {
        /// Name of the upstream.
        upstream: Arc<str>,
    },
    /// The route needs a proof of the content, and there is none. It may be held for an administrator.
    #[error("upstream {upstream}: the content is not proven: {reason}")]
    Unproven {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// Reason.
        reason: Arc<str>,
    },
    /// The response had no length and exceeded the share of the store that such a response may take.
    #[error(
        "the response has no length and exceeds the limit for such responses; passing later ones through"
    )]
    OpenEnded,
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(Arc<str>),
    /// No follower wanted the rest, and `fill.finish` does not require it. The next fill continues from the bytes kept.
    #[error("no follower wanted the rest")]
    Abandoned,
    /// The fill waited for `fill.total_timeout` while as many fills ran as may.
    #[error("limit reached (fill.max_concurrent): no permit within fill.total_timeout")]
    Busy,
    /// The fill's task ended without an outcome: the relay is stopping.
    #[error("the fill was stopped")]
    Stopped,
}

impl FillError {
    /// Outcome of a fill that ended with this error.
    pub fn outcome(&self) -> FillOutcome {
        match self {
            Self::Upstream(error) => FillOutcome::Upstream(error.kind()),
            Self::ServerError { .. } => FillOutcome::ServerError,
            Self::BrokenOff { .. } => FillOutcome::BrokenOff,
            Self::Changed { .. } => FillOutcome::Changed,
            Self::Mismatch { .. } | Self::Corrupt { .. } => FillOutcome::DigestMismatch,
            Self::Unproven { .. } => FillOutcome::Unproven,
            Self::OpenEnded => FillOutcome::OpenEnded,
            Self::Store(_) => FillOutcome::Store,
            Self::Abandoned => FillOutcome::Abandoned,
            Self::Busy => FillOutcome::Busy,
            Self::Stopped => FillOutcome::Stopped,
        }
    }
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::from(error.to_string()))
    }
}

/// Outcome of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillOutcome {
    /// A new blob is stored.
    Stored,
    /// An object is stored that shares an existing blob.
    Deduplicated,
    /// The stored response is still valid.
    NotModified,
    /// Only one client may have the response.
    Unshared,
    /// The complete content must not be stored.
    Unstorable,
    /// An unsafe request changed the object during the fill.
    Outdated,
    /// Another process has taken the store over.
    HandedOver,
    /// The store failed.
    Store,
    /// The relay is stopping.
    Stopped,
    /// As many fills ran as may, for too long.
    Busy,
    /// No follower was left, and the rest was not needed.
    Abandoned,
    /// The content changed during the transfer.
    Changed,
    /// The content does not match its announced digest.
    DigestMismatch,
    /// The content is a page in place of a file.
    UnexpectedType,
    /// The route needs a proof of the content, and there is none.
    Unproven,
    /// A stored payload has changed upstream, and keeps its bytes.
    Kept,
    /// A response without a length exceeded its limit.
    OpenEnded,
    /// No upstream answered.
    Upstream(UpstreamFailure),
    /// An upstream answered with a server error.
    ServerError,
    /// The transfer broke off and could not be resumed.
    BrokenOff,
}

impl FillOutcome {
    /// Every outcome, so that each metric series exists from the start.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::Stored,
            Self::Deduplicated,
            Self::NotModified,
            Self::Unshared,
            Self::Unstorable,
            Self::Outdated,
            Self::HandedOver,
            Self::Store,
            Self::Stopped,
            Self::Abandoned,
            Self::Busy,
            Self::Changed,
            Self::DigestMismatch,
            Self::UnexpectedType,
            Self::Unproven,
            Self::Kept,
            Self::OpenEnded,
            Self::ServerError,
            Self::BrokenOff,
        ];
        let before = [UpstreamFailure::BadRequest, UpstreamFailure::Unavailable].map(Self::Upstream);
        own.into_iter().chain(UpstreamFailure::OF_UPSTREAM.map(Self::Upstream)).chain(before)
    }

    /// Spelling in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Deduplicated => "deduplicated",
            Self::NotModified => "not-modified",
            Self::Unshared => "unshared",
            Self::Unstorable => "unstorable",
            Self::Outdated => "outdated",
            Self::HandedOver => "handed-over",
            Self::Store => "store",
            Self::Stopped => "stopped",
            Self::Abandoned => "abandoned",
            Self::Busy => "busy",
            Self::Changed => "changed",
            Self::DigestMismatch => "digest-mismatch",
            Self::UnexpectedType => "unexpected-type",
            Self::Unproven => "unproven",
            Self::Kept => "kept",
            Self::OpenEnded => "open-ended",
            Self::Upstream(failure) => failure.as_str(),
            Self::ServerError => "server-error",
            Self::BrokenOff => "broken-off",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::FillOutcome;

    #[test]
    fn fill_outcomes_have_25_distinct_spellings() {
        let spelled: BTreeSet<_> = FillOutcome::all().map(FillOutcome::as_str).collect();
        let expected = [
            "abandoned",
            "bad-request",
            "bad-response",
            "broken-off",
            "busy",
            "changed",
            "closed",
            "connect",
            "deduplicated",
            "digest-mismatch",
            "handed-over",
            "head-timeout",
            "kept",
            "not-modified",
            "open-ended",
            "outdated",
            "server-error",
            "stopped",
            "store",
            "stored",
            "unavailable",
            "unexpected-type",
            "unproven",
            "unshared",
            "unstorable",
        ];
        assert_eq!(spelled.into_iter().collect::<Vec<_>>(), expected);
    }
}
