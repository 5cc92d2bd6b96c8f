//! What can go wrong with the store, in words for the administrator: what, where, what to do. Every [`StoreError`]
//! leaves the caller one way out, passing the response through uncached; every [`ReadError`] ends a body as broken.
//! Nothing here decides; nothing may turn an error into a clean end of a short body.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::ObjectKey;
use super::health::StoreHealth;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder cannot be made, read or written.
    #[error("cannot use the store folder: {}: {source}; make it writable for the user gupd runs as, or set another `store.dir`", path.display())]
    Folder {
        /// The path that failed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("the store folder {} is in use by another gupd; stop that one, or set another `store.dir`", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Another process has the folder now, and this one only goes on with what it had begun.
    #[error("the store was handed over to another process")]
    Released,
    /// Nothing is there, or nothing of gupd's.
    #[error("there is no store in {}; name its folder with --store, or the file that does with --config", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// The index was written by a later version.
    #[error("the index {} has schema {found}, this gupd reads up to {known}; start the gupd that wrote it, or move the file away to begin an empty index", path.display())]
    NewerIndex {
        /// The index file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema read here.
        known: i64,
    },
    /// The index failed.
    #[error("the index {} failed: {reason}; check the disk, and restart gupd if this repeats", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// Larger than everything the store may hold.
    #[error(
        "an object needs {need} bytes on disk and `store.quota` is {quota}; it is passed through, raise the quota to keep it"
    )]
    TooLarge {
        /// Bytes on disk it needs.
        need: u64,
        /// The quota in bytes.
        quota: u64,
    },
    /// Evicting could not make room.
    #[error("no room for {need} bytes within `store.{limit}`; the object is passed through", limit = limit.as_str())]
    NoRoom {
        /// Bytes on disk it needs.
        need: u64,
        /// The setting that is in the way.
        limit: StoreLimit,
    },
    /// The response's head is larger than a blob's trailer may hold.
    #[error(
        "the response head needs {bytes} bytes and the store keeps at most {max}; the object is passed through"
    )]
    HeadTooLarge {
        /// Bytes of the encoded head.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}: {source}; check the disk", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was written a moment ago cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// A thread of the store ended in the middle of its work: gupd is stopping, or a panic was logged.
    #[error("a thread of the store ended before its work did: {0}")]
    Stopped(#[from] tokio::task::JoinError),
    /// The folder is not the one that was opened.
    #[error("{} is not the folder that the store was opened in; mount its file system again, or a store in its place", path.display())]
    FolderGone {
        /// The folder.
        path: PathBuf,
    },
    /// The index is not what was written. It is made anew, and nobody has to do anything.
    #[error("the index {} is damaged and is being made anew: {reason}", path.display())]
    IndexDamaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// The disk is known to fail, and was not tried.
    #[error("the store's disk is {health}; the object is passed through", health = health.as_str())]
    Degraded {
        /// How it is.
        health: StoreHealth,
    },
    /// Another store is where this one was, and whoever writes has not looked at it yet.
    #[error("another store has come in this one's place; ask again in a moment")]
    Replaced,
    /// What was to be stored once more is not what it was.
    #[error(
        "nothing can be stored as {key:?}: the object to copy is gone or has other bytes by now; nothing was changed, look it up and publish again"
    )]
    NotCopied {
        /// The copy's key.
        key: ObjectKey,
    },
    /// A record is larger than the index's journal takes.
    #[error(
        "the record {name:?} needs {bytes} bytes and the store keeps at most {max}; nothing was changed, split it"
    )]
    RecordTooLarge {
        /// Its name.
        name: String,
        /// Bytes of its name and value.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A writer was used after one of its operations failed or was abandoned.
    #[error("this fill's file is incomplete after an earlier failure; the object is passed through")]
    Broken,
}

/// The setting that bounds the store's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreLimit {
    /// `store.quota`.
    Quota,
    /// `store.min_free`.
    MinFree,
}

impl StoreLimit {
    /// The setting's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::MinFree => "min_free",
        }
    }
}

/// Why bytes could not be read. Cloned to every reader that waited for the same bytes.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file is not what was written: discard the blob and fetch again.
    #[error("{what} is damaged: {fault}; it is fetched again")]
    Damaged {
        /// The blob's name, or which half-written file.
        what: String,
        /// What does not agree.
        fault: &'static str,
    },
    /// The file is not there (evicted, or taken away): discard the blob and fetch again.
    #[error("{what} is no longer in the store; it is fetched again")]
    Gone {
        /// The blob's name.
        what: String,
    },
    /// Nothing is readable at this position: it is past the end, or not written yet.
    #[error("{what} is readable up to byte {readable}, not at {position}")]
    OutOfRange {
        /// The blob's name, or which half-written file.
        what: String,
        /// The position asked for.
        position: u64,
        /// The end of what is readable.
        readable: u64,
    },
    /// The disk could not be read.
    #[error("cannot read {what}: {source}; check the disk")]
    Io {
        /// The blob's name, or which half-written file.
        what: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
}
