//! Opening of the index in any state. A valid index that is behind its journal is brought up to date. A damaged
//! or missing one is rebuilt from the journal in a new file, which replaces it by a rename; the damaged file is
//! kept aside. A new folder is the same with nothing to read.
//!
//! Objects missing from the journal are in the blobs' trailers. The sweep after the start reads those. Here only
//! the room of files without a row is counted, so that the quota holds meanwhile.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::check;
use super::journal::{FrameReader, IndexJournal, JournalEntry, ObjectEntry};
use super::policy::{self, Queue};
use super::schema::{self, INCOMPLETE, IndexFault};
use super::state::suspect_path;
use super::statements::{self, IndexChange};
use crate::StoreError;
use crate::budget::allocated_size;
use crate::folder::Folder;
use crate::pack::PackPlace;
use crate::packs;
use gupd_config::clock::UnixMillis;

/// An index ready for use.
pub(super) struct OpenedIndex {
    pub(super) connection: Connection,
    pub(super) journal: IndexJournal,
    /// The journal has every object.
    pub(super) complete: bool,
    /// Bytes on disk of files without a row that may be objects; `None` if no such file can be one.
    pub(super) unclaimed: Option<u64>,
}

/// Opens the index, or rebuilds it if it is missing or damaged.
pub(super) fn open(folder: &Folder, now: UnixMillis, is_damaged: bool) -> Result<OpenedIndex, StoreError> {
    let path = folder.index();
    let sound = match is_damaged || suspect_path(&path).exists() {
        true => Err(IndexFault::Damaged("found damaged while it served".to_owned())),
        false => schema::open(&path),
    };
    match sound {
        Ok(connection) => reconcile(connection, folder, now),
        Err(IndexFault::Missing) => rebuild(folder, None, now),
        Err(IndexFault::Damaged(fault)) => rebuild(folder, Some(&fault), now),
        Err(unsound) => Err(unsound.into_error(&path)),
    }
}

/// Opens an index that was found damaged, if a full check succeeds: SQLite reports a failed read as damage too.
pub(super) fn open_sound(folder: &Folder, now: UnixMillis) -> Option<OpenedIndex> {
    let path = folder.index();
    let connection = schema::open(&path).ok()?;
    check::check_all(&connection).ok()?;
    let opened = reconcile(connection, folder, now).ok()?;
    drop(fs::remove_file(suspect_path(&path)));
    tracing::warn!(index = %path.display(), "index is intact after failed reads");
    Some(opened)
}

/// Returns the path of the journal.
pub(super) fn journal_path(index: &Path) -> PathBuf {
    index.with_file_name("index.journal")
}

/// Rebuilds the index from the journal and opens it. The old file stays in place until that is done, since a
/// failing disk may have caused the fault.
fn rebuild(folder: &Folder, fault: Option<&str>, now: UnixMillis) -> Result<OpenedIndex, StoreError> {
    let path = folder.index();
    let new = path.with_file_name("index.new");
    remove(new.clone())?;
    let failed = error_mapper(&new);
    let connection = schema::create(&new).map_err(&failed)?;
    let transaction = connection.unchecked_transaction().map_err(&failed)?;
    let (replayed, at) = replay(&transaction, folder, 0, 1, now)?;
    schema::finish(&transaction).map_err(&failed)?;
    transaction.execute("UPDATE totals SET journal = ?1, adopting = 1", [at]).map_err(&failed)?;
    transaction.commit().map_err(&failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    if let Some(fault) = fault {
        let aside = path.with_file_name(format!("index.damaged-{now}"));
        tracing::warn!(index = %path.display(), kept = %aside.display(), fault,
            "index damaged; kept aside and rebuilt");
        set_aside(&path, &aside)?;
    }
    // SQLite would apply leftover files to the new index.
    remove(sibling(&path, "-wal"))?;
    remove(sibling(&path, "-shm"))?;
    let install = || {
        File::open(&new)?.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    install().map_err(|source| StoreError::Io { doing: "install", path: new.clone(), source })?;
    // The mark does not apply to the new index.
    drop(fs::remove_file(suspect_path(&path)));
    let connection = schema::open(&path).map_err(|unsound| unsound.into_error(&path))?;
    let opened = reconcile(connection, folder, now)?;
    if replayed > 0 || opened.unclaimed.is_some() {
        tracing::warn!(
            entries = replayed,
            files_to_examine = opened.unclaimed.is_some(),
            "index rebuilt from its journal"
        );
    }
    Ok(opened)
}

/// Reconciles an index with its journal.
fn reconcile(connection: Connection, folder: &Folder, now: UnixMillis) -> Result<OpenedIndex, StoreError> {
    let path = folder.index();
    let failed = error_mapper(&path);
    let file = journal_path(&path);
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
            tracing::warn!("index journal truncated or missing; it is rewritten");
        }
        complete = false;
    } else if at < end {
        let position = policy::next_position(&transaction, Queue::Main).map_err(&failed)?;
        let (entries, _) = replay(&transaction, folder, at.unsigned_abs(), position, now)?;
        tracing::info!(entries, "index brought up to date from its journal");
    }
    let at = if complete { end } else { INCOMPLETE };
    let unclaimed = if adopting { unclaimed_bytes(&transaction, folder)? } else { 0 };
    // Records without a row are found by a scan only.
    let adopting = unclaimed > 0 || adopting && !packs::list(folder)?.is_empty();
    transaction.execute("UPDATE totals SET journal = ?1, adopting = ?2", (at, adopting)).map_err(&failed)?;
    transaction.commit().map_err(&failed)?;
    Ok(OpenedIndex { connection, journal, complete, unclaimed: adopting.then_some(unclaimed) })
}

