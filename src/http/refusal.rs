//! Requests that the relay refuses, as one enum. Each refusal has a status, a label for metrics and logs, and a message
//! for the client. A refused request reaches no upstream, except for a late `NoSlot`, `Loop` or `UploadTooLarge`, and a
//! `PassThroughLimit` after a fill.

use std::time::Duration;

use http::StatusCode;

use crate::key::PathError;
use gupd_config::ClosedTo;

/// Value of `Allow`: the methods that the relay forwards.
pub const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// The reason for which a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `CONNECT`: the relay is not a tunnel.
    Connect,
    /// `TRACE`: the response would show a client's credentials to the page that made it send the request (RFC 9110
    /// §9.3.8).
    Trace,
    /// An absolute target on a host that is not a configured upstream: the relay is not an open proxy.
    ForeignTarget,
    /// A target that is neither a path nor a URL.
    TargetForm,
    /// HTTP/1.1 without `Host`, or with several (RFC 9112 §3.2).
    Host,
    /// A body in a transfer coding other than `chunked` (RFC 9112 §6.1), which the relay cannot decode.
    TransferCoding,
    /// A path that can mean something else to the manager than to the relay.
    Path(PathError),
    /// A target longer than `server.max_uri_bytes`.
    UriTooLong,
    /// No route has this host and path.
    NoRoute,
    /// A request on a gateway that is not for content: another method, or a path that is neither payload nor catalog.
    NotContent,
    /// A client that the access lists of the server or the route do not serve.
    ClientDenied,
    /// A trusted proxy's field with the address of the client is malformed.
    ClientAddress,
    /// The route passes no requests for paths of this class, or for this path.
    ClosedPath,
    /// The route does not pass this method for paths of this class.
    ClosedMethod,
    /// A body longer than `max_upload` of the route.
    UploadTooLarge,
    /// `max_pass_through` requests of the route are with its upstreams.
    PassThroughLimit,
    /// A request to a relay without an upstream in its configuration.
    NotConfigured,
    /// A request that this relay has forwarded before, or that has passed too many relays.
    Loop,
    /// The limits on concurrent downloads leave no slot.
    NoSlot(SlotRefusalReason),
    /// The client has spent a budget.
    Budget(BudgetKind),
}

/// What a client may spend in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetKind {
    /// Names that no client asked for lately.
    NewNames,
    /// Negative responses of upstreams.
    AbsentNames,
    /// Bytes that are stored for the client.
    NewBytes,
    /// Requests that go upstream.
    UpstreamRequests,
    /// Bytes of request bodies.
    Uploads,
}

impl BudgetKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::NewNames, Self::AbsentNames, Self::NewBytes, Self::UpstreamRequests, Self::Uploads];

    /// Returns the time in which a client may spend the budget.
    pub fn period(self) -> Duration {
        Duration::from_secs(match self {
            Self::UpstreamRequests => 1,
            Self::AbsentNames => 60,
            Self::NewNames | Self::Uploads => 3_600,
            Self::NewBytes => 86_400,
        })
    }
}

/// The reason for which a download gets no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotRefusalReason {
    /// `lan.queue` requests are queued already.
    QueueFull,
    /// `lan.client_queue` requests of the client are queued already.
    ClientQueueFull,
    /// The request was queued for `lan.queue_timeout`.
    QueueTimeout,
}

impl Refusal {
    /// Every refusal, for metrics that exist before the first one.
    pub const ALL: [Self; 29] = [
        Self::Connect,
        Self::Trace,
        Self::ForeignTarget,
        Self::TargetForm,
        Self::Host,
        Self::TransferCoding,
        Self::Path(PathError::DotSegment),
        Self::Path(PathError::ControlCharacter),
        Self::Path(PathError::PercentEncoding),
        Self::Path(PathError::AmbiguousSpelling),
        Self::UriTooLong,
        Self::NoRoute,
        Self::NotContent,
        Self::ClientDenied,
        Self::ClientAddress,
        Self::ClosedPath,
        Self::ClosedMethod,
        Self::UploadTooLarge,
        Self::PassThroughLimit,
        Self::NotConfigured,
        Self::Loop,
        Self::NoSlot(SlotRefusalReason::QueueFull),
        Self::NoSlot(SlotRefusalReason::ClientQueueFull),
        Self::NoSlot(SlotRefusalReason::QueueTimeout),
        Self::Budget(BudgetKind::NewNames),
        Self::Budget(BudgetKind::AbsentNames),
        Self::Budget(BudgetKind::NewBytes),
        Self::Budget(BudgetKind::UpstreamRequests),
        Self::Budget(BudgetKind::Uploads),
    ];

