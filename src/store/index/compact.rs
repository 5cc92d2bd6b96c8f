//! Compaction of the index journal: it is rewritten from the index when most of it is history, or when it is
//! known to be incomplete. The rows are read in one snapshot, beside the traffic. Entries appended meanwhile are
//! copied from the old journal on the index thread before the new file replaces it. Duplicate entries are equal.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::writer::{CompactedJournal, Work};
use super::{Index, journal, rebuild, records, row, statements};
use crate::StoreError;

/// Average journal bytes per object above which most of it is history; one entry has a few hundred.
const PER_OBJECT: u64 = 1 << 10;

impl Index {
    /// Compacts the journal if that is due.
    pub(crate) async fn compact(&self) -> Result<(), StoreError> {
        let generation = self.state.generation.load(Ordering::Acquire);
        let from = self.state.journal.load(Ordering::Acquire);
        let complete = self.state.complete.load(Ordering::Acquire);
        // An index that still lacks objects must not become the only record.
        let small = self.state.small_journal.load(Ordering::Relaxed);
        if self.state.adopting.load(Ordering::Acquire) || (complete && from <= small) {
            return Ok(());
        }
        let objects = self.read(|connection| Ok(statements::totals(connection)?.objects)).await?;
        // Heads may be large: a journal that was just compacted has no history yet.
        let grown = from / 2 > self.state.compacted.load(Ordering::Relaxed);
        if complete && !(grown && from / PER_OBJECT > objects) {
            return Ok(());
        }
        let target = rebuild::journal_path(self.state.path());
        let path = target.with_extension("journal.new");
        let io = |source| StoreError::Io { doing: "write", path: path.clone(), source };
        let file = path.clone();
        let folder = Arc::clone(self.state.folder());
        self.read(move |connection| Ok(folder.check().map(|()| write(connection, &file))))
            .await??
            .map_err(io)?;
        let (done, reply) = oneshot::channel();
        self.send(Work::Journal(CompactedJournal { path: path.clone(), from, generation, done })).await?;
        reply.await.map_err(|_| self.stopped())?.map_err(io)?;
        tracing::info!(
            objects,
            before = from,
            after = self.state.journal.load(Ordering::Acquire),
            "index journal compacted"
        );
        Ok(())
    }
}

fn write(connection: &Connection, path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut frame = Vec::new();
    let mut write = |frame: &[u8]| {
        file.write_all(frame).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    };
    let objects = row::for_each(connection, |entry| {
        frame.clear();
        entry.encode(&mut frame);
        write(&frame)
    });
    // After the objects, as in a publication: a truncated journal then has no record of a missing object.
    let records = objects.and_then(|()| {
        records::for_each(connection, |name, value| {
            frame.clear();
            journal::encode_record(name, Some(value), &mut frame);
            write(&frame)
        })
    });
    records.map_err(io::Error::other)?;
    file.into_inner()?.sync_data()
}
