//! Stream of an upstream's response body, each piece with a time-out.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::UpstreamBody;

/// The reason for which a body ended too soon.
#[derive(Debug, thiserror::Error)]
pub enum BodyStreamError {
    /// The transfer broke off.
    #[error("upstream transfer broke off: {0}")]
    Upstream(hyper::Error),
    /// No byte arrived in time.
    #[error("upstream sent no byte for {0:?}")]
    Silent(Duration),
}

/// First pieces of a body.
#[derive(Debug, Default)]
pub struct BodyBegin {
    /// The pieces.
    pub pieces: Vec<Bytes>,
    /// The error that broke the body off behind them.
    pub error: Option<BodyStreamError>,
}

/// Reads the begin of a body: all if it is shorter than `bytes`, and the pieces that arrive within `limit`. Until then a
/// broken body can become an error response.
pub async fn read_begin(body: &mut UpstreamBody, bytes: usize, limit: Duration) -> BodyBegin {
    let now = Instant::now();
    let (deadline, mut begin) = (now.checked_add(limit).unwrap_or(now), BodyBegin::default());
    let mut read = 0_usize;
    while read < bytes && !body.is_end_stream() {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                // Trailers were not announced to the client.
                if let Ok(piece) = frame.into_data() {
                    read = read.saturating_add(piece.len());
                    begin.pieces.push(piece);
                }
            }
            Ok(Some(Err(error))) => {
                begin.error = Some(BodyStreamError::Upstream(error));
                break;
            }
            Ok(None) | Err(_) => break,
        }
    }
    begin
}

/// Returns the pieces of a body, each within `idle_timeout`.
pub fn stream_body(
    body: UpstreamBody,
    idle_timeout: Duration,
) -> impl Stream<Item = Result<Bytes, BodyStreamError>> + Send {
    unfold(Some(body), move |body| async move {
        let mut body = body?;
        loop {
            let frame = match timeout(idle_timeout, body.frame()).await {
                // The relay's own limits delayed it.
                Err(_) if body.was_limited_within(idle_timeout) => continue,
                Err(_) => return Some((Err(BodyStreamError::Silent(idle_timeout)), None)),
                Ok(frame) => frame?,
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) => return Some((Ok(piece), Some(body))),
                // Trailers were not announced to the client: drop them.
                Ok(Err(_)) => {}
                Err(error) => return Some((Err(BodyStreamError::Upstream(error)), None)),
            }
        }
    })
}
