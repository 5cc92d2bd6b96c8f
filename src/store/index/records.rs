//! Named values beside the objects: records, which the journal preserves, and client rows, which it does not.
//! Their content belongs to the callers. Each row has its own checksum, as objects have. A differing record means
//! that the index is damaged; a differing client row is skipped, since the client will come again.

use rusqlite::{Connection, Result, Row, params};
use xxhash_rust::xxh3::Xxh3;

use super::check::corruption;
use super::journal;
use super::statements::IndexChange;

/// A name and its value.
pub(crate) type NamedValue = (String, Vec<u8>);

impl IndexChange<'_> {
    /// Sets a record, or removes it.
    pub(crate) fn set_record(&mut self, name: &str, value: Option<&[u8]>) -> Result<()> {
        self.restore_record(name, value)?;
        journal::encode_record(name, value, &mut self.journal);
        Ok(())
    }

    /// Sets a record from the journal, without a new entry.
    pub(super) fn restore_record(&self, name: &str, value: Option<&[u8]>) -> Result<()> {
        let (insert, delete) = (
            "INSERT OR REPLACE INTO records (name, value, sum) VALUES (?1, ?2, ?3)",
            "DELETE FROM records WHERE name = ?1",
        );
        self.set(insert, delete, name, value)
    }

    /// Sets a client row, or removes it.
    pub(crate) fn set_client(&self, name: &str, value: Option<&[u8]>) -> Result<()> {
        let (insert, delete) = (
            "INSERT OR REPLACE INTO clients (name, value, sum) VALUES (?1, ?2, ?3)",
            "DELETE FROM clients WHERE name = ?1",
        );
        self.set(insert, delete, name, value)
    }

    fn set(&self, insert: &str, delete: &str, name: &str, value: Option<&[u8]>) -> Result<()> {
        let changed = match value {
            Some(value) => {
                self.connection.prepare_cached(insert)?.execute(params![name, value, checksum(name, value)])
            }
            None => self.connection.prepare_cached(delete)?.execute([name]),
        };
        changed.map(drop)
    }
}

/// Returns all records with names that begin with `prefix`, ordered by name.
pub(super) fn with_prefix(connection: &Connection, prefix: &str) -> Result<Vec<NamedValue>> {
    let mut select =
        connection.prepare_cached("SELECT name, value, sum FROM records WHERE name >= ?1 ORDER BY name")?;
    let rows = select.query_map([prefix], |row| decode(row)?.ok_or_else(record_corruption))?;
    rows.take_while(|row| row.as_ref().map_or(true, |(name, _)| name.starts_with(prefix))).collect()
}

/// Passes every record to `visit`. Reads the whole table.
pub(super) fn for_each(
    connection: &Connection,
    mut visit: impl FnMut(&str, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut select = connection.prepare("SELECT name, value, sum FROM records")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (name, value) = decode(row)?.ok_or_else(record_corruption)?;
        visit(&name, &value)?;
    }
    Ok(())
}

/// Returns at most `limit` client rows after the name `after`, ordered by name.
pub(super) fn page_clients(connection: &Connection, after: &str, limit: usize) -> Result<Vec<NamedValue>> {
    let mut select =
        connection.prepare_cached("SELECT name, value, sum FROM clients WHERE name > ?1 ORDER BY name")?;
    let rows = select.query_map([after], decode)?;
    rows.filter_map(Result::transpose).take(limit).collect()
}

/// Decodes a row; `None` if its checksum differs.
fn decode(row: &Row<'_>) -> Result<Option<NamedValue>> {
    let (name, value): NamedValue = (row.get(0)?, row.get(1)?);
    Ok((row.get::<_, i64>(2)? == checksum(&name, &value)).then_some((name, value)))
}

fn record_corruption() -> rusqlite::Error {
    corruption("a record's checksum differs")
}

fn checksum(name: &str, value: &[u8]) -> i64 {
    let mut sum = Xxh3::new();
    sum.update(&(name.len() as u64).to_le_bytes());
    sum.update(name.as_bytes());
    sum.update(value);
    sum.digest().cast_signed()
}
