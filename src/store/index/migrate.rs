//! Migration of indexes of earlier schema versions, each in one transaction: a crash leaves the old index. Their
//! rows are trusted as far as their version could verify them.

use rusqlite::Connection;

use super::schema::{HOLDS, NAMED, PACKS, QUEUES, ROWS, SCHEMA, recount, set_version};
use super::statements::IndexChange;

/// Version 1 had last uses only. Its objects count as used before, in that order.
const FROM_1: &str = "
    ALTER TABLE objects ADD COLUMN queue INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE objects ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE objects ADD COLUMN entered INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE objects ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE objects ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN small_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN held_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN journal INTEGER NOT NULL DEFAULT 9223372036854775807;
    ALTER TABLE totals ADD COLUMN adopting INTEGER NOT NULL DEFAULT 0;
    UPDATE objects SET entered = last_used;
    DROP INDEX objects_by_use;
    DROP TRIGGER object_in;
    DROP TRIGGER object_out;
";

/// Version 2 counted retained objects as evictable, and had no pins.
const FROM_2: &str = "
    ALTER TABLE totals ADD COLUMN held_bytes INTEGER NOT NULL DEFAULT 0;
    DROP TRIGGER object_in;
    DROP TRIGGER object_out;
    DROP TRIGGER object_moves;
";

/// Version 3 had a file for each blob; they keep it.
const FROM_3: &str = "
    ALTER TABLE blobs ADD COLUMN pack INTEGER;
    ALTER TABLE blobs ADD COLUMN at INTEGER;
    ALTER TABLE blobs ADD COLUMN size INTEGER;
    ALTER TABLE blobs ADD COLUMN sum INTEGER;
    ALTER TABLE totals ADD COLUMN packed_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN row_bytes INTEGER NOT NULL DEFAULT 0;
    DROP TRIGGER blob_in;
    DROP TRIGGER blob_out;
    DROP TRIGGER IF EXISTS object_in;
    DROP TRIGGER IF EXISTS object_out;
";

pub(super) fn from_1(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in [FROM_1, QUEUES, HOLDS, NAMED, FROM_3, PACKS, ROWS] {
        transaction.execute_batch(change)?;
    }
    IndexChange::new(&transaction).add_checksums()?;
    recount(&transaction)?;
    set_version(&transaction)?;
    transaction.commit()?;
    log_migration(1);
    Ok(())
}

pub(super) fn from_2(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in [FROM_2, HOLDS, NAMED, FROM_3, PACKS, ROWS] {
        transaction.execute_batch(change)?;
    }
    recount(&transaction)?;
    set_version(&transaction)?;
    transaction.commit()?;
    log_migration(2);
    Ok(())
}

pub(super) fn from_3(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in [FROM_3, PACKS, ROWS] {
        transaction.execute_batch(change)?;
    }
    recount(&transaction)?;
    set_version(&transaction)?;
    transaction.commit()?;
    log_migration(3);
    Ok(())
}

fn log_migration(before: i64) {
    tracing::info!(before, schema = SCHEMA, "index schema migrated");
}
