//! Stream of an upstream's response body, each piece with a time-out.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body::Frame;
use http_body_util::BodyExt;
use prometheus::IntCounter;
use tokio::time::timeout;

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

/// Returns the pieces of a body, each within `idle_timeout`, counted in `received`.
pub fn stream_body(
    body: UpstreamBody,
    idle_timeout: Duration,
    received: IntCounter,
) -> impl Stream<Item = Result<Bytes, BodyStreamError>> + Send {
    unfold(Some((body, received)), move |state| async move {
        let (mut body, received) = state?;
        loop {
            let frame = match timeout(idle_timeout, body.frame()).await {
                // The relay's own limits delayed it.
                Err(_) if body.was_limited_within(idle_timeout) => continue,
                Err(_) => return Some((Err(BodyStreamError::Silent(idle_timeout)), None)),
                Ok(frame) => frame?,
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) => {
                    received.inc_by(piece.len() as u64);
                    return Some((Ok(piece), Some((body, received))));
                }
                // Trailers were not announced to the client: drop them.
                Ok(Err(_)) => {}
                Err(error) => return Some((Err(BodyStreamError::Upstream(error)), None)),
            }
        }
    })
}
