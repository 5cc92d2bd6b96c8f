//! A reader that continues without the store, because the disk failed under it. The rest comes from the upstream, for
//! this reader alone and uncached, as if the disk had failed before the request. `resumption` ensures that the rest
//! belongs to the same content; otherwise the client sees a broken transfer.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use super::failover::AttemptFailure;
use super::origin::ContentOrigin;
use super::resumption::{NoReplacement, ResumeOutcome, Resumption};
use super::transfer::{Interruption, Transfer, TransferFailure};
use super::{FillContent, FillError};
use gupd_store::Object;

/// Rest of content for one reader.
pub(super) struct DirectReader {
    resumption: Resumption,
    end: Option<u64>,
    transfer: Option<Transfer>,
    /// Failure of the transfer before.
    last_failure: Option<TransferFailure>,
}

impl DirectReader {
    /// Reads the rest of `content`, to `end` or to the end of the content.
    pub(super) fn for_content(content: &FillContent, end: Option<u64>) -> Self {
        Self::new(content.origin.clone(), &content.head.headers, content.length, end.or(content.length))
    }

    /// Reads the rest of a stored object, to `end`.
    pub(super) fn for_object(origin: ContentOrigin, object: &Object, end: u64) -> Self {
        Self::new(origin, &object.headers, Some(object.len), Some(end))
    }

    fn new(origin: ContentOrigin, headers: &HeaderMap, length: Option<u64>, end: Option<u64>) -> Self {
        let last_failure =
            TransferFailure { kind: AttemptFailure::Interrupted, reason: Arc::from("the store failed") };
        let resumption = Resumption::new(origin, headers, length);
        Self { resumption, end, transfer: None, last_failure: Some(last_failure) }
    }

    /// Returns the bytes at `position`; `None` at the end of content without a declared length.
    pub(super) async fn next(&mut self, position: u64) -> Result<Option<Bytes>, FillError> {
        let idle_timeout = self.resumption.settings().idle_timeout;
        loop {
            let mut transfer = match self.transfer.take() {
                Some(transfer) => transfer,
                None => {
                    let range = position..self.end.unwrap_or(u64::MAX);
                    match self.resumption.resume(range, self.last_failure.take(), &NoReplacement).await? {
                        ResumeOutcome::Continues { transfer, .. } => transfer,
                        ResumeOutcome::Changed(answer) => {
                            return Err(FillError::Changed { upstream: answer.upstream.name.clone() });
                        }
                    }
                }
            };
            let result = match transfer.next(idle_timeout).await {
                Ok(Some(piece)) => transfer.accept(piece, position).map(Some),
                Ok(None) => transfer.check_end(position).map(|()| None),
                Err(interruption) => Err(interruption),
            };
            match result {
                Ok(Some(None)) => self.transfer = Some(transfer),
                Ok(Some(piece)) => {
                    self.transfer = Some(transfer);
                    return Ok(piece);
                }
                Ok(None) if self.end.is_none() => return Ok(None),
                Ok(None) => {
                    let reason = Arc::from("its response was shorter than the requested range");
                    self.last_failure = Some(TransferFailure { kind: AttemptFailure::Interrupted, reason });
                }
                Err(Interruption::Upstream(last_failure)) => self.last_failure = Some(last_failure),
                Err(Interruption::Fatal(error)) => return Err(error),
            }
        }
    }
}

impl std::fmt::Debug for DirectReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectReader")
            .field("end", &self.end)
            .field("last_failure", &self.last_failure)
            .finish_non_exhaustive()
    }
}
