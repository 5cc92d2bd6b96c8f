//! Opening the index whatever became of it. A sound one that is behind its journal is brought up to it. One that is
//! damaged or missing is made anew from the journal, in a file of its own that takes the place by a rename; the damaged
//! one is kept aside. A new folder is the same with nothing to read.
//!
//! What the journal does not have is in the blobs' trailers. Reading those is left to the sweep behind the start; here
//! only the room of the files without a row is counted, so that the quota holds meanwhile.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::check;
use super::journal::{FrameReader, IndexJournal, JournalEntry};
use super::policy::{self, Queue};
use super::schema::{self, INCOMPLETE, IndexFault};
use super::state::suspect;
use super::statements::{self, IndexChange};
use crate::budget::on_disk;
use crate::folder::Folder;
use crate::{BlobId, StoreError};
use gupd_config::clock::UnixMillis;

/// An index that can be used.
pub(super) struct OpenedIndex {
    pub(super) connection: Connection,
    pub(super) journal: IndexJournal,
    /// The journal has every object.
    pub(super) complete: bool,
    /// Bytes on disk of files without a row that may be objects; `None` if such files are none.
    pub(super) unclaimed: Option<u64>,
}

/// Opens the index, or makes one; in any case if it `is_damaged`.
pub(super) fn open(folder: &Folder, now: UnixMillis, is_damaged: bool) -> Result<OpenedIndex, StoreError> {
    let path = folder.index();
    let sound = match is_damaged || suspect(&path).exists() {
        true => Err(IndexFault::Damaged("it was found damaged while it served".to_owned())),
        false => schema::open(&path),
    };
    match sound {
        Ok(connection) => settle(connection, folder, now),
        Err(IndexFault::Missing) => anew(folder, None, now),
        Err(IndexFault::Damaged(fault)) => anew(folder, Some(&fault), now),
        Err(unsound) => Err(unsound.into_error(&path)),
    }
}

/// Opens an index that was found damaged, if all of it is sound after all: SQLite calls a read that fails damage too.
pub(super) fn open_sound(folder: &Folder, now: UnixMillis) -> Option<OpenedIndex> {
    let path = folder.index();
    let connection = schema::open(&path).ok()?;
    check::whole(&connection).ok()?;
    let opened = settle(connection, folder, now).ok()?;
    drop(fs::remove_file(suspect(&path)));
    tracing::warn!(index = %path.display(), "the index could not be read for a time, and is sound");
    Some(opened)
}

/// The journal's file.
pub(super) fn journal(index: &Path) -> PathBuf {
    index.with_file_name("index.journal")
}

