//! What has arrived of one run of a fill's content: in memory for its followers at once, on disk behind them, a chunk
//! at a time while memory allows. Owns the run's segment of the file and the bound on bytes taken in ahead of it;
//! relies on the store to count and keep them. Knows no phase and no upstream's ways: when followers are told, and
//! whether to go on, `run` and `task` say.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::FillContent;
use super::content::RunLimit;
use super::transfer::{Interruption, Transfer};
use gupd_store::{BLOCK, CHUNK, Segment, Store, StoreError};

/// Bytes taken in ahead of the disk: past this the upstream has to wait, so that a slow disk costs no memory.
const MAX_UNWRITTEN: u64 = 2 * CHUNK;

/// The same when memory is short. More than a block, so that there is always one to write.
const MAX_UNWRITTEN_PRESSED: u64 = 2 * BLOCK;

/// What a piece costs in memory besides its bytes; counted, so that an upstream that sends single bytes meets the
/// memory's bound and not the machine's.
const PIECE_OVERHEAD: u64 = 128;

/// What has arrived and where it goes.
pub(super) struct RunBuffer {
    content: Arc<FillContent>,
    run: u64,
    store: Arc<Store>,
    disk: Disk,
    unwritten: Vec<Bytes>,
    unwritten_bytes: u64,
    position: u64,
}

/// A write in flight; it gives the segment back.
type Write = Pin<Box<dyn Future<Output = (Segment, Result<u64, StoreError>)> + Send>>;

enum Disk {
    Idle(Segment),
    Writing {
        bytes: u64,
        done: Write,
    },
    /// An error took the segment.
    Lost,
}

impl RunBuffer {
    /// For what arrives from the begin of `range` on, where `segment` is.
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

    /// The run's number in the content.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Where this ends, and whether it has to wait.
    pub(super) fn limit(&self) -> RunLimit {
        self.content.limit(self.run)
    }

    /// Whether other runs bring bytes of the same content.
    pub(super) fn others(&self) -> bool {
        self.content.run_count() > 1
    }

    /// Waits until readers do not want other bytes first.
    pub(super) async fn wait_until_released(&mut self) {
        self.content.wait_until_released(self.run).await;
    }

    /// The next bytes of `transfer`, when there is room for them, or `None` at its end. Writes behind meanwhile.
    pub(super) async fn next(
        &mut self,
        transfer: &mut Transfer,
        idle_timeout: Duration,
    ) -> Result<Option<Bytes>, Interruption> {
        loop {
            let pressed = self.store.chunk_memory().has_tail_pressure();
            self.write_behind(pressed);
            let most = if pressed { MAX_UNWRITTEN_PRESSED } else { MAX_UNWRITTEN };
            if self.unwritten_bytes + self.disk.in_flight() >= most {
                self.disk_done().await?;
                continue;
            }
            tokio::select! {
                written = self.disk_done(), if self.disk.is_writing() => written?,
                piece = transfer.next(idle_timeout) => return piece,
            }
        }
    }

    /// Takes `piece` in: followers that are told of it may have it.
    pub(super) fn push(&mut self, piece: Bytes) {
        let length = piece.len() as u64;
        let charge = self.store.chunk_memory().charge_tail(length + PIECE_OVERHEAD);
        self.position += length;
        self.unwritten_bytes += length;
        self.unwritten.push(piece.clone());
        self.content.push(self.run, piece, charge);
    }

    /// Writes the rest. Gives the segment back, which ends the content if that did not say its length.
    pub(super) async fn finish(mut self) -> Result<Segment, StoreError> {
        loop {
            self.disk_done().await?;
            self.write_behind(false);
            if !self.disk.is_writing() {
                break;
            }
        }
        if self.unwritten_bytes > 0 {
            self.start_write(self.unwritten_bytes);
            self.disk_done().await?;
        }
        match std::mem::replace(&mut self.disk, Disk::Lost) {
            Disk::Idle(mut segment) => {
                segment.end()?;
                Ok(segment)
            }
            Disk::Writing { .. } | Disk::Lost => Err(StoreError::Broken),
        }
    }

    /// Gives the disk what is due: up to the next chunk's boundary, or whole blocks when memory is short.
    fn write_behind(&mut self, pressed: bool) {
        let from = self.position - self.unwritten_bytes;
        let to_boundary = CHUNK - from % CHUNK;
        let due = if self.unwritten_bytes >= to_boundary {
            to_boundary
        } else if pressed {
            (self.position / BLOCK * BLOCK).saturating_sub(from)
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
                left -= length;
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
        self.unwritten_bytes -= bytes;
        pieces
    }

    /// Waits for the write in flight, if there is one; safe to drop and call again.
    async fn disk_done(&mut self) -> Result<(), StoreError> {
        if let Disk::Writing { done, .. } = &mut self.disk {
            let (segment, written) = done.await;
            self.disk = Disk::Idle(segment);
            self.content.trim(self.run, written?);
        }
        Ok(())
    }
}

impl Drop for RunBuffer {
    /// However it ends: what is not in the store by now, followers can no longer have from here.
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
