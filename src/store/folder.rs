//! The store folder: its layout, its lock, and the check that it is still the folder that was opened. Temporary
//! files are in `scratch`.
//!
//! ```text
//! lock            held (flock) by the one process that may change the folder
//! index.db        the index, with its -wal and -shm; index.journal, from which it is rebuilt
//! blobs/ab/ab…    committed blobs
//! packs/<n>       committed blobs smaller than a block
//! scrub           progress of the scrub
//! prefetched      objects that were prefetched and not used yet
//! ledger.db       history of traffic, written by the ledger crate
//! audit.log       log of rollout commands, written by the rollout crate
//! partial/<n>     unfinished, or about to be removed; survives a restart only with its journal
//! partial/<n>.log the journal of an unfinished file
//! partial/probe   written, moved and removed to test whether a failed disk works again
//! ```
//!
//! A file enters and leaves blobs/ by a rename on the index thread, which also writes packs/. Unlinking, which takes time for large files,
//! happens in partial/ on other threads.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::budget::Reservation;
use super::error::StoreError;
use super::id::BlobId;
use super::scratch::{FolderId, JOURNAL, LeftoverFile, Scratch, journal_path};

/// Next file number in partial/, for all stores of this process: an earlier store may still be removing its file.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The folder and its paths.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Identity of the opened folder.
    // Locked to copy, never across I/O.
    identity: Mutex<FolderId>,
}