/// Makes an index from the journal and opens it; the one with this fault stays in its place until that is done, since
/// a disk that fails may be the fault.
fn anew(folder: &Folder, fault: Option<&str>, now: UnixMillis) -> Result<OpenedIndex, StoreError> {
    let path = folder.index();
    let new = path.with_file_name("index.new");
    remove(new.clone())?;
    let failed = failure(&new);
    let connection = schema::begin(&new).map_err(&failed)?;
    let transaction = connection.unchecked_transaction().map_err(&failed)?;
    let (replayed, at) = replay(&transaction, folder, 0, 1, now)?;
    schema::finish(&transaction).map_err(&failed)?;
    transaction.execute("UPDATE totals SET journal = ?1, adopting = 1", [at]).map_err(&failed)?;
    transaction.commit().map_err(&failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    if let Some(fault) = fault {
        let kept = path.with_file_name(format!("index.damaged-{now}"));
        tracing::warn!(index = %path.display(), kept = %kept.display(), fault,
            "the index is damaged; it is kept aside and made anew");
        set_aside(&path, &kept)?;
    }
    // What belongs to a file that is gone would be taken for the new one's.
    remove(beside(&path, "-wal"))?;
    remove(beside(&path, "-shm"))?;
    let place = || {
        File::open(&new)?.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    place().map_err(|source| StoreError::Io { doing: "put into its place", path: new.clone(), source })?;
    // It has nothing to say of the new one.
    drop(fs::remove_file(suspect(&path)));
    let connection = schema::open(&path).map_err(|unsound| unsound.into_error(&path))?;
    let opened = settle(connection, folder, now)?;
    if replayed > 0 || opened.unclaimed.is_some() {
        tracing::warn!(
            entries = replayed,
            files_to_look_into = opened.unclaimed.is_some(),
            "made the index anew from its journal"
        );
    }
    Ok(opened)
}

/// Brings an index and its journal together.
fn settle(connection: Connection, folder: &Folder, now: UnixMillis) -> Result<OpenedIndex, StoreError> {
    let path = folder.index();
    let failed = failure(&path);
    let file = journal(&path);
    let opened = IndexJournal::open(&file);
    let journal = opened.map_err(|source| StoreError::Io { doing: "open", path: file, source })?;
    let (at, adopting): (i64, bool) = connection
        .query_row("SELECT journal, adopting FROM totals", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(&failed)?;
    let end = i64::try_from(journal.len()).unwrap_or(INCOMPLETE);
    let transaction = connection.unchecked_transaction().map_err(&failed)?;
    let mut complete = at != INCOMPLETE;
    if at > end {
        if complete {
            tracing::warn!("the index's journal is cut short or missing; it is written anew");
        }
        complete = false;
    } else if at < end {
        let place = policy::last(&transaction, Queue::Main).map_err(&failed)?;
        let (entries, _) = replay(&transaction, folder, at.unsigned_abs(), place, now)?;
        tracing::info!(entries, "the index was behind its journal and has what it lacked");
    }
    let at = if complete { end } else { INCOMPLETE };
    let unclaimed = if adopting { unclaimed(&transaction, folder)? } else { 0 };
    transaction
        .execute("UPDATE totals SET journal = ?1, adopting = ?2", (at, unclaimed > 0))
        .map_err(&failed)?;
    transaction.commit().map_err(&failed)?;
    Ok(OpenedIndex { connection, journal, complete, unclaimed: (unclaimed > 0).then_some(unclaimed) })
}

/// Does what the journal says from a position on; objects enter the main queue from `place` on. Gives the number of entries, and the journal's end if nothing in it
/// was unreadable.
fn replay(
    connection: &Connection,
    folder: &Folder,
    from: u64,
    mut place: i64,
    now: UnixMillis,
) -> Result<(u64, i64), StoreError> {
    let path = journal(&folder.index());
    let io = |source| StoreError::Io { doing: "read", path: path.clone(), source };
    let failed = failure(&folder.index());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(io(error)),
    };
    let end = file.metadata().map_err(io)?.len();
    file.seek(SeekFrom::Start(from)).map_err(io)?;
    let there = |id: BlobId, len: u64| fs::metadata(folder.blob(id)).is_ok_and(|file| file.len() >= len);
    let mut change = IndexChange::new(connection);
    let (mut frames, mut entries) = (FrameReader::new(file), 0);
    while let Some(entry) = frames.next().map_err(io)? {
        match entry {
            JournalEntry::Put(put) => change.restore(&put, there, place, now),
            JournalEntry::Remove(object) => change.restore_removal(object),
            JournalEntry::Record { name, value } => change.restore_record(&name, value.as_deref()),
            JournalEntry::Unknown => Ok(()),
        }
        .map_err(&failed)?;
        change.unreferenced.clear(); // the sweep finds files that stayed
        entries += 1;
        place += 1;
    }
    if frames.skipped > 0 {
        tracing::warn!(bytes = frames.skipped, journal = %path.display(),
            "the index's journal is damaged in part; blobs' own records stand in");
    }
    let at = if frames.skipped == 0 { i64::try_from(end).unwrap_or(INCOMPLETE) } else { INCOMPLETE };
    Ok((entries, at))
}

/// Bytes on disk of files of blobs that have no row.
fn unclaimed(connection: &Connection, folder: &Folder) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for shelf in folder.shelves() {
        let io = |source| StoreError::Io { doing: "list", path: shelf.clone(), source };
        for file in fs::read_dir(&shelf).map_err(io)? {
            let file = file.map_err(io)?;
            let Some(id) = file.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if statements::blob(connection, id).map_err(failure(&folder.index()))?.is_none() {
                bytes += on_disk(file.metadata().map_err(io)?.len());
            }
        }
    }
    Ok(bytes)
}

/// Moves a damaged index away, in place of one moved away earlier.
fn set_aside(path: &Path, kept: &Path) -> Result<(), StoreError> {
    let io =
        |source| StoreError::Io { doing: "move the damaged index away to", path: kept.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name().to_string_lossy().starts_with("index.damaged-") {
            fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        if let Err(source) = fs::rename(beside(path, suffix), beside(kept, suffix))
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(io(source));
        }
    }
    Ok(())
}

fn remove(path: PathBuf) -> Result<(), StoreError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Io { doing: "remove", path, source })
        }
        _ => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failure(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |error| StoreError::Index { path: path.clone(), reason: error.to_string() }
}
