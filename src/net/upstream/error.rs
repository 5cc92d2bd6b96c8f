//! What goes wrong between the relay and its upstreams: as those who asked are told it, and as the breaker counts it.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hyper_util::client::legacy;

use super::UpstreamResponse;
use super::breaker::Fault;
use super::request_body::RequestBodyError;

/// Why no manager answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection.
    #[error("upstream {upstream}: cannot connect: {reason}")]
    Connect {
        /// Its name.
        upstream: Arc<str>,
        /// What the system says.
        reason: Arc<str>,
    },
    /// No response head in time.
    #[error("upstream {upstream}: no response within {after:?}")]
    HeadTimeout {
        /// Its name.
        upstream: Arc<str>,
        /// The time it had.
        after: Duration,
    },
    /// The connection was closed without an answer.
    #[error("upstream {upstream}: closed the connection without an answer")]
    Closed {
        /// Its name.
        upstream: Arc<str>,
        /// The connection had answered before: it may have been its idle time-out.
        kept: bool,
    },
    /// Something that is not HTTP.
    #[error("upstream {upstream}: not a usable response: {reason}")]
    Response {
        /// Its name.
        upstream: Arc<str>,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// None may be asked now: each has failed too often, and the try that tells whether it is back is not this one.
    #[error("no upstream answers; the next try is in {retry:?}")]
    Unavailable {
        /// Time to that try.
        retry: Duration,
    },
    /// The client's request broke off before it was sent whole. No upstream is to blame.
    #[error("{reason}")]
    Client {
        /// What the client did.
        reason: Arc<str>,
    },
    /// The request itself could not be sent on.
    #[error("the request cannot be sent to an upstream: {reason}")]
    Request {
        /// Why.
        reason: Arc<str>,
    },
}

/// Kind of an [`UpstreamError`]: its one spelling in logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// [`UpstreamError::Connect`]
    Connect,
    /// [`UpstreamError::HeadTimeout`]
    HeadTimeout,
    /// [`UpstreamError::Closed`]
    Closed,
    /// [`UpstreamError::Response`]
    BadResponse,
    /// [`UpstreamError::Unavailable`]
    Unavailable,
    /// [`UpstreamError::Client`]
    Client,
    /// [`UpstreamError::Request`]
    BadRequest,
}

impl UpstreamFailure {
    /// Failures of an upstream that was asked.
    pub const OF_UPSTREAM: [Self; 4] = [Self::Connect, Self::HeadTimeout, Self::Closed, Self::BadResponse];

    /// The one spelling used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::HeadTimeout => "head-timeout",
            Self::Closed => "closed",
            Self::BadResponse => "bad-response",
            Self::Unavailable => "unavailable",
            Self::Client => "client",
            Self::BadRequest => "bad-request",
        }
    }
}

/// What a request says of its upstream.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It answers.
    Well,
    /// It fails.
    Failed(Fault, Arc<str>),
    /// It fails, perhaps on one path only: a service of its own that is stopped, or a request that it holds open.
    Suspect(Fault),
    /// Nothing.
    Unknown,
}

impl UpstreamError {
    /// Its kind, for logs and metrics.
    pub fn kind(&self) -> UpstreamFailure {
        match self {
            Self::Connect { .. } => UpstreamFailure::Connect,
            Self::HeadTimeout { .. } => UpstreamFailure::HeadTimeout,
            Self::Closed { .. } => UpstreamFailure::Closed,
            Self::Response { .. } => UpstreamFailure::BadResponse,
            Self::Unavailable { .. } => UpstreamFailure::Unavailable,
            Self::Client { .. } => UpstreamFailure::Client,
            Self::Request { .. } => UpstreamFailure::BadRequest,
        }
    }

    /// Why hyper's client gave no response; `kept` if it had the connection from its pool.
    pub(super) fn of_client(error: &legacy::Error, upstream: Arc<str>, kept: bool) -> Self {
        let reason = root_cause(error);
        if error.is_connect() {
            Self::Connect { upstream, reason }
        } else if causes(error).any(|cause| cause.is::<RequestBodyError>()) {
            Self::Client { reason }
        } else if is_closed(error) || (kept && is_reset(error)) {
            Self::Closed { upstream, kept }
        } else {
            Self::Response { upstream, reason }
        }
    }
}

impl Verdict {
    /// Of a request whose upstream had `patience` to answer, unless others had taken up more than half of that.
    pub(super) fn of(answer: &Result<UpstreamResponse, UpstreamError>, patience: Duration) -> Self {
        match answer {
            Ok(answer) => {
                let status = answer.response.status();
                // A relay that cannot get one thing has others, and one that a request comes back to is well.
                let is_well = answer.upstream.is_relay() || status == StatusCode::LOOP_DETECTED;
                match is_unavailable(status) && !is_well {
                    true => Self::Failed(Fault::Busy, Arc::from(format!("it answers {status}"))),
                    false => Self::Well,
                }
            }
            Err(error) => Self::of_error(error, patience),
        }
    }

    /// What a client's request says where a check says more: everybody else's must not hang on the path it asked for.
    pub(super) fn of_one_path(self) -> Self {
        match self {
            Self::Failed(fault @ (Fault::Silent | Fault::Busy), _) => Self::Suspect(fault),
            verdict => verdict,
        }
    }

    /// Of a request without an answer.
    pub(super) fn of_error(error: &UpstreamError, patience: Duration) -> Self {
        let fault = match error {
            UpstreamError::Connect { .. } => Fault::Unreachable,
            UpstreamError::HeadTimeout { after, .. } if *after >= patience / 2 => Fault::Silent,
            UpstreamError::Closed { kept: false, .. } | UpstreamError::Response { .. } => Fault::Wrong,
            UpstreamError::HeadTimeout { .. }
            | UpstreamError::Closed { kept: true, .. }
            | UpstreamError::Unavailable { .. }
            | UpstreamError::Client { .. }
            | UpstreamError::Request { .. } => return Self::Unknown,
        };
        Self::Failed(fault, Arc::from(error.to_string()))
    }
}

/// Whether a status says that somebody else should be asked.
pub(super) fn is_unavailable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            // A relay that this request has passed before: another upstream may have the content itself.
            | StatusCode::LOOP_DETECTED
    )
}

/// The innermost cause is the one that helps: "connection refused", not "client error".
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> Arc<str> {
    Arc::from(causes(error).last().map(ToString::to_string).unwrap_or_default())
}

/// hyper-util itself sends a request again only if none of it had been written.
pub(super) fn is_closed(error: &legacy::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_incomplete_message)
}

fn is_reset(error: &legacy::Error) -> bool {
    let io = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|io| matches!(io.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}
