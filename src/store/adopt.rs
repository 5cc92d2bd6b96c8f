//! Rows for blobs that lost theirs with the index and are not in its journal: the trailer of each has its first object.
//! Runs behind a start with a lost index, while the relay serves; an object is found from the moment it has its row. A
//! file that is not a sound blob is left to the sweep that called.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::blob::{FileFault, read_trailer};
use super::budget::on_disk;
use super::index::IndexChange;
use super::object::NewObject;
use super::{BlobId, Store, StoreError};

/// Blobs that get their rows in one transaction. Until it is through their room counts twice, which may evict others.
const ADOPTED_AT_ONCE: usize = 32;

/// A blob and its first object, as its file tells.
struct LostBlob {
    id: BlobId,
    len: u64,
    disk: u64,
    object: NewObject,
}

/// What a file without a row is.
enum OrphanFile {
    /// A blob.
    Sound(Box<LostBlob>),
    /// None, or one that was damaged.
    Unsound { id: BlobId, disk: u64 },
    /// The disk does not say; it may another time.
    Unread,
}

/// What came of a number of files.
pub(super) struct AdoptionSummary {
    /// Those that are no blobs.
    pub(super) unsound: Vec<BlobId>,
    /// How many got a row, or were older than what has their place.
    pub(super) sound: usize,
    /// How many could not be read.
    pub(super) unread: usize,
}

impl Store {
    /// Gives rows to those of the blobs whose files are sound.
    pub(super) async fn adopt(&self, blobs: &[BlobId]) -> Result<AdoptionSummary, StoreError> {
        let mut adopted = AdoptionSummary { unsound: Vec::new(), sound: 0, unread: 0 };
        for batch in blobs.chunks(ADOPTED_AT_ONCE) {
            let (folder, batch) = (Arc::clone(&self.folder), batch.to_vec());
            let read = move || batch.into_iter().map(|id| look(&folder.blob(id), id)).collect::<Vec<_>>();
            let (mut lost, mut bytes) = (Vec::new(), 0);
            for orphan in spawn_blocking(read).await? {
                match orphan {
                    OrphanFile::Sound(blob) => {
                        bytes += blob.disk;
                        lost.push(blob);
                    }
                    OrphanFile::Unsound { id, disk } => {
                        bytes += disk;
                        adopted.unsound.push(id);
                    }
                    OrphanFile::Unread => adopted.unread += 1,
                }
            }
            adopted.sound += lost.len();
            let (now, failed) = (self.clock.now(), self.index.failure());
            let enter = move |change: &mut IndexChange<'_>| {
                for blob in &lost {
                    change.adopt(&blob.object, blob.id, (blob.len, blob.disk), now).map_err(&failed)?;
                }
                Ok(())
            };
            let ((), gone) = self.index.change(enter).await?;
            spawn_blocking(move || drop(gone)).await?;
            self.index.state().claimed(bytes);
        }
        Ok(adopted)
    }

    /// Every file has been looked at.
    pub(super) async fn adopted_all(&self) -> Result<(), StoreError> {
        let failed = self.index.failure();
        self.index.change(move |change| change.adopted_all().map_err(failed)).await?;
        self.index.state().all_claimed();
        Ok(())
    }
}

/// Reads what a file says of itself, not its body: that is checked when it is served.
fn look(path: &Path, id: BlobId) -> OrphanFile {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let Ok((size, file)) = opened else { return OrphanFile::Unread };
    let disk = on_disk(size);
    match read_trailer(&file) {
        Ok((len, trailer)) if trailer.id == id => match NewObject::decode(&trailer.record) {
            Some(object) => OrphanFile::Sound(Box::new(LostBlob { id, len, disk, object })),
            None => OrphanFile::Unsound { id, disk },
        },
        Ok(_) | Err(FileFault::Damaged(_)) => OrphanFile::Unsound { id, disk },
        Err(FileFault::Io(error)) => {
            tracing::warn!(blob = %id, %error, "cannot read a blob that the index lost; the next start tries again");
            OrphanFile::Unread
        }
    }
}
