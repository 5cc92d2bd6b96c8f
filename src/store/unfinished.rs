//! Unfinished fills by object, kept for the next fill of the same object, also over restarts. This module owns
//! the list and reads the journals at start. The fill asks the upstream whether the content is still current.
//! Unfinished fills are the first to be removed when room is needed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocks::{BlockMap, block_of, blocks_of};
use super::budget::{DiskBudget, allocated_size};
use super::error::StoreError;
use super::object::NewObject;
use super::scratch::{LeftoverFile, Scratch};
use super::trailer::file_size;
use super::{BLOCK, CHUNK, Store, journal};

/// Maximum number of unfinished fills. A fill needs one, and few fail; more means an upstream that fails
/// permanently.
const MAX_UNFINISHED: usize = 1024;

/// Part of an object: its response head and the blocks that are on disk.
#[derive(Debug)]
pub struct UnfinishedFill {
    /// The response without its body.
    pub object: NewObject,
    /// Length of the whole body in bytes.
    pub len: u64,
    pub(super) blocks: BlockMap,
    pub(super) scratch: Scratch,
}

/// Unfinished fills, oldest first. Their files stay on disk when the list is dropped.
#[derive(Debug, Default)]
pub(super) struct UnfinishedList(Mutex<VecDeque<UnfinishedFill>>);

impl Store {
    /// Removes and returns the unfinished fill of an object under `key` with matching selecting fields.
    pub fn take_unfinished(&self, key: &str, matches: impl Fn(&str) -> bool) -> Option<UnfinishedFill> {
        // It stays in the list until the disk works again.
        self.health.check().ok()?;
        if self.is_released() {
            return None;
        }
        let mut list = self.unfinished.lock();
        let at = list.iter().position(|fill| *fill.object.key == *key && matches(&fill.object.selecting))?;
        list.remove(at)
    }

    /// Returns an unfinished fill to the list, in place of one of the same object.
    pub fn return_unfinished(&self, unfinished: UnfinishedFill) {
        if self.is_released() {
            return unfinished.scratch.keep_files();
        }
        let replaced = {
            let mut list = self.unfinished.lock();
            let same = |other: &UnfinishedFill| {
                other.object.key == unfinished.object.key
                    && other.object.selecting == unfinished.object.selecting
            };
            let replaced = match list.iter().position(same) {
                Some(at) => list.remove(at),
                None if list.len() >= MAX_UNFINISHED => list.pop_front(),
                None => None,
            };
            list.push_back(unfinished);
            replaced
        };
        drop(replaced);
    }

    /// Removes unfinished fills by their head and whole length. Unlinks files: not for an async thread.
    pub fn discard_unfinished_if(&self, mut is_discarded: impl FnMut(&NewObject, u64) -> bool) {
        let mut list = self.unfinished.lock();
        let (discarded, kept) =
            std::mem::take(&mut *list).into_iter().partition(|fill| is_discarded(&fill.object, fill.len));
        *list = kept;
        drop(list);
        let _unlinked: VecDeque<UnfinishedFill> = discarded;
    }

    /// Removes the oldest unfinished fill; returns true if there was one. Unlinks a file: not for an async
    /// thread.
    pub(super) fn discard_oldest_unfinished(&self) -> bool {
        let oldest = self.unfinished.lock().pop_front();
        oldest.is_some()
    }
}

impl UnfinishedFill {
    /// Returns the number of bytes on disk.
    pub fn written_bytes(&self) -> u64 {
        (self.blocks.count() as u64 * BLOCK).min(self.len)
    }

    /// Returns true if every byte of `range` is on disk.
    pub fn has(&self, range: Range<u64>) -> bool {
        let end = blocks_of(range.end);
        self.blocks.find_next(block_of(range.start), end, false) >= end
    }

    /// Returns the first missing range, from `position` on if any is missing there. If nothing is missing, the
    /// last chunk is invalidated and returned, so the range is never empty.
    pub fn first_gap(&mut self, position: u64) -> Range<u64> {
        let (len, all) = (self.len, blocks_of(self.len));
        let gap = |blocks: &BlockMap, from| {
            let start = blocks.find_next(from, all, false);
            let end = blocks.find_next(start, all, true) as u64 * BLOCK;
            (start < all).then(|| start as u64 * BLOCK..end.min(len))
        };
        if let Some(gap) = gap(&self.blocks, block_of(position)).or_else(|| gap(&self.blocks, 0)) {
            return gap;
        }
        let last = len.saturating_sub(1) / CHUNK * CHUNK;
        (block_of(last)..all).for_each(|block| self.blocks.remove(block));
        last..len
    }

    /// Reads the journal of a leftover file, and removes the file if it is useless.
    fn read(left: LeftoverFile, room: &Arc<DiskBudget>, free: u64) -> Result<Option<Self>, StoreError> {
        let bytes = left.read_journal()?;
        let Some(journal) = journal::decode(&bytes).filter(|journal| journal.blocks.count() > 0) else {
            left.remove()?;
            return Ok(None);
        };
        let need = allocated_size(file_size(journal.len));
        let Ok(mut reservation) = room.reserve(need, free) else {
            left.remove()?;
            return Ok(None);
        };
        reservation.set_written(journal.blocks.count() as u64 * BLOCK);
        let scratch = left.into_scratch(reservation);
        Ok(Some(Self { object: journal.object, len: journal.len, blocks: journal.blocks, scratch }))
    }
}

impl UnfinishedList {
    /// Reads the journals of leftover files. Blocks.
    pub(super) fn open(
        left: Vec<LeftoverFile>,
        room: &Arc<DiskBudget>,
        free: u64,
    ) -> Result<Self, StoreError> {
        let mut list = VecDeque::new();
        for left in left {
            if list.len() < MAX_UNFINISHED {
                list.extend(UnfinishedFill::read(left, room, free)?);
            } else {
                left.remove()?;
            }
        }
        Ok(Self(Mutex::new(list)))
    }

    /// Clears the list and leaves the files on disk.
    pub(super) fn clear(&self) {
        let left = std::mem::take(&mut *self.lock());
        left.into_iter().for_each(|left| left.scratch.keep_files());
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<UnfinishedFill>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnfinishedList {
    fn drop(&mut self) {
        self.clear();
    }
}
