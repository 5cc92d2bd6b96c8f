//! Errors of the store, worded for the administrator: subject, cause, remedy. On any [`StoreError`] the caller
//! passes the response through uncached; any [`ReadError`] ends a body as broken. No error may become a clean end
//! of a short body.
//!
//! [`StoreHealth`] is defined here because an error reports it; `health` maintains it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::ObjectKey;
use rustix::io::Errno;

/// Error of a store operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder cannot be created, read or written.
    #[error("store folder: {}: {source}: make it writable for the user of gupd, or set another `store.dir`", path.display())]
    Folder {
        /// The path that failed.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Another process has locked the folder.
    #[error("store folder {}: in use by another gupd: stop that process, or set another `store.dir`", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder was released to another process; this one only finishes running downloads.
    #[error("store: released to another process")]
    Released,
    /// The folder does not exist or is not a store.
    #[error("store folder {}: no store found: pass its folder with --store, or a configuration file with --config", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// The folder does not admit this user.
    #[error("store folder {}: permission denied: run the command with sudo, or as the user of the relay", path.display())]
    Forbidden {
        /// The folder.
        path: PathBuf,
    },
    /// The index was written by a later version.
    #[error("index {}: schema {found} is newer than {known}, the newest this gupd reads: start the gupd that wrote it, or move the file away to start with an empty index", path.display())]
    NewerIndex {
        /// The index file.
        path: PathBuf,
        /// Schema version of the file.
        found: i64,
        /// Newest schema version known here.
        known: i64,
    },
    /// The index failed.
    #[error("index {}: {reason}: check the disk, and restart gupd if this repeats", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// Message of SQLite.
        reason: String,
    },
    /// The object is larger than the quota.
    #[error(
        "object: needs {need} bytes on disk, more than `store.quota` of {quota}; passed through uncached: raise the quota to store it"
    )]
    TooLarge {
        /// Bytes on disk that the object needs.
        need: u64,
        /// The quota in bytes.
        quota: u64,
    },
    /// Eviction could not make room.
    #[error("store: no room for {need} bytes within `store.{limit}`; the object is passed through uncached", limit = limit.as_str())]
    NoRoom {
        /// Bytes on disk that the object needs.
        need: u64,
        /// The setting that limits the room.
        limit: StoreLimit,
    },
    /// The response head is larger than a blob's trailer may hold.
    #[error("response head: needs {bytes} bytes, the limit is {max}; the object is passed through uncached")]
    HeadTooLarge {
        /// Size of the encoded head in bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}: {source}: check the disk", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Bytes written a moment ago cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// A store thread ended early: gupd is stopping, or a panic was logged.
    #[error("store: a thread ended before its work was done: {0}")]
    Stopped(#[from] tokio::task::JoinError),
    /// The folder at this path is not the one that was opened.
    #[error("store folder {}: not the folder that was opened: mount its file system again, or another store in its place", path.display())]
    FolderGone {
        /// The folder.
        path: PathBuf,
    },
    /// The index is damaged. It is being rebuilt; no action is needed.
    #[error("index {}: damaged and being rebuilt: {reason}", path.display())]
    IndexDamaged {
        /// The file.
        path: PathBuf,
        /// Message of SQLite.
        reason: String,
    },
    /// The disk is known to fail; the operation was not attempted.
    #[error("store disk: {health}; the object is passed through uncached", health = health.as_str())]
    Degraded {
        /// State of the disk.
        health: StoreHealth,
    },
    /// Another store has replaced this one, and the caller has not yet noticed.
    #[error("store: replaced by another store; retry in a moment")]
    Replaced,
    /// The object to copy is gone or has changed.
    #[error(
        "copy {key:?}: the original is gone or has changed; nothing was published: look it up and publish again"
    )]
    NotCopied {
        /// Key of the copy.
        key: ObjectKey,
    },
    /// The record is larger than a journal entry may be.
    #[error("record {name:?}: needs {bytes} bytes, the limit is {max}; nothing was published: split it")]
    RecordTooLarge {
        /// Name of the record.
        name: String,
        /// Bytes of its name and value.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A writer was used after one of its operations failed or was abandoned.
    #[error("fill: its file is incomplete after an earlier failure; the object is passed through uncached")]
    Broken,
}

/// Setting that limits the store's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreLimit {
    /// `store.quota`.
    Quota,
    /// `store.min_free`.
    MinFree,
}

impl StoreLimit {
    /// Returns the name of the setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::MinFree => "min_free",
        }
    }
}

/// State of the store's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreHealth {
    /// No failure is known.
    #[default]
    Healthy,
    /// Not even one chunk fits within `store.min_free`. Fills still try, since they evict; a successful one ends
    /// this state.
    NoRoom,
    /// The file system has no space or no inodes left.
    Full,
    /// The file system is read-only.
    ReadOnly,
    /// The process or the machine has no file descriptors left.
    NoDescriptors,
    /// The folder was replaced or is missing: its file system was unmounted.
    Gone,
    /// Reads, writes or the index fail.
    Failing,
}

impl StoreHealth {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Healthy,
        Self::NoRoom,
        Self::Full,
        Self::ReadOnly,
        Self::NoDescriptors,
        Self::Gone,
        Self::Failing,
    ];

    /// Returns the label in metrics, logs and `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "well",
            Self::NoRoom => "no-room",
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::NoDescriptors => "no-descriptors",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    /// Returns the state that explains an error; `None` if the disk is not to blame.
    pub(super) fn from_error(error: &StoreError) -> Option<Self> {
        match error {
            StoreError::Io { source, .. } | StoreError::Folder { source, .. } => {
                Some(Self::from_io_error(source))
            }
            StoreError::Read(ReadError::Io { source, .. }) => Some(Self::from_io_error(source)),
            StoreError::FolderGone { .. } => Some(Self::Gone),
            // SQLite reports less than the file system; the probe asks the file system.
            StoreError::Index { .. } => Some(Self::Failing),
            _ => None,
        }
    }

    pub(super) fn from_io_error(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Full,
            Some(Errno::ROFS) => Self::ReadOnly,
            Some(Errno::MFILE | Errno::NFILE) => Self::NoDescriptors,
            Some(Errno::NOTCONN | Errno::NODEV | Errno::NXIO | Errno::STALE) => Self::Gone,
            _ => Self::Failing,
        }
    }
}

/// Error of a read. Cloned to every reader that waited for the same bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file is damaged: discard the blob and fetch it again.
    #[error("{subject}: damaged: {fault}; fetched again")]
    Damaged {
        /// The blob or partial file.
        subject: String,
        /// Kind of mismatch.
        fault: &'static str,
    },
    /// The file is missing (evicted or removed): discard the blob and fetch it again.
    #[error("{subject}: no longer in the store; fetched again")]
    Gone {
        /// The blob.
        subject: String,
    },
    /// The position is past the end, or not written yet.
    #[error("{subject}: readable up to byte {readable}, not at {position}")]
    OutOfRange {
        /// The blob or partial file.
        subject: String,
        /// Requested position.
        position: u64,
        /// End of the readable bytes.
        readable: u64,
    },
    /// The disk could not be read.
    #[error("{subject}: cannot read: {source}: check the disk")]
    Io {
        /// The blob or partial file.
        subject: String,
        /// Error of the system.
        source: Arc<io::Error>,
    },
}
