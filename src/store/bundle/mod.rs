//! Bundles: objects of one store in a file that another takes in, for a site without a line or a new one. Owns the
//! format and how strictly it is read; a bundle says of itself that it is sound, and nothing it says is believed.
//!
//! ```text
//! gupd-bundle.json          {"format":1,"created":…}                  first
//! objects/<sha-256>.json    an object's head: key, status, fields, times, and the name and length of its blob
//! blobs/<sha-256>           that blob, behind all heads that have it  … any number of these
//! end.json                  {"objects":…,"blobs":…}                   last, so that a bundle that was cut is known
//! ```
//!
//! It is a tar of plain files in exactly this order, compressed with zstd. A head's name is the SHA-256 of its key, a
//! zero byte and its selecting fields; a blob's name is the SHA-256 of its bytes. An import reads the bundle twice:
//! once to verify all of it, and only then to take it in, object by object.

mod export;
mod head;
mod import;
mod read;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::export::{ExportSummary, export};
pub use self::import::{ImportSummary, import};
pub use self::read::{BundleContents, check};

use super::{StoreError, StoreLimit};
use gupd_config::clock::UnixMillis;

/// Number of the format above; a reader refuses others.
const FORMAT: u32 = 1;

/// Names of the first and the last entry.
const BEGIN: &str = "gupd-bundle.json";
const END: &str = "end.json";

/// Bytes of a head's entry, at most: a record of the store's trailer with every byte escaped.
const HEAD_MAX: u64 = 512 << 10;

/// Heads before one blob, at most, since they are held until it comes; a blob with more objects comes again.
const HEADS_MAX: usize = 64;

/// Bytes of the window a bundle may need for decompression, as a power of two: what `zstd` itself takes without
/// `--long`.
const WINDOW_LOG: u32 = 27;

/// Why a bundle was not written or not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bundle's file.
    #[error("cannot {doing} the bundle {}: {source}", path.display())]
    File {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not one, or not whole, or does not agree with itself.
    #[error("the bundle {} is refused at entry \"{entry}\": {fault}; nothing of it was taken in, get or export it again", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// What is wrong.
        fault: String,
    },
    /// It was sound when it was verified, and no longer was when it was read.
    #[error("the bundle {} changed while it was taken in, at entry \"{entry}\": {fault}; what came before is kept, run it again with a file that nobody writes to", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// What is wrong.
        fault: String,
    },
    /// The store cannot hold what comes next.
    #[error("no room for {need} bytes within `store.{limit}`; what came before is kept, make room and import it again", limit = limit.as_str())]
    NoRoom {
        /// Bytes on disk that it needs.
        need: u64,
        /// The setting that is in the way.
        limit: StoreLimit,
    },
    /// The store.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for BundleError {
    /// What passes a response through uncached ends an import.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoRoom { need, limit } => Self::NoRoom { need, limit },
            StoreError::TooLarge { need, .. } => Self::NoRoom { need, limit: StoreLimit::Quota },
            other => Self::Store(other),
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct BeginEntry {
    format: u32,
    created: UnixMillis,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct EndEntry {
    objects: u64,
    blobs: u64,
}
