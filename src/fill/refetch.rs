//! Fetches a few bytes of stored content again, for whoever can tell the right ones: no validator is asked for, and any
//! upstream of the route will do.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body;

use super::resume::ContentRange;
use super::transfer::{Interruption, Transfer};
use super::{FillError, Wanted};
use crate::telemetry::Metrics;
use crate::upstream::{Outgoing, RequestBody, Upstreams};

/// The bytes of `range`, which is a chunk at most.
///
/// # Errors
/// When no upstream gives them.
pub async fn refetch(
    wanted: &Wanted,
    range: Range<u64>,
    upstreams: &Upstreams,
    metrics: &Metrics,
) -> Result<Bytes, FillError> {
    let mut headers = wanted.headers.clone();
    let last = range.end.saturating_sub(1);
    if let Ok(value) = HeaderValue::from_str(&format!("bytes={}-{last}", range.start)) {
        headers.insert(header::RANGE, value);
    }
    let (target, lane) = (wanted.target.clone(), wanted.lane.clone());
    let outgoing = Outgoing { method: Method::GET, target, headers, body: RequestBody::Empty, lane };
    let answer = upstreams.ask(&wanted.order, &outgoing).await?;
    let broke = |at, reason| FillError::BrokenOff { upstream: answer.upstream.name.clone(), at, reason };
    let (skip, end) = match (answer.response.status(), ContentRange::of(answer.response.headers())) {
        (StatusCode::PARTIAL_CONTENT, Some(part))
            if part.bytes.start == range.start && part.bytes.end >= range.end =>
        {
            (0, Some(part.bytes.end))
        }
        (StatusCode::OK, _) => (range.start, answer.response.body().size_hint().exact()),
        (status, _) => return Err(broke(range.start, format!("it answered {status}").into())),
    };
    let received = metrics.upstream_bytes.with_label_values(&[&*answer.upstream.name]);
    let mut transfer = Transfer::new(answer.response.into_body(), skip, end);
    let mut bytes = Vec::new();
    loop {
        let position = range.start + bytes.len() as u64;
        if position >= range.end {
            bytes.truncate(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
            return Ok(bytes.into());
        }
        let piece = async {
            let Some(piece) = transfer.next(upstreams.settings().idle_timeout).await? else {
                return Err(Interruption::Upstream("it ended before its length".into()));
            };
            received.inc_by(piece.len() as u64);
            transfer.wanted(piece, position)
        };
        match piece.await {
            Ok(piece) => bytes.extend_from_slice(&piece.unwrap_or_default()),
            Err(Interruption::Upstream(reason)) => return Err(broke(position, reason)),
            Err(Interruption::Fatal(error)) => return Err(error),
        }
    }
}
