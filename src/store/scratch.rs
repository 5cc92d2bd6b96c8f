//! Files in partial/: half-written ones with their journals, and those about to be removed. Owns when they go. Each
//! knows the folder that it is in, since numbers are names in any other folder as well: where that folder is not,
//! nothing is opened, moved or removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::budget::Reservation;
use super::error::StoreError;
use super::folder::FolderId;

/// What the name of a journal ends with.
pub(super) const JOURNAL: &str = "log";

/// A half-written file that an earlier process left.
#[derive(Debug)]
pub(super) struct LeftoverFile {
    path: PathBuf,
    of: FolderId,
}

impl LeftoverFile {
    /// The file at `path`, in that folder.
    pub(super) fn new(path: PathBuf, of: FolderId) -> Self {
        Self { path, of }
    }

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
        Scratch { path: self.path, of: self.of, reservation, there: true, journal: true }
    }
}

/// A file in partial/, its journal if it has one, and the room it takes; all go when it is dropped. Dropping unlinks,
/// so it belongs on a thread that may block.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// The folder it is in. A file of its name in another folder is another one.
    of: FolderId,
    pub(super) reservation: Reservation,
    there: bool,
    journal: bool,
}

impl Scratch {
    /// The file at `path`, in that folder.
    pub(super) fn new(path: PathBuf, of: FolderId, reservation: Reservation) -> Self {
        Self { path, of, reservation, there: true, journal: false }
    }

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
        if std::mem::take(&mut self.journal) && self.check().is_ok() {
            remove(&journal_of(&self.path));
        }
    }

    /// Whether a later fill can go on with it.
    pub(super) fn has_journal(&self) -> bool {
        self.journal
    }

    /// The file's number, the file and its journal, to go on writing both.
    pub(super) fn reopen(&self) -> Result<(u64, File, File), StoreError> {
        self.check()?;
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
        self.check()?;
        fs::rename(&self.path, to).map_err(|source| StoreError::Io {
            doing: "move a complete blob to",
            path: to.to_owned(),
            source,
        })?;
        self.there = false;
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        let root = self.path.ancestors().nth(2).unwrap_or(&self.path);
        self.of.check(root)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.without_journal();
        if self.there && self.check().is_ok() {
            remove(&self.path);
        }
    }
}

/// The journal beside a file.
pub(super) fn journal_of(path: &Path) -> PathBuf {
    path.with_extension(JOURNAL)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file, it stays until the next start");
    }
}
