//! What a revision is: the catalogs of one moment, each as a version that is stored by itself, and the newest revision of
//! each content that managers had announced by then. Owns these types and how they are written down. A revision's contents
//! are never changed once a client may see them, but for a catalog or a content that nobody had known of.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use gupd_config::clock::UnixMillis;
use gupd_store::BlobId;

/// A revision's number: from 1, one series for the whole relay, never given twice.
pub type Number = u64;

/// What a revision contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub number: Number,
    /// When it was published.
    pub published: UnixMillis,
    /// Every catalog known, by plain key.
    pub catalogs: BTreeMap<Arc<str>, Catalog>,
    /// The newest number known of each content of a manager, by `RevisionFile::series`.
    pub sequences: BTreeMap<Arc<str>, u64>,
}

/// A catalog in a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Catalog {
    /// Its manager had none.
    Absent,
    /// Its manager had this one.
    Present {
        /// The revision that these bytes were new in: with the key, where they are stored.
        since: Number,
        /// Its bytes.
        #[serde(with = "hex")]
        blob: BlobId,
        /// Their number.
        len: u64,
    },
}

impl Catalog {
    /// Its bytes, if there are any.
    pub fn blob(self) -> Option<BlobId> {
        match self {
            Self::Absent => None,
            Self::Present { blob, .. } => Some(blob),
        }
    }
}

/// The key that a version of a catalog is stored under: no route's name begins so.
pub fn version_key(since: Number, key: &str) -> String {
    format!("@{since} {key}")
}

/// Whether a key is that of a version.
pub fn is_version(key: &str) -> bool {
    key.starts_with('@')
}

/// A blob's name as people write it.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use gupd_store::BlobId;

    pub(super) fn serialize<S: Serializer>(blob: &BlobId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(blob)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BlobId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