/// Holds the folder's lock until it is dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl Folder {
    /// Creates missing folders, locks the store, and removes useless files of an earlier process. Returns the
    /// resumable unfinished files, oldest first.
    pub(super) fn open(root: &Path) -> Result<(Arc<Self>, FolderLock, Vec<LeftoverFile>), StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Folder { path, source }
        };
        fs::create_dir_all(root).map_err(failed(root))?;
        let identity = Mutex::new(FolderId::read(root).map_err(failed(root))?);
        let folder = Self { root: root.to_owned(), identity };
        let lock = folder.lock()?;
        for dir in folder.blob_dirs() {
            fs::create_dir_all(&dir).map_err(failed(&dir))?;
        }
        let (partial, packs) = (root.join("partial"), folder.packs());
        for dir in [&partial, &packs] {
            fs::create_dir_all(dir).map_err(failed(dir))?;
        }
        let (mut numbers, mut useless) = (Vec::new(), Vec::new());
        let mut last = None;
        for entry in fs::read_dir(&partial).map_err(failed(&partial))? {
            let path = entry.map_err(failed(&partial))?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            last = last.max(number);
            match number {
                Some(number) if journal_path(&path).exists() => numbers.push(number),
                None if path.extension().is_some_and(|extension| extension == JOURNAL)
                    && path.with_extension("").exists() => {}
                _ => useless.push(path),
            }
        }
        for path in useless {
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        numbers.sort_unstable();
        // Counts removed files too: a process that released the folder may still be about to remove one.
        skip_numbers_to(last);
        let identity = *folder.identity();
        let left =
            numbers.into_iter().map(|number| LeftoverFile::new(partial.join(number.to_string()), identity));
        let left = left.collect();
        Ok((Arc::new(folder), lock, left))
    }

    /// Returns the paths of a folder without the right to change it.
    pub(super) fn open_read_only(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.to_owned(), identity: Mutex::new(FolderId::read(root)?) })
    }

    /// Returns the path of the folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of the index.
    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.db")
    }

    /// Returns the path of a blob.
    pub(super) fn blob(&self, id: BlobId) -> PathBuf {
        let name = id.to_string();
        self.root.join("blobs").join(&name[..2]).join(name)
    }

    /// Returns the 256 folders of blobs.
    pub(super) fn blob_dirs(&self) -> impl Iterator<Item = PathBuf> {
        (0..=u8::MAX).map(|prefix| self.root.join("blobs").join(format!("{prefix:02x}")))
    }

    /// Returns the folder of packs.
    pub(super) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    /// Returns the path of a pack.
    pub(super) fn pack(&self, number: u32) -> PathBuf {
        self.packs().join(number.to_string())
    }

    /// Creates a pack.
    pub(super) fn create_pack(&self, number: u32) -> Result<File, StoreError> {
        self.check()?;
        let path = self.pack(number);
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                self.chown_to_owner(&file);
                Ok(file)
            }
            Err(source) => Err(StoreError::Io { doing: "create", path, source }),
        }
    }

    /// Creates a file for a fill and returns its number.
    pub(super) fn create(&self, reservation: Reservation) -> Result<(u64, File, Scratch), StoreError> {
        let ((number, path), identity) = (self.next_path(), *self.identity());
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                self.chown_to_owner(&file);
                Ok((number, file, Scratch::new(path, identity, reservation)))
            }
            Err(source) => Err(StoreError::Io { doing: "create", path, source }),
        }
    }

    /// Creates an unlinked file for a fill; it disappears with its last reader.
    pub(super) fn create_unlinked(&self) -> Result<(u64, File), StoreError> {
        let (number, path) = self.next_path();
        // Another process may own the folder and use the same numbers.
        let path = path.with_extension(format!("{}.tmp", std::process::id()));
        let create = || {
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        };
        let file =
            create().map_err(|source| StoreError::Io { doing: "create", path: path.clone(), source })?;
        Ok((number, file))
    }

    /// Creates the journal of an unfinished file.
    pub(super) fn create_journal(&self, path: &Path, begin: &[u8]) -> Result<File, StoreError> {
        self.check()?;
        let path = journal_path(path);
        let mut options = File::options();
        options.append(true).create_new(true);
        let begun = options.open(&path).and_then(|mut file| file.write_all(begin).map(|()| file));
        begun.map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// Moves a blob's file to partial/, to be removed when the scratch is dropped; `None` if there was none.
    pub(super) fn move_out(&self, id: BlobId, reserve: impl FnOnce(u64) -> Reservation) -> Option<Scratch> {
        self.check().ok()?;
        let (from, (_, path), identity) = (self.blob(id), self.next_path(), *self.identity());
        let size = fs::metadata(&from).ok()?.len();
        let scratch = Scratch::new(path, identity, reserve(size));
        match fs::rename(&from, scratch.path()) {
            Ok(()) => Some(scratch),
            Err(error) => {
                tracing::warn!(path = %from.display(), %error, "cannot move removed blob out of the store");
                None
            }
        }
    }

    /// Checks that the folder is still the one that was opened. A file missing from another folder was not
    /// removed from this one.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let identity = *self.identity();
        identity.check(&self.root)
    }

    /// Finds and locks a store in another folder mounted at this path.
    pub(super) fn find_replacement(&self) -> Result<Option<(FolderId, FolderLock)>, StoreError> {
        let failed = |source| StoreError::Io { doing: "stat", path: self.root.clone(), source };
        if !self.index().exists() {
            return Ok(None);
        }
        let (identity, lock) = (FolderId::read(&self.root).map_err(failed)?, self.lock()?);
        let files = fs::read_dir(self.root.join("partial")).map_err(failed)?;
        let number = |file: &Path| file.file_stem()?.to_str()?.parse::<u64>().ok();
        // Its unfinished files stay until the next start.
        skip_numbers_to(files.filter_map(|file| number(&file.ok()?.path())).max());
        Ok(Some((identity, lock)))
    }

    /// Switches to the folder found at this path.
    pub(super) fn set_identity(&self, identity: FolderId) {
        *self.identity() = identity;
    }

    /// Writes and removes `bytes` bytes, with the same operations as a fill and its commit.
    pub(super) fn probe_write(&self, bytes: u64) -> Result<(), StoreError> {
        // Fixed names: at most one such file exists, even if it cannot be removed.
        let path = self.root.join("partial").join("probe");
        let moved = path.with_extension("moved");
        let write = || {
            let mut file = File::create(&path)?;
            io::copy(&mut io::repeat(1).take(bytes), &mut file)?;
            file.sync_data()?;
            fs::rename(&path, &moved)?;
            fs::remove_file(&moved)
        };
        write().map_err(|source| {
            // The rest of the file would take room.
            let _unlinked = fs::remove_file(&path);
            StoreError::Io { doing: "write", path, source }
        })
    }

    /// Replaces a small file of the folder atomically. Not synced.
    pub(super) fn replace_file(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.check()?;
        let (path, new) = (self.root.join(name), self.root.join(format!("{name}.new")));
        let done = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        done.map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// Returns the bytes that the file system has free for this user.
    pub(super) fn free_bytes(&self) -> Result<u64, StoreError> {
        self.check()?;
        match rustix::fs::statvfs(&self.root) {
            Ok(stat) => Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(errno) => Err(StoreError::Io {
                doing: "read the free space of",
                path: self.root.clone(),
                source: io::Error::from(errno),
            }),
        }
    }

    /// Gives a file to the folder's owner, also when root runs a command; the service could not read it
    /// otherwise. SQLite does the same with its files.
    fn chown_to_owner(&self, file: &File) {
        if let (Ok(folder), Ok(made)) = (fs::metadata(&self.root), file.metadata())
            && folder.uid() != made.uid()
        {
            let _ignored_unless_root = fchown(file, Some(folder.uid()), Some(folder.gid()));
        }
    }

    fn lock(&self) -> Result<FolderLock, StoreError> {
        let path = self.root.join("lock");
        let failed = |source| StoreError::Folder { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: self.root.clone() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    fn identity(&self) -> MutexGuard<'_, FolderId> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an unused file number and its path in partial/.
    pub(super) fn next_path(&self) -> (u64, PathBuf) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (number, self.root.join("partial").join(number.to_string()))
    }
}

/// Returns device and inode of a folder.
pub(super) fn read_id(root: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(root).map(|root| (root.dev(), root.ino()))
}

/// Skips all numbers up to `last`.
fn skip_numbers_to(last: Option<u64>) {
    NEXT.fetch_max(last.map_or(0, |last| last.saturating_add(1)), Ordering::Relaxed);
}
