//! Key of an object: route, binding if any, then path and query in normal form. `gupd_http::key` builds and
//! splits the text. The index, the cache and the rollouts use it as a name.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

/// Key of an object. Cheap to clone; derefs to its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text without a copy.
    pub fn to_shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl Deref for ObjectKey {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

// A key hashes and compares as its text, so maps can be looked up by text.
impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ObjectKey {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for ObjectKey {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Arc<str>> for ObjectKey {
    fn from(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromSql for ObjectKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Arc::column_result(value).map(Self)
    }
}

impl ToSql for ObjectKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}
