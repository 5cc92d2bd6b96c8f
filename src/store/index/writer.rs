//! The index's one writer: a thread that owns the writing connection and commits what is waiting as one transaction.
//! Each change is a savepoint of its own, so one that fails takes no other with it. After the commit the files of
//! blobs that lost their row are taken out, here, so that it cannot cross a new blob of the same name coming in.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::mpsc::Receiver;

use super::statements::{self, Change};
use crate::store::facts::Counters;
use crate::store::folder::{Folder, Scratch};
use crate::store::room::{Room, on_disk};
use crate::store::{BlobId, StoreError};

/// Changes committed together, at most.
const GROUP: usize = 256;

/// A change to run; gives what to do after the commit.
pub(super) type Job = Box<dyn FnOnce(&Connection) -> Settled + Send>;

/// A change that ran, waiting for the commit.
pub(super) struct Settled {
    /// Blobs whose files go if they have no row.
    pub(super) unreferenced: Vec<BlobId>,
    /// Tells the caller: the commit's failure, or the files that were taken out.
    pub(super) answer: Box<dyn FnOnce(Result<Vec<Scratch>, StoreError>)>,
}

/// What the thread needs besides its connection.
pub(super) struct Context {
    pub(super) folder: Arc<Folder>,
    pub(super) room: Arc<Room>,
    pub(super) counters: Arc<Counters>,
}

/// Runs until every sender is gone.
pub(super) fn run(connection: Connection, mut jobs: Receiver<Job>, context: &Context) {
    let mut group = Vec::with_capacity(GROUP);
    while let Some(first) = jobs.blocking_recv() {
        group.push(first);
        while group.len() < GROUP
            && let Ok(next) = jobs.try_recv()
        {
            group.push(next);
        }
        commit(&connection, group.drain(..), context);
    }
}

/// Copies the index's totals to those who ask for them often.
pub(super) fn publish_totals(connection: &Connection, context: &Context) -> rusqlite::Result<()> {
    let totals = statements::totals(connection)?;
    context.room.set_committed(totals.disk_bytes);
    context.counters.set_totals(&totals);
    Ok(())
}

/// Runs `work` so that it happens whole or not at all.
pub(super) fn savepoint<T>(
    change: &mut Change<'_>,
    work: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>,
    failed: impl Fn(rusqlite::Error) -> StoreError,
) -> Result<T, StoreError> {
    let connection = change.connection;
    connection.execute_batch("SAVEPOINT change").map_err(&failed)?;
    let result = work(change);
    let end = if result.is_ok() { "RELEASE change" } else { "ROLLBACK TO change; RELEASE change" };
    connection.execute_batch(end).map_err(failed)?;
    result
}

fn commit(connection: &Connection, group: impl Iterator<Item = Job>, context: &Context) {
    let (committed, settled) = match connection.unchecked_transaction() {
        Ok(transaction) => {
            let settled: Vec<Settled> = group.map(|job| job(&transaction)).collect();
            (transaction.commit(), settled)
        }
        // Each savepoint is then a transaction of its own, and tells its caller what is wrong.
        Err(_) => (Ok(()), group.map(|job| job(connection)).collect()),
    };
    let mut answers = Vec::with_capacity(settled.len());
    for Settled { unreferenced, answer } in settled {
        let gone =
            unreferenced.into_iter().filter(|id| matches!(statements::blob(connection, *id), Ok(None)));
        let taken_out =
            gone.filter_map(|id| context.folder.take_out(id, |size| context.room.hold(on_disk(size))));
        answers.push((taken_out.collect::<Vec<_>>(), answer));
    }
    // After the files on their way out are accounted for, before anyone is told that there is room.
    if let Err(error) = publish_totals(connection, context) {
        tracing::warn!(%error, "cannot read the index's totals; the store's figures are late");
    }
    let failure = committed.err().map(|error| error.to_string());
    for (taken_out, answer) in answers {
        answer(match &failure {
            None => Ok(taken_out),
            Some(reason) => Err(StoreError::Index {
                path: context.folder.index(),
                reason: format!("cannot commit: {reason}"),
            }),
        });
    }
}
