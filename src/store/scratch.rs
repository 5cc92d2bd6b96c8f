//! Temporary files in partial/: unfinished ones with their journals, and those about to be removed. This module
//! decides when they are unlinked. Each file knows the identity of its folder, since another folder uses the same
//! numbers. If that folder was replaced, nothing is opened, moved or removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::budget::Reservation;
use super::error::StoreError;

/// File name extension of a journal.
pub(super) const JOURNAL: &str = "log";

/// Identity of a folder: device and inode. They differ when another file system is mounted at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FolderId(u64, u64);

impl FolderId {
    pub(super) fn read(root: &Path) -> io::Result<Self> {
        fs::metadata(root).map(|root| Self(root.dev(), root.ino()))
    }

    /// Checks that the folder at `root` is this one.
    pub(super) fn check(self, root: &Path) -> Result<(), StoreError> {
        match Self::read(root) {
            Ok(found) if found == self => Ok(()),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { doing: "stat", path: root.to_owned(), source })
            }
            _ => Err(StoreError::FolderGone { path: root.to_owned() }),
        }
    }
}

/// An unfinished file of an earlier process.
#[derive(Debug)]
pub(super) struct LeftoverFile {
    path: PathBuf,
    folder: FolderId,
}

impl LeftoverFile {
    /// The file at `path`, in that folder.
    pub(super) fn new(path: PathBuf, folder: FolderId) -> Self {
        Self { path, folder }
    }

    /// Reads its journal.
    pub(super) fn read_journal(&self) -> Result<Vec<u8>, StoreError> {
        let path = journal_path(&self.path);
        fs::read(&path).map_err(|source| StoreError::Io { doing: "read", path, source })
    }

    /// Removes the file and its journal.
    pub(super) fn remove(self) -> Result<(), StoreError> {
        for path in [journal_path(&self.path), self.path] {
            fs::remove_file(&path).map_err(|source| StoreError::Io { doing: "remove", path, source })?;
        }
        Ok(())
    }

    /// Takes the file over.
    pub(super) fn into_scratch(self, reservation: Reservation) -> Scratch {
        Scratch { path: self.path, folder: self.folder, reservation, is_linked: true, has_journal: true }
    }
}

/// A file in partial/, its journal if any, and its reserved room. All are released on drop. Dropping unlinks, so
/// it belongs on a thread that may block.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Identity of its folder.
    folder: FolderId,
    pub(super) reservation: Reservation,
    is_linked: bool,
    has_journal: bool,
}

impl Scratch {
    /// The file at `path`, in that folder.
    pub(super) fn new(path: PathBuf, folder: FolderId, reservation: Reservation) -> Self {
        Self { path, folder, reservation, is_linked: true, has_journal: false }
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Records that a journal is about to be created, and returns the file's path.
    pub(super) fn enable_journal(&mut self) -> PathBuf {
        self.has_journal = true;
        self.path.clone()
    }

    /// Removes the journal; a later fill cannot resume the file. Unlinks a small file.
    pub(super) fn remove_journal(&mut self) {
        if std::mem::take(&mut self.has_journal) && self.check().is_ok() {
            remove(&journal_path(&self.path));
        }
    }

    /// Returns true if a later fill can resume the file.
    pub(super) fn has_journal(&self) -> bool {
        self.has_journal
    }

    /// Opens the file and its journal for further writes; returns the file's number too.
    pub(super) fn reopen(&self) -> Result<(u64, File, File), StoreError> {
        self.check()?;
        let number = self.path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { doing: "open", path, source }
        };
        let journal = journal_path(&self.path);
        let file = File::options().read(true).write(true).open(&self.path).map_err(failed(&self.path))?;
        let journal = File::options().append(true).open(&journal).map_err(failed(&journal))?;
        Ok((number.ok_or(StoreError::Broken)?, file, journal))
    }

    /// Leaves the files on disk: the process ends, and the next one may resume them.
    pub(super) fn keep_files(mut self) {
        self.is_linked = false;
        self.has_journal = false;
    }

    /// Renames the file to `to`, replacing any file there.
    pub(super) fn rename_to(&mut self, to: &Path) -> Result<(), StoreError> {
        self.check()?;
        fs::rename(&self.path, to).map_err(|source| StoreError::Io {
            doing: "move a complete blob to",
            path: to.to_owned(),
            source,
        })?;
        self.is_linked = false;
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        let root = self.path.ancestors().nth(2).unwrap_or(&self.path);
        self.folder.check(root)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove_journal();
        if self.is_linked && self.check().is_ok() {
            remove(&self.path);
        }
    }
}

/// Returns the path of a file's journal.
pub(super) fn journal_path(path: &Path) -> PathBuf {
    path.with_extension(JOURNAL)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove temporary file; it stays until the next start");
    }
}
