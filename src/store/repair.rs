//! Repair of blobs in place: damaged blocks are replaced by bytes fetched again. The trailer's checksums decide,
//! so the source of the bytes does not matter. A crash during a repair leaves damage that is found again. A
//! reader repairs the chunk that it hit; the scrub and `gupd store verify` repair the whole blob.

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

/// Maximum number of objects of a blob to try, newest first. If one key no longer serves the bytes, another may.
/// Most blobs have one or two.
pub(super) const MAX_NAMES: usize = 4;

/// Result of a shared repair.
pub(super) type RepairResult = Result<(), RepairError>;

/// Reason why damage was not repaired.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RepairError {
    /// The blob has no usable checksums, or cannot be read or written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No upstream is available now; a later attempt may succeed.
    #[error("no upstream is available: {0}")]
    Unavailable(Arc<str>),
    /// No upstream offers the content any more.
    #[error("no upstream offers the content: {0}")]
    NotOffered(Arc<str>),
    /// The fetched bytes differ from the stored checksums.
    #[error("the fetched bytes differ from the stored checksums")]
    Different,
}

impl Store {
    /// Verifies a whole blob and repairs each damaged chunk with bytes that `fetch` returns for one of its
    /// objects. Returns the number of fetched bytes.
    ///
    /// Repairs that precede an error stay. The blob is read at disk speed, a chunk at a time: damage is rare, and
    /// a client may request the content next.
    ///
    /// # Errors
    /// The first damage that could not be repaired.
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
        let len = objects.first().ok_or_else(|| read_error(id, InspectionFault::Gone))?.len;
        let fetched = AtomicU64::new(0);
        let fetch = async |object: &Arc<Object>, range| {
            let bytes = fetch(Arc::clone(object), range).await?;
            fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok::<_, E>(bytes)
        };
        // Cached files may hold the old trailer.
        self.open.invalidate(id);
        let extent = self.extent(id, len).await?;
        let opened = spawn_blocking(move || Inspection::open(&extent, id, len)).await;
        let mut inspection = opened.map_err(|e| io_error(id, e))?.map_err(|e| read_error(id, e))?;
        let mut repaired = None;
        loop {
            let permit = self.disk_reads.acquire().await;
            let read = move || {
                let read = inspection.next().map(<[u8]>::len);
                (inspection, read)
            };
            let (back, read) = spawn_blocking(read).await.map_err(|error| io_error(id, error))?;
            drop(permit);
            inspection = back;
            let position = inspection.position();
            match read {
                Ok(0) => return Ok(fetched.into_inner()),
                Ok(_) => {}
                // After the last byte the SHA-256 differs, and no block can be blamed.
                Err(InspectionFault::Damaged(_)) if position < len && repaired != Some(position) => {
                    repaired = Some(position);
                    let mut done = Ok(());
                    for object in &objects {
                        let tried = self.repair(id, len, position, |range| fetch(object, range)).await;
                        let is_over = matches!(tried, Ok(()) | Err(RepairError::Read(_)));
                        // A temporary failure of one key outweighs the permanent failure of others.
                        if is_over || !matches!(done, Err(RepairError::Unavailable(_))) {
                            done = tried;
                        }
                        if is_over {
                            break;
                        }
                    }
                    done?;
                }
                Err(error) => return Err(read_error(id, error).into()),
            }
        }
    }

    /// Repairs the chunk at `position` with bytes that `fetch` returns for its damaged part. Concurrent callers
    /// share one repair.
    ///
    /// # Errors
    /// When the chunk is still damaged.
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
            let Some(damaged) = self.find_damage(id, len, range).await? else { return Ok(()) };
            let bytes = fetch(damaged.clone()).await.map_err(Into::into)?;
            self.replace(id, len, damaged, bytes).await
        };
        self.repairs.run((id, chunk), repair).await
    }

    /// Returns the bytes from the first damaged block to the last.
    async fn find_damage(
        &self,
        id: BlobId,
        len: u64,
        range: Range<u64>,
    ) -> Result<Option<Range<u64>>, ReadError> {
        let _permit = self.disk_reads.acquire().await;
        let extent = self.extent(id, len).await?;
        let (open, counters) = (Arc::clone(&self.open), Arc::clone(&self.counters));
        let look = move || open.open(&extent, id, len, || counters.open_file())?.find_damage(range);
        spawn_blocking(look).await.map_err(|error| io_error(id, error))?
    }

    async fn replace(&self, id: BlobId, len: u64, range: Range<u64>, bytes: Bytes) -> RepairResult {
        // A process that takes over the folder waits for this write.
        let write_token =
            self.lease.begin_write().map_err(|error| io_error(id, std::io::Error::other(error)))?;
        // Also if it is open: its pack may have been compacted since.
        self.open.invalidate(id);
        let extent = self.extent(id, len).await?;
        let (open, counters) = (Arc::clone(&self.open), Arc::clone(&self.counters));
        let replace = move || {
            let blob = open.open(&extent, id, len, || counters.open_file())?;
            if bytes.len() as u64 != range.end - range.start || !blob.matches(range.start, &bytes) {
                return Err(RepairError::Different);
            }
            let file = std::fs::File::options().write(true).open(&extent.path);
            file.and_then(|file| file.write_all_at(&bytes, extent.start + range.start))
                .map_err(|error| io_error(id, error))?;
            counters.repaired_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            tracing::warn!(blob = %id, from = range.start, bytes = bytes.len(), "damaged blob repaired");
            drop(write_token);
            Ok(())
        };
        spawn_blocking(replace).await.map_err(|error| io_error(id, error))?
    }
}

fn read_error(id: BlobId, error: InspectionFault) -> ReadError {
    let subject = format!("blob {id}");
    match error {
        InspectionFault::Damaged(fault) => ReadError::Damaged { subject, fault },
        InspectionFault::Gone => ReadError::Gone { subject },
        InspectionFault::Unreadable(source) => ReadError::Io { subject, source: Arc::new(source) },
    }
}

pub(super) fn io_error(id: BlobId, error: impl Into<std::io::Error>) -> ReadError {
    ReadError::Io { subject: format!("blob {id}"), source: Arc::new(error.into()) }
}
