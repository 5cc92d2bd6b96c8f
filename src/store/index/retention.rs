//! What holds an object in the store that others would push out: a pin, or that it is kept. Owns the column `pinned`
//! and its changes. The partial indexes of `schema` speak of the same numbers, so that what is held has no turn and no
//! age, and what is only kept is found by its last use when nothing else is left.

use std::ops::BitOr;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Result, params};

use super::statements::{IndexChange, ObjectRef};

const PINNED: u8 = 1;
const KEPT: u8 = 2;

/// Either does not end the other. By default neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// It never goes.
    pub(crate) pinned: bool,
    /// It goes for room when there is nothing else.
    pub(crate) kept: bool,
}

impl Retention {
    pub(super) const fn bits(self) -> u8 {
        (self.pinned as u8 * PINNED) | (self.kept as u8 * KEPT)
    }

    /// `None` if there are others.
    pub(super) const fn from_bits(bits: u8) -> Option<Self> {
        if bits & !(PINNED | KEPT) != 0 {
            return None;
        }
        Some(Self { pinned: bits & PINNED != 0, kept: bits & KEPT != 0 })
    }
}

impl BitOr for Retention {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { pinned: self.pinned || other.pinned, kept: self.kept || other.kept }
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
    /// Changes what holds all variants of a key; how many there are.
    pub(crate) fn hold(&mut self, key: &str, change: impl Fn(Retention) -> Retention) -> Result<usize> {
        let rows = self.select("SELECT id, key, blob FROM objects WHERE key = ?1", [key])?;
        let mut update = self.connection.prepare_cached("UPDATE objects SET pinned = ?2 WHERE id = ?1")?;
        for row in &rows {
            let Some(mut put) = self.object(row.id)? else { continue };
            let hold = change(put.hold);
            // A revision keeps what the one before it kept: that is not worth a frame each time.
            if hold != put.hold {
                update.execute(params![row.id, hold])?;
                put.hold = hold;
                put.encode(&mut self.journal);
            }
        }
        Ok(rows.len())
    }

    /// What holds any of these.
    pub(super) fn held(&self, found: &[ObjectRef]) -> Result<Retention> {
        let mut hold = self.connection.prepare_cached("SELECT pinned FROM objects WHERE id = ?1")?;
        found.iter().try_fold(Retention::default(), |any, object| {
            Ok(any | hold.query_row([object.id], |row| row.get::<_, Retention>(0))?)
        })
    }
}
