//! Reader of content from any position, whether the content is stored or still arriving. Each reader has its own speed.
//! A reader ends where the content ends, or with an error; never in between. The source may change
//! while the client reads, from the fill to the store, to the same content of a fill that started again, or to the
//! upstream when the disk fails.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::content::{ByteLocation, DemandGuard};
use super::delivered::{ContentIdentity, DeliveredBytes};
use super::direct::DirectReader;
use super::metrics::FillMetrics;
use super::origin::ContentOrigin;
use super::{FillContent, FillError, FillHandle, FillRequest, FillResponse, Phase};
use crate::CacheEntry;
use gupd_net::upstream::Upstreams;
use gupd_store::{BodySource, Object, ReadError, Store};

/// Reader of one content.
#[derive(Debug)]
pub struct ContentReader {
    store: Arc<Store>,
    source: ReadSource,
    begin: u64,
    position: u64,
    end: Option<u64>,
    /// Bytes from `begin` to `position`, if they came from a fill.
    delivered: Option<DeliveredBytes>,
}

#[derive(Debug)]
enum ReadSource {
    Stored(BodySource),
    Arriving(ArrivingSource),
    Direct(Box<DirectReader>),
}

/// Content of a fill that is still running.
#[derive(Debug)]
struct ArrivingSource {
    content: Arc<FillContent>,
    phase: watch::Receiver<Phase>,
    client: Option<IpAddr>,
    demand: DemandGuard,
    /// The reader must not receive the end of unverified content: it reads everything, or even a part needs a proof.
    is_gated: bool,
}

/// Next step of a reader that follows a fill.
enum ArrivingStep {
    Piece(Bytes),
    /// The content is stored: continue from the store.
    Stored(Arc<CacheEntry>),
    /// The fill has started again.
    Restarted(FillError, FillHandle),
    End,
}

/// Error that must break off a transfer, so that the client does not take it for complete.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Stored bytes are unreadable or damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The followed fill failed.
    #[error(transparent)]
    Fill(#[from] FillError),
}

impl TransferError {
    /// Returns true if stored bytes are damaged or missing, not only unavailable now.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Read(ReadError::Damaged { .. } | ReadError::Gone { .. }))
    }
}

impl ContentReader {
    /// Reads `range` of stored content.
    pub fn from_store(store: Arc<Store>, source: BodySource, range: Range<u64>) -> Self {
        Self::new(store, ReadSource::Stored(source), range.start, Some(range.end))
    }

    /// Reads the content of a fill from `start` to `end`, or to its end.
    pub fn from_fill(
        store: Arc<Store>,
        fill: &FillHandle,
        content: Arc<FillContent>,
        start: u64,
        end: Option<u64>,
    ) -> Self {
        let end = end.or(content.length);
        let client = fill.client();
        let demand = content.add_demand(start..end.unwrap_or(u64::MAX), client);
        let is_gated = (start == 0 && end == content.length) || content.head.expected.is_strict();
        let source = ArrivingSource { content, phase: fill.phase.clone(), client, demand, is_gated };
        let delivered = Some(DeliveredBytes::default());
        Self { delivered, ..Self::new(store, ReadSource::Arriving(source), start, end) }
    }

    fn new(store: Arc<Store>, source: ReadSource, begin: u64, end: Option<u64>) -> Self {
        Self { store, source, begin, position: begin, end, delivered: None }
    }

    /// Reads `range` of a stored object from its upstreams, for this reader alone, because the disk does not return it.
    /// `None` if the route has no upstream now.
    pub fn from_upstream(
        store: Arc<Store>,
        object: &Object,
        request: &FillRequest,
        upstreams: &Arc<Upstreams>,
        metrics: &FillMetrics,
        range: Range<u64>,
    ) -> Option<Self> {
        let origin =
            ContentOrigin::from_record(&Arc::new(request.clone()), upstreams, &object.upstream, metrics)?;
        let source = ReadSource::Direct(Box::new(DirectReader::for_object(origin, object, range.end)));
        Some(Self::new(store, source, range.start, Some(range.end)))
    }

