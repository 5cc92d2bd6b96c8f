//! Content on its way here from an upstream: one response body, read to its end. Owns what counts as that end, so that
//! a body cut short, or one that goes on too long, is never taken for what was promised; relies on hyper for its
//! framing. Keeps nothing that has been read, and asks nobody for more: that is for `resume`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use prometheus::IntCounter;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::FillError;
use super::failover::AttemptFailure;
use gupd_net::upstream::UpstreamBody;
use gupd_store::StoreError;

/// Pieces below this many bytes are put together with what follows them at once.
const SMALL_PIECE: usize = 64 << 10;

/// A body on its way here.
pub(super) struct Transfer {
    body: UpstreamBody,
    /// Bytes at its beginning that are not wanted.
    skip: u64,
    /// Where in the content it ends, if anyone said it.
    end: Option<u64>,
    /// Counts its bytes.
    received: IntCounter,
    /// Small pieces put together so far.
    gathered: Vec<u8>,
    /// What ended the body, if not its end.
    broke: Option<hyper::Error>,
}

/// What keeps a transfer from its end.
pub(super) enum Interruption {
    /// The rest may be had by asking again.
    Upstream(TransferFailure),
    /// There is no sense in going on.
    Fatal(FillError),
}

/// How an upstream broke a transfer.
#[derive(Debug)]
pub(super) struct TransferFailure {
    pub(super) kind: AttemptFailure,
    pub(super) reason: Arc<str>,
}

impl Interruption {
    /// The upstream did not keep to what it had said.
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
    pub(super) fn new(body: UpstreamBody, skip: u64, end: Option<u64>, received: IntCounter) -> Self {
        Self { body, skip, end, received, gathered: Vec::new(), broke: None }
    }

    /// The next bytes, or `None` at the body's end; an error if none arrive in `idle_timeout`. Safe to drop and call
    /// again.
    pub(super) async fn next(&mut self, idle_timeout: Duration) -> Result<Option<Bytes>, Interruption> {
        loop {
            match timeout(idle_timeout, self.gather()).await {
                // The relay's own limits held it up.
                Err(_) if self.body.was_limited_within(idle_timeout) => {}
                Err(_) => {
                    let reason = Arc::from("no byte arrived in time");
                    return Err(Interruption::Upstream(TransferFailure {
                        kind: AttemptFailure::Silent,
                        reason,
                    }));
                }
                Ok(Err(error)) => return Err(Interruption::upstream(error.to_string())),
                Ok(Ok(piece)) => {
                    self.received.inc_by(piece.as_ref().map_or(0, Bytes::len) as u64);
                    return Ok(piece);
                }
            }
        }
    }

    /// What of `piece` is request, if anything is, when the next byte wanted is the one at `position`.
    pub(super) fn accept(&mut self, mut piece: Bytes, position: u64) -> Result<Option<Bytes>, Interruption> {
        let known = self.skip.min(piece.len() as u64);
        self.skip -= known;
        // `known` is at most a piece's length, which is a usize.
        let piece = piece.split_off(usize::try_from(known).unwrap_or(piece.len()));
        if piece.is_empty() {
            return Ok(None);
        }
        if self.end.is_some_and(|end| position + piece.len() as u64 > end) {
            return Err(Interruption::upstream("it sent more than it had promised"));
        }
        Ok(Some(piece))
    }

    /// Judges the end of the body when the next byte wanted is the one at `position`.
    pub(super) fn check_end(&self, position: u64) -> Result<(), Interruption> {
        if self.skip > 0 {
            return Err(Interruption::upstream("its answer was shorter than what it had sent before"));
        }
        if self.end.is_some_and(|end| end != position) {
            return Err(Interruption::upstream("the response ended before its length"));
        }
        Ok(())
    }

    /// The next bytes: what arrives in small pieces as one, so that a chatty upstream does not cost a wake-up of every
    /// follower for each of its chunks. Safe to drop and call again: what was gathered stays.
    async fn gather(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        let mut yielded = false;
        while self.gathered.len() < SMALL_PIECE {
            let frame = match self.body.frame().now_or_never() {
                Some(frame) => frame,
                None if self.gathered.is_empty() => self.body.frame().await,
                // hyper hands over one frame at a time: its task may have the next one at once.
                None if !yielded => {
                    yielded = true;
                    yield_now().await;
                    continue;
                }
                None => break,
            };
            yielded = false;
            match frame {
                None if self.gathered.is_empty() => return self.broke.take().map_or(Ok(None), Err),
                None => break,
                Some(Err(error)) => {
                    // Told after the bytes before it, and by us: hyper tells it once.
                    self.broke = Some(error);
                    if self.gathered.is_empty() {
                        continue;
                    }
                    break;
                }
                // A copy: a frame keeps the whole of hyper's read buffer, several times its size, and hyper reads into
                // that again once it is let go. Trailers say nothing that is kept.
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
