//! Bundle import. Each object is committed by itself, as by a fill, so an interrupted import can be repeated and
//! continues with the missing objects. The bundle was verified by [`check`](super::check); every blob is still
//! verified before its commit, since the file may have changed. Blocks; not for an async thread.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::BundleError;
use super::read::{Sink, walk};
use crate::{BlobId, BlobWriter, BodySource, NewObject, Segment, Store, StoreError};
use gupd_config::clock::UnixMillis;

/// Result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// Imported objects.
    pub objects: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Objects of which the store has the same or a newer response.
    pub skipped: u64,
}

/// Imports the objects that the store lacks, and calls `read` with the bytes of each piece.
///
/// # Errors
/// When the store has no room or fails, or the bundle changed since it was verified. Objects imported before are
/// kept.
pub fn import(
    store: &Arc<Store>,
    runtime: &Handle,
    path: &Path,
    quota: u64,
    now: UnixMillis,
    read: impl FnMut(u64),
) -> Result<ImportSummary, BundleError> {
    let mut import = Importer { store, runtime, read, current: None, done: ImportSummary::default() };
    match walk(path, quota, now, &mut import) {
        Ok(_) => Ok(import.done),
        Err(BundleError::Refused { path, entry, fault }) => Err(BundleError::Changed { path, entry, fault }),
        Err(error) => Err(error),
    }
}

struct Importer<'a, P> {
    store: &'a Arc<Store>,
    runtime: &'a Handle,
    read: P,
    /// `None` while the store has all objects of the blob.
    current: Option<CurrentBlob>,
    done: ImportSummary,
}

/// A blob being imported.
struct CurrentBlob {
    writer: BlobWriter,
    segment: Segment,
    first: NewObject,
    others: Vec<NewObject>,
}

impl<P: FnMut(u64)> Sink for Importer<'_, P> {
    fn begin(&mut self, objects: Vec<NewObject>, _: BlobId, len: u64) -> Result<(), BundleError> {
        let mut missing = Vec::with_capacity(objects.len());
        for object in objects {
            if self.runtime.block_on(is_stored(self.store, &object))? {
                self.done.skipped += 1;
            } else {
                missing.push(object);
            }
        }
        let mut missing = missing.into_iter();
        if let Some(first) = missing.next() {
            let mut writer = self.runtime.block_on(self.store.begin_blob(Some(len)))?;
            let segment = writer.begin_segment(0);
            self.current = Some(CurrentBlob { writer, segment, first, others: missing.collect() });
        }
        Ok(())
    }

    fn write(&mut self, bytes: Bytes) -> Result<(), BundleError> {
        (self.read)(bytes.len() as u64);
        if let Some(current) = &mut self.current {
            self.runtime.block_on(current.segment.write(vec![bytes]))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BundleError> {
        let Some(CurrentBlob { mut writer, segment, first, others }) = self.current.take() else {
            return Ok(());
        };
        self.runtime.block_on(async {
            writer.return_segment(segment);
            let committed = writer.commit(first).await?;
            self.done.objects += 1;
            self.done.bytes += committed.object.len;
            for object in others {
                copy(self.store, &committed.source, committed.object.len, object).await?;
                self.done.objects += 1;
            }
            Ok(())
        })
    }
}

/// Returns true if the store has this response or a newer one.
async fn is_stored(store: &Store, new: &NewObject) -> Result<bool, StoreError> {
    let variants = store.lookup(&new.key).await?;
    let is_it = |object: &crate::Object| {
        object.selecting == new.selecting && object.response_time >= new.response_time
    };
    Ok(variants.iter().any(is_it))
}

/// Stores another object with a blob that was just committed. The commit detects the duplicate.
async fn copy(store: &Arc<Store>, from: &BodySource, len: u64, object: NewObject) -> Result<(), BundleError> {
    let mut writer = store.begin_blob(Some(len)).await?;
    let mut segment = writer.begin_segment(0);
    let mut position = 0;
    while position < len {
        // The blob was written a moment ago: a disk that cannot read it back is unusable.
        let bytes = store.read(from, position).await.map_err(|error| StoreError::Io {
            doing: "read back an imported blob of",
            path: "store".into(),
            source: std::io::Error::other(error),
        })?;
        position += bytes.len() as u64;
        segment.write(vec![bytes]).await?;
    }
    writer.return_segment(segment);
    writer.commit(object).await?;
    Ok(())
}
