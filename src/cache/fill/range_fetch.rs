//! Fetches a short range of stored content again, to repair damaged bytes. The caller verifies the bytes by their hash,
//! so no validator is needed and any upstream of the route will do. Errors distinguish a transient failure from a final
//! one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::Body;

use super::content_range::ContentRange;
use super::transfer::{Interruption, Transfer};
use super::{FillError, FillRequest};
use gupd_net::traffic::TransferCause;
use gupd_net::upstream::{UpstreamError, Upstreams};
use gupd_store::RepairError;

/// Reason why a range could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum RangeFetchError {
    /// No upstream was reachable, or none said whether it has the content. A later attempt may succeed.
    #[error(transparent)]
    Unreachable(FillError),
    /// An upstream answered that it does not have the content, or with other content.
    #[error(transparent)]
    NotOffered(FillError),
}

impl From<UpstreamError> for RangeFetchError {
    fn from(error: UpstreamError) -> Self {
        match error {
            // An invalid response is often a connection reset within a head, or the work of a middlebox.
            UpstreamError::Connect { .. }
            | UpstreamError::HeadTimeout { .. }
            | UpstreamError::Closed { .. }
            | UpstreamError::Unavailable { .. }
            | UpstreamError::Response { .. }
            | UpstreamError::Client { .. }
            | UpstreamError::Request { .. } => Self::Unreachable(error.into()),
        }
    }
}

impl From<RangeFetchError> for RepairError {
    fn from(error: RangeFetchError) -> Self {
        let reason = Arc::from(error.to_string());
        match error {
            RangeFetchError::Unreachable(_) => Self::Unavailable(reason),
            RangeFetchError::NotOffered(_) => Self::NotOffered(reason),
        }
    }
}

/// Fetches the bytes of `range`, at most a chunk.
///
/// # Errors
/// Returns an error if no upstream gives the bytes now, or none has them any more.
pub async fn fetch_range(
    request: &FillRequest,
    range: Range<u64>,
    upstreams: &Upstreams,
) -> Result<Bytes, RangeFetchError> {
    let mut headers = request.headers.clone();
    let last = range.end.saturating_sub(1);
    if let Ok(value) = HeaderValue::from_str(&format!("bytes={}-{last}", range.start)) {
        headers.insert(header::RANGE, value);
    }
    let mut outgoing = request.to_upstream(headers);
    outgoing.labels.cause = TransferCause::Repair;
    let answer = upstreams.send(&request.upstream_order, &outgoing).await?;
    let upstream = answer.upstream.name.clone();
    let broken_off = |at, reason| FillError::BrokenOff { upstream: upstream.clone(), at, reason };
    let (skip, end) = match (answer.response.status(), ContentRange::parse(answer.response.headers())) {
        (StatusCode::PARTIAL_CONTENT, Some(part))
            if part.bytes.start == range.start && part.bytes.end >= range.end =>
        {
            (0, Some(part.bytes.end))
        }
        (StatusCode::OK, _) => (range.start, answer.response.body().size_hint().exact()),
        (status, _) if status.is_server_error() => {
            return Err(RangeFetchError::Unreachable(FillError::ServerError { upstream, status }));
        }
        (status, _) => {
            let error = broken_off(range.start, format!("it answered {status}").into());
            // A login page, a redirect or a refusal says nothing about the content.
            return Err(match status {
                StatusCode::NOT_FOUND
                | StatusCode::GONE
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::RANGE_NOT_SATISFIABLE => RangeFetchError::NotOffered(error),
                _ => RangeFetchError::Unreachable(error),
            });
        }
    };
    let mut transfer = Transfer::new(answer.response.into_body(), skip, end);
    let mut bytes = Vec::new();
    loop {
        let position = range.start.saturating_add(bytes.len() as u64);
        if position >= range.end {
            bytes.truncate(usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX));
            return Ok(bytes.into());
        }
        let interrupted = |interruption| match interruption {
            Interruption::Upstream(why) => broken_off(position, why.reason),
            Interruption::Fatal(error) => error,
        };
        let arrived = transfer.next(upstreams.settings().idle_timeout).await;
        let Some(piece) = arrived.map_err(|why| RangeFetchError::Unreachable(interrupted(why)))? else {
            return Err(RangeFetchError::NotOffered(broken_off(
                position,
                "its response is shorter than the range".into(),
            )));
        };
        let kept = transfer.accept(piece, position);
        let kept = kept.map_err(|why| RangeFetchError::NotOffered(interrupted(why)))?;
        bytes.extend_from_slice(&kept.unwrap_or_default());
    }
}
