//! Commit of the changes of one transaction. Invariant: the bytes that a row names, and its journal entry, are written
//! before the row is committed. A failure is every change's, so it is kept in a form that each caller gets.

use std::io;
use std::path::PathBuf;

use rusqlite::{Connection, Transaction};

use super::journal::IndexJournal;
use super::schema::INCOMPLETE;
use super::state::IndexState;
use super::writer::PendingCommit;
use crate::StoreError;
use crate::packs::Packs;

/// Failure of all changes of a transaction.
#[derive(Debug)]
pub(super) enum GroupFailure {
    /// The index cannot be written.
    Index(String),
    /// A file cannot be written.
    File { doing: &'static str, path: PathBuf, kind: io::ErrorKind, code: Option<i32> },
}

impl GroupFailure {
    fn from_sqlite(error: &rusqlite::Error, state: &IndexState) -> Self {
        state.map_error(error);
        Self::Index(error.to_string())
    }

    /// Returns the error of one change.
    pub(super) fn to_error(&self, state: &IndexState) -> StoreError {
        match self {
            Self::Index(reason) => state.error(format!("cannot commit: {reason}")),
            Self::File { doing, path, kind, code } => {
                let source = code.map_or_else(|| io::Error::from(*kind), io::Error::from_raw_os_error);
                StoreError::Io { doing, path: path.clone(), source }
            }
        }
    }
}

impl From<StoreError> for GroupFailure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { doing, path, source } => {
                Self::File { doing, path, kind: source.kind(), code: source.raw_os_error() }
            }
            error => Self::Index(error.to_string()),
        }
    }
}

/// Commits the transaction of the changes, or rolls it back.
pub(super) fn commit(
    transaction: Transaction<'_>,
    settled: &[PendingCommit],
    packs: &mut Packs,
    journal: &mut IndexJournal,
    state: &IndexState,
) -> Result<(), GroupFailure> {
    if let Some(reason) = settled.iter().find_map(|one| one.group_failure.clone()) {
        // The records have no rows; a scan must not find half of one.
        packs.flush()?;
        return Err(GroupFailure::Index(reason));
    }
    write(&transaction, settled, packs, journal, state)?;
    transaction.commit().map_err(|error| GroupFailure::from_sqlite(&error, state))
}

/// Writes the records and the journal entries of the changes.
pub(super) fn write(
    connection: &Connection,
    settled: &[PendingCommit],
    packs: &mut Packs,
    journal: &mut IndexJournal,
    state: &IndexState,
) -> Result<(), GroupFailure> {
    packs.flush()?;
    append_journal(journal, settled, connection, state)
        .map_err(|error| GroupFailure::from_sqlite(&error, state))
}

/// Appends the changes to the journal and records its new length in the index. A journal that cannot be written
/// fails no commit: it becomes incomplete, and the next maintenance rewrites it.
fn append_journal(
    journal: &mut IndexJournal,
    settled: &[PendingCommit],
    connection: &Connection,
    state: &IndexState,
) -> rusqlite::Result<()> {
    let frames = settled.iter().map(|one| &*one.journal).collect::<Vec<_>>().concat();
    if frames.is_empty() {
        return Ok(());
    }
    let complete = state.is_journal_complete();
    let at = match journal.append(&frames) {
        Ok(len) if complete => i64::try_from(len).unwrap_or(INCOMPLETE),
        Ok(_) => return Ok(()),
        Err(error) => {
            state.mark_journal_incomplete(&error);
            INCOMPLETE
        }
    };
    connection.prepare_cached("UPDATE totals SET journal = ?1")?.execute([at]).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::future::join;
    use tempfile::TempDir;

    use super::*;
    use crate::Store;
    use gupd_config::StoreSettings;
    use gupd_config::clock::Clock;

    fn open(dir: &TempDir) -> Arc<Store> {
        let settings = StoreSettings {
            dir: dir.path().join("store"),
            quota: 1 << 30,
            min_free: 0,
            max_unused: Duration::from_secs(3600),
            memory: 0,
            scrub_period: None,
            scrub_rate: 1 << 20,
        };
        Store::open(&settings, Clock::manual(0)).unwrap()
    }

    #[tokio::test]
    async fn index_error_without_savepoint_fails_its_group() {
        for is_grouped in [false, true] {
            let dir = TempDir::new().unwrap();
            let store = open(&dir);
            let error = store.index.error_mapper();
            let fails = move |change: &mut crate::index::IndexChange<'_>| {
                change.set_client("failed", Some(b"half")).map_err(&error)?;
                Err::<(), _>(StoreError::Index { path: PathBuf::new(), reason: "no reason".to_owned() })
            };
            // Both are queued while the index thread waits.
            let (begin, begun) = std::sync::mpsc::channel();
            let (blocked, is_blocked) = tokio::sync::oneshot::channel();
            let wait = store.index.change(move |_| {
                let _sent = blocked.send(());
                begun.recv().map_err(|_| StoreError::Broken)
            });
            let map_error = store.index.error_mapper();
            let others = async {
                is_blocked.await.unwrap();
                let other = store
                    .index
                    .change(move |change| change.set_client("other", Some(b"whole")).map_err(map_error));
                let failed = async {
                    match is_grouped {
                        true => store.index.change_in_group(fails).await,
                        false => store.index.change(fails).await,
                    }
                };
                let queued = join(failed, other);
                tokio::pin!(queued);
                assert!(futures_util::poll!(queued.as_mut()).is_pending());
                begin.send(()).unwrap();
                queued.await
            };
            let (waited, (failed, other)) = join(wait, others).await;
            assert!(waited.is_ok() && failed.is_err());
            assert_eq!(other.is_ok(), !is_grouped, "grouped: {is_grouped}");
            let rows = store.load_clients("").await.unwrap();
            assert!(rows.iter().all(|(name, _)| name == "other"), "nothing is half done: {rows:?}");
        }
    }
}
