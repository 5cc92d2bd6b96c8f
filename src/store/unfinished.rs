//! What fills left half-written, by the object it is of: kept for the next fill of that object, over restarts too.
//! Owns the list and reads the journals at start; whether what is there still is the upstream's content, the fill asks
//! the upstream. Half-written content is the first to go when room is needed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocks::{BlockMap, block_of, blocks_of};
use super::budget::{DiskBudget, on_disk};
use super::error::StoreError;
use super::object::NewObject;
use super::scratch::{LeftoverFile, Scratch};
use super::trailer::file_size;
use super::{BLOCK, CHUNK, Store, journal};

/// Half-written files kept at most; a fill needs one, and few fail. More means an upstream that is failing for good.
const MAX_UNFINISHED: usize = 1024;

/// Part of an object: what its response was, and which of its bytes are on disk.
#[derive(Debug)]
pub struct UnfinishedFill {
    /// The response, but for its body.
    pub object: NewObject,
    /// Length of its whole body.
    pub len: u64,
    pub(super) blocks: BlockMap,
    pub(super) scratch: Scratch,
}

/// Those at hand, oldest first. Their files stay when this is dropped.
#[derive(Debug, Default)]
pub(super) struct UnfinishedList(Mutex<VecDeque<UnfinishedFill>>);

impl Store {
    /// Takes what an earlier fill left of an object under `key`, if `is_it` says of its selecting fields that it is
    /// the one.
    pub fn take_unfinished(&self, key: &str, matches: impl Fn(&str) -> bool) -> Option<UnfinishedFill> {
        // It stays until the disk is well.
        self.health.check().ok()?;
        if self.is_released() {
            return None;
        }
        let mut list = self.unfinished.lock();
        let at = list.iter().position(|left| *left.object.key == *key && matches(&left.object.selecting))?;
        list.remove(at)
    }

    /// Keeps it for the next fill of its object, in place of what was kept of that.
    pub fn return_unfinished(&self, left: UnfinishedFill) {
        if self.is_released() {
            return left.scratch.leave();
        }
        let replaced = {
            let mut list = self.unfinished.lock();
            let same = |other: &UnfinishedFill| {
                other.object.key == left.object.key && other.object.selecting == left.object.selecting
            };
            let replaced = match list.iter().position(same) {
                Some(at) => list.remove(at),
                None if list.len() >= MAX_UNFINISHED => list.pop_front(),
                None => None,
            };
            list.push_back(left);
            replaced
        };
        drop(replaced);
    }

    /// Removes the oldest of what is half-written; whether there was any. Unlinks a file: not for an async thread.
    pub(super) fn discard_oldest_unfinished(&self) -> bool {
        let oldest = self.unfinished.lock().pop_front();
        oldest.is_some()
    }
}

impl UnfinishedFill {
    /// How many of its bytes are there.
    pub fn written_bytes(&self) -> u64 {
        (self.blocks.count() as u64 * BLOCK).min(self.len)
    }

    /// The first bytes that are not there, from `position` on if any are missing there: never none, since the last
    /// chunk is given up if all are.
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

    /// Reads what a process left behind; what is of no use is removed.
    fn read(left: LeftoverFile, room: &Arc<DiskBudget>, free: u64) -> Result<Option<Self>, StoreError> {
        let bytes = left.journal()?;
        let Some(journal) = journal::decode(&bytes).filter(|journal| journal.blocks.count() > 0) else {
            left.remove()?;
            return Ok(None);
        };
        let need = on_disk(file_size(journal.len));
        let Ok(mut reservation) = room.reserve(need, free) else {
            left.remove()?;
            return Ok(None);
        };
        reservation.written(journal.blocks.count() as u64 * BLOCK);
        let scratch = left.into_scratch(reservation);
        Ok(Some(Self { object: journal.object, len: journal.len, blocks: journal.blocks, scratch }))
    }
}

impl UnfinishedList {
    /// Reads the journals of what was left. Blocks.
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

    /// Forgets all, and leaves their files where they are.
    pub(super) fn leave(&self) {
        let left = std::mem::take(&mut *self.lock());
        left.into_iter().for_each(|left| left.scratch.leave());
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<UnfinishedFill>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnfinishedList {
    fn drop(&mut self) {
        self.leave();
    }
}
