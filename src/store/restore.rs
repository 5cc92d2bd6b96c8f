//! Restoration of a blob's whole file: where its checksums are damaged, or the file is missing, no single block can be
//! repaired. The body on disk is tried first, since the SHA-256 that names the blob proves it; then the upstreams. The
//! old file is replaced only by a verified one, so an interruption changes nothing.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_128;

use super::budget::allocated_size;
use super::error::ReadError;
use super::id::BlobId;
use super::repair::{MAX_NAMES, RepairError, io_error};
use super::scratch::Scratch;
use super::{BLOCK, CHUNK, Object, Store, trailer};

/// A new file of a blob, written from its start.
struct NewFile {
    file: File,
    scratch: Scratch,
    sha256: Sha256,
    checksums: Vec<u128>,
    len: u64,
}

impl Store {
    /// Writes a blob's file anew, from its own body or from bytes that `fetch` returns for one of its objects. Returns
    /// the number of fetched bytes. Writes on the calling thread: for a command, not for a relay.
    ///
    /// # Errors
    /// When neither source has the content; the file is then unchanged.
    pub async fn restore_blob<F, E>(
        self: &Arc<Self>,
        id: BlobId,
        fetch: impl Fn(Arc<Object>, Range<u64>) -> F,
    ) -> Result<u64, RepairError>
    where
        F: Future<Output = Result<Bytes, E>>,
        E: Into<RepairError>,
    {
        let unavailable = |error: super::StoreError| RepairError::Unavailable(Arc::from(error.to_string()));
        let objects = self.index.objects_of(id, MAX_NAMES).await.map_err(unavailable)?;
        let gone = || ReadError::Gone { subject: format!("blob {id}") };
        let first = objects.first().ok_or_else(gone)?;
        let (len, record) = (first.len, first.encode_record());
        let room = self.reserve(allocated_size(trailer::file_size(len))).await.map_err(unavailable)?;
        let (_, file, scratch) = self.folder.create(room).map_err(unavailable)?;
        let failed = |error| RepairError::from(io_error(id, error));
        let mut new = NewFile { file, scratch, sha256: Sha256::new(), checksums: Vec::new(), len: 0 };
        let mut result = Err(RepairError::Different);
        let extent = self.extent(id, len).await?;
        if let Ok(old) = File::open(&extent.path)
            && new.copy(&old, extent.start, len).is_ok()
            && new.digest() == id
        {
            result = Ok(0);
        }
        for object in objects.into_iter().map(Arc::new) {
            if result.is_ok() {
                break;
            }
            new.restart().map_err(failed)?;
            let fetched = new.fetch(len, |range| fetch(object.clone(), range)).await;
            let fetched = fetched.and_then(|()| match new.digest() == id {
                true => Ok(len),
                false => Err(RepairError::Different),
            });
            // A temporary failure of one key outweighs the permanent failure of others.
            if fetched.is_ok() || !matches!(result, Err(RepairError::Unavailable(_))) {
                result = fetched;
            }
        }
        let fetched = result?;
        new.file.write_all(&trailer::encode(id, len, &new.checksums, &record)).map_err(failed)?;
        new.file.sync_data().map_err(failed)?;
        new.scratch.rename_to(&self.folder.blob(id)).map_err(unavailable)?;
        // Also if it was in a pack: it has a file of its own now.
        let map_error = self.index.error_mapper();
        let moved = self.index.change(move |change| change.set_place(id, None).map_err(map_error)).await;
        moved.map_err(unavailable)?;
        self.open.invalidate(id);
        Ok(fetched)
    }
}

impl NewFile {
    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)?;
        self.sha256.reset();
        self.checksums.clear();
        self.len = 0;
        Ok(())
    }

    /// Appends whole blocks, or the last bytes.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.sha256.update(bytes);
        self.checksums.extend(bytes.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX)).map(xxh3_128));
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn copy(&mut self, old: &File, start: u64, len: u64) -> io::Result<()> {
        let mut buffer = Vec::new();
        while self.len < len {
            buffer.resize(usize::try_from(CHUNK.min(len - self.len)).unwrap_or(usize::MAX), 0);
            old.read_exact_at(&mut buffer, start + self.len)?;
            self.append(&buffer)?;
        }
        Ok(())
    }

    async fn fetch<F, E>(&mut self, len: u64, fetch: impl Fn(Range<u64>) -> F) -> Result<(), RepairError>
    where
        F: Future<Output = Result<Bytes, E>>,
        E: Into<RepairError>,
    {
        while self.len < len {
            let range = self.len..len.min(self.len + CHUNK);
            let wanted = range.end - range.start;
            let bytes = fetch(range).await.map_err(Into::into)?;
            if bytes.len() as u64 != wanted {
                return Err(RepairError::Different);
            }
            let written = self.append(&bytes);
            written.map_err(|error| RepairError::Unavailable(Arc::from(error.to_string())))?;
        }
        Ok(())
    }

    fn digest(&mut self) -> BlobId {
        BlobId::from(<[u8; 32]>::from(self.sha256.finalize_reset()))
    }
}
