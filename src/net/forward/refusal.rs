//! What the relay does not do, as one enum: each refusal has its status, its word in metrics and logs, and a sentence
//! for whoever sees it. A refusal never reaches an upstream.

use http::StatusCode;

use crate::shape::SlotDenial;
use gupd_http::key::PathError;

/// The methods that are not refused.
pub const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// A request that is answered without asking anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `CONNECT`: this is no tunnel.
    Connect,
    /// `TRACE`: it would show a client's credentials to whoever makes it ask (RFC 9110 §9.3.8).
    Trace,
    /// An absolute target on a host that is no configured upstream: this is no open proxy.
    ForeignTarget,
    /// A target that is neither a path nor a URL.
    TargetForm,
    /// HTTP/1.1 without `Host`, or with several (RFC 9112 §3.2).
    Host,
    /// A body in a transfer coding besides `chunked` (RFC 9112 §6.1): it cannot be undone, and ends here.
    TransferCoding,
    /// A path that could mean something else to the manager than to the relay.
    Path(PathError),
    /// A target longer than `server.max_uri_bytes`.
    UriTooLong,
    /// No route has this host and path.
    NoRoute,
    /// A request that this relay has sent on itself, or that has passed too many relays.
    Loop,
    /// As many downloads run and wait as may.
    NoSlot(SlotDenial),
}

impl Refusal {
    /// Every refusal, for metrics that exist before the first one.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Trace,
        Self::ForeignTarget,
        Self::TargetForm,
        Self::Host,
        Self::TransferCoding,
        Self::Path(PathError::DotSegment),
        Self::Path(PathError::ControlCharacter),
        Self::Path(PathError::PercentEncoding),
        Self::UriTooLong,
        Self::NoRoute,
        Self::Loop,
        Self::NoSlot(SlotDenial::QueueFull),
        Self::NoSlot(SlotDenial::ClientQueueFull),
        Self::NoSlot(SlotDenial::QueueTimeout),
    ];

    /// Word for logs and metrics.
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
            Self::UriTooLong => "uri-too-long",
            Self::NoRoute => "no-route",
            Self::Loop => "loop",
            Self::NoSlot(why) => why.as_str(),
        }
    }

    /// What it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            // RFC 9110 §7.4: not willing to answer for that origin.
            Self::ForeignTarget => StatusCode::MISDIRECTED_REQUEST,
            Self::TargetForm | Self::Host | Self::Path(_) => StatusCode::BAD_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Loop => StatusCode::LOOP_DETECTED,
            // Not 429: it is the relay that is busy, and updaters know 503 from managers.
            Self::NoSlot(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// A line for whoever sees it.
    pub fn message(self) -> &'static str {
        match self {
            Self::Connect => "gupd: CONNECT is refused: this relay is not a tunnel\n",
            Self::Trace => "gupd: TRACE is refused\n",
            Self::ForeignTarget => "gupd: this relay answers for its configured upstreams only\n",
            Self::TargetForm => "gupd: the request target is neither a path nor a URL\n",
            Self::TransferCoding => "gupd: no transfer coding but chunked is understood\n",
            Self::Host => "gupd: the request has no Host field, or several\n",
            Self::Path(PathError::DotSegment) => "gupd: the path has a . or .. segment\n",
            Self::Path(PathError::ControlCharacter) => {
                "gupd: the path has a control character or a backslash\n"
            }
            Self::Path(PathError::PercentEncoding) => {
                "gupd: the path has a % without two hexadecimal digits\n"
            }
            Self::UriTooLong => "gupd: the request target is too long\n",
            Self::NoRoute => "gupd: no route for this host and path\n",
            Self::Loop => "gupd: the request comes round: this relay has passed it on before\n",
            Self::NoSlot(SlotDenial::ClientQueueFull) => {
                "gupd: too many downloads of this client wait: see Retry-After\n"
            }
            Self::NoSlot(_) => "gupd: as many downloads run as may: see Retry-After\n",
        }
    }
}

impl From<PathError> for Refusal {
    fn from(bad: PathError) -> Self {
        Self::Path(bad)
    }
}
