//! Verifying the whole store: each blob of the index against its file, each file against the index. It reads and
//! reports; [`Store::repair_blob`] and [`Store::clear`] are for the process that holds the folder's lock. Beside a
//! running relay blobs come and go meanwhile, so what looks wrong is looked at once more before it is said. Blocks.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::Store;
use super::error::StoreError;
use super::id::BlobId;
use super::inspect::{Inspection, InspectionFault};
use super::inventory::Inventory;
use super::trailer::Fault;

/// Something that is wrong, in one line for the administrator.
#[derive(Debug)]
#[non_exhaustive]
pub enum Finding {
    /// The file is not what was stored.
    Damaged {
        /// The blob.
        blob: BlobId,
        /// What does not agree.
        fault: &'static str,
        /// How many objects have it.
        objects: u64,
    },
    /// The index has a blob, the disk has no file.
    Missing {
        /// The blob.
        blob: BlobId,
        /// How many objects have it.
        objects: u64,
    },
    /// The index does not have this blob.
    Orphan {
        /// The blob.
        blob: BlobId,
    },
    /// A file that no gupd has put there. Never removed.
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// This process cannot read it. Never removed: it may be sound.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// Blobs.
    pub blobs: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// Verifies every blob and every file. Tells the bytes read, as they are, and each finding once.
///
/// # Errors
/// When the index or a folder cannot be read.
pub fn verify(
    inventory: &Inventory,
    mut read: impl FnMut(u64),
    mut found: impl FnMut(Finding) -> Result<(), StoreError>,
) -> Result<VerifySummary, StoreError> {
    let mut strays = strays(inventory)?;
    let mut verified = VerifySummary::default();
    for blob in inventory.blobs() {
        let (id, len) = blob?;
        if let Some(finding) = inspect(inventory, id, len, &mut read)? {
            found(finding)?;
        }
        verified.blobs += 1;
        verified.bytes += len;
    }
    // A commit puts its file there an instant before its row.
    strays.retain(|stray| match stray {
        Finding::Orphan { blob } => {
            inventory.path(*blob).exists() && matches!(inventory.uses(*blob), Ok(None))
        }
        _ => true,
    });
    strays.into_iter().try_for_each(found)?;
    Ok(verified)
}

impl Store {
    /// Removes what was found wrong, with all objects that have it, so that it is fetched when next asked for. Gives
    /// whether there was something to do: what may be sound or is not gupd's is left alone.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn remove_finding(&self, finding: &Finding) -> Result<bool, StoreError> {
        match *finding {
            Finding::Damaged { blob, .. } | Finding::Missing { blob, .. } => {
                self.discard_blob(blob).await?;
            }
            // The first one's sweep is that of all others too.
            Finding::Orphan { blob } if self.folder.blob(blob).exists() => {
                if !self.index.absent(vec![blob]).await?.is_empty() {
                    self.sweep_orphans().await?;
                }
            }
            Finding::Orphan { .. } => {}
            Finding::Foreign { .. } | Finding::Unreadable { .. } => return Ok(false),
        }
        Ok(true)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { blob, fault, objects } => {
                write!(f, "blob {blob} is damaged: {fault}; {objects} objects have it")
            }
            Self::Missing { blob, objects } => {
                write!(f, "blob {blob} has no file; {objects} objects have it")
            }
            Self::Orphan { blob } => write!(f, "blob {blob} has a file and no row in the index"),
            Self::Foreign { path } => {
                write!(f, "{} is not a blob's file; move it elsewhere", path.display())
            }
            Self::Unreadable { path, source } => {
                write!(f, "cannot read {}: {source}; run this as the user gupd runs as", path.display())
            }
        }
    }
}

/// What is wrong with a blob that the index has.
fn inspect(
    inventory: &Inventory,
    id: BlobId,
    len: u64,
    read: &mut impl FnMut(u64),
) -> Result<Option<Finding>, StoreError> {
    let path = inventory.path(id);
    let inspected = Inspection::begin(&path, id, len).and_then(|mut file| file.finish(read));
    let fault: Option<Fault> = match inspected {
        Ok(()) => return Ok(None),
        Err(InspectionFault::Unreadable(source)) => return Ok(Some(Finding::Unreadable { path, source })),
        Err(InspectionFault::Damaged(fault)) => Some(fault),
        Err(InspectionFault::Gone) => None,
    };
    // RemovalStats meanwhile: nothing is wrong with what is not there.
    let Some(objects) = inventory.uses(id)? else { return Ok(None) };
    Ok(Some(match fault {
        Some(fault) => Finding::Damaged { blob: id, fault, objects },
        None => Finding::Missing { blob: id, objects },
    }))
}

/// Files that the index does not speak of.
fn strays(inventory: &Inventory) -> Result<Vec<Finding>, StoreError> {
    let mut strays = Vec::new();
    for shelf in inventory.shelves() {
        let failed = |source| StoreError::Io { doing: "list", path: shelf.clone(), source };
        let files = match fs::read_dir(&shelf) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files.map_err(failed)?,
        };
        for file in files {
            let path = file.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            match name.and_then(|name| name.parse().ok()).filter(|id| inventory.path(*id) == path) {
                None => strays.push(Finding::Foreign { path }),
                Some(blob) if inventory.uses(blob)?.is_none() => strays.push(Finding::Orphan { blob }),
                Some(_) => {}
            }
        }
    }
    Ok(strays)
}
