//! An upstream's body on its way to one client: pieces as they come, each in time.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body::Frame;
use http_body_util::BodyExt;
use prometheus::IntCounter;
use tokio::time::timeout;

use super::UpstreamBody;

/// Why an upstream's body ended too soon.
#[derive(Debug, thiserror::Error)]
pub enum BodyStreamError {
    /// It broke off.
    #[error("the upstream broke off: {0}")]
    Upstream(hyper::Error),
    /// It fell silent.
    #[error("the upstream sent no byte for {0:?}")]
    Silent(Duration),
}

/// The pieces of a body, each within `idle_timeout`, counted in `received`.
pub fn stream_body(
    body: UpstreamBody,
    idle_timeout: Duration,
    received: IntCounter,
) -> impl Stream<Item = Result<Bytes, BodyStreamError>> + Send {
    unfold(Some((body, received)), move |state| async move {
        let (mut body, received) = state?;
        loop {
            let frame = match timeout(idle_timeout, body.frame()).await {
                // The relay's own limits held it up.
                Err(_) if body.waited_within(idle_timeout) => continue,
                Err(_) => return Some((Err(BodyStreamError::Silent(idle_timeout)), None)),
                Ok(frame) => frame?,
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) => {
                    received.inc_by(piece.len() as u64);
                    return Some((Ok(piece), Some((body, received))));
                }
                // Trailers: hop-by-hop here, since nobody announced them to the client.
                Ok(Err(_)) => {}
                Err(error) => return Some((Err(BodyStreamError::Upstream(error)), None)),
            }
        }
    })
}
