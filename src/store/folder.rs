//! The store's folder: which file is where, who may use it, and whether it still is the one that was opened. Files on
//! their way in or out are in `scratch`.
//!
//! ```text
//! lock            held (flock) by the one process that may change the folder
//! index.db        the index, with its -wal and -shm; index.journal, of which it is made anew
//! blobs/ab/ab…    committed blobs
//! scrub           how far the scrub is
//! prefetched      what was stored before any client asked for it
//! audit.log       what was ordered of rollouts, which is theirs
//! partial/<n>     half-written, or about to be removed; outlives a restart only with its journal
//! partial/<n>.log the journal of a half-written file
//! partial/probe   written, moved and removed to see whether a disk that failed is well again
//! ```
//!
//! A file enters blobs/ by a rename and leaves it by one, both on the index's thread; removing the bytes, which takes
//! time for large files, happens in partial/ and elsewhere.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::budget::Reservation;
use super::error::StoreError;
use super::id::BlobId;
use super::scratch::{JOURNAL, LeftoverFile, Scratch, journal_of};

/// Numbers of files in partial/, for all stores of this process: a file that an earlier store is still removing must
/// not be another one's.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Paths in the folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// RemovalTarget folder that is.
    // Held to copy, never across I/O.
    identity: Mutex<FolderId>,
}

/// Device and inode: another file system in a folder's place is another folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FolderId(u64, u64);

