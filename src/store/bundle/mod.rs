//! Bundles: objects of one store in a file that another store imports, for a new site or one without a line. This
//! module owns the format. A bundle is untrusted input: every claim in it is verified.
//!
//! ```text
//! gupd-bundle.json          {"format":1,"created":…}                  first
//! objects/<sha-256>.json    an object's head: key, status, fields, times, and the name and length of its blob
//! blobs/<sha-256>           that blob, after all heads that have it   … any number of these
//! end.json                  {"objects":…,"blobs":…}                   last; detects a truncated bundle
//! ```
//!
//! It is a tar of plain files in exactly this order, compressed with zstd. A head is named by the SHA-256 of its
//! key, a zero byte and its selecting fields; a blob by the SHA-256 of its bytes. An import reads the bundle
//! twice: first to verify all of it, then to import it object by object.

mod export;
mod head;
mod import;
mod read;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::export::{ExportSummary, export};
pub use self::import::{ImportSummary, import};
pub(super) use self::read::read_archive;
pub use self::read::{BundleContents, check};

use super::{StoreError, StoreLimit};
use gupd_config::clock::UnixMillis;

/// Number of the format above; a reader refuses others.
const FORMAT: u32 = 1;

/// Names of the first and the last entry.
const BEGIN: &str = "gupd-bundle.json";
const END: &str = "end.json";

/// Maximum size of a head's entry in bytes: a trailer record with every byte escaped.
const HEAD_MAX: u64 = 512 << 10;

/// Maximum number of heads before one blob, since they are held in memory. A blob with more objects is repeated.
const HEADS_MAX: usize = 64;

/// Maximum decompression window as a power of two: the limit of `zstd` without `--long`.
const WINDOW_LOG: u32 = 27;

/// Error of an export or import.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bundle's file cannot be read or written.
    #[error("cannot {doing} bundle {}: {source}", path.display())]
    File {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is not a bundle, is truncated, or contradicts itself.
    #[error("bundle {}: refused at entry \"{entry}\": {fault}; nothing was imported: export or transfer it again", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// Description of the fault.
        fault: String,
    },
    /// The file was valid when it was verified and has changed since.
    #[error("bundle {}: changed during the import at entry \"{entry}\": {fault}; earlier objects are kept: import it again from a file that does not change", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// Description of the fault.
        fault: String,
    },
    /// The store has no room for the next blob.
    #[error("store: no room for {need} bytes within `store.{limit}`; earlier objects are kept: make room and import again", limit = limit.as_str())]
    NoRoom {
        /// Bytes on disk that the blob needs.
        need: u64,
        /// The setting that limits the room.
        limit: StoreLimit,
    },
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for BundleError {
    /// For a fill these errors only mean that the response is passed through; for an import they are final.
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
