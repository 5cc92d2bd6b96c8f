//! Read-only view of a store beside a running relay: its own index connection and the paths of blobs. It changes
//! nothing and takes no lock. Objects come and go meanwhile, so a listed object may be gone a moment later. It
//! reads in pages, each its own transaction, since a long one would keep SQLite from truncating the WAL. All of
//! it blocks.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params, params_from_iter};

use super::extent::BlobExtent;
use super::folder::Folder;
use super::index::{ROW, object, place_of, unsigned};
use super::inspect::{Inspection, InspectionFault};
use super::{BlobId, Object, StoreError};

/// Rows of a page; enough to make the cost of a page the cost of its rows.
const PAGE: i64 = 512;

/// A store folder open for reading.
#[derive(Debug)]
pub struct Inventory {
    folder: Folder,
    index: Connection,
}

impl Inventory {
    /// Opens the index of the store in `dir`.
    ///
    /// # Errors
    /// When there is no index, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let no_store = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => StoreError::Forbidden { path: dir.to_owned() },
            _ => StoreError::NoStore { path: dir.to_owned() },
        };
        let folder = Folder::open_read_only(dir).map_err(no_store)?;
        let path = folder.index();
        path.metadata().map_err(no_store)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        match Connection::open_with_flags(&path, flags) {
            Ok(index) => Ok(Self { folder, index }),
            Err(error) => Err(StoreError::Index { path, reason: error.to_string() }),
        }
    }

    /// Iterates over all objects in insertion order. A row with a differing checksum is an error, as it is when
    /// served.
    pub fn objects(&self) -> impl Iterator<Item = Result<Object, StoreError>> {
        let sql = format!("{ROW} WHERE o.id > ?1 ORDER BY o.id LIMIT {PAGE}");
        pages(0, move |after| {
            let row = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, object(row)?));
            self.select(&sql, [Value::from(after)], row)
        })
    }

    /// Iterates over all blobs and the lengths of their bodies, ordered by name.
    pub fn blobs(&self) -> impl Iterator<Item = Result<(BlobId, u64), StoreError>> {
        pages(None, |after| {
            let page = self.blobs_after(after)?;
            Ok(page.into_iter().map(|blob| (Some(blob.0), blob)).collect())
        })
    }

    /// Returns a page of blobs ordered by name, after the given one.
    pub(super) fn blobs_after(&self, after: Option<BlobId>) -> Result<Vec<(BlobId, u64)>, StoreError> {
        let sql = format!("SELECT hash, len FROM blobs WHERE hash > ?1 ORDER BY hash LIMIT {PAGE}");
        let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        let row = |row: &Row<'_>| Ok((row.get::<_, [u8; 32]>(0)?.into(), unsigned(row, 1)?));
        self.select(&sql, [Value::from(after)], row)
    }

    /// Returns at most `limit` objects of this blob after the row `after`.
    pub(super) fn objects_of(
        &self,
        blob: BlobId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Object>, StoreError> {
        let sql = format!("{ROW} WHERE o.id > ?2 AND b.hash = ?1 ORDER BY o.id LIMIT ?3");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [Value::from(blob.as_bytes().to_vec()), after.into(), limit.into()];
        self.select(&sql, values, object)
    }

    /// Returns the number of objects of this blob; `None` if there is no such blob.
    pub(super) fn object_count(&self, blob: BlobId) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT (SELECT count(*) FROM objects o WHERE o.blob = b.id) FROM blobs b WHERE hash = ?1";
        let mut statement = self.index.prepare_cached(sql).map_err(|error| self.index_error(&error))?;
        let found = statement.query_row(params![blob.as_bytes()], |row| unsigned(row, 0)).optional();
        found.map_err(|error| self.index_error(&error))
    }

    /// Returns the total length of the bodies of all blobs.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        let sum = self.select("SELECT coalesce(sum(len), 0) FROM blobs", [], |row| unsigned(row, 0))?;
        Ok(sum.into_iter().sum())
    }

    /// Returns where a blob's bytes are.
    pub(super) fn extent(&self, blob: BlobId) -> Result<BlobExtent, StoreError> {
        let place = place_of(&self.index, blob).map_err(|error| self.index_error(&error))?;
        Ok(BlobExtent::new(&self.folder, blob, place))
    }

    /// Opens a blob for inspection; returns its path too. A pack may be compacted meanwhile, which moves the blob.
    pub(super) fn inspect(
        &self,
        blob: BlobId,
        len: u64,
    ) -> Result<(PathBuf, Result<Inspection, InspectionFault>), StoreError> {
        let mut extent = self.extent(blob)?;
        let mut opened = Inspection::open(&extent, blob, len);
        if matches!(opened, Err(InspectionFault::Gone)) {
            extent = self.extent(blob)?;
            opened = Inspection::open(&extent, blob, len);
        }
        Ok((extent.path, opened))
    }

    /// Returns the path of a blob's own file.
    pub(super) fn blob_path(&self, blob: BlobId) -> PathBuf {
        self.folder.blob(blob)
    }

    /// Returns the folders of blobs.
    pub(super) fn blob_dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.folder.blob_dirs()
    }

    fn select<T>(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Value>,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let select = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.index.prepare_cached(sql)?;
            statement.query_map(params_from_iter(values), row)?.collect()
        };
        select().map_err(|error| self.index_error(&error))
    }

    fn index_error(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::Index { path: self.folder.index(), reason: error.to_string() }
    }
}

/// Concatenates pages; each begins after the position of the last row.
fn pages<P: Clone, T>(
    from: P,
    mut page: impl FnMut(P) -> Result<Vec<(P, T)>, StoreError>,
) -> impl Iterator<Item = Result<T, StoreError>> {
    let (mut after, mut rows) = (Some(from), Vec::new().into_iter());
    std::iter::from_fn(move || {
        if rows.as_slice().is_empty() {
            match page(after.take()?) {
                Ok(page) => rows = page.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        let (position, row) = rows.next()?;
        after = Some(position);
        Some(Ok(row))
    })
}
