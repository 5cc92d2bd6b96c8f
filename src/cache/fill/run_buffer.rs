//! Arrived bytes of one run: in memory for followers at once, and written to disk behind them. Writes are a chunk at a
//! time while memory allows. The buffer owns the run's segment of the file and bounds the unwritten bytes, so a slow
//! disk slows the upstream instead of taking memory. It knows neither phases nor upstreams.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::FillContent;
use super::content::RunLimit;
use super::transfer::{Interruption, Transfer};
use gupd_store::{BLOCK, CHUNK, Segment, Store, StoreError};

/// Maximum number of unwritten bytes; beyond it, the upstream waits.
const MAX_UNWRITTEN: u64 = 2 * CHUNK;

/// Maximum under memory pressure. A block, so that a whole block is always writable.
const MAX_UNWRITTEN_PRESSED: u64 = BLOCK;

/// Memory overhead of a piece in bytes. Counted so that an upstream that sends single bytes exhausts the memory budget,
/// not the machine's memory.
const PIECE_OVERHEAD: u64 = 128;

/// Arrived bytes of one run.
pub(super) struct RunBuffer {
    content: Arc<FillContent>,
    run: u64,
    store: Arc<Store>,
    disk: Disk,
    unwritten: Vec<Bytes>,
    unwritten_bytes: u64,
    position: u64,
}

/// Write in flight; it returns the segment.
type Write = Pin<Box<dyn Future<Output = (Segment, Result<u64, StoreError>)> + Send>>;

enum Disk {
    Idle(Segment),
    Writing {
        bytes: u64,
        done: Write,
    },
    /// A failed write consumed the segment.
    Lost,
}

impl RunBuffer {
    /// Creates the buffer of the run `range`, which `segment` stores.
    pub(super) fn new(
        content: Arc<FillContent>,
        range: Range<u64>,
        segment: Segment,
        store: Arc<Store>,
    ) -> Self {
        let position = range.start;
        let run = content.begin_run(range);
        let disk = Disk::Idle(segment);
        Self { content, run, store, disk, unwritten: Vec::new(), unwritten_bytes: 0, position }
    }

    pub(super) fn content(&self) -> &Arc<FillContent> {
        &self.content
    }

    /// Number of the run in the content.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// Position of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// End of the run, and whether it is held.
    pub(super) fn limit(&self) -> RunLimit {
        self.content.limit(self.run)
    }

    /// Returns true if other runs bring bytes of the same content.
    pub(super) fn has_other_runs(&self) -> bool {
        self.content.run_count() > 1
    }

    /// Waits until the run is not held.
    pub(super) async fn wait_until_released(&mut self) {
        self.content.wait_until_released(self.run).await;
    }

    /// Returns the next bytes of `transfer` once there is room, or `None` at its end. Writes in the meantime.
    pub(super) async fn next(
        &mut self,
        transfer: &mut Transfer,
        idle_timeout: Duration,
    ) -> Result<Option<Bytes>, Interruption> {
        loop {
            let pressed = self.store.chunk_memory().has_tail_pressure();
            self.write_behind(pressed);
            let most = if pressed { MAX_UNWRITTEN_PRESSED } else { MAX_UNWRITTEN };
            if self.unwritten_bytes.saturating_add(self.disk.in_flight()) >= most {
                self.wait_for_disk().await?;
                continue;
            }
            tokio::select! {
                written = self.wait_for_disk(), if self.disk.is_writing() => written?,
                piece = transfer.next(idle_timeout) => return piece,
            }
        }
    }

    /// Appends `piece`. Followers may read it at once.
    pub(super) fn push(&mut self, piece: Bytes) {
        let length = piece.len() as u64;
        let charge = self.store.chunk_memory().charge_tail(length.saturating_add(PIECE_OVERHEAD));
        self.position = self.position.saturating_add(length);
        self.unwritten_bytes = self.unwritten_bytes.saturating_add(length);
        self.unwritten.push(piece.clone());
        self.content.push(self.run, piece, charge);
    }

    /// Writes the rest and returns the segment. This ends content without a declared length.
    pub(super) async fn finish(mut self) -> Result<Segment, StoreError> {
        loop {
            self.wait_for_disk().await?;
            self.write_behind(false);
            if !self.disk.is_writing() {
                break;
            }
        }
        if self.unwritten_bytes > 0 {
            self.start_write(self.unwritten_bytes);
            self.wait_for_disk().await?;
        }
        match std::mem::replace(&mut self.disk, Disk::Lost) {
            Disk::Idle(mut segment) => {
                segment.end()?;
                Ok(segment)
            }
            Disk::Writing { .. } | Disk::Lost => Err(StoreError::Broken),
        }
    }

    /// Starts the next write: up to the chunk boundary, or whole blocks under memory pressure.
    fn write_behind(&mut self, pressed: bool) {
        let from = self.position.saturating_sub(self.unwritten_bytes);
        let to_boundary = CHUNK.saturating_sub(from % CHUNK);
        let due = if self.unwritten_bytes >= to_boundary {
            to_boundary
        } else if pressed {
            self.unwritten_bytes.saturating_sub(self.position % BLOCK)
        } else {
            0
        };
        if due > 0 && matches!(self.disk, Disk::Idle(_)) {
            self.start_write(due);
        }
    }

    fn start_write(&mut self, bytes: u64) {
        let pieces = self.take_unwritten(bytes);
        if let Disk::Idle(mut segment) = std::mem::replace(&mut self.disk, Disk::Lost) {
            let done = Box::pin(async move {
                let written = segment.write(pieces).await;
                (segment, written)
            });
            self.disk = Disk::Writing { bytes, done };
        }
    }

    fn take_unwritten(&mut self, bytes: u64) -> Vec<Bytes> {
        let mut left = bytes;
        let mut pieces = Vec::new();
        let mut kept = Vec::new();
        for mut piece in std::mem::take(&mut self.unwritten) {
            let length = piece.len() as u64;
            if left >= length {
                left = left.saturating_sub(length);
                pieces.push(piece);
            } else {
                if left > 0 {
                    pieces.push(piece.split_to(usize::try_from(left).unwrap_or(piece.len())));
                    left = 0;
                }
                kept.push(piece);
            }
        }
        self.unwritten = kept;
        self.unwritten_bytes = self.unwritten_bytes.saturating_sub(bytes);
        pieces
    }

    /// Waits for the write in flight, if any. Cancel-safe.
    async fn wait_for_disk(&mut self) -> Result<(), StoreError> {
        if let Disk::Writing { done, .. } = &mut self.disk {
            let (segment, written) = done.await;
            self.disk = Disk::Idle(segment);
            self.content.trim(self.run, written?);
        }
        Ok(())
    }
}

impl Drop for RunBuffer {
    /// Ends the run in every case: followers can no longer read its bytes from memory.
    fn drop(&mut self) {
        self.content.end_run(self.run);
    }
}

impl Disk {
    fn is_writing(&self) -> bool {
        matches!(self, Self::Writing { .. })
    }

    fn in_flight(&self) -> u64 {
        if let Self::Writing { bytes, .. } = self { *bytes } else { 0 }
    }
}
