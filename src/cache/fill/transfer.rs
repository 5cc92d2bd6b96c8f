//! One response body on its way from an upstream, read to its end. The transfer defines that end: a body that is too
//! short or too long is never taken for the promised content. hyper does the framing. A transfer keeps no bytes and
//! requests none; see `resumption`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::FillError;
use super::failover::AttemptFailure;
use gupd_net::upstream::UpstreamBody;
use gupd_store::StoreError;

/// Pieces smaller than this, in bytes, are merged with bytes that follow at once.
const SMALL_PIECE: usize = 32 << 10;

/// Response body on its way here.
pub(super) struct Transfer {
    body: UpstreamBody,
    /// Bytes at the beginning that are not wanted.
    skip: u64,
    /// Position in the content where the body ends, if declared.
    end: Option<u64>,
    /// Small pieces merged so far.
    gathered: Vec<u8>,
    /// Error that ended the body.
    error: Option<hyper::Error>,
}

/// Reason why a transfer did not reach its end.
pub(super) enum Interruption {
    /// Another request may bring the rest.
    Upstream(TransferFailure),
    /// The fill cannot continue.
    Fatal(FillError),
}

/// How an upstream broke a transfer.
#[derive(Debug)]
pub(super) struct TransferFailure {
    pub(super) kind: AttemptFailure,
    pub(super) reason: Arc<str>,
}

impl Interruption {
    /// The upstream violated its own response head, or broke off.
    pub(super) fn upstream(reason: impl Into<Arc<str>>) -> Self {
        Self::Upstream(TransferFailure { kind: AttemptFailure::Interrupted, reason: reason.into() })
    }
}

impl From<StoreError> for Interruption {
    fn from(error: StoreError) -> Self {
        Self::Fatal(error.into())
    }
}

impl Transfer {
    pub(super) fn new(mut body: UpstreamBody, skip: u64, end: Option<u64>) -> Self {
        body.expect_known(skip);
        Self { body, skip, end, gathered: Vec::new(), error: None }
    }

    /// Returns the next bytes, or `None` at the end of the body. Fails if no byte arrives within `idle_timeout`.
    /// Cancel-safe.
    pub(super) async fn next(&mut self, idle_timeout: Duration) -> Result<Option<Bytes>, Interruption> {
        loop {
            match timeout(idle_timeout, self.gather()).await {
                // The relay's own bandwidth limits caused the delay.
                Err(_) if self.body.was_limited_within(idle_timeout) => {}
                Err(_) => {
                    let reason = Arc::from("no byte arrived within the idle timeout");
                    return Err(Interruption::Upstream(TransferFailure {
                        kind: AttemptFailure::Silent,
                        reason,
                    }));
                }
                Ok(Err(error)) => return Err(Interruption::upstream(error.to_string())),
                Ok(Ok(piece)) => return Ok(piece),
            }
        }
    }

    /// Returns the wanted bytes of `piece`, if any, when the next wanted byte is at `position`.
    pub(super) fn accept(&mut self, mut piece: Bytes, position: u64) -> Result<Option<Bytes>, Interruption> {
        let known = self.skip.min(piece.len() as u64);
        self.skip = self.skip.saturating_sub(known);
        let piece = piece.split_off(usize::try_from(known).unwrap_or(piece.len()));
        if piece.is_empty() {
            return Ok(None);
        }
        if self.end.is_some_and(|end| position.saturating_add(piece.len() as u64) > end) {
            return Err(Interruption::upstream("its response was longer than declared"));
        }
        Ok(Some(piece))
    }

    /// Checks the end of the body, when the next wanted byte would be at `position`.
    pub(super) fn check_end(&self, position: u64) -> Result<(), Interruption> {
        if self.skip > 0 {
            return Err(Interruption::upstream("its response was shorter than the bytes it sent before"));
        }
        if self.end.is_some_and(|end| end != position) {
            return Err(Interruption::upstream("its response ended before its declared length"));
        }
        Ok(())
    }

    /// Returns the next bytes, with small pieces merged, so that a chatty upstream does not wake every follower for
    /// each of its chunks. Cancel-safe: merged bytes stay.
    async fn gather(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        let mut yielded = false;
        while self.gathered.len() < SMALL_PIECE {
            let frame = match self.body.frame().now_or_never() {
                Some(frame) => frame,
                None if self.gathered.is_empty() => self.body.frame().await,
                // hyper yields one frame at a time, and its task may have the next one at once.
                None if !yielded => {
                    yielded = true;
                    yield_now().await;
                    continue;
                }
                None => break,
            };
            yielded = false;
            match frame {
                None if self.gathered.is_empty() => return self.error.take().map_or(Ok(None), Err),
                None => break,
                Some(Err(error)) => {
                    // Reported after the bytes before it. hyper reports the error only once, so it is kept.
                    self.error = Some(error);
                    if self.gathered.is_empty() {
                        continue;
                    }
                    break;
                }
                // A copy: a frame holds hyper's whole read buffer, several times its size, which hyper reuses once it
                // is released. Trailers are not stored.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.gathered.extend_from_slice(&data);
                    }
                }
            }
        }
        Ok(Some(Bytes::from(std::mem::take(&mut self.gathered).into_boxed_slice())))
    }
}