    /// Waits until the next `bytes`, or all remaining ones, are available.
    ///
    /// # Errors
    /// Returns an error if the fill fails first.
    pub async fn wait_for(&mut self, bytes: u64) -> Result<(), FillError> {
        let ReadSource::Arriving(source) = &mut self.source else { return Ok(()) };
        let (begin, end) = (self.position, self.end.unwrap_or(u64::MAX));
        source.wait_for(begin..end.min(begin.saturating_add(bytes))).await
    }

    /// Range still to read; its end is `u64::MAX` if the length is unknown.
    pub fn remaining(&self) -> Range<u64> {
        self.position..self.end.unwrap_or(u64::MAX)
    }

    /// Returns the next piece, never empty; `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the rest is unavailable. Another call helps only after a repair of the stored bytes.
    pub async fn next(&mut self) -> Option<Result<Bytes, TransferError>> {
        let piece = match self.next_piece().await {
            Ok(piece) => piece?,
            Err(error) => return Some(Err(error)),
        };
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.position));
        let piece = match usize::try_from(left) {
            Ok(left) if left < piece.len() => piece.slice(..left),
            _ => piece,
        };
        self.position = self.position.saturating_add(piece.len() as u64);
        match (&self.source, &mut self.delivered) {
            (ReadSource::Arriving(_), Some(delivered)) => delivered.push(&piece),
            // Only a fill starts again.
            _ => self.delivered = None,
        }
        Some(Ok(piece))
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, TransferError> {
        match (self.read_piece().await, &self.source) {
            // A disk failure is no reason to break off: the upstream still has the content.
            (
                Err(TransferError::Fill(FillError::Store(_)) | TransferError::Read(ReadError::Io { .. })),
                ReadSource::Arriving(ArrivingSource { content, .. }),
            ) if !content.head.expected.is_strict() => {
                self.source = ReadSource::Direct(Box::new(DirectReader::for_content(content, self.end)));
                self.read_piece().await
            }
            (piece, _) => piece,
        }
    }

    async fn read_piece(&mut self) -> Result<Option<Bytes>, TransferError> {
        loop {
            if self.end.is_some_and(|end| self.position >= end) {
                return Ok(None);
            }
            let step = match &mut self.source {
                ReadSource::Stored(source) => {
                    return match self.store.read_cached(source, self.position) {
                        Some(piece) => Ok(Some(piece)),
                        None => Ok(Some(self.store.read(source, self.position).await?)),
                    };
                }
                ReadSource::Direct(direct) => return Ok(Box::pin(direct.next(self.position)).await?),
                ReadSource::Arriving(source) => source.next(&self.store, self.position).await?,
            };
            match step {
                ArrivingStep::Piece(piece) => return Ok(Some(piece)),
                ArrivingStep::End => return Ok(None),
                ArrivingStep::Restarted(error, successor) => {
                    Box::pin(self.follow_successor(error, successor)).await?;
                }
                ArrivingStep::Stored(entry) => {
                    let len = entry.object.len;
                    self.end = Some(self.end.map_or(len, |end| end.min(len)));
                    self.source = ReadSource::Stored(entry.body_source());
                }
            }
        }
    }

    /// Continues with the new content of a fill that started again, if all delivered bytes are equal there.
    ///
    /// # Errors
    /// `error`, if the new content is another one, or none.
    async fn follow_successor(
        &mut self,
        error: FillError,
        mut successor: FillHandle,
    ) -> Result<(), TransferError> {
        let (ReadSource::Arriving(ArrivingSource { content, .. }), Some(delivered)) =
            (&self.source, &self.delivered)
        else {
            return Err(error.into());
        };
        if delivered.count() == 0 {
            return Err(error.into());
        }
        let (store, content) = (self.store.clone(), content.clone());
        let mut reader = loop {
            match successor.response().await {
                FillResponse::Content(new) if content.identity().is_like(&new.identity()) => {
                    break Self::from_fill(store, &successor, new, self.begin, self.end);
                }
                FillResponse::Stored(entry) if content.identity().is_like(&entry_identity(&entry)) => {
                    let reader = Self::from_store(store, entry.body_source(), self.begin..entry.object.len);
                    break Self { end: self.end, delivered: Some(DeliveredBytes::default()), ..reader };
                }
                FillResponse::Failed(_) => match successor.successor() {
                    Some(next) => successor = next,
                    None => return Err(error.into()),
                },
                _ => return Err(error.into()),
            }
        };
        let mut found = DeliveredBytes::default();
        while found.count() < delivered.count() {
            let left = delivered.count().saturating_sub(found.count());
            let Some(piece) = reader.next().await else { return Err(error.into()) };
            let piece = piece?;
            let wanted = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            found.push(piece.get(..wanted).unwrap_or(&piece));
        }
        if found != *delivered {
            return Err(error.into());
        }
        tracing::info!(position = self.position, "reader continues with equal content of a new fill");
        *self = Self { position: self.position, delivered: Some(found), ..reader };
        Ok(())
    }
}

