//! Publication of an object: its blob by SHA-256, then its record by key. Both are created only if absent, so concurrent
//! writers agree; the record comes last, so no reader finds one without its blob. Only an object that this relay found
//! damaged is overwritten.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use object_store::{
    Error, GetOptions, MultipartUpload, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
};
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_128;

use super::record::{RecordError, TierRecord, name_of, recorded_fields};
use super::{BLOCK, Tier, blob_path, record_path};
use crate::problem::{TierError, TierProblem, TransferDirection};
use crate::read::found;

/// Size of a part of a large blob, in bytes: the minimum of S3. Memory of one publication.
const PART: usize = 5 << 20;

/// An object to publish, besides its body.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Cache key.
    pub key: String,
    /// Label of its content type.
    pub content_type: String,
    /// Stored fields of its head.
    pub headers: HeaderMap,
    /// Length of the body in bytes, at least one.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
}

/// Result of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierPublication {
    /// The object is new.
    Published,
    /// It replaced a damaged or incomplete one.
    Repaired,
    /// The same object was there.
    Present,
    /// There is other content under the key.
    Conflict,
}

/// Failure of a publication.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// The tier failed; another attempt may succeed.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The body cannot be read, or has another length.
    #[error("body: {0}")]
    Body(String),
}

/// Where the parts of a blob go.
enum Upload {
    /// The blob is there already; the body is read for its checksums.
    Present,
    /// One request brings it all.
    Single,
    /// Parts follow each other.
    Multipart(Box<dyn MultipartUpload>),
}

