//! Reasons for which responses are not stored. Each has one label, the same in logs, metrics and `Cache-Status`.
//! `storable` decides most of them; fills decide those that show in the content.

/// Reason for which a response is not stored, with its label for logs, metrics and `Cache-Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnstorableReason {
    /// The path's class is private: passed through regardless of the response.
    ClassPrivate,
    /// Only `GET` is stored; `HEAD` is answered from a stored `GET`.
    Method,
    /// `206`: fills request whole bodies.
    Partial,
    /// A status code that belongs to one request, or whose caching requirements the response says to understand.
    Status,
    /// The client said `no-store` (§5.2.1.5).
    RequestNoStore,
    /// The client sent so many bytes of fields that they may have caused the response.
    LargeRequest,
    /// The client sent a field by which it asks for another response than others get.
    SpecialField,
    /// The client has authenticated its upstream connection, and so may have caused the response.
    ConnectionAuth,
    /// The client has brought its part of the stored variants of this name.
    ClientVariants,
    /// The response said `no-store` (§5.2.2.5).
    NoStore,
    /// The response said `private` (§5.2.2.7).
    Private,
    /// The request had credentials, and the response does not permit sharing (§3.5).
    Authorization,
    /// No other request can select it: `Vary` lists `*` or more than is kept, or the content has a coding that was not
    /// requested.
    Vary,
    /// It sets a cookie and does not address shared caches.
    SetCookie,
    /// No explicit freshness, and a status without heuristic freshness.
    NotCacheable,
    /// Its length is unknown, and it exceeded the maximum for such responses.
    OpenEnded,
    /// An empty payload: the response of an overloaded manager for a delta that it has not made yet.
    EmptyPayload,
    /// Its content did not match an announced digest.
    DigestMismatch,
    /// A page in place of a file: the response of a captive portal or of a failing server.
    UnexpectedType,
    /// The route needs a proof of its content, and there is none.
    Unproven,
}

impl UnstorableReason {
    /// Every reason, for the label set of a metric.
    pub const ALL: [Self; 20] = [
        Self::ClassPrivate,
        Self::Method,
        Self::Partial,
        Self::Status,
        Self::RequestNoStore,
        Self::LargeRequest,
        Self::SpecialField,
        Self::ConnectionAuth,
        Self::ClientVariants,
        Self::NoStore,
        Self::Private,
        Self::Authorization,
        Self::Vary,
        Self::SetCookie,
        Self::NotCacheable,
        Self::OpenEnded,
        Self::EmptyPayload,
        Self::DigestMismatch,
        Self::UnexpectedType,
        Self::Unproven,
    ];

    /// Returns true if the request of the client is the reason, so that any number of its requests would go upstream.
    pub const fn is_chosen_by_client(self) -> bool {
        matches!(
            self,
            Self::RequestNoStore
                | Self::LargeRequest
                | Self::SpecialField
                | Self::ConnectionAuth
                | Self::ClientVariants
                | Self::Authorization
        )
    }

    /// Returns true if the next response to the same name will most likely not be stored either: the reason is in the
    /// response, not in one request or a temporary failure.
    pub const fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::NoStore
                | Self::Private
                | Self::Vary
                | Self::SetCookie
                | Self::NotCacheable
                | Self::OpenEnded
        )
    }

    /// Returns the label for logs, metrics and `Cache-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClassPrivate => "class-private",
            Self::Method => "method",
            Self::Partial => "partial",
            Self::Status => "status",
            Self::RequestNoStore => "request-no-store",
            Self::LargeRequest => "large-request",
            Self::SpecialField => "special-field",
            Self::ConnectionAuth => "connection-auth",
            Self::ClientVariants => "client-variants",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::Vary => "vary",
            Self::SetCookie => "set-cookie",
            Self::NotCacheable => "not-cacheable",
            Self::OpenEnded => "open-ended",
            Self::EmptyPayload => "empty-payload",
            Self::DigestMismatch => "digest-mismatch",
            Self::UnexpectedType => "unexpected-type",
            Self::Unproven => "unproven",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_kebab_case_labels() {
        let names = UnstorableReason::ALL.map(UnstorableReason::as_str);
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
        assert_eq!(std::collections::HashSet::from(names).len(), names.len());
    }
}
