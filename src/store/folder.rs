//! The store's folder: which file is where, who may use it, and files on their way in or out.
//!
//! ```text
//! lock            held (flock) by the one process that may change the folder
//! index.db        the index, with its -wal and -shm; index.journal, of which it is made anew
//! blobs/ab/ab…    committed blobs
//! scrub           how far the scrub is
//! partial/<n>     half-written, or about to be removed; outlives a restart only with its journal
//! partial/<n>.log the journal of a half-written file
//! ```
//!
//! A file enters blobs/ by a rename and leaves it by one, both on the index's thread; removing the bytes, which takes
//! time for large files, happens in partial/ and elsewhere.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;
use super::id::BlobId;
use super::room::Reservation;

/// Numbers of files in partial/, for all stores of this process: a file that an earlier store is still removing must
/// not be another one's.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What the name of a journal ends with.
const JOURNAL: &str = "log";

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
    /// Makes what is missing, locks the folder and removes what an earlier process left of no use. Gives what it left
    /// half-written, oldest first.
    pub(super) fn open(root: &Path) -> Result<(Arc<Self>, FolderLock, Vec<Left>), StoreError> {
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
        let (mut numbers, mut useless) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&partial).map_err(failed(&partial))? {
            let path = entry.map_err(failed(&partial))?.path();
            match path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()) {
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
        NEXT.fetch_max(numbers.last().map_or(0, |last| last.saturating_add(1)), Ordering::Relaxed);
        let left = numbers.into_iter().map(|number| Left { path: partial.join(number.to_string()) });
        Ok((Arc::new(folder), FolderLock { _file: file }, left.collect()))
    }

    /// The paths in a folder, without a right to change what is there.
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
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
        let (number, path) = self.next();
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                self.hand_over(&file);
                Ok((number, file, Scratch { path, reservation, there: true, journal: false }))
            }
            Err(source) => Err(StoreError::Io { doing: "create", path, source }),
        }
    }

    /// Begins the journal beside a half-written file.
    pub(super) fn begin_journal(path: &Path, begin: &[u8]) -> Result<File, StoreError> {
        let path = journal_of(path);
        let mut options = File::options();
        options.append(true).create_new(true);
        let begun = options.open(&path).and_then(|mut file| file.write_all(begin).map(|()| file));
        begun.map_err(|source| StoreError::Io { doing: "write", path, source })
    }

    /// Moves a blob's file out, to be removed when the scratch is dropped; `None` if there was none.
    pub(super) fn take_out(&self, id: BlobId, hold: impl FnOnce(u64) -> Reservation) -> Option<Scratch> {
        let (from, (_, path)) = (self.blob(id), self.next());
        let size = fs::metadata(&from).ok()?.len();
        let scratch = Scratch { path, reservation: hold(size), there: true, journal: false };
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

    /// A file is the folder's owner's, also one that a command of root's makes: the service could not read it
    /// otherwise. SQLite does the same with its own.
    fn hand_over(&self, file: &File) {
        if let (Ok(folder), Ok(made)) = (fs::metadata(&self.root), file.metadata())
            && folder.uid() != made.uid()
        {
            let _only_root_may = fchown(file, Some(folder.uid()), Some(folder.gid()));
        }
    }

    fn next(&self) -> (u64, PathBuf) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (number, self.root.join("partial").join(number.to_string()))
    }
}

/// A half-written file that an earlier process left.
#[derive(Debug)]
pub(super) struct Left {
    path: PathBuf,
}

impl Left {
    /// The bytes of its journal.
    pub(super) fn journal(&self) -> Result<Vec<u8>, StoreError> {
        let path = journal_of(&self.path);
        fs::read(&path).map_err(|source| StoreError::Io { doing: "read", path, source })
    }

    /// Removes it.
    pub(super) fn remove(self) -> Result<(), StoreError> {
        for path in [journal_of(&self.path), self.path] {
            fs::remove_file(&path).map_err(|source| StoreError::Io { doing: "remove", path, source })?;
        }
        Ok(())
    }

    /// Takes it over.
    pub(super) fn into_scratch(self, reservation: Reservation) -> Scratch {
        Scratch { path: self.path, reservation, there: true, journal: true }
    }
}

/// A file in partial/, its journal if it has one, and the room it takes; all go when it is dropped. Dropping unlinks,
/// so it belongs on a thread that may block.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    pub(super) reservation: Reservation,
    there: bool,
    journal: bool,
}

impl Scratch {
    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that a journal is about to be begun; gives the file's path.
    pub(super) fn with_journal(&mut self) -> PathBuf {
        self.journal = true;
        self.path.clone()
    }

    /// Removes the journal: the file is of no use to a later fill. Unlinks a small file.
    pub(super) fn without_journal(&mut self) {
        if std::mem::take(&mut self.journal) {
            remove(&journal_of(&self.path));
        }
    }

    /// Whether a later fill can go on with it.
    pub(super) fn has_journal(&self) -> bool {
        self.journal
    }

    /// The file's number, the file and its journal, to go on writing both.
    pub(super) fn reopen(&self) -> Result<(u64, File, File), StoreError> {
        let number = self.path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { doing: "open", path, source }
        };
        let journal = journal_of(&self.path);
        let file = File::options().read(true).write(true).open(&self.path).map_err(failed(&self.path))?;
        let journal = File::options().append(true).open(&journal).map_err(failed(&journal))?;
        Ok((number.ok_or(StoreError::Broken)?, file, journal))
    }

    /// Leaves the files where they are: the process ends, and the next one may go on with them.
    pub(super) fn leave(mut self) {
        self.there = false;
        self.journal = false;
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
        self.without_journal();
        if self.there {
            remove(&self.path);
        }
    }
}

fn journal_of(path: &Path) -> PathBuf {
    path.with_extension(JOURNAL)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file, it stays until the next start");
    }
}
