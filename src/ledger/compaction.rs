//! The ageing of the ledger: minutes become hours, hours become days, and clients and objects beyond the largest lose
//! their names. Sums stay the same until days expire. A higher level keeps a quarter of the level below it: a ledger
//! that outgrows its maximum loses resolution first and old days last.

use rusqlite::{Connection, Transaction, params};

use crate::database::OTHERS;

/// Highest level.
pub(crate) const MAX_LEVEL: u32 = 5;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Seconds for which points of a minute are kept, then those of an hour and of a day.
const MINUTES_FOR: i64 = 2 * DAY;
const HOURS_FOR: i64 = 90 * DAY;
const DAYS_FOR: i64 = 730 * DAY;

/// Seconds for which clients and objects are kept by the hour.
const NAMES_FOR: i64 = 2 * DAY;

/// Clients or objects of an hour, and of a day, that keep their names.
const NAMES_OF_HOUR: i64 = 1_000;
const NAMES_OF_DAY: i64 = 100;

/// A table with its key beside `step` and `at`, and its sums.
struct Table {
    name: &'static str,
    key: &'static str,
    sums: &'static [&'static str],
    /// Column of clients or objects.
    names: Option<&'static str>,
}

const TRAFFIC: &[&str] = &["transfers", "received", "sent", "followers"];

const TABLES: [Table; 7] = [
    Table { name: "line", key: "peer, upstream, cause, content_type, form", sums: TRAFFIC, names: None },
    Table { name: "site", key: "content_type", sums: &["sent", "saved", "requests", "hits"], names: None },
    Table {
        name: "clients",
        key: "client, cause, content_type, from_revision",
        sums: TRAFFIC,
        names: Some("client"),
    },
    Table {
        name: "client_groups",
        key: "client_group, cause, content_type",
        sums: TRAFFIC,
        names: Some("client_group"),
    },
    Table { name: "objects", key: "object, cause, from_revision", sums: TRAFFIC, names: Some("object") },
    Table { name: "waits", key: "client, reason", sums: &["waits", "millis"], names: Some("client") },
    Table {
        name: "incidents",
        key: "client, incident, content_type",
        sums: &["times", "bytes"],
        names: Some("client"),
    },
];

/// Ages all tables to the time `now` in seconds.
pub(crate) fn compact(connection: &mut Connection, now: i64, level: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for table in &TABLES {
        table.compact(&transaction, now, level)?;
    }
    transaction.commit()
}

impl Table {
    fn compact(&self, transaction: &Transaction<'_>, now: i64, level: u32) -> rusqlite::Result<()> {
        let shorten = |time: i64| time >> (2 * level);
        match self.names {
            None => {
                self.roll_up(transaction, 60, HOUR, now - shorten(MINUTES_FOR))?;
                self.roll_up(transaction, HOUR, DAY, now - shorten(HOURS_FOR))?;
            }
            Some(column) => {
                // Folded first: a full file has no room for copies of all names.
                self.fold_names(transaction, column, HOUR, shorten(NAMES_OF_HOUR).max(1))?;
                self.roll_up(transaction, HOUR, DAY, now - shorten(NAMES_FOR))?;
                self.fold_names(transaction, column, DAY, shorten(NAMES_OF_DAY).max(1))?;
            }
        }
        let delete = format!("DELETE FROM {} WHERE at < ?1", self.name);
        transaction.prepare_cached(&delete)?.execute([now - shorten(DAYS_FOR)])?;
        Ok(())
    }

    /// Turns points of one step before a time into points of a longer step.
    fn roll_up(
        &self,
        transaction: &Transaction<'_>,
        from: i64,
        to: i64,
        before: i64,
    ) -> rusqlite::Result<()> {
        let Self { name, key, .. } = self;
        // Whole intervals of the longer step only.
        let before = before - before.rem_euclid(to);
        let (sums, add) = (self.sums(), self.add());
        let insert = format!(
            "INSERT INTO {name} SELECT ?2, at - at % ?2, {key}, {sums} FROM {name} WHERE step = ?1 AND at < ?3
             GROUP BY at - at % ?2, {key} ON CONFLICT DO UPDATE SET {add}"
        );
        transaction.prepare_cached(&insert)?.execute(params![from, to, before])?;
        let delete = format!("DELETE FROM {name} WHERE step = ?1 AND at < ?2");
        transaction.prepare_cached(&delete)?.execute(params![from, before])?;
        Ok(())
    }

    /// Adds all names of an interval beyond the largest `keep` to one row.
    fn fold_names(
        &self,
        transaction: &Transaction<'_>,
        column: &str,
        step: i64,
        keep: i64,
    ) -> rusqlite::Result<()> {
        let Self { name, key, .. } = self;
        let crowded = format!(
            "SELECT at FROM {name} WHERE step = ?1 GROUP BY at HAVING count(DISTINCT {column}) > ?2 + 1"
        );
        let crowded: Vec<i64> = transaction
            .prepare_cached(&crowded)?
            .query_map(params![step, keep], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let (sums, add, size) = (self.sums(), self.add(), self.size());
        let small = format!(
            "step = ?1 AND at = ?2 AND {column} <> '{OTHERS}' AND {column} NOT IN (SELECT {column} FROM {name}
             WHERE step = ?1 AND at = ?2 AND {column} <> '{OTHERS}' GROUP BY {column} ORDER BY sum({size}) DESC, {column} LIMIT ?3)"
        );
        // Other parts of the key stay, except those that are as many as names.
        let folded: Vec<_> = key
            .split(", ")
            .map(|part| match part {
                part if part == column => format!("'{OTHERS}'"),
                "content_type" | "from_revision" => "''".to_owned(),
                part => part.to_owned(),
            })
            .collect();
        let kept = ["cause", "reason", "incident"].into_iter().find(|part| key.contains(part));
        let kept = kept.unwrap_or(column);
        for at in crowded {
            let insert = format!(
                "INSERT INTO {name} SELECT step, at, {}, {sums} FROM {name} WHERE {small} GROUP BY {kept}
                 ON CONFLICT DO UPDATE SET {add}",
                folded.join(", ")
            );
            transaction.prepare_cached(&insert)?.execute(params![step, at, keep])?;
            let delete = format!("DELETE FROM {name} WHERE {small}");
            transaction.prepare_cached(&delete)?.execute(params![step, at, keep])?;
        }
        Ok(())
    }

    /// Column by which the largest names are found.
    fn size(&self) -> &'static str {
        let sizes = ["received", "millis", "bytes"];
        sizes.into_iter().find(|size| self.sums.contains(size)).unwrap_or("at")
    }

    fn sums(&self) -> String {
        self.sums.iter().map(|column| format!("sum({column})")).collect::<Vec<_>>().join(", ")
    }

    fn add(&self) -> String {
        let columns = self.sums.iter().map(|column| format!("{column} = {column} + excluded.{column}"));
        columns.collect::<Vec<_>>().join(", ")
    }
}
