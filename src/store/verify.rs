//! Verification of the whole store: each blob of the index against its file, each file against the index. It
//! reads and reports; [`Store::repair_blob`] and [`Store::remove_finding`] need the process that holds the
//! folder's lock. Beside a running relay blobs come and go, so a suspect is checked a second time before it is
//! reported. Blocks.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::Store;
use super::error::StoreError;
use super::id::BlobId;
use super::inspect::InspectionFault;
use super::inventory::Inventory;
use super::trailer::Fault;

/// A fault, displayed as one line for the administrator.
#[derive(Debug)]
#[non_exhaustive]
pub enum Finding {
    /// The file differs from the stored content.
    Damaged {
        /// The blob.
        blob: BlobId,
        /// Kind of mismatch.
        fault: &'static str,
        /// Number of its objects.
        objects: u64,
    },
    /// The index has the blob, but the file is missing.
    Missing {
        /// The blob.
        blob: BlobId,
        /// Number of its objects.
        objects: u64,
    },
    /// The file has no row in the index.
    Orphan {
        /// The blob.
        blob: BlobId,
    },
    /// A file that gupd did not create. Never removed.
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read by this process. Never removed: it may be intact.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

/// Totals of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// Blobs.
    pub blobs: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// Verifies every blob and every file. Calls `read` with the bytes of each piece, and `found` once for each
/// fault.
///
/// # Errors
/// When the index or a folder cannot be read.
pub fn verify(
    inventory: &Inventory,
    mut read: impl FnMut(u64),
    mut found: impl FnMut(Finding) -> Result<(), StoreError>,
) -> Result<VerifySummary, StoreError> {
    let mut strays = find_strays(inventory)?;
    let mut verified = VerifySummary::default();
    for blob in inventory.blobs() {
        let (id, len) = blob?;
        if let Some(finding) = inspect(inventory, id, len, &mut read)? {
            found(finding)?;
        }
        verified.blobs += 1;
        verified.bytes += len;
    }
    // A commit renames its file just before it inserts the row.
    strays.retain(|stray| match stray {
        Finding::Orphan { blob } => {
            inventory.blob_path(*blob).exists() && matches!(inventory.object_count(*blob), Ok(None))
        }
        _ => true,
    });
    strays.into_iter().try_for_each(found)?;
    Ok(verified)
}

impl Store {
    /// Removes a faulty blob with all its objects, so that the next request fetches it again. Returns false for
    /// files that may be intact or are not gupd's; those stay.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub async fn remove_finding(&self, finding: &Finding) -> Result<bool, StoreError> {
        match *finding {
            Finding::Damaged { blob, .. } | Finding::Missing { blob, .. } => {
                self.discard_blob(blob).await?;
            }
            // One sweep removes all orphans.
            Finding::Orphan { blob } if self.folder.blob(blob).exists() => {
                if !self.index.missing_blobs(vec![blob]).await?.is_empty() {
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
                write!(f, "blob {blob}: damaged: {fault}; objects: {objects}")
            }
            Self::Missing { blob, objects } => {
                write!(f, "blob {blob}: file is missing; objects: {objects}")
            }
            Self::Orphan { blob } => write!(f, "blob {blob}: file has no row in the index"),
            Self::Foreign { path } => {
                write!(f, "{}: not a blob: move it elsewhere", path.display())
            }
            Self::Unreadable { path, source } => {
                write!(
                    f,
                    "{}: cannot read: {source}: run this command as the user of the gupd service",
                    path.display()
                )
            }
        }
    }
}

/// Returns the fault of a blob in the index, if any.
fn inspect(
    inventory: &Inventory,
    id: BlobId,
    len: u64,
    read: &mut impl FnMut(u64),
) -> Result<Option<Finding>, StoreError> {
    let (path, opened) = inventory.inspect(id, len)?;
    let inspected = opened.and_then(|mut file| file.read_to_end(read));
    let fault: Option<Fault> = match inspected {
        Ok(()) => return Ok(None),
        Err(InspectionFault::Unreadable(source)) => return Ok(Some(Finding::Unreadable { path, source })),
        Err(InspectionFault::Damaged(fault)) => Some(fault),
        Err(InspectionFault::Gone) => None,
    };
    // Removed meanwhile: no fault.
    let Some(objects) = inventory.object_count(id)? else { return Ok(None) };
    Ok(Some(match fault {
        Some(fault) => Finding::Damaged { blob: id, fault, objects },
        None => Finding::Missing { blob: id, objects },
    }))
}

/// Returns files without a row in the index.
fn find_strays(inventory: &Inventory) -> Result<Vec<Finding>, StoreError> {
    let mut strays = Vec::new();
    for dir in inventory.blob_dirs() {
        let failed = |source| StoreError::Io { doing: "list", path: dir.clone(), source };
        let files = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files.map_err(failed)?,
        };
        for file in files {
            let path = file.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            match name.and_then(|name| name.parse().ok()).filter(|id| inventory.blob_path(*id) == path) {
                None => strays.push(Finding::Foreign { path }),
                Some(blob) if inventory.object_count(blob)?.is_none() => {
                    strays.push(Finding::Orphan { blob });
                }
                Some(_) => {}
            }
        }
    }
    Ok(strays)
}
