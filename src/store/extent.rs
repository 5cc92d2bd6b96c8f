//! Extent of a blob's bytes in a file: a file of its own, or a part of a pack.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::folder::Folder;
use super::id::BlobId;
use super::pack::PackPlace;

/// Bytes of a blob in a file.
#[derive(Clone, Debug)]
pub(super) struct BlobExtent {
    pub(super) path: PathBuf,
    /// Position of the body's first byte.
    pub(super) start: u64,
    /// Number of bytes; `None` for the whole file.
    size: Option<u64>,
}

impl BlobExtent {
    /// Returns the extent of a blob at `place`, or in its own file.
    pub(super) fn new(folder: &Folder, id: BlobId, place: Option<PackPlace>) -> Self {
        match place {
            Some(place) => Self::packed(folder.pack(place.pack), place),
            None => Self { path: folder.blob(id), start: 0, size: None },
        }
    }

    /// Returns the extent of `place` in the pack at `path`.
    pub(super) fn packed(path: PathBuf, place: PackPlace) -> Self {
        Self { path, start: place.at, size: Some(u64::from(place.size)) }
    }

    /// Returns the end of the bytes in `file`.
    pub(super) fn end(&self, file: &File) -> io::Result<u64> {
        let size = file.metadata()?.len();
        Ok(self.size.map_or(size, |own| size.min(self.start.saturating_add(own))))
    }
}