    /// Returns the label for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Trace => "trace",
            Self::ForeignTarget => "foreign-target",
            Self::TargetForm => "target-form",
            Self::Host => "host",
            Self::TransferCoding => "transfer-coding",
            Self::Path(PathError::DotSegment) => "dot-segment",
            Self::Path(PathError::ControlCharacter) => "control-character",
            Self::Path(PathError::PercentEncoding) => "percent-encoding",
            Self::Path(PathError::AmbiguousSpelling) => "ambiguous-spelling",
            Self::UriTooLong => "uri-too-long",
            Self::NoRoute => "no-route",
            Self::NotContent => "not-content",
            Self::ClientDenied => "client-denied",
            Self::ClientAddress => "client-address",
            Self::ClosedPath => "closed-path",
            Self::ClosedMethod => "closed-method",
            Self::UploadTooLarge => "upload-too-large",
            Self::PassThroughLimit => "pass-through-limit",
            Self::NotConfigured => "not-configured",
            Self::Loop => "loop",
            Self::NoSlot(SlotRefusalReason::QueueFull) => "queue-full",
            Self::NoSlot(SlotRefusalReason::ClientQueueFull) => "client-queue-full",
            Self::NoSlot(SlotRefusalReason::QueueTimeout) => "queue-timeout",
            Self::Budget(BudgetKind::NewNames) => "too-many-new-names",
            Self::Budget(BudgetKind::AbsentNames) => "too-many-absent-names",
            Self::Budget(BudgetKind::NewBytes) => "too-many-new-bytes",
            Self::Budget(BudgetKind::UpstreamRequests) => "too-many-upstream-requests",
            Self::Budget(BudgetKind::Uploads) => "too-many-uploads",
        }
    }

    /// Returns the status of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::Trace | Self::ClosedMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::ClientDenied | Self::ClosedPath => StatusCode::FORBIDDEN,
            Self::UploadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            // RFC 9110 §7.4: not willing to answer for that origin.
            Self::ForeignTarget => StatusCode::MISDIRECTED_REQUEST,
            Self::TargetForm | Self::Host | Self::Path(_) | Self::ClientAddress => StatusCode::BAD_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NotContent => StatusCode::FORBIDDEN,
            Self::Loop => StatusCode::LOOP_DETECTED,
            // Not 429: the relay is busy, and updaters know 503 from managers.
            Self::NoSlot(_) | Self::PassThroughLimit | Self::NotConfigured | Self::Budget(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Returns the body of the response: one line of text.
    pub fn message(self) -> &'static str {
        match self {
            Self::Connect => "gupd: CONNECT refused: this relay is not a tunnel\n",
            Self::Trace => "gupd: TRACE refused\n",
            Self::ForeignTarget => "gupd: host refused: this relay serves its configured upstreams only\n",
            Self::TargetForm => "gupd: request target refused: neither a path nor a URL\n",
            Self::TransferCoding => "gupd: transfer coding refused: use chunked\n",
            Self::Host => "gupd: Host refused: send exactly one valid Host field\n",
            Self::Path(PathError::DotSegment) => "gupd: path refused: it has a . or .. segment\n",
            Self::Path(PathError::ControlCharacter) => {
                "gupd: path refused: it has a control character or a backslash\n"
            }
            Self::Path(PathError::PercentEncoding) => {
                "gupd: path refused: it has a % without two hexadecimal digits\n"
            }
            Self::Path(PathError::AmbiguousSpelling) => {
                "gupd: path refused: some servers take it for another one: send it without //, ;, %2F and %25\n"
            }
            Self::UriTooLong => "gupd: request target refused: too long\n",
            Self::NoRoute => "gupd: no route for this host and path\n",
            Self::NotContent => "gupd: refused: this gateway serves content only\n",
            Self::ClientDenied => "gupd: client refused: its address is not served here\n",
            Self::ClientAddress => "gupd: proxy's field with the client's address refused: it is malformed\n",
            Self::ClosedPath => "gupd: path refused: this route passes no requests for it\n",
            Self::ClosedMethod => "gupd: method refused: this route does not pass it for this path\n",
            Self::UploadTooLarge => "gupd: request body refused: too long for this route\n",
            Self::PassThroughLimit => {
                "gupd: too many requests at the upstreams: retry after the time in Retry-After\n"
            }
            Self::NotConfigured => {
                "gupd: this relay has no upstream yet: its administrator must configure one\n"
            }
            Self::Loop => "gupd: forwarding loop: this relay has forwarded the request before\n",
            Self::NoSlot(SlotRefusalReason::ClientQueueFull) => {
                "gupd: too many queued downloads of this client: retry after the time in Retry-After\n"
            }
            Self::NoSlot(_) => "gupd: download limit reached: retry after the time in Retry-After\n",
            Self::Budget(BudgetKind::NewNames) => {
                "gupd: too many new names from this client: retry after the time in Retry-After\n"
            }
            Self::Budget(BudgetKind::AbsentNames) => {
                "gupd: too many absent names from this client: retry after the time in Retry-After\n"
            }
            Self::Budget(BudgetKind::NewBytes) => {
                "gupd: too many new bytes for this client: retry after the time in Retry-After\n"
            }
            Self::Budget(BudgetKind::UpstreamRequests) => {
                "gupd: too many requests of this client go upstream: retry after the time in Retry-After\n"
            }
            Self::Budget(BudgetKind::Uploads) => {
                "gupd: too many bytes sent by this client: retry after the time in Retry-After\n"
            }
        }
    }
}

impl From<ClosedTo> for Refusal {
    fn from(closed: ClosedTo) -> Self {
        match closed {
            ClosedTo::Path => Self::ClosedPath,
            ClosedTo::Method => Self::ClosedMethod,
        }
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}
