//! Failures between the relay and its upstreams: as clients and logs see them, and as the breaker counts them.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hyper_util::client::legacy;

use super::breaker::FailureKind;
use super::cause::{causes, root_cause};
use super::path_fault::PathFault;
use super::request_body::RequestBodyError;
use super::{UpstreamRequest, UpstreamResponse};

/// Failure of a request to upstreams.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection.
    #[error("upstream {upstream}: cannot connect: {reason}")]
    Connect {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// The system's error.
        reason: Arc<str>,
    },
    /// No response head in time.
    #[error("upstream {upstream}: no response within {after:?}")]
    HeadTimeout {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// The time-out.
        after: Duration,
    },
    /// The connection was closed without an answer.
    #[error("upstream {upstream}: closed the connection without an answer")]
    Closed {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// True if the connection had carried a response before: its idle time-out may have closed it.
        was_kept: bool,
    },
    /// The response is not HTTP.
    #[error("upstream {upstream}: not a usable response: {reason}")]
    Response {
        /// Name of the upstream.
        upstream: Arc<str>,
        /// The cause.
        reason: Arc<str>,
    },
    /// All upstreams are unavailable: each has failed too often and waits for its probe.
    #[error("all upstreams are unavailable: next attempt in {retry:?}")]
    Unavailable {
        /// Time to the next probe.
        retry: Duration,
    },
    /// The client's request broke off before it was sent. No upstream is at fault.
    #[error("{reason}")]
    Client {
        /// The cause.
        reason: Arc<str>,
        /// The fault of the request body.
        fault: RequestBodyFault,
    },
    /// The request cannot be sent.
    #[error("the request cannot be sent to an upstream: {reason}")]
    Request {
        /// The cause.
        reason: Arc<str>,
    },
}

/// Reason why a client's request body is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBodyFault {
    /// It did not arrive in time.
    Late,
    /// It exceeds its limit.
    TooLarge,
    /// The connection broke, or the chunks are not valid.
    Broken,
}

/// Kind of an [`UpstreamError`], with its label for logs and metrics.
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
    /// Failures of an upstream that got the request.
    pub const OF_UPSTREAM: [Self; 4] = [Self::Connect, Self::HeadTimeout, Self::Closed, Self::BadResponse];

    /// Returns the label for logs and metrics.
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

/// Evidence of a request about its upstream.
#[derive(Debug)]
pub(super) enum AttemptOutcome {
    /// The upstream works.
    Healthy,
    /// The upstream fails.
    Failed(FailureKind, Arc<str>),
    /// The upstream may fail on this path only: a stopped service, a page that is not HTTP, a request that it holds
    /// open.
    Suspect(FailureKind, Arc<str>, PathFault),
    /// No evidence.
    Unknown,
}

impl UpstreamError {
    /// Returns the kind, for logs and metrics.
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

    /// Converts an error of hyper's client; `was_kept` if the connection came from the pool.
    pub(super) fn from_client_error(
        error: &(dyn StdError + 'static),
        upstream: Arc<str>,
        was_kept: bool,
    ) -> Self {
        let reason = root_cause(error);
        if error.downcast_ref().is_some_and(legacy::Error::is_connect) {
            Self::Connect { upstream, reason }
        } else if let Some(cause) = causes(error).find_map(|cause| cause.downcast_ref::<RequestBodyError>()) {
            let fault = match cause {
                RequestBodyError::Stalled(_) => RequestBodyFault::Late,
                RequestBodyError::TooLarge(_) => RequestBodyFault::TooLarge,
                RequestBodyError::Broken(_) => RequestBodyFault::Broken,
            };
            Self::Client { reason, fault }
        } else if is_closed(error) || is_reset(error) {
            Self::Closed { upstream, was_kept }
        } else {
            Self::Response { upstream, reason }
        }
    }
}

impl AttemptOutcome {
    /// Judges a request to an upstream that had `patience` to answer, unless earlier attempts used more than half of
    /// that.
    pub(super) fn from_result(answer: &Result<UpstreamResponse, UpstreamError>, patience: Duration) -> Self {
        match answer {
            Ok(answer) => {
                let status = answer.response.status();
                // A relay that lacks one object has others, and one that the request loops back to is well.
                let is_healthy = answer.upstream.is_relay() || status == StatusCode::LOOP_DETECTED;
                match is_unavailable(status) && !is_healthy {
                    true => {
                        Self::Failed(FailureKind::Unavailable, Arc::from(format!("response status {status}")))
                    }
                    false => Self::Healthy,
                }
            }
            Err(error) => Self::from_error(error, patience),
        }
    }

    /// Weakens the outcome of a request other than a check: one path or one client must not decide for all. A failed
    /// connection concerns every path.
    pub(super) fn on_path_of(self, outgoing: &UpstreamRequest) -> Self {
        match self {
            Self::Failed(FailureKind::Unreachable, _) | Self::Healthy | Self::Suspect(..) | Self::Unknown => {
                self
            }
            Self::Failed(fault, error) => Self::Suspect(fault, error, PathFault::of(outgoing)),
        }
    }

    /// Judges a request without a response.
    pub(super) fn from_error(error: &UpstreamError, patience: Duration) -> Self {
        let fault = match error {
            UpstreamError::Connect { .. } => FailureKind::Unreachable,
            UpstreamError::HeadTimeout { after, .. } if after.saturating_mul(2) >= patience => {
                FailureKind::Silent
            }
            UpstreamError::Closed { was_kept: false, .. } | UpstreamError::Response { .. } => {
                FailureKind::Invalid
            }
            UpstreamError::HeadTimeout { .. }
            | UpstreamError::Closed { was_kept: true, .. }
            | UpstreamError::Unavailable { .. }
            | UpstreamError::Client { .. }
            | UpstreamError::Request { .. } => return Self::Unknown,
        };
        Self::Failed(fault, Arc::from(error.to_string()))
    }
}

/// Returns true for a status after which another upstream should get the request.
pub(super) fn is_unavailable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            // A relay that the request has passed before: another upstream may have the content itself.
            | StatusCode::LOOP_DETECTED
    )
}

/// Returns true if the connection closed before a response. hyper-util retries only if nothing had been written.
pub(super) fn is_closed(error: &(dyn StdError + 'static)) -> bool {
    let cause = causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>());
    cause.is_some_and(hyper::Error::is_incomplete_message)
}

fn is_reset(error: &(dyn StdError + 'static)) -> bool {
    let io = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|io| matches!(io.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
}
