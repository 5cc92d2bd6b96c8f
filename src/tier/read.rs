//! Reading of the tier: the record of a key, then its blob in pieces, each block compared with its checksum. A damaged or
//! incomplete object is absent from then on, until a relay that got the content from a manager replaces it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use object_store::{GetOptions, GetRange, ObjectStore};
use xxhash_rust::xxh3::xxh3_128;

use super::record::{MAX_RECORD, RecordError, TierRecord, name_of};
use super::{BLOCK, Tier, blob_path, record_path};
use crate::problem::{TierError, TierProblem, TransferDirection};

/// Size of a piece that one operation reads: sixteen blocks.
const PIECE: u64 = 1 << 20;

/// Number of pieces of a body that are read ahead.
const READ_AHEAD: usize = 2;

impl Tier {
    /// Returns the record of a key; `None` if the tier lacks the object, or has it damaged.
    ///
    /// # Errors
    /// If the storage fails.
    pub async fn find(&self, key: &str) -> Result<Option<Arc<TierRecord>>, TierError> {
        let name = name_of(key);
        if self.damaged.contains_key(&name) {
            return Ok(None);
        }
        if let Some(record) = self.records.get(&name) {
            return Ok(Some(record));
        }
        let Some(bytes) = self.read_record(&name).await? else { return Ok(None) };
        match TierRecord::decode(&bytes, key) {
            Ok(record) => {
                let record = Arc::new(record);
                self.records.insert(name, record.clone());
                Ok(Some(record))
            }
            Err(RecordError::Later(version)) => {
                let reason = format!("its records are of version {version}");
                self.health.note(TransferDirection::Read, Some(&TierError::new(TierProblem::Later, reason)));
                Ok(None)
            }
            Err(RecordError::Malformed) => {
                self.mark_damaged(key, "record");
                Ok(None)
            }
        }
    }

    /// Reads the bytes of a record; `None` if there is none.
    pub(crate) async fn read_record(&self, name: &str) -> Result<Option<Bytes>, TierError> {
        let path = record_path(name);
        let read = |store: Arc<dyn ObjectStore>| async move {
            let Some(object) = found(store.get_opts(&path, GetOptions::default()).await)? else {
                return Ok(None);
            };
            if object.meta.size > MAX_RECORD {
                // Not decodable, and so damaged.
                return Ok(Some(Bytes::new()));
            }
            found(object.bytes().await)
        };
        self.run(TransferDirection::Read, read).await
    }

    /// Streams a range of a blob in verified pieces. `range` must not be empty.
    pub(crate) fn stream(
        self: &Arc<Self>,
        record: &Arc<TierRecord>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, TierError>> + Send + use<> {
        let first = range.start.checked_div(PIECE).unwrap_or(0);
        let end = range.end.div_ceil(PIECE);
        let (tier, record) = (self.clone(), record.clone());
        let read = move |piece: u64| {
            let (tier, record, range) = (tier.clone(), record.clone(), range.clone());
            async move { tier.read_piece(&record, piece, &range).await }
        };
        stream::iter(first..end).map(read).buffered(READ_AHEAD)
    }

    /// Reads one piece, verifies its blocks, and returns its part of `wanted`.
    async fn read_piece(
        &self,
        record: &TierRecord,
        piece: u64,
        wanted: &Range<u64>,
    ) -> Result<Bytes, TierError> {
        let start = piece.saturating_mul(PIECE).max(block_start(wanted.start));
        let end = piece.saturating_add(1).saturating_mul(PIECE).min(wanted.end.next_multiple_of(BLOCK));
        let range = start..end.min(record.length);
        let (path, bounds) = (blob_path(&record.sha256), range.clone());
        let read = |store: Arc<dyn ObjectStore>| async move {
            let options = GetOptions { range: Some(GetRange::Bounded(bounds)), ..GetOptions::default() };
            let Some(object) = found(store.get_opts(&path, options).await)? else { return Ok(None) };
            found(object.bytes().await)
        };
        let bytes = match self.run(TransferDirection::Read, read).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(self.report_damage(record, "blob is missing")),
            // A range beyond the end of a truncated blob.
            Err(error) if error.problem == TierProblem::Other && self.is_truncated(record).await => {
                return Err(self.report_damage(record, "blob is truncated"));
            }
            Err(error) => return Err(error),
        };
        if !is_intact(record, range.start, &bytes)
            || bytes.len() as u64 != range.end.saturating_sub(range.start)
        {
            return Err(self.report_damage(record, "block differs from its checksum"));
        }
        let skip = wanted.start.saturating_sub(range.start);
        let keep = wanted.end.min(range.end).saturating_sub(range.start);
        let [skip, keep] = [skip, keep].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(bytes.slice(skip.min(bytes.len())..keep.min(bytes.len())))
    }

    async fn is_truncated(&self, record: &TierRecord) -> bool {
        let path = blob_path(&record.sha256);
        let head = |store: Arc<dyn ObjectStore>| async move {
            let options = GetOptions { head: true, ..GetOptions::default() };
            Ok(found(store.get_opts(&path, options).await)?.map(|found| found.meta.size))
        };
        matches!(self.run(TransferDirection::Read, head).await, Ok(size) if size != Some(record.length))
    }

    fn report_damage(&self, record: &TierRecord, what: &str) -> TierError {
        self.mark_damaged(&record.key, what);
        TierError::new(TierProblem::Other, format!("object {}: {what}", record.key))
    }

    /// Treats the object as absent until it is replaced.
    pub(crate) fn mark_damaged(&self, key: &str, what: &str) {
        let name = name_of(key);
        self.records.invalidate(&name);
        if !self.damaged.contains_key(&name) {
            self.damaged.insert(name, ());
            self.metrics.damaged.inc();
            tracing::warn!(
                tier = &*self.settings.url,
                key,
                what,
                "tier object damaged; getting it from a manager"
            );
        }
    }
}

/// Returns true if the blocks from `start` on equal their checksums.
fn is_intact(record: &TierRecord, start: u64, bytes: &[u8]) -> bool {
    let first = usize::try_from(start.checked_div(BLOCK).unwrap_or(0)).unwrap_or(usize::MAX);
    let Some(checksums) = record.checksums.get(first..) else { return false };
    let blocks = bytes.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX));
    blocks.len() <= checksums.len()
        && blocks.zip(checksums).all(|(block, checksum)| xxh3_128(block) == *checksum)
}

fn block_start(position: u64) -> u64 {
    position.saturating_sub(position.checked_rem(BLOCK).unwrap_or(0))
}

fn is_missing_bucket(error: &object_store::Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// Turns an absent object into `None`, but not an absent bucket.
pub(crate) fn found<T>(result: object_store::Result<T>) -> Result<Option<T>, TierError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error @ object_store::Error::NotFound { .. }) if !is_missing_bucket(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
