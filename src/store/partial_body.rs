//! Bytes of a blob being written: in memory while it is small, else in a file. It moves to a file at most once, when it
//! grows or memory is short. The pieces stay until all of them are in the file, so a reader finds each byte in one of
//! both at any moment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::stats::OpenFile;

/// Bytes of a blob being written.
#[derive(Debug, Default)]
pub(super) struct PartialBody {
    /// Pieces in memory and their positions; a later one replaces the bytes of an earlier one.
    // Locked to look or to push, never across I/O.
    pieces: Mutex<Vec<(u64, Bytes)>>,
    file: OnceLock<(File, OpenFile)>,
}

impl PartialBody {
    /// Returns a body in `file`.
    pub(super) fn in_file(file: File, open: OpenFile) -> Self {
        Self { pieces: Mutex::default(), file: OnceLock::from((file, open)) }
    }

    /// Returns the file, once the body is in one.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.get().map(|(file, _)| file)
    }

    /// Writes `bytes` at `position`. Blocks if the body is in a file.
    pub(super) fn write(&self, position: u64, bytes: &Bytes) -> io::Result<()> {
        {
            let mut pieces = self.pieces();
            if self.file.get().is_none() {
                pieces.push((position, bytes.clone()));
                return Ok(());
            }
        }
        self.file().map_or(Ok(()), |file| file.write_all_at(bytes, position))
    }

    /// Moves all pieces to `file`. Blocks.
    pub(super) fn spill(&self, file: File, open: OpenFile) -> io::Result<()> {
        let mut written = 0;
        loop {
            let new = self.pieces().get(written..).unwrap_or_default().to_vec();
            for (position, piece) in &new {
                file.write_all_at(piece, *position)?;
            }
            written += new.len();
            let mut pieces = self.pieces();
            if pieces.len() == written {
                // From now on writes go to the file.
                let _ = self.file.set((file, open));
                pieces.clear();
                return Ok(());
            }
        }
    }

    /// Returns the rest of the piece at `position` if it is in memory.
    pub(super) fn piece_at(&self, position: u64) -> Option<Bytes> {
        let pieces = self.pieces();
        let has = |(start, piece): &&(u64, Bytes)| (*start..*start + piece.len() as u64).contains(&position);
        let (start, piece) = pieces.iter().rev().find(has)?;
        Some(piece.slice(usize::try_from(position - start).ok()?..))
    }

    /// Copies the bytes from `position`; returns false if they are not all in memory.
    pub(super) fn read(&self, position: u64, into: &mut [u8]) -> bool {
        let mut done = 0;
        while done < into.len() {
            let Some(piece) = self.piece_at(position + done as u64) else { return false };
            let len = piece.len().min(into.len() - done);
            into[done..done + len].copy_from_slice(&piece[..len]);
            done += len;
        }
        true
    }

    /// Returns the whole body of `len` bytes if it is in memory: without a copy if it is one piece.
    pub(super) fn whole(&self, len: u64) -> Option<Bytes> {
        let size = usize::try_from(len).ok()?;
        if size == 0 {
            return self.file.get().is_none().then(Bytes::new);
        }
        if let Some(piece) = self.piece_at(0).filter(|piece| piece.len() == size) {
            return Some(piece);
        }
        let mut bytes = vec![0; size];
        self.read(0, &mut bytes).then(|| bytes.into())
    }

    fn pieces(&self) -> MutexGuard<'_, Vec<(u64, Bytes)>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
