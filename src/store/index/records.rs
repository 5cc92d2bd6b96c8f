//! NamedValue values beside the objects: records, which outlive the index by its journal, and what is known of clients,
//! which does not. What a value says is its owner's. Each row has a checksum of its own, as objects have: a record that
//! differs is damage of the index, a client's row is left out, for the client will come again.

use rusqlite::{Connection, Result, Row, params};
use xxhash_rust::xxh3::Xxh3;

use super::check::damage;
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

    /// The same as the journal has it, which is told nothing.
    pub(super) fn restore_record(&self, name: &str, value: Option<&[u8]>) -> Result<()> {
        let (insert, delete) = (
            "INSERT OR REPLACE INTO records (name, value, sum) VALUES (?1, ?2, ?3)",
            "DELETE FROM records WHERE name = ?1",
        );
        self.set(insert, delete, name, value)
    }

    /// Sets what is known of a client, or removes it.
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
                self.connection.prepare_cached(insert)?.execute(params![name, value, sum(name, value)])
            }
            None => self.connection.prepare_cached(delete)?.execute([name]),
        };
        changed.map(drop)
    }
}

/// All records whose names begin with `prefix`, in the order of names.
pub(super) fn records(connection: &Connection, prefix: &str) -> Result<Vec<NamedValue>> {
    let mut select =
        connection.prepare_cached("SELECT name, value, sum FROM records WHERE name >= ?1 ORDER BY name")?;
    let rows = select.query_map([prefix], |row| stored(row)?.ok_or_else(damaged))?;
    rows.take_while(|row| row.as_ref().map_or(true, |(name, _)| name.starts_with(prefix))).collect()
}

/// Shows every record. Reads everything.
pub(super) fn each(connection: &Connection, mut show: impl FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
    let mut select = connection.prepare("SELECT name, value, sum FROM records")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (name, value) = stored(row)?.ok_or_else(damaged)?;
        show(&name, &value)?;
    }
    Ok(())
}

/// What is known of clients behind the name `after`, in the order of names, at most `limit` of them.
pub(super) fn clients(connection: &Connection, after: &str, limit: usize) -> Result<Vec<NamedValue>> {
    let mut select =
        connection.prepare_cached("SELECT name, value, sum FROM clients WHERE name > ?1 ORDER BY name")?;
    let rows = select.query_map([after], stored)?;
    rows.filter_map(Result::transpose).take(limit).collect()
}

/// A row as it was written; `None` for anything else.
fn stored(row: &Row<'_>) -> Result<Option<NamedValue>> {
    let (name, value): NamedValue = (row.get(0)?, row.get(1)?);
    Ok((row.get::<_, i64>(2)? == sum(&name, &value)).then_some((name, value)))
}

fn damaged() -> rusqlite::Error {
    damage("a record's checksum differs")
}

fn sum(name: &str, value: &[u8]) -> i64 {
    let mut sum = Xxh3::new();
    sum.update(&(name.len() as u64).to_le_bytes());
    sum.update(name.as_bytes());
    sum.update(value);
    sum.digest().cast_signed()
}
