//! What a revision is: the catalogs of one moment, each as a version that is stored by itself, and the newest revision of
//! each content that managers had announced by then. Owns these types and how they are written down. A revision's contents
//! are never changed once a client may see them, but for a catalog or a content that nobody had known of.

use std::collections::BTreeMap;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use gupd_config::clock::UnixMillis;
use gupd_store::{BlobId, ObjectKey};

/// Number of a revision: the relay counts what it publishes from 1 on, and never gives a number twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevisionNumber(u64);

impl RevisionNumber {
    /// Before the first revision.
    pub const NONE: Self = Self(0);

    /// The number as such.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of the revision that is published next.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl From<u64> for RevisionNumber {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl FromStr for RevisionNumber {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for RevisionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a revision contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub number: RevisionNumber,
    /// When it was published.
    pub published: UnixMillis,
    /// Every catalog known, by plain key.
    pub catalogs: BTreeMap<ObjectKey, Catalog>,
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
        since: RevisionNumber,
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
pub fn version_key(since: RevisionNumber, key: &str) -> String {
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
