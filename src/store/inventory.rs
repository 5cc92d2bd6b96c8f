//! What a store has, read beside whoever uses it: a read-only connection to the index of its own, and the paths of its
//! blobs. Changes nothing, takes no lock and sees a running relay's objects as they come and go, so what it lists may
//! be gone a moment later. Read in pages, each its own transaction: a long one would keep the index's log from being
//! cut. Everything here blocks.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params, params_from_iter};

use super::folder::Folder;
use super::index::{ROW, object, unsigned};
use super::{BlobId, Object, StoreError};

/// Rows of a page: enough that a page's cost is its rows.
const PAGE: i64 = 512;

/// A store's folder, open for reading.
#[derive(Debug)]
pub struct Inventory {
    folder: Folder,
    index: Connection,
}

impl Inventory {
    /// Opens the index of the store in `dir`.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let no_store = || StoreError::NoStore { path: dir.to_owned() };
        let folder = Folder::at(dir).map_err(|_| no_store())?;
        let path = folder.index();
        if !path.exists() {
            return Err(no_store());
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        match Connection::open_with_flags(&path, flags) {
            Ok(index) => Ok(Self { folder, index }),
            Err(error) => Err(StoreError::Index { path, reason: error.to_string() }),
        }
    }

    /// Every object, in the order they came; a row that is not what was written is an error, as when it is served.
    pub fn objects(&self) -> impl Iterator<Item = Result<Object, StoreError>> {
        let sql = format!("{ROW} WHERE o.id > ?1 ORDER BY o.id LIMIT {PAGE}");
        pages(0, move |after| {
            let row = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, object(row)?));
            self.select(&sql, [Value::from(after)], row)
        })
    }

    /// Every blob and the length of its body, by name.
    pub fn blobs(&self) -> impl Iterator<Item = Result<(BlobId, u64), StoreError>> {
        pages(None, |after| {
            let page = self.blobs_after(after)?;
            Ok(page.into_iter().map(|blob| (Some(blob.0), blob)).collect())
        })
    }

    /// A page of blobs by name, after one.
    pub(super) fn blobs_after(&self, after: Option<BlobId>) -> Result<Vec<(BlobId, u64)>, StoreError> {
        let sql = format!("SELECT hash, len FROM blobs WHERE hash > ?1 ORDER BY hash LIMIT {PAGE}");
        let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        let row = |row: &Row<'_>| Ok((row.get::<_, [u8; 32]>(0)?.into(), unsigned(row, 1)?));
        self.select(&sql, [Value::from(after)], row)
    }

    /// The objects that have this body, at most `limit` of them after the row `after`.
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

    /// How many objects have this body; `None` if there is no such blob.
    pub(super) fn uses(&self, blob: BlobId) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT (SELECT count(*) FROM objects o WHERE o.blob = b.id) FROM blobs b WHERE hash = ?1";
        let mut statement = self.index.prepare_cached(sql).map_err(|error| self.failed(&error))?;
        let found = statement.query_row(params![blob.as_bytes()], |row| unsigned(row, 0)).optional();
        found.map_err(|error| self.failed(&error))
    }

    /// Bytes of the bodies of all blobs.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        let sum = self.select("SELECT coalesce(sum(len), 0) FROM blobs", [], |row| unsigned(row, 0))?;
        Ok(sum.into_iter().sum())
    }

    /// The file of a blob.
    pub(super) fn path(&self, blob: BlobId) -> PathBuf {
        self.folder.blob(blob)
    }

    /// The folders that blobs are in.
    pub(super) fn shelves(&self) -> impl Iterator<Item = PathBuf> {
        self.folder.shelves()
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
        select().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::Index { path: self.folder.index(), reason: error.to_string() }
    }
}

/// Rows page after page, each beginning behind the last row's position.
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
