//! The storage of the tier, opened at the first operation. The complication of a folder is that it may vanish with its
//! mount: its parent then exists on another file system, which must not be filled.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::bucket;
use crate::problem::{TierError, TierProblem};
use gupd_config::{TierLocation, TierSettings};

/// Storage of one tier.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A folder of a file system.
    Folder { root: PathBuf, store: Arc<OnceLock<Arc<dyn ObjectStore>>> },
    /// A bucket.
    Bucket(Arc<dyn ObjectStore>),
}

impl Backend {
    pub(crate) fn new(settings: &TierSettings) -> Result<Self, TierError> {
        match &settings.location {
            TierLocation::Folder(root) => Ok(Self::Folder { root: root.clone(), store: Arc::default() }),
            TierLocation::Bucket(bucket) => Ok(Self::Bucket(bucket::open(bucket, settings.timeout)?)),
        }
    }

    /// Returns the storage.
    ///
    /// # Errors
    /// If a folder does not exist now.
    pub(crate) async fn open(&self) -> Result<Arc<dyn ObjectStore>, TierError> {
        match self {
            Self::Bucket(store) => Ok(store.clone()),
            Self::Folder { root, store } => {
                let (root, store) = (root.clone(), store.clone());
                tokio::task::spawn_blocking(move || open_folder(&root, &store))
                    .await
                    .map_err(TierError::stopped)?
            }
        }
    }
}

fn open_folder(
    root: &Path,
    store: &OnceLock<Arc<dyn ObjectStore>>,
) -> Result<Arc<dyn ObjectStore>, TierError> {
    let name = root.display();
    // Also later: a write would create the folder anew, on the file system below an absent mount.
    match std::fs::metadata(root) {
        Ok(status) if status.is_dir() => {}
        Ok(_) => return Err(TierError::new(TierProblem::Missing, format!("{name} is not a folder"))),
        Err(error) => return Err(TierError::from_io(&error, &name.to_string())),
    }
    if let Some(store) = store.get() {
        return Ok(store.clone());
    }
    let opened: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(root)?);
    Ok(store.get_or_init(|| opened).clone())
}
