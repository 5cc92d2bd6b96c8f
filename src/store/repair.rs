//! Repairing a blob in place: blocks that are not what was stored are replaced by bytes from elsewhere, if those are.
//! The trailer's checksums decide, so that it does not matter where the bytes come from. A crash in the middle leaves
//! damage that is found again. A reader has the chunk repaired that it met; the scrub and `gupd store verify` the blob.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::error::ReadError;
use super::id::BlobId;
use super::inspect::{Inspection, InspectionFault};
use super::{CHUNK, Object, Store};

/// Objects of a blob by which its bytes are asked for, newest first: what one name no longer gives, another may. Most
/// blobs have one or two.
const MAX_NAMES: usize = 4;

/// Result of a shared repair.
pub(super) type RepairResult = Result<(), RepairError>;

/// Why damage stays.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RepairError {
    /// The blob has no checksums to go by, or cannot be read or written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The right bytes cannot be had now; another time they may be.
    #[error("the right bytes cannot be had now: {0}")]
    Unavailable(Arc<str>),
    /// Nobody has the right bytes any more.
    #[error("the right bytes cannot be had: {0}")]
    NotOffered(Arc<str>),
    /// What was fetched is not what was stored either.
    #[error("what was fetched is not what was stored")]
    Different,
}

impl Store {
    /// Verifies a whole blob and makes each of its damaged chunks what was stored, with bytes that `fetch` brings for
    /// one of its objects; gives how many were fetched. What an error leaves repaired stays so. Reads as fast as the
    /// disk does, a chunk at a time: damage is rare, and what a client may ask for next is at stake.
    pub async fn repair_blob<F, E>(
        &self,
        id: BlobId,
        fetch: impl Fn(Arc<Object>, Range<u64>) -> F,
    ) -> Result<u64, RepairError>
    where
        F: Future<Output = Result<Bytes, E>>,
        E: Into<RepairError>,
    {
        let objects = self.index.objects_of(id, MAX_NAMES).await;
        let objects = objects.map_err(|error| RepairError::Unavailable(Arc::from(error.to_string())))?;
        let objects: Vec<_> = objects.into_iter().map(Arc::new).collect();
        let len = objects.first().ok_or_else(|| unsound(id, InspectionFault::Gone))?.len;
        let fetched = AtomicU64::new(0);
        let fetch = async |object: &Arc<Object>, range| {
            let bytes = fetch(Arc::clone(object), range).await?;
            fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok::<_, E>(bytes)
        };
        // Readers may have the trailer that once was there.
        self.open.forget(id);
        let path = self.folder.blob(id);
        let begin = spawn_blocking(move || Inspection::begin(&path, id, len)).await;
        let mut inspection = begin.map_err(|e| stopped(id, e))?.map_err(|e| unsound(id, e))?;
        let mut repaired = None;
        loop {
            let permit = self.disk_reads.acquire().await;
            let read = move || {
                let read = inspection.next().map(<[u8]>::len);
                (inspection, read)
            };
            let (back, read) = spawn_blocking(read).await.map_err(|error| stopped(id, error))?;
            drop(permit);
            inspection = back;
            let position = inspection.position();
            match read {
                Ok(0) => return Ok(fetched.into_inner()),
                Ok(_) => {}
                // Behind the last byte it is the SHA-256 that differs: nobody can say which block is to blame.
                Err(InspectionFault::Damaged(_)) if position < len && repaired != Some(position) => {
                    repaired = Some(position);
                    let mut done = Ok(());
                    for object in &objects {
                        let tried = self.repair(id, len, position, |range| fetch(object, range)).await;
                        let is_over = matches!(tried, Ok(()) | Err(RepairError::Read(_)));
                        // What one name may give another time outweighs what the others do not give.
                        if is_over || !matches!(done, Err(RepairError::Unavailable(_))) {
                            done = tried;
                        }
                        if is_over {
                            break;
                        }
                    }
                    done?;
                }
                Err(error) => return Err(unsound(id, error).into()),
            }
        }
    }

    /// Makes the chunk at `position` what was stored, with bytes that `fetch` brings for the damaged part of it. One
    /// repair serves all who wait for it.
    pub async fn repair<F, E>(
        &self,
        id: BlobId,
        len: u64,
        position: u64,
        fetch: impl FnOnce(Range<u64>) -> F,
    ) -> Result<(), RepairError>
    where
        F: Future<Output = Result<Bytes, E>>,
        E: Into<RepairError>,
    {
        let chunk = position / CHUNK;
        let repair = async {
            let range = chunk * CHUNK..len.min((chunk + 1) * CHUNK);
            let Some(damaged) = self.damaged(id, len, range).await? else { return Ok(()) };
            let bytes = fetch(damaged.clone()).await.map_err(Into::into)?;
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

    async fn replace(&self, id: BlobId, len: u64, range: Range<u64>, bytes: Bytes) -> RepairResult {
        // Another process waits until this one has written.
        let until_it_is_written =
            self.tenure.commit().map_err(|error| stopped(id, std::io::Error::other(error)))?;
        let (folder, open, counters) =
            (Arc::clone(&self.folder), Arc::clone(&self.open), Arc::clone(&self.counters));
        let replace = move || {
            let blob = open.open(&folder, id, len, || counters.open_file())?;
            if bytes.len() as u64 != range.end - range.start || !blob.has(range.start, &bytes) {
                return Err(RepairError::Different);
            }
            let file = std::fs::File::options().write(true).open(folder.blob(id));
            file.and_then(|file| file.write_all_at(&bytes, range.start))
                .map_err(|error| stopped(id, error))?;
            counters.repaired_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            tracing::warn!(blob = %id, from = range.start, bytes = bytes.len(), "repaired a damaged blob");
            drop(until_it_is_written);
            Ok(())
        };
        spawn_blocking(replace).await.map_err(|error| stopped(id, error))?
    }
}

fn unsound(id: BlobId, error: InspectionFault) -> ReadError {
    let what = format!("blob {id}");
    match error {
        InspectionFault::Damaged(fault) => ReadError::Damaged { what, fault },
        InspectionFault::Gone => ReadError::Gone { what },
        InspectionFault::Unreadable(source) => ReadError::Io { what, source: Arc::new(source) },
    }
}

fn stopped(id: BlobId, error: impl Into<std::io::Error>) -> ReadError {
    ReadError::Io { what: format!("blob {id}"), source: Arc::new(error.into()) }
}
