//! The pack files of a store, on the index thread: which one is appended to, how large each is, and which are due for
//! compaction. A pack belongs to the index as long as its file exists; a record belongs to it as long as a row of the
//! index has its place. Sizes are those of the files, so that removed records count until their pack is compacted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::StoreError;
use super::folder::Folder;
use super::id::BlobId;
use super::pack::{self, HEADER, PackPlace};
use super::pending_sync::PendingSync;

/// Maximum size of a pack; its compaction rewrites at most three quarters of it.
const CAPACITY_MAX: u64 = 16 << 20;

/// Minimum capacity: several of the largest records.
const CAPACITY_MIN: u64 = 512 << 10;

/// Parts of the quota that a pack may have.
const CAPACITY_SHARE: u64 = 32;

/// Maximum of appended bytes that wait for their write.
const UNWRITTEN_MAX: usize = 1 << 20;

/// The packs.
#[derive(Debug)]
pub(super) struct Packs {
    folder: Arc<Folder>,
    capacity: u64,
    sizes: BTreeMap<u32, u64>,
    bytes: u64,
    /// The pack that is appended to.
    current: Option<(u32, Arc<File>)>,
    /// The pack that is being compacted: nothing is appended to it.
    compacting: Option<u32>,
    /// Appended records that are not written yet, at the end of that pack.
    unwritten: Vec<u8>,
    /// Failure to write records of the running transaction.
    lost: Option<StoreError>,
    /// The pack in which a record was marked last.
    marked: Option<(u32, File)>,
    pending_sync: Arc<PendingSync>,
}

impl Packs {
    /// Lists the packs of a folder.
    pub(super) fn open(
        folder: Arc<Folder>,
        quota: u64,
        pending_sync: Arc<PendingSync>,
    ) -> Result<Self, StoreError> {
        let capacity = (quota / CAPACITY_SHARE).clamp(CAPACITY_MIN, CAPACITY_MAX);
        let sizes = list(&folder)?;
        let bytes = sizes.values().sum();
        Ok(Self {
            folder,
            capacity,
            sizes,
            bytes,
            current: None,
            compacting: None,
            unwritten: Vec::new(),
            lost: None,
            marked: None,
            pending_sync,
        })
    }

    /// Returns the bytes of all packs on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the size at which a pack is closed, which is also the room that removed records may take beyond the
    /// room charged for them.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Returns true if the bytes of a blob are there in full length, in a pack or in a file of its own.
    pub(super) fn has_bytes(&self, id: BlobId, len: u64, place: Option<PackPlace>) -> bool {
        match place {
            Some(PackPlace { pack, at, size }) => {
                self.sizes.get(&pack).is_some_and(|end| at + u64::from(size) <= *end)
            }
            None => fs::metadata(self.folder.blob(id)).is_ok_and(|file| file.len() >= len),
        }
    }

    /// Returns the packs and their sizes, without the one that is appended to.
    pub(super) fn closed(&self) -> impl Iterator<Item = (u32, u64)> {
        let current = self.current.as_ref().map(|(number, _)| *number);
        self.sizes.iter().map(|(pack, size)| (*pack, *size)).filter(move |(pack, _)| Some(*pack) != current)
    }

    /// Appends a record, to be written by the next [`Self::flush`].
    pub(super) fn append(&mut self, record: &[u8]) -> Result<PackPlace, StoreError> {
        if self.unwritten.len() + record.len() > UNWRITTEN_MAX {
            self.write()?;
        }
        let number = self.writable(record.len() as u64)?;
        let end = self.sizes.get(&number).copied().unwrap_or(0);
        self.unwritten.extend_from_slice(record);
        self.sizes.insert(number, end + record.len() as u64);
        self.bytes += record.len() as u64;
        let size = u32::try_from(record.len() - HEADER).unwrap_or(u32::MAX);
        Ok(PackPlace { pack: number, at: end + HEADER as u64, size })
    }

