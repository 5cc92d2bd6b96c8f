//! Reads content from any position, whether it is stored or still arriving, each reader at its own speed. Owns the one
//! rule that matters most here: a reader ends where the content ends, or with an error; never in between.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::content::{ByteLocation, DemandGuard};
use super::direct::DirectReader;
use super::origin::ContentOrigin;
use super::{FillContent, FillError, FillHandle, FillRequest, Phase};
use crate::fill::metrics::FillMetrics;
use gupd_net::upstream::Upstreams;
use gupd_store::{BodySource, Object, ReadError, Store};

/// A position in content, and where the rest comes from.
#[derive(Debug)]
pub struct ContentReader {
    store: Arc<Store>,
    from: From,
    position: u64,
    end: Option<u64>,
}

#[derive(Debug)]
enum From {
    Stored(BodySource),
    Arriving {
        content: Arc<FillContent>,
        phase: watch::Receiver<Phase>,
        wants: DemandGuard,
        /// It reads everything, and so can be kept from the end of what is not what was announced.
        all: bool,
    },
    Direct(Box<DirectReader>),
}

/// A transfer that must not look like a whole one.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Stored bytes cannot be read, or are not what was stored.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The fill that was followed failed.
    #[error(transparent)]
    Fill(#[from] FillError),
}

impl TransferError {
    /// Whether what is stored is not, or no longer, what was stored; otherwise it only cannot be had now.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Read(ReadError::Damaged { .. } | ReadError::Gone { .. }))
    }
}

impl ContentReader {
    /// Reads `range` of stored content.
    pub fn from_store(store: Arc<Store>, source: BodySource, range: Range<u64>) -> Self {
        Self { store, from: From::Stored(source), position: range.start, end: Some(range.end) }
    }

    /// Reads what a fill brings from `start` to `end`, or to the end of the content.
    pub fn from_fill(
        store: Arc<Store>,
        fill: &FillHandle,
        content: Arc<FillContent>,
        start: u64,
        end: Option<u64>,
    ) -> Self {
        let end = end.or(content.length);
        let wants = content.add_demand(start..end.unwrap_or(u64::MAX));
        let all = start == 0 && end == content.length;
        let from = From::Arriving { content, phase: fill.phase.clone(), wants, all };
        Self { store, from, position: start, end }
    }

    /// Reads `range` of what is stored from the upstreams that have it, for this reader alone: the disk does not give it.
    /// `None` if its route has none now.
    pub fn from_upstream(
        store: Arc<Store>,
        object: &Object,
        request: &FillRequest,
        upstreams: &Arc<Upstreams>,
        metrics: &FillMetrics,
        range: Range<u64>,
    ) -> Option<Self> {
        let origin = ContentOrigin::from_record(request, upstreams, &object.upstream, metrics)?;
        let from = From::Direct(Box::new(DirectReader::for_object(origin, object, range.end)));
        Some(Self { store, from, position: range.start, end: Some(range.end) })
    }