/// The right to use the folder, for as long as this lives.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl Folder {
    /// Makes what is missing, locks the folder and removes what an earlier process left of no use. Gives what it left
    /// half-written, oldest first.
    pub(super) fn open(root: &Path) -> Result<(Arc<Self>, FolderLock, Vec<LeftoverFile>), StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Folder { path, source }
        };
        fs::create_dir_all(root).map_err(failed(root))?;
        let identity = Mutex::new(FolderId::of(root).map_err(failed(root))?);
        let folder = Self { root: root.to_owned(), identity };
        let lock = folder.lock()?;
        for shelf in folder.shelves() {
            fs::create_dir_all(&shelf).map_err(failed(&shelf))?;
        }
        let partial = root.join("partial");
        fs::create_dir_all(&partial).map_err(failed(&partial))?;
        let (mut numbers, mut useless) = (Vec::new(), Vec::new());
        let mut last = None;
        for entry in fs::read_dir(&partial).map_err(failed(&partial))? {
            let path = entry.map_err(failed(&partial))?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            last = last.max(number);
            match number {
                Some(number) if journal_of(&path).exists() => numbers.push(number),
                None if path.extension().is_some_and(|extension| extension == JOURNAL)
                    && path.with_extension("").exists() => {}
                _ => useless.push(path),
            }
        }
        for path in useless {
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        numbers.sort_unstable();
        // Also of those that are removed now: a process that gave the folder up may still be about to remove one.
        number_after(last);
        let of = *folder.identity();
        let left = numbers.into_iter().map(|number| LeftoverFile::new(partial.join(number.to_string()), of));
        let left = left.collect();
        Ok((Arc::new(folder), lock, left))
    }

    /// The paths in a folder, without a right to change what is there.
    pub(super) fn at(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.to_owned(), identity: Mutex::new(FolderId::of(root)?) })
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
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
        let ((number, path), of) = (self.next(), *self.identity());
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                self.hand_over(&file);
                Ok((number, file, Scratch::new(path, of, reservation)))
            }
            Err(source) => Err(StoreError::Io { doing: "create", path, source }),
        }
    }

    /// A file to fill for readers alone, which goes with the last of them.
    pub(super) fn create_nameless(&self) -> Result<(u64, File), StoreError> {
        let (number, path) = self.next();
        // The folder may be another process's, with the same numbers.
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

    /// Begins the journal beside a half-written file.
    pub(super) fn begin_journal(&self, path: &Path, begin: &[u8]) -> Result<File, StoreError> {
        self.check()?;
        let path = journal_of(path);
        let mut options = File::options();
        options.append(true).create_new(true);
        let begun = options.open(&path).and_then(|mut file| file.write_all(begin).map(|()| file));
        begun.map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// Moves a blob's file out, to be removed when the scratch is dropped; `None` if there was none.
    pub(super) fn take_out(&self, id: BlobId, hold: impl FnOnce(u64) -> Reservation) -> Option<Scratch> {
        self.check().ok()?;
        let (from, (_, path), of) = (self.blob(id), self.next(), *self.identity());
        let size = fs::metadata(&from).ok()?.len();
        let scratch = Scratch::new(path, of, hold(size));
        match fs::rename(&from, scratch.path()) {
            Ok(()) => Some(scratch),
            Err(error) => {
                tracing::warn!(path = %from.display(), %error, "cannot move a removed blob out of the store");
                None
            }
        }
    }

    /// Whether the folder still is where it was opened. What is not in another one was not removed from this one.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let identity = *self.identity();
        identity.check(&self.root)
    }

    /// Looks for a store in another folder at this place, and locks it.
    pub(super) fn find_store(&self) -> Result<Option<(FolderId, FolderLock)>, StoreError> {
        let failed = |source| StoreError::Io { doing: "look at", path: self.root.clone(), source };
        if !self.index().exists() {
            return Ok(None);
        }
        let (identity, lock) = (FolderId::of(&self.root).map_err(failed)?, self.lock()?);
        let files = fs::read_dir(self.root.join("partial")).map_err(failed)?;
        let number = |file: &Path| file.file_stem()?.to_str()?.parse::<u64>().ok();
        // Its half-written files stay until the next start.
        number_after(files.filter_map(|file| number(&file.ok()?.path())).max());
        Ok(Some((identity, lock)))
    }

    /// Uses the folder that was found at this place.
    pub(super) fn adopt(&self, identity: FolderId) {
        *self.identity() = identity;
    }

    /// Writes so many bytes, as a fill and its commit would, and removes them.
    pub(super) fn try_write(&self, bytes: u64) -> Result<(), StoreError> {
        // Of these names there is one file at most, also where it cannot be removed.
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
            // What is left of it takes room that is wanting.
            let _unlinked = fs::remove_file(&path);
            StoreError::Io { doing: "write", path, source }
        })
    }

    /// Writes a small file of the folder's own, whole or not at all. Not synced.
    pub(super) fn replace(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.check()?;
        let (path, new) = (self.root.join(name), self.root.join(format!("{name}.new")));
        let done = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        done.map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// Bytes that the file system has free for this user.
    pub(super) fn free(&self) -> Result<u64, StoreError> {
        self.check()?;
        match rustix::fs::statvfs(&self.root) {
            Ok(stat) => Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(errno) => Err(StoreError::Io {
                doing: "ask for the free space of",
                path: self.root.clone(),
                source: io::Error::from(errno),
            }),
        }
    }

    /// A file is the folder's owner's, also one that a command of root's makes: the service could not read it
    /// otherwise. SQLite does the same with its own.
    fn hand_over(&self, file: &File) {
        if let (Ok(folder), Ok(made)) = (fs::metadata(&self.root), file.metadata())
            && folder.uid() != made.uid()
        {
            let _only_root_may = fchown(file, Some(folder.uid()), Some(folder.gid()));
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

    /// A number that no file in partial/ has had, and the path by it.
    pub(super) fn next(&self) -> (u64, PathBuf) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (number, self.root.join("partial").join(number.to_string()))
    }
}

impl FolderId {
    fn of(root: &Path) -> io::Result<Self> {
        fs::metadata(root).map(|root| Self(root.dev(), root.ino()))
    }

    /// Whether that is the folder there.
    pub(super) fn check(self, root: &Path) -> Result<(), StoreError> {
        match Self::of(root) {
            Ok(found) if found == self => Ok(()),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { doing: "look at", path: root.to_owned(), source })
            }
            _ => Err(StoreError::FolderGone { path: root.to_owned() }),
        }
    }
}

/// Numbers go on after this one.
fn number_after(last: Option<u64>) {
    NEXT.fetch_max(last.map_or(0, |last| last.saturating_add(1)), Ordering::Relaxed);
}
