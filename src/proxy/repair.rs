//! Read repair: stored bytes that are damaged or gone while a client reads them are fetched again and put in their
//! place. If that fails, the response goes on from a fill of the same content, at the client's position. The client
//! sees a broken transfer only if neither can be had.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::exchange::Exchange;
use crate::{Generation, Proxy};
use gupd_cache::fill::{ContentReader, FillRequest, FillResponse, Fills, Joined, TransferError, fetch_range};
use gupd_cache::{Cache, CacheEntry};
use gupd_http::range::RequestedPart;
use gupd_http::validator::strong_validator;
use gupd_store::{BodySource, ReadError, RepairError};

/// Maximum number of repairs in one response: a disk with more damage is not worth going on with.
const MAX_REPAIRS: u32 = 1024;

/// Reads pieces of a response and repairs the stored content under it.
#[derive(Clone)]
pub(crate) struct ReadRepair(Option<Box<Repair>>);

#[derive(Clone)]
struct Repair {
    cache: Arc<Cache>,
    fills: Fills,
    generation: Arc<Generation>,
    entry: Arc<CacheEntry>,
    request: FillRequest,
    repairs: u32,
    /// The response has begun: it can no longer be another one.
    has_begun: bool,
}

impl ReadRepair {
    /// For content of a stored object. `exchange` is the request that reads it.
    pub(crate) fn new(proxy: &Proxy, exchange: &Exchange<'_>, entry: &Arc<CacheEntry>) -> Self {
        let mut request = exchange.base_fill_request(entry.object.key.clone(), &entry.classification);
        request.variant.clone_from(&entry.object.selecting);
        exchange.generation.prefer_author(&mut request, &entry.object);
        Self(Some(Box::new(Repair {
            cache: proxy.cache.clone(),
            fills: proxy.fills.clone(),
            generation: exchange.generation.clone(),
            entry: entry.clone(),
            request,
            repairs: 0,
            has_begun: false,
        })))
    }

    /// For content of a fill, which repairs itself.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Notes that the response's head is sent from now on.
    pub(crate) fn begun(mut self) -> Self {
        if let Some(repair) = &mut self.0 {
            repair.has_begun = true;
        }
        self
    }

    /// Reads the next piece. Replaces `reader` if the content has to come from elsewhere.
    pub(crate) async fn next(&mut self, reader: &mut ContentReader) -> Option<Result<Bytes, TransferError>> {
        loop {
            let error = match reader.next().await? {
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => error,
            };
            let Some(repair) = &mut self.0 else { return Some(Err(error)) };
            match Box::pin(repair.repair(error, reader.remaining())).await {
                Ok(None) => {}
                Ok(Some(other)) => *reader = other,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Repair {
    /// Repairs the cause of `error` at the beginning of `rest`. `None` if the same reader can go on, else another one
    /// for the rest.
    async fn repair(
        &mut self,
        error: TransferError,
        rest: Range<u64>,
    ) -> Result<Option<ContentReader>, TransferError> {
        let read = match &error {
            TransferError::Read(read @ (ReadError::Damaged { .. } | ReadError::Gone { .. })) => read,
            // A disk that cannot be read now, or a process without free file descriptors, says nothing about the bytes.
            TransferError::Read(ReadError::Io { .. }) if self.has_begun => {
                return self.read_upstream(rest).map(Some).ok_or(error);
            }
            _ => return Err(error),
        };
        self.repairs = self.repairs.saturating_add(1);
        if self.repairs > MAX_REPAIRS {
            return Err(error);
        }
        let (object, store) = (&self.entry.object, self.cache.store());
        if matches!(read, ReadError::Damaged { .. }) {
            let upstreams = &self.generation.upstreams;
            let fetch = |range| fetch_range(&self.request, range, upstreams);
            match store.repair(object.blob, object.len, rest.start, fetch).await {
                Ok(()) => return Ok(None),
                // The rest of the blob is intact, and is served while no upstream answers.
                Err(unrepaired @ RepairError::Unavailable(_)) => {
                    tracing::warn!(key = &*object.key, %error, %unrepaired, "damaged blob not repaired now");
                    return Err(error);
                }
                Err(unrepaired) => {
                    tracing::error!(key = &*object.key, %error, %unrepaired, "damaged blob discarded");
                }
            }
        } else {
            // Evicted while its head was in memory: nothing is wrong.
            tracing::info!(key = &*object.key, %error, "stored blob gone");
        }
        if let Err(error) = self.cache.discard(object.blob, &object.key).await {
            tracing::error!(%error, blob = %object.blob, "damaged blob not discarded");
        }
        self.follow_fill(rest).await.map(Some).ok_or(error)
    }

    /// Reads the rest from the upstream.
    fn read_upstream(&self, rest: Range<u64>) -> Option<ContentReader> {
        let (store, upstreams) = (self.cache.store().clone(), &self.generation.upstreams);
        ContentReader::from_upstream(
            store,
            &self.entry.object,
            &self.request,
            upstreams,
            self.fills.metrics(),
            rest,
        )
    }

    /// Reads the rest from a fill of the same content.
    async fn follow_fill(&self, rest: Range<u64>) -> Option<ContentReader> {
        let object = &self.entry.object;
        let validator = strong_validator(&object.headers)?;
        let mut request = self.request.clone();
        let end = (rest.end < object.len).then_some(rest.end);
        request.part = Some(RequestedPart::From(rest.start, end));
        let fill = match self.fills.join(request, &self.generation.upstreams) {
            Joined::Started(fill, _) | Joined::Following(fill) | Joined::Completed(fill) => fill,
            Joined::Stored(entry) => return self.read_stored(&entry, rest),
        };
        match fill.response().await {
            FillResponse::Content(flow)
                if flow.length == Some(object.len)
                    && strong_validator(&flow.head.headers).as_ref() == Some(&validator) =>
            {
                let store = self.cache.store().clone();
                Some(ContentReader::from_fill(store, &fill, flow, rest.start, Some(rest.end)))
            }
            FillResponse::Stored(entry) => self.read_stored(&entry, rest),
            _ => None,
        }
    }

    /// Reads the rest from a stored response with the same bytes.
    fn read_stored(&self, entry: &CacheEntry, rest: Range<u64>) -> Option<ContentReader> {
        let source = entry.body_source();
        let is_same = matches!(source, BodySource::Blob { id, .. } if id == self.entry.object.blob);
        is_same.then(|| ContentReader::from_store(self.cache.store().clone(), source, rest))
    }
}