    /// Writes the appended records, before their rows are committed. Not synced: see `pending_sync`.
    ///
    /// # Errors
    /// If a record since the last call could not be written. Rows of all of them must not be committed then.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        let written = self.write();
        self.lost.take().map_or(written, Err)
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let bytes = self.unwritten.len() as u64;
        let Some((number, file)) = self.current.clone().filter(|_| bytes > 0) else { return Ok(()) };
        let start = self.sizes.get(&number).map_or(0, |end| end - bytes);
        let written = file.write_all_at(&self.unwritten, start);
        self.unwritten.clear();
        if let Err(source) = written {
            self.sizes.insert(number, start);
            self.bytes -= bytes;
            let copy =
                source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
            self.lost = Some(self.io_error(number, copy));
            return Err(self.io_error(number, source));
        }
        self.pending_sync.add(&file);
        Ok(())
    }

    /// Returns the path of a pack.
    pub(super) fn path(&self, number: u32) -> PathBuf {
        self.folder.pack(number)
    }

    /// Writes and syncs all records so far.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.write()?;
        self.pending_sync.sync();
        Ok(())
    }

    /// Begins or continues the compaction of a pack, which is not the one that is appended to.
    pub(super) fn compact(&mut self, number: u32) {
        self.compacting = Some(number);
    }

    /// Closes the pack that is appended to; the next record begins another.
    pub(super) fn close_current(&mut self) -> Result<(), StoreError> {
        self.write()?;
        self.current = None;
        Ok(())
    }

    /// Marks a record as removed. A record whose mark is lost is restored if index and journal are lost too.
    pub(super) fn mark_removed(&mut self, place: PackPlace) {
        let is_open = self.marked.as_ref().is_some_and(|(number, _)| *number == place.pack);
        if !is_open {
            let opened = File::options().write(true).open(self.folder.pack(place.pack));
            self.marked = opened.ok().map(|file| (place.pack, file));
        }
        if let Some((_, file)) = &self.marked
            && let Err(error) = pack::mark_removed(file, place)
        {
            tracing::debug!(%error, pack = place.pack, "cannot mark a removed record");
        }
    }

    /// Removes a pack without stored records.
    pub(super) fn remove(&mut self, number: u32) -> Result<(), StoreError> {
        self.folder.check()?;
        if let Err(error) = fs::remove_file(self.folder.pack(number))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(self.io_error(number, error));
        }
        self.marked.take_if(|(marked, _)| *marked == number);
        self.bytes -= self.sizes.remove(&number).unwrap_or(0);
        Ok(())
    }

    /// Returns the pack that takes the next `more` bytes.
    fn writable(&mut self, more: u64) -> Result<u32, StoreError> {
        if let Some((number, _)) = &self.current
            && self.sizes.get(number).is_none_or(|size| *size == 0 || size + more <= self.capacity)
        {
            return Ok(*number);
        }
        self.write()?;
        let last = self.sizes.last_key_value().map(|(number, size)| (*number, *size));
        let opened = match last {
            // The last pack of an earlier process has room.
            Some((number, size))
                if self.current.is_none()
                    && self.compacting != Some(number)
                    && size + more <= self.capacity / 2 =>
            {
                let file = File::options().read(true).write(true).open(self.folder.pack(number));
                (number, file.map_err(|source| self.io_error(number, source))?)
            }
            _ => {
                let number = last.map_or(1, |(number, _)| number.saturating_add(1));
                (number, self.folder.create_pack(number)?)
            }
        };
        let (number, file) = opened;
        self.sizes.entry(number).or_default();
        self.current = Some((number, Arc::new(file)));
        Ok(number)
    }

    fn io_error(&self, number: u32, source: io::Error) -> StoreError {
        StoreError::Io { doing: "write", path: self.folder.pack(number), source }
    }
}

/// Returns the sizes of the packs of a folder.
pub(super) fn list(folder: &Folder) -> Result<BTreeMap<u32, u64>, StoreError> {
    let dir = folder.packs();
    let failed = |source| StoreError::Io { doing: "list", path: dir.clone(), source };
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            sizes.insert(number, entry.metadata().map_err(failed)?.len());
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn failed_write_of_records_is_reported_before_their_commit() {
        let dir = TempDir::new().unwrap();
        let (folder, _lock, _) = Folder::open(dir.path()).unwrap();
        let mut packs = Packs::open(folder, 1 << 30, Arc::default()).unwrap();
        let record = vec![7; 100];
        let first = packs.append(&record).unwrap();
        packs.flush().unwrap();
        // A write to a file that is open for reading fails.
        packs.current = Some((first.pack, Arc::new(File::open(packs.path(first.pack)).unwrap())));
        packs.append(&record).unwrap();
        assert!(packs.close_current().is_err());
        let lost = packs.flush().unwrap_err();
        assert!(matches!(lost, StoreError::Io { .. }), "{lost}");
        packs.flush().unwrap();
        assert_eq!(packs.bytes(), 100, "the lost record takes no room");
        assert!(packs.has_bytes(BlobId::from([0; 32]), 1, Some(first)));
    }
}