/// Replays the journal from a position; objects enter the main queue at `position` and after. Returns the number of
/// entries, and the journal's end if all of it was readable.
fn replay(
    connection: &Connection,
    folder: &Folder,
    from: u64,
    mut position: i64,
    now: UnixMillis,
) -> Result<(u64, i64), StoreError> {
    let path = journal_path(&folder.index());
    let io = |source| StoreError::Io { doing: "read", path: path.clone(), source };
    let failed = error_mapper(&folder.index());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(io(error)),
    };
    let end = file.metadata().map_err(io)?.len();
    file.seek(SeekFrom::Start(from)).map_err(io)?;
    let mut change = IndexChange::new(connection);
    let pack_sizes = packs::list(folder)?;
    // Places whose objects have not come yet: they follow at once.
    let mut places = HashMap::new();
    let (mut frames, mut entries) = (FrameReader::new(file), 0);
    while let Some(entry) = frames.next().map_err(io)? {
        match entry {
            JournalEntry::Put(mut entry) => {
                entry.place = places.remove(&entry.blob);
                let is_present = |entry: &ObjectEntry| match entry.place {
                    Some(PackPlace { pack, at, size }) => {
                        pack_sizes.get(&pack).is_some_and(|end| at + u64::from(size) <= *end)
                    }
                    None => fs::metadata(folder.blob(entry.blob)).is_ok_and(|file| file.len() >= entry.len),
                };
                change.restore(&entry, is_present, position, now)
            }
            JournalEntry::Place(blob, place) => {
                places.insert(blob, place);
                change.restore_place(blob, Some(place)).map(drop)
            }
            JournalEntry::Remove(object) => change.restore_removal(object),
            JournalEntry::Record { name, value } => change.restore_record(&name, value.as_deref()),
            JournalEntry::Unknown => Ok(()),
        }
        .map_err(&failed)?;
        // The sweep finds files that stayed.
        change.unreferenced.clear();
        change.removed_records.clear();
        entries += 1;
        position += 1;
    }
    if frames.skipped > 0 {
        tracing::warn!(bytes = frames.skipped, journal = %path.display(),
            "index journal damaged in part; missing objects are restored from blobs");
    }
    let at = if frames.skipped == 0 { i64::try_from(end).unwrap_or(INCOMPLETE) } else { INCOMPLETE };
    Ok((entries, at))
}

/// Returns the bytes on disk of blob files without a row.
fn unclaimed_bytes(connection: &Connection, folder: &Folder) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for dir in folder.blob_dirs() {
        let io = |source| StoreError::Io { doing: "list", path: dir.clone(), source };
        for file in fs::read_dir(&dir).map_err(io)? {
            let file = file.map_err(io)?;
            let Some(id) = file.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if statements::blob_row(connection, id).map_err(error_mapper(&folder.index()))?.is_none() {
                bytes += allocated_size(file.metadata().map_err(io)?.len());
            }
        }
    }
    Ok(bytes)
}

/// Moves a damaged index aside, and removes one moved aside earlier.
fn set_aside(path: &Path, aside: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { doing: "move the damaged index to", path: aside.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_name().to_string_lossy().starts_with("index.damaged-") {
            fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        if let Err(source) = fs::rename(sibling(path, suffix), sibling(aside, suffix))
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

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn error_mapper(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |error| StoreError::Index { path: path.clone(), reason: error.to_string() }
}
