//! The store's folder: which file is where, who may use it, and files on their way in or out.
//!
//! ```text
//! lock            held (flock) by the one process that uses the folder
//! index.db        the index, with its -wal and -shm
//! blobs/ab/ab…    committed blobs
//! partial/<n>     half-written, or about to be removed; nothing in here outlives a restart
//! ```
//!
//! A file enters blobs/ by a rename and leaves it by one, both on the index's thread; removing the bytes, which takes
//! time for large files, happens in partial/ and elsewhere.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;
use super::id::BlobId;
use super::room::Reservation;

/// Numbers of files in partial/, for all stores of this process: a file that an earlier store is still removing must
/// not be another one's.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Paths in the folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

/// The right to use the folder, for as long as this lives.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl Folder {
    /// Makes what is missing, locks the folder and removes what an earlier process left half-written.
    pub(super) fn open(root: &Path) -> Result<(Arc<Self>, FolderLock), StoreError> {
        let folder = Self { root: root.to_owned() };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Folder { path, source }
        };
        fs::create_dir_all(root).map_err(failed(root))?;
        let lock = root.join("lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&lock).map_err(failed(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: folder.root }),
            Err(TryLockError::Error(source)) => return Err(StoreError::Folder { path: lock, source }),
        }
        for shelf in folder.shelves() {
            fs::create_dir_all(&shelf).map_err(failed(&shelf))?;
        }
        let partial = root.join("partial");
        fs::create_dir_all(&partial).map_err(failed(&partial))?;
        for entry in fs::read_dir(&partial).map_err(failed(&partial))? {
            let path = entry.map_err(failed(&partial))?.path();
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        Ok((Arc::new(folder), FolderLock { _file: file }))
    }

    /// The index's file.
    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.db")
    }

    /// A blob's file.
    pub(super) fn blob(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.root.join("blobs").join(&name[..2]).join(name)
    }

    /// The 256 folders blobs are in.
    pub(super) fn shelves(&self) -> impl Iterator<Item = PathBuf> {
        (0..=u8::MAX).map(|shelf| self.root.join("blobs").join(format!("{shelf:02x}")))
    }

    /// A new file to fill, and its number.
    pub(super) fn create(&self, reservation: Reservation) -> Result<(u64, File, Scratch), StoreError> {
        let (number, path) = self.next();
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => Ok((number, file, Scratch { path, reservation, there: true })),
            Err(source) => Err(StoreError::Io { doing: "create", path, source }),
        }
    }

    /// Moves a blob's file out, to be removed when the scratch is dropped; `None` if there was none.
    pub(super) fn take_out(&self, id: BlobId, hold: impl FnOnce(u64) -> Reservation) -> Option<Scratch> {
        let (from, (_, path)) = (self.blob(id), self.next());
        let size = fs::metadata(&from).ok()?.len();
        let scratch = Scratch { path, reservation: hold(size), there: true };
        match fs::rename(&from, &scratch.path) {
            Ok(()) => Some(scratch),
            Err(error) => {
                tracing::warn!(path = %from.display(), %error, "cannot move a removed blob out of the store");
                None
            }
        }
    }

    /// Bytes that the file system has free for this user.
    pub(super) fn free(&self) -> Result<u64, StoreError> {
        match rustix::fs::statvfs(&self.root) {
            Ok(stat) => Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(errno) => Err(StoreError::Io {
                doing: "ask for the free space of",
                path: self.root.clone(),
                source: io::Error::from(errno),
            }),
        }
    }

    fn next(&self) -> (u64, PathBuf) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (number, self.root.join("partial").join(number.to_string()))
    }
}

/// A file in partial/ and the room it takes; both go when it is dropped. Dropping unlinks, so it belongs on a thread
/// that may block.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    pub(super) reservation: Reservation,
    there: bool,
}

impl Scratch {
    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file a blob's, in place of what may be there. A rename, so all or nothing.
    pub(super) fn put_in(&mut self, to: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, to).map_err(|source| StoreError::Io {
            doing: "move a complete blob to",
            path: to.to_owned(),
            source,
        })?;
        self.there = false;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.there
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a file, it stays until the next start");
        }
    }
}