impl Tier {
    /// Publishes an object with this body.
    ///
    /// # Errors
    /// If the tier fails or the body cannot be read. The tier has then at most a blob without a record, which `gc`
    /// removes.
    pub async fn publish<E: Display>(
        &self,
        new: &NewRecord,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<TierPublication, PublicationError> {
        let name = name_of(&new.key);
        let is_repair = self.damaged.contains_key(&name);
        if !is_repair && let Some(existing) = self.compare_existing(&name, new).await? {
            return Ok(existing);
        }
        let checksums = self.upload_blob(new, is_repair, body).await?;
        let record = TierRecord {
            key: new.key.clone(),
            content_type: new.content_type.clone(),
            fields: recorded_fields(&new.headers),
            length: new.length,
            sha256: new.sha256,
            checksums: checksums.into(),
        };
        let payload = PutPayload::from(record.encode());
        if !self.put(record_path(&name), payload, is_repair).await? {
            // Another relay was faster.
            let existing = self.compare_existing(&name, new).await?;
            return Ok(existing.unwrap_or(TierPublication::Present));
        }
        self.damaged.invalidate(&name);
        Ok(if is_repair { TierPublication::Repaired } else { TierPublication::Published })
    }

    /// Compares the record that the tier has under this name; `None` if there is none that a relay can use.
    async fn compare_existing(
        &self,
        name: &str,
        new: &NewRecord,
    ) -> Result<Option<TierPublication>, TierError> {
        let Some(bytes) = self.read_record(name).await? else { return Ok(None) };
        match TierRecord::decode(&bytes, &new.key) {
            Ok(record) if record.sha256 == new.sha256 => Ok(Some(TierPublication::Present)),
            Ok(_) => {
                let (tier, key) = (&*self.settings.url, &*new.key);
                tracing::warn!(tier, key, "tier has other content under this key; not published");
                Ok(Some(TierPublication::Conflict))
            }
            Err(RecordError::Later(_)) => Ok(Some(TierPublication::Present)),
            Err(RecordError::Malformed) => {
                self.mark_damaged(&new.key, "record");
                // The next attempt replaces it.
                Err(TierError::new(TierProblem::Other, "record is damaged"))
            }
        }
    }

    /// Uploads the blob unless it is there, and returns the checksums of its blocks.
    async fn upload_blob<E: Display>(
        &self,
        new: &NewRecord,
        is_repair: bool,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Vec<u128>, PublicationError> {
        let mut upload = self.begin_upload(new, is_repair).await?;
        let mut body = std::pin::pin!(body);
        let (mut checksums, mut buffer, mut read) = (Vec::new(), BytesMut::new(), 0_u64);
        loop {
            let piece = body.next().await.transpose();
            let piece = piece.map_err(|error| PublicationError::Body(error.to_string()));
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    upload.abort(self.settings.timeout).await;
                    return Err(error);
                }
            };
            let is_end = piece.is_none();
            if let Some(piece) = piece {
                read = read.saturating_add(piece.len() as u64);
                buffer.extend_from_slice(&piece);
            }
            while buffer.len() >= PART || (is_end && !buffer.is_empty()) {
                let part = buffer.split_to(buffer.len().min(PART)).freeze();
                let blocks = part.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX));
                checksums.extend(blocks.map(xxh3_128));
                if let Err(error) = self.upload_part(&mut upload, new, part, is_repair).await {
                    upload.abort(self.settings.timeout).await;
                    return Err(error.into());
                }
            }
            if is_end || read > new.length {
                break;
            }
        }
        if read != new.length {
            upload.abort(self.settings.timeout).await;
            return Err(PublicationError::Body(format!("has {read} bytes, not {}", new.length)));
        }
        self.finish_upload(upload).await?;
        Ok(checksums)
    }

    async fn begin_upload(&self, new: &NewRecord, is_repair: bool) -> Result<Upload, TierError> {
        let path = blob_path(&new.sha256);
        if !is_repair && self.blob_length(&new.sha256).await? == Some(new.length) {
            return Ok(Upload::Present);
        }
        if new.length <= PART as u64 {
            return Ok(Upload::Single);
        }
        let begin = |store: Arc<dyn ObjectStore>| async move {
            Ok(store.put_multipart_opts(&path, PutMultipartOptions::default()).await?)
        };
        Ok(Upload::Multipart(self.run(TransferDirection::Write, begin).await?))
    }

    async fn upload_part(
        &self,
        upload: &mut Upload,
        new: &NewRecord,
        part: Bytes,
        is_repair: bool,
    ) -> Result<(), TierError> {
        let bytes = part.len() as u64;
        match upload {
            Upload::Present => return Ok(()),
            Upload::Single => {
                // A blob that another relay has just created has the same bytes.
                let _is_new = self.put(blob_path(&new.sha256), part.into(), is_repair).await?;
            }
            Upload::Multipart(parts) => {
                let part = parts.put_part(part.into());
                self.run(TransferDirection::Write, |_store| async move { Ok(part.await?) }).await?;
            }
        }
        self.metrics.published_bytes.inc_by(bytes);
        Ok(())
    }

    /// Completes the upload. The parts of one name have the same bytes, so the last of several writers changes nothing.
    async fn finish_upload(&self, upload: Upload) -> Result<(), TierError> {
        let Upload::Multipart(mut parts) = upload else { return Ok(()) };
        let complete = |_store| async move {
            parts.complete().await?;
            Ok(())
        };
        self.run(TransferDirection::Write, complete).await
    }

    /// Returns the length of a blob; `None` if the tier lacks it.
    pub(crate) async fn blob_length(&self, sha256: &[u8; 32]) -> Result<Option<u64>, TierError> {
        let path = blob_path(sha256);
        let head = |store: Arc<dyn ObjectStore>| async move {
            let options = GetOptions { head: true, ..GetOptions::default() };
            Ok(found(store.get_opts(&path, options).await)?.map(|found| found.meta.size))
        };
        self.run(TransferDirection::Read, head).await
    }

    /// Writes an object, if it is absent or `is_repair`. Returns false if it was there.
    async fn put(
        &self,
        path: object_store::path::Path,
        payload: PutPayload,
        is_repair: bool,
    ) -> Result<bool, TierError> {
        let mode = if is_repair { PutMode::Overwrite } else { PutMode::Create };
        let put = |store: Arc<dyn ObjectStore>| async move {
            match store.put_opts(&path, payload, PutOptions { mode, ..PutOptions::default() }).await {
                Ok(_) => Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            }
        };
        self.run(TransferDirection::Write, put).await
    }
}

impl Upload {
    /// Removes the parts. What cannot be removed is left to the storage's own rule for incomplete uploads.
    async fn abort(&mut self, limit: Duration) {
        if let Self::Multipart(parts) = self
            && !matches!(timeout(limit, parts.abort()).await, Ok(Ok(())))
        {
            tracing::debug!("cannot remove the parts of an incomplete upload");
        }
    }
}
