//! Adoption of blobs without rows after the loss of an index, if they are missing from its journal: the trailer of each
//! file and of each record of a pack has its first object. Runs after a start with a lost index, while the relay serves. An object is found as
//! soon as it has its row. The calling sweep removes files that are not valid blobs.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::blob::{FileFault, read_trailer};
use super::budget::allocated_size;
use super::extent::BlobExtent;
use super::folder::Folder;
use super::index::IndexChange;
use super::object::NewObject;
use super::pack::{self, PackPlace, ScannedRecord};
use super::packs;
use super::{BlobId, Store, StoreError};

/// Number of blobs adopted in one transaction. Until it commits their room counts twice, which may evict others.
const ADOPTED_AT_ONCE: usize = 32;

/// A blob and its first object according to its file.
struct LostBlob {
    id: BlobId,
    len: u64,
    disk: u64,
    place: Option<PackPlace>,
    object: NewObject,
}

/// Kind of a file without a row.
enum OrphanFile {
    /// A valid blob.
    Sound(Box<LostBlob>),
    /// Not a blob, or a damaged one.
    Unsound { id: BlobId, disk: u64 },
    /// The file could not be read; a later attempt may succeed.
    Unreadable,
}

/// Result of an adoption.
pub(super) struct AdoptionSummary {
    /// Files that are not blobs.
    pub(super) unsound: Vec<BlobId>,
    /// Number of blobs that got a row, or are older than the stored object.
    pub(super) sound: usize,
    /// Number of files that could not be read.
    pub(super) unreadable: usize,
}

impl Store {
    /// Inserts rows for valid blobs.
    pub(super) async fn adopt_orphans(&self, blobs: &[BlobId]) -> Result<AdoptionSummary, StoreError> {
        let mut adopted = AdoptionSummary { unsound: Vec::new(), sound: 0, unreadable: 0 };
        for batch in blobs.chunks(ADOPTED_AT_ONCE) {
            let (folder, batch) = (Arc::clone(&self.folder), batch.to_vec());
            let read = move || batch.into_iter().map(|id| read_orphan(&folder, id)).collect::<Vec<_>>();
            let (mut lost, mut bytes) = (Vec::new(), 0);
            for orphan in spawn_blocking(read).await? {
                match orphan {
                    OrphanFile::Sound(blob) => {
                        bytes += blob.disk;
                        lost.push(*blob);
                    }
                    OrphanFile::Unsound { id, disk } => {
                        bytes += disk;
                        adopted.unsound.push(id);
                    }
                    OrphanFile::Unreadable => adopted.unreadable += 1,
                }
            }
            adopted.sound += lost.len();
            self.enter(lost).await?;
            self.index.state().release_unclaimed(bytes);
        }
        Ok(adopted)
    }

    /// Inserts rows for the valid records of packs that have none and were not removed.
    pub(super) async fn adopt_records(&self) -> Result<AdoptionSummary, StoreError> {
        let mut adopted = AdoptionSummary { unsound: Vec::new(), sound: 0, unreadable: 0 };
        let folder = Arc::clone(&self.folder);
        let sizes = spawn_blocking(move || packs::list(&folder)).await??;
        for pack in sizes.into_keys() {
            let mut next = Some(0);
            while let Some(from) = next {
                let path = self.folder.pack(pack);
                match spawn_blocking(move || read_records(&path, pack, from)).await? {
                    Ok((lost, end)) => {
                        next = end;
                        adopted.sound += self.enter(lost).await?;
                    }
                    Err(error) => {
                        tracing::warn!(pack, %error, "cannot read a pack; the next start tries again");
                        adopted.unreadable += 1;
                        next = None;
                    }
                }
            }
        }
        Ok(adopted)
    }

    /// Inserts rows for blobs without one; returns their number.
    async fn enter(&self, lost: Vec<LostBlob>) -> Result<usize, StoreError> {
        let (now, failed) = (self.clock.now(), self.index.error_mapper());
        let enter = move |change: &mut IndexChange<'_>| {
            let mut entered = 0;
            for LostBlob { id, len, disk, place, object } in &lost {
                let adopted = change.adopt_blob(object, *id, (*len, *disk), *place, now);
                entered += usize::from(adopted.map_err(&failed)?);
            }
            Ok(entered)
        };
        let (entered, gone) = self.index.change(enter).await?;
        spawn_blocking(move || drop(gone)).await?;
        Ok(entered)
    }

    /// Ends the adoption after every file was examined.
    pub(super) async fn finish_adoption(&self) -> Result<(), StoreError> {
        let failed = self.index.error_mapper();
        self.index.change(move |change| change.finish_adoption().map_err(failed)).await?;
        self.index.state().finish_adoption();
        Ok(())
    }
}

/// Reads a file's trailer. The body is verified when it is served.
fn read_orphan(folder: &Folder, id: BlobId) -> OrphanFile {
    let extent = BlobExtent::new(folder, id, None);
    let opened = File::open(&extent.path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let Ok((size, file)) = opened else { return OrphanFile::Unreadable };
    let disk = allocated_size(size);
    match read_trailer(&file, &extent) {
        Ok((len, trailer)) if trailer.id == id => match NewObject::decode(&trailer.record) {
            Some(object) => OrphanFile::Sound(Box::new(LostBlob { id, len, disk, place: None, object })),
            None => OrphanFile::Unsound { id, disk },
        },
        Ok(_) | Err(FileFault::Damaged(_)) => OrphanFile::Unsound { id, disk },
        Err(FileFault::Io(error)) => {
            tracing::warn!(blob = %id, %error, "cannot read a blob that is missing from the index; the next start tries again");
            OrphanFile::Unreadable
        }
    }
}

/// Reads the trailers of some stored records from a position on, and returns where the next ones begin.
fn read_records(path: &Path, pack: u32, from: u64) -> io::Result<(Vec<LostBlob>, Option<u64>)> {
    let file = File::open(path)?;
    let (mut lost, mut at) = (Vec::new(), from);
    while lost.len() < ADOPTED_AT_ONCE {
        let Some(ScannedRecord { place, is_removed }) = pack::next_record(&file, pack, at)? else {
            return Ok((lost, None));
        };
        at = place.at + u64::from(place.size);
        let extent = BlobExtent::packed(path.to_owned(), place);
        if let Ok((len, trailer)) = read_trailer(&file, &extent)
            && !is_removed
            && let Some(object) = NewObject::decode(&trailer.record)
        {
            let (id, disk) = (trailer.id, place.charged_bytes());
            lost.push(LostBlob { id, len, disk, place: Some(place), object });
        }
    }
    Ok((lost, Some(at)))
}