    /// Waits until the next `bytes`, or all that there are, are at hand.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn wait_for(&mut self, bytes: u64) -> Result<(), FillError> {
        let From::Arriving { content, phase, wants, all } = &mut self.from else { return Ok(()) };
        let (begin, end) = (self.position, self.end.unwrap_or(u64::MAX));
        let wanted = begin..end.min(begin.saturating_add(bytes));
        loop {
            match &*phase.borrow_and_update() {
                Phase::Receiving { .. } => {}
                Phase::Failed { error } => return Err(error.clone()),
                _ => return Ok(()),
            }
            match content.first_missing(wanted.clone()) {
                None if !*all || wanted.end <= content.visible_end() => {
                    if content.reveal() {
                        return Ok(());
                    }
                }
                missing => wants.set_position(missing.unwrap_or(wanted.end)),
            }
            phase.changed().await.map_err(|_| FillError::Stopped)?;
        }
    }

    /// What is still to be read; to the end if nobody knows where that is.
    pub fn remaining(&self) -> Range<u64> {
        self.position..self.end.unwrap_or(u64::MAX)
    }

    /// The next piece, never empty; `None` at the end.
    ///
    /// # Errors
    /// When the rest cannot be had. There is no sense in asking again, unless what was read has been repaired.
    pub async fn next(&mut self) -> Option<Result<Bytes, TransferError>> {
        let piece = match self.next_piece().await {
            Ok(piece) => piece?,
            Err(error) => return Some(Err(error)),
        };
        let left = self.end.map_or(u64::MAX, |end| end - self.position);
        let piece = match usize::try_from(left) {
            Ok(left) if left < piece.len() => piece.slice(..left),
            _ => piece,
        };
        self.position += piece.len() as u64;
        Some(Ok(piece))
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, TransferError> {
        match (self.piece_at_hand().await, &self.from) {
            // What the disk does not take or give back is no reason to break off: the upstream still has it.
            (
                Err(TransferError::Fill(FillError::Store(_)) | TransferError::Read(ReadError::Io { .. })),
                From::Arriving { content, .. },
            ) => {
                self.from = From::Direct(Box::new(DirectReader::for_content(content, self.end)));
                self.piece_at_hand().await
            }
            (piece, _) => piece,
        }
    }

    async fn piece_at_hand(&mut self) -> Result<Option<Bytes>, TransferError> {
        loop {
            if self.end.is_some_and(|end| self.position >= end) {
                return Ok(None);
            }
            let (content, phase, wants, all) = match &mut self.from {
                From::Stored(source) => {
                    return match self.store.read_cached(source, self.position) {
                        Some(piece) => Ok(Some(piece)),
                        None => Ok(Some(self.store.read(source, self.position).await?)),
                    };
                }
                From::Direct(alone) => return Ok(alone.next(self.position).await?),
                From::Arriving { content, phase, wants, all } => (content, phase, wants, *all),
            };
            let whole = match &*phase.borrow_and_update() {
                Phase::Receiving { .. } => None,
                Phase::Complete { length, .. } => Some(Whole::Arrived(*length)),
                Phase::Stored { entry } => Some(Whole::Stored(entry.body_source())),
                Phase::Failed { error } => return Err(error.clone().into()),
                // Phases that come before content, or instead of it; this reader has seen content.
                Phase::Asking | Phase::NotModified { .. } | Phase::Unshared { .. } => {
                    return Err(FillError::Stopped.into());
                }
            };
            match whole {
                Some(Whole::Stored(source)) => {
                    let BodySource::Blob { len, .. } = source else { return Err(FillError::Stopped.into()) };
                    self.end = Some(self.end.map_or(len, |end| end.min(len)));
                    self.from = From::Stored(source);
                    continue;
                }
                Some(Whole::Arrived(length)) if self.position >= length => return Ok(None),
                Some(Whole::Arrived(_)) | None => {}
            }
            let shown = if all && whole.is_none() { content.visible_end() } else { u64::MAX };
            let open = if content.reveal() { shown.saturating_sub(self.position) } else { 0 };
            let cut = |mut piece: Bytes| {
                piece.truncate(usize::try_from(open).unwrap_or(usize::MAX));
                Ok(Some(piece))
            };
            let place = if open == 0 { ByteLocation::Missing } else { content.locate(self.position) };
            match place {
                ByteLocation::Memory(piece) => return cut(piece),
                ByteLocation::Store => {
                    let source = BodySource::Partial(content.partial.clone());
                    let losses = content.partial.loss_count();
                    match self.store.read(&source, self.position).await {
                        Ok(piece) => return cut(piece),
                        // What an earlier process wrote did not all reach the disk, or it rotted: fetched again.
                        Err(ReadError::Damaged { .. }) if whole.is_none() => {
                            content.partial.invalidate_chunk(self.position, losses);
                        }
                        Err(ReadError::OutOfRange { .. }) if whole.is_none() => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                ByteLocation::Missing => {
                    wants.set_position(self.position);
                    // The task that fills is gone without a word: that is not an end.
                    phase.changed().await.map_err(|_| FillError::Stopped)?;
                }
            }
        }
    }
}

/// Every byte has arrived.
enum Whole {
    Arrived(u64),
    Stored(BodySource),
}
