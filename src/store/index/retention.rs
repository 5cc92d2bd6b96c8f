//! Retention of objects: permanent or pinned. Owns the column `pinned`, which stores both as bits, and its changes. The
//! partial indexes of `schema` use the same numbers. A retained object is in no eviction queue and does not expire; one
//! that is only pinned is found by its last use when nothing else can be evicted.

use std::ops::BitOr;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Result, params};

use super::removal::ObjectRef;
use super::statements::IndexChange;

const PERMANENT: u8 = 1;
const PINNED: u8 = 2;

/// Protection of an object from eviction and expiry. The two flags are independent; by default neither is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Never evicted: a copy.
    pub(crate) permanent: bool,
    /// Evicted only when nothing else can be.
    pub(crate) pinned: bool,
}

impl Retention {
    pub(super) const fn bits(self) -> u8 {
        (self.permanent as u8 * PERMANENT) | (self.pinned as u8 * PINNED)
    }

    /// `None` if other bits are set.
    pub(super) const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !(PERMANENT | PINNED) != 0 {
            return None;
        }
        Some(Self { permanent: bits & PERMANENT != 0, pinned: bits & PINNED != 0 })
    }
}

impl BitOr for Retention {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { permanent: self.permanent || other.permanent, pinned: self.pinned || other.pinned }
    }
}

impl ToSql for Retention {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.bits().into())
    }
}

impl FromSql for Retention {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bits = value.as_i64()?;
        u8::try_from(bits).ok().and_then(Self::from_bits).ok_or(FromSqlError::OutOfRange(bits))
    }
}

impl IndexChange<'_> {
    /// Pins or unpins all variants of a key, and returns their number.
    pub(crate) fn set_pinned(&mut self, key: &str, pinned: bool) -> Result<usize> {
        let rows = self.select("SELECT id, key, blob FROM objects WHERE key = ?1", [key])?;
        let mut update = self.connection.prepare_cached("UPDATE objects SET pinned = ?2 WHERE id = ?1")?;
        for row in &rows {
            let Some(mut entry) = self.object(row.id)? else { continue };
            // A revision pins most objects of the one before it: no journal entry for those.
            if entry.retention.pinned != pinned {
                entry.retention.pinned = pinned;
                update.execute(params![row.id, entry.retention])?;
                entry.encode(&mut self.journal);
            }
        }
        Ok(rows.len())
    }

    /// Returns the union of the retention of these objects.
    pub(super) fn combined_retention(&self, objects: &[ObjectRef]) -> Result<Retention> {
        let mut select = self.connection.prepare_cached("SELECT pinned FROM objects WHERE id = ?1")?;
        objects.iter().try_fold(Retention::default(), |union, object| {
            Ok(union | select.query_row([object.id], |row| row.get::<_, Retention>(0))?)
        })
    }
}
