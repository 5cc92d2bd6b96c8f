//! What to do when stored bytes are not what was stored, or not there, while a client reads them: fetch the damaged part
//! again and put it in its place; if that cannot be, follow a fill of the same content from where the client is. Only
//! when neither can be had does the client see a broken transfer.

use std::ops::Range;
use std::sync::Arc;

use super::Generation;
use gupd_cache::fill::{self, Fills, Joined, Reader, TransferError, Wanted, refetch};
use gupd_cache::{Cache, Entry};
use gupd_http::range::RequestedPart;
use gupd_http::validator::strong_validator;
use gupd_store::{BodySource, ReadError};

/// Repairs of one response at most: a disk that damages more than this is not worth going on with.
const MAX_REPAIRS: u32 = 1024;

/// What one response's stored content can be had from again.
#[derive(Clone)]
pub(super) struct Repair {
    pub(super) cache: Arc<Cache>,
    pub(super) fills: Fills,
    pub(super) generation: Arc<Generation>,
    pub(super) entry: Arc<Entry>,
    pub(super) wanted: Wanted,
    pub(super) repairs: u32,
    /// The response has begun: it can no longer be another one.
    pub(super) begun: bool,
}

impl Repair {
    /// Makes `error`, met at the begin of `rest`, good. `None` if the reader that met it can go on; otherwise another
    /// one for the rest, or the error.
    pub(super) async fn make_good(
        &mut self,
        error: TransferError,
        rest: Range<u64>,
    ) -> Result<Option<Reader>, TransferError> {
        let read = match &error {
            TransferError::Read(read @ (ReadError::Damaged { .. } | ReadError::Gone { .. })) => read,
            // A disk that cannot be read now, or a process that may open no more files, says nothing about the bytes.
            TransferError::Read(ReadError::Io { .. }) if self.begun => {
                return self.alone(rest).map(Some).ok_or(error);
            }
            _ => return Err(error),
        };
        self.repairs += 1;
        if self.repairs > MAX_REPAIRS {
            return Err(error);
        }
        let (object, store) = (&self.entry.object, self.cache.store());
        if matches!(read, ReadError::Damaged { .. }) {
            let upstreams = &self.generation.upstreams;
            let fetch = |range| refetch(&self.wanted, range, upstreams);
            match store.repair(object.blob, object.len, rest.start, fetch).await {
                Ok(()) => return Ok(None),
                Err(unrepaired) => {
                    tracing::error!(key = &*object.key, %error, %unrepaired, "discarding a stored blob");
                }
            }
        } else {
            // Evicted while it was hot: nothing is wrong.
            tracing::info!(key = &*object.key, %error);
        }
        if let Err(error) = self.cache.discard(object.blob, &object.key).await {
            tracing::error!(%error, blob = %object.blob, "cannot discard a damaged blob");
        }
        self.follow(rest).await.map(Some).ok_or(error)
    }

    /// Reads the rest from the upstream.
    fn alone(&self, rest: Range<u64>) -> Option<Reader> {
        let (store, upstreams) = (self.cache.store().clone(), &self.generation.upstreams);
        Reader::alone(store, &self.entry.object, &self.wanted, upstreams, self.fills.metrics(), rest)
    }

    /// Reads the rest of the same content from a fill.
    async fn follow(&self, rest: Range<u64>) -> Option<Reader> {
        let object = &self.entry.object;
        let validator = strong_validator(&object.headers)?;
        let mut wanted = self.wanted.clone();
        let end = (rest.end < object.len).then_some(rest.end);
        wanted.part = Some(RequestedPart::From(rest.start, end));
        let fill = match self.fills.join(wanted, &self.generation.upstreams) {
            Joined::Started(fill, _) | Joined::Following(fill) => fill,
            Joined::Stored(entry) => return self.stored(&entry, rest),
        };
        match fill.outcome().await {
            fill::Outcome::Content(flow)
                if flow.length == Some(object.len)
                    && strong_validator(&flow.head.headers).as_ref() == Some(&validator) =>
            {
                let store = self.cache.store().clone();
                Some(Reader::following(store, &fill, flow, rest.start, Some(rest.end)))
            }
            fill::Outcome::Stored(entry) => self.stored(&entry, rest),
            _ => None,
        }
    }

    fn stored(&self, entry: &Entry, rest: Range<u64>) -> Option<Reader> {
        let source = entry.source();
        let is_same = matches!(source, BodySource::Blob { id, .. } if id == self.entry.object.blob);
        is_same.then(|| Reader::stored(self.cache.store().clone(), source, rest))
    }
}
