//! Repairing a blob in place: blocks that are not what was stored are replaced by bytes from elsewhere, if those are.
//! The trailer's checksums decide, so that it does not matter where the bytes come from. A crash in the middle leaves
//! damage that is found again.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::error::ReadError;
use super::id::BlobId;
use super::{CHUNK, Store};

/// Result of a shared repair.
pub(super) type Repaired = Result<(), Unrepaired>;

/// Why damage stays.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unrepaired {
    /// The blob has no checksums to go by, or cannot be read or written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The right bytes could not be had.
    #[error("the right bytes cannot be had: {0}")]
    Fetch(Arc<str>),
    /// What was fetched is not what was stored either.
    #[error("what was fetched is not what was stored")]
    Different,
}

impl Store {
    /// Makes the chunk at `position` what was stored, with bytes that `fetch` brings for the damaged part of it. One
    /// repair serves all who wait for it.
    pub async fn repair<F, E>(
        &self,
        id: BlobId,
        len: u64,
        position: u64,
        fetch: impl FnOnce(Range<u64>) -> F,
    ) -> Result<(), Unrepaired>
    where
        F: Future<Output = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let chunk = position / CHUNK;
        let repair = async {
            let range = chunk * CHUNK..len.min((chunk + 1) * CHUNK);
            let Some(damaged) = self.damaged(id, len, range).await? else { return Ok(()) };
            let bytes = fetch(damaged.clone()).await;
            let bytes = bytes.map_err(|error| Unrepaired::Fetch(Arc::from(error.to_string())))?;
            self.replace(id, len, damaged, bytes).await
        };
        self.repairs.run((id, chunk), repair).await
    }

    /// The bytes from the first damaged block to the last.
    async fn damaged(
        &self,
        id: BlobId,
        len: u64,
        range: Range<u64>,
    ) -> Result<Option<Range<u64>>, ReadError> {
        let _permit = self.disk_reads.acquire().await;
        let (folder, open, counters) =
            (Arc::clone(&self.folder), Arc::clone(&self.open), Arc::clone(&self.counters));
        let look = move || open.open(&folder, id, len, || counters.open_file())?.damaged(range);
        spawn_blocking(look).await.map_err(|error| stopped(id, error))?
    }

    async fn replace(&self, id: BlobId, len: u64, range: Range<u64>, bytes: Bytes) -> Repaired {
        let (folder, open, counters) =
            (Arc::clone(&self.folder), Arc::clone(&self.open), Arc::clone(&self.counters));
        let replace = move || {
            let blob = open.open(&folder, id, len, || counters.open_file())?;
            if bytes.len() as u64 != range.end - range.start || !blob.has(range.start, &bytes) {
                return Err(Unrepaired::Different);
            }
            let file = std::fs::File::options().write(true).open(folder.blob(id));
            file.and_then(|file| file.write_all_at(&bytes, range.start))
                .map_err(|error| stopped(id, error))?;
            counters.repaired_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            tracing::warn!(blob = %id, from = range.start, bytes = bytes.len(), "repaired a damaged blob");
            Ok(())
        };
        spawn_blocking(replace).await.map_err(|error| stopped(id, error))?
    }
}

fn stopped(id: BlobId, error: impl Into<std::io::Error>) -> ReadError {
    ReadError::Io { what: format!("blob {id}"), source: Arc::new(error.into()) }
}
