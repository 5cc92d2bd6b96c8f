//! Outcomes of fills, each with its one spelling in logs and metrics.

use gupd_net::upstream::UpstreamFailure;

/// FillResponse of a fill: with an object, without one, or by a [`FillError`](super::FillError).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillOutcome {
    /// A new blob is stored.
    Stored,
    /// An object is stored; its blob was there already.
    Deduplicated,
    /// The stored response is still good.
    NotModified,
    /// The response is for one client alone.
    Unshared,
    /// The content must not be stored, which only its end told.
    Unstorable,
    /// An unsafe request has changed the object meanwhile.
    Outdated,
    /// Another process has taken the store over.
    HandedOver,
    /// The store failed.
    Store,
    /// The relay is stopping.
    Stopped,
    /// No client was left, nor was the rest wanted.
    Abandoned,
    /// The content changed between two parts of it.
    Changed,
    /// The content is not what its digest announces.
    DigestMismatch,
    /// A response without length did not end.
    OpenEnded,
    /// No upstream answered.
    Upstream(UpstreamFailure),
    /// An upstream answered with a server error.
    ServerError,
    /// The transfer broke off and could not be resumed.
    BrokenOff,
}

impl FillOutcome {
    /// Every outcome, for series that exist before the first one is counted.
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
            Self::Changed,
            Self::DigestMismatch,
            Self::OpenEnded,
            Self::ServerError,
            Self::BrokenOff,
        ];
        let before = [UpstreamFailure::BadRequest, UpstreamFailure::Unavailable].map(Self::Upstream);
        own.into_iter().chain(UpstreamFailure::OF_UPSTREAM.map(Self::Upstream)).chain(before)
    }

    /// The one spelling used in logs and metrics.
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
            Self::Changed => "changed",
            Self::DigestMismatch => "digest-mismatch",
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
    fn outcomes_of_fills_keep_their_21_spellings() {
        let spelled: BTreeSet<_> = FillOutcome::all().map(FillOutcome::as_str).collect();
        let expected = [
            "abandoned",
            "bad-request",
            "bad-response",
            "broken-off",
            "changed",
            "closed",
            "connect",
            "deduplicated",
            "digest-mismatch",
            "handed-over",
            "head-timeout",
            "not-modified",
            "open-ended",
            "outdated",
            "server-error",
            "stopped",
            "store",
            "stored",
            "unavailable",
            "unshared",
            "unstorable",
        ];
        assert_eq!(spelled.into_iter().collect::<Vec<_>>(), expected);
    }
}
