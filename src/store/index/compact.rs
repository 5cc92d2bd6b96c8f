//! Writing the journal anew, with what is in the index and nothing of what was: when most of it is history, and when it
//! is known to lack something. The rows are read beside the traffic, in one snapshot; what happened meanwhile is in the
//! old journal behind the length it had before, and is appended on the index's thread before the new file takes the
//! place. Entries that are in both say the same.

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

/// Bytes of a journal that are never too many.
const SMALL: u64 = 16 << 20;

/// Bytes of journal for each object, on average, above which most of it is history: an object's entry has a few hundred.
const AN_OBJECT: u64 = 2 << 10;

impl Index {
    /// Writes the journal anew if that is due.
    pub(super) async fn compact(&self) -> Result<(), StoreError> {
        let generation = self.state.generation.load(Ordering::Acquire);
        let from = self.state.journal.load(Ordering::Acquire);
        let complete = self.state.complete.load(Ordering::Acquire);
        // A rebuilt index that lacks objects still must not become all there is.
        if self.state.adopting.load(Ordering::Acquire) || (complete && from <= SMALL) {
            return Ok(());
        }
        let objects = self.read(|connection| Ok(statements::totals(connection)?.objects)).await?;
        // Heads may be large: what was just written anew has no history yet.
        let grown = from / 2 > self.state.compacted.load(Ordering::Relaxed);
        if complete && !(grown && from / AN_OBJECT > objects) {
            return Ok(());
        }
        let place = rebuild::journal(self.state.path());
        let path = place.with_extension("journal.new");
        let io = |source| StoreError::Io { doing: "write", path: path.clone(), source };
        let file = path.clone();
        let folder = Arc::clone(self.state.folder());
        self.read(move |connection| Ok(folder.check().map(|()| write(connection, &file))))
            .await??
            .map_err(io)?;
        let (done, told) = oneshot::channel();
        self.send(Work::Journal(CompactedJournal { path: path.clone(), from, generation, done })).await?;
        told.await.map_err(|_| self.stopped())?.map_err(io)?;
        tracing::info!(
            objects,
            before = from,
            after = self.state.journal.load(Ordering::Acquire),
            "wrote the index's journal anew"
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
    let objects = row::each(connection, |put| {
        frame.clear();
        put.encode(&mut frame);
        write(&frame)
    });
    // Behind the objects, as in a publication: a journal that is cut has no record of what is not there.
    let records = objects.and_then(|()| {
        records::each(connection, |name, value| {
            frame.clear();
            journal::encode_record(name, Some(value), &mut frame);
            write(&frame)
        })
    });
    records.map_err(io::Error::other)?;
    file.into_inner()?.sync_data()
}
