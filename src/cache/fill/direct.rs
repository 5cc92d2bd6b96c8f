//! A reader that goes on without the store: the disk failed under the fill it followed, or does not give what is
//! stored, and the rest comes from the upstream for this reader alone, uncached, as it would if the disk had failed
//! before. Owns that request for the rest; relies on `resume` for the rule that it is of the same content, so whoever
//! cannot be given that sees a broken transfer.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use super::failover::AttemptFailure;
use super::origin::ContentOrigin;
use super::resumption::{NoReplacement, ResumeOutcome, Resumption};
use super::transfer::{Interruption, Transfer, TransferFailure};
use super::{FillContent, FillError};
use gupd_store::Object;

/// The rest of content, for one reader.
pub(super) struct DirectReader {
    resumption: Resumption,
    end: Option<u64>,
    transfer: Option<Transfer>,
    /// What broke the one before.
    broke: Option<TransferFailure>,
}

impl DirectReader {
    /// Of what `content` brought, to `end` or to the content's end.
    pub(super) fn for_content(content: &FillContent, end: Option<u64>) -> Self {
        Self::new(content.origin.clone(), &content.head.headers, content.length, end.or(content.length))
    }

    /// Of what is stored, to `end`.
    pub(super) fn for_object(origin: ContentOrigin, object: &Object, end: u64) -> Self {
        Self::new(origin, &object.headers, Some(object.len), Some(end))
    }

    fn new(origin: ContentOrigin, headers: &HeaderMap, length: Option<u64>, end: Option<u64>) -> Self {
        let broke =
            TransferFailure { kind: AttemptFailure::Interrupted, reason: Arc::from("the store failed") };
        let resumption = Resumption::new(origin, headers, length);
        Self { resumption, end, transfer: None, broke: Some(broke) }
    }

    /// The bytes from `position` on; `None` at the end of content whose length nobody said.
    pub(super) async fn next(&mut self, position: u64) -> Result<Option<Bytes>, FillError> {
        let idle_timeout = self.resumption.settings().idle_timeout;
        loop {
            let mut transfer = match self.transfer.take() {
                Some(transfer) => transfer,
                None => {
                    let range = position..self.end.unwrap_or(u64::MAX);
                    match self.resumption.resume(range, self.broke.take(), &NoReplacement).await? {
                        ResumeOutcome::Continues { transfer, .. } => transfer,
                        ResumeOutcome::Changed(answer) => {
                            return Err(FillError::Changed { upstream: answer.upstream.name.clone() });
                        }
                    }
                }
            };
            let came = match transfer.next(idle_timeout).await {
                Ok(Some(piece)) => transfer.accept(piece, position).map(Some),
                Ok(None) => transfer.check_end(position).map(|()| None),
                Err(interruption) => Err(interruption),
            };
            match came {
                Ok(Some(None)) => self.transfer = Some(transfer),
                Ok(Some(piece)) => {
                    self.transfer = Some(transfer);
                    return Ok(piece);
                }
                Ok(None) if self.end.is_none() => return Ok(None),
                Ok(None) => {
                    let reason = Arc::from("its answer was a part of what was asked for");
                    self.broke = Some(TransferFailure { kind: AttemptFailure::Interrupted, reason });
                }
                Err(Interruption::Upstream(broke)) => self.broke = Some(broke),
                Err(Interruption::Fatal(error)) => return Err(error),
            }
        }
    }
}

impl std::fmt::Debug for DirectReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectReader")
            .field("end", &self.end)
            .field("broke", &self.broke)
            .finish_non_exhaustive()
    }
}