fn entry_identity(entry: &CacheEntry) -> ContentIdentity<'_> {
    let Object { status, headers, len, .. } = &entry.object;
    ContentIdentity { status: *status, headers, length: Some(*len) }
}

impl ArrivingSource {
    /// Waits until `range` is available and visible to the reader, or the fill has ended.
    async fn wait_for(&mut self, range: Range<u64>) -> Result<(), FillError> {
        loop {
            match &*self.phase.borrow_and_update() {
                Phase::Receiving { .. } => {}
                Phase::Failed { error, .. } => return Err(error.clone()),
                _ => return Ok(()),
            }
            match self.content.first_missing(range.clone()) {
                None if !self.is_gated || range.end <= self.content.visible_end() => {
                    if self.content.visibility.reveal() {
                        return Ok(());
                    }
                }
                missing => self.demand.set_position(missing.unwrap_or(range.end)),
            }
            self.phase.changed().await.map_err(|_| FillError::Stopped)?;
        }
    }

    /// Waits for the piece at `position`, or for the end of the fill.
    async fn next(&mut self, store: &Arc<Store>, position: u64) -> Result<ArrivingStep, TransferError> {
        loop {
            let is_complete = match &*self.phase.borrow_and_update() {
                Phase::Receiving { .. } => false,
                Phase::Complete { length, .. } if position >= *length => return Ok(ArrivingStep::End),
                Phase::Complete { .. } => true,
                Phase::Stored { entry } => return Ok(ArrivingStep::Stored(entry.clone())),
                Phase::Failed { error, successor: None } => return Err(error.clone().into()),
                Phase::Failed { error, successor: Some(successor) } => {
                    return Ok(ArrivingStep::Restarted(error.clone(), successor.clone_for(self.client)));
                }
                // These phases come before content, or instead of it; this reader has seen content.
                Phase::Asking | Phase::NotModified { .. } | Phase::Unshared { .. } => {
                    return Err(FillError::Stopped.into());
                }
            };
            if let Some(piece) = self.read(store, position, is_complete).await? {
                return Ok(ArrivingStep::Piece(piece));
            }
        }
    }

    /// Returns the visible part of the piece at `position`. Otherwise `None`, once the fill may have brought it.
    async fn read(
        &mut self,
        store: &Arc<Store>,
        position: u64,
        is_complete: bool,
    ) -> Result<Option<Bytes>, TransferError> {
        let content = &self.content;
        let visible_end = if self.is_gated && !is_complete { content.visible_end() } else { u64::MAX };
        let visible = if content.visibility.reveal() { visible_end.saturating_sub(position) } else { 0 };
        let location = if visible == 0 { ByteLocation::Missing } else { content.locate(position) };
        let mut piece = match location {
            ByteLocation::Memory(piece) => piece,
            ByteLocation::Store => {
                let source = BodySource::Partial(content.partial.clone());
                let losses = content.partial.loss_count();
                match store.read(&source, position).await {
                    Ok(piece) => piece,
                    // Bytes of an earlier process did not all reach the disk, or they decayed: fetch them again.
                    Err(ReadError::Damaged { .. }) if !is_complete => {
                        content.partial.invalidate_chunk(position, losses);
                        return Ok(None);
                    }
                    Err(ReadError::OutOfRange { .. }) if !is_complete => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
            ByteLocation::Missing => {
                self.demand.set_position(position);
                // A task that vanished has not ended the content.
                self.phase.changed().await.map_err(|_| FillError::Stopped)?;
                return Ok(None);
            }
        };
        piece.truncate(usize::try_from(visible).unwrap_or(usize::MAX));
        Ok(Some(piece))
    }
}
