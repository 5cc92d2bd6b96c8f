//! A revision: the catalogs of one instant, each a version stored by itself, and the newest number of each content that
//! managers had announced by then. This file owns these types and their stored form. Once a client may see a revision,
//! only catalogs and contents that were not known before are added to it.

use std::collections::BTreeMap;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use gupd_config::clock::UnixMillis;
use gupd_store::{BlobId, ObjectKey};

/// Number of a revision: the relay counts what it publishes from 1 on, and never gives a number twice.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
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

/// Contents of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub number: RevisionNumber,
    /// Time of its publication.
    pub published: UnixMillis,
    /// Every known catalog, by plain key.
    pub catalogs: BTreeMap<ObjectKey, Catalog>,
    /// The newest number known of each content of a manager, by `RevisionFile::series`.
    pub sequences: BTreeMap<Arc<str>, u64>,
}

/// A catalog in a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Catalog {
    /// The manager had none.
    Absent,
    /// The manager had this one.
    Present {
        /// The first revision with this content. With the key it says where the content is stored.
        since: RevisionNumber,
        /// Its content.
        #[serde(with = "hex")]
        blob: BlobId,
        /// Its length in bytes.
        len: u64,
    },
}

impl Catalog {
    /// Returns the content, if there is any.
    pub fn blob(self) -> Option<BlobId> {
        match self {
            Self::Absent => None,
            Self::Present { blob, .. } => Some(blob),
        }
    }
}

/// Returns the key that a version of a catalog is stored under. No route's name begins with `@`.
pub fn version_key(since: RevisionNumber, key: &str) -> String {
    format!("@{since} {key}")
}

/// A blob's name in hexadecimal.
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
