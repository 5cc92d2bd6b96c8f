//! Compaction of packs: the stored records of a pack move to the one that is appended to, and its file is removed. One
//! step moves a bounded batch, so other changes run in between. The moves are on disk before the file goes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::row::place_of;
use super::statements::IndexChange;
use super::{Index, unsigned};
use crate::StoreError;
use crate::blob::read_trailer;
use crate::extent::BlobExtent;
use crate::pack::{self, HEADER};

/// Maximum bytes scanned in one step: some ten milliseconds.
const STEP_BYTES: u64 = 2 << 20;

/// A pack is always due when less than this part of it is stored, in percent.
const DUE_BELOW: u64 = 50;

/// The emptiest pack is due below this part when removed records take more room than is charged for them.
const URGENT_BELOW: u64 = 90;

/// Next work of a compaction.
#[derive(Clone, Copy, Debug)]
enum CompactionStep {
    /// Choose a pack.
    Choose,
    /// Move the records of a pack from a position on.
    Move { pack: u32, from: u64 },
    /// Remove the file of a pack; its moves are committed.
    Remove { pack: u32 },
    /// No pack is due.
    End,
}

impl Index {
    /// Compacts packs until none is due.
    pub(crate) async fn compact_packs(&self) -> Result<(), StoreError> {
        let mut step = CompactionStep::Choose;
        while !matches!(step, CompactionStep::End) {
            let is_urgent = self.are_packs_due();
            let map_error = self.error_mapper();
            (step, _) = self.change(move |change| change.compact(step, is_urgent, map_error)).await?;
        }
        Ok(())
    }

    /// Returns true if removed records take more room than is charged for them.
    pub(crate) fn are_packs_due(&self) -> bool {
        self.state.packs_due.load(std::sync::atomic::Ordering::Acquire)
    }
}

impl IndexChange<'_> {
    fn compact(
        &mut self,
        step: CompactionStep,
        is_urgent: bool,
        map_error: impl Fn(rusqlite::Error) -> StoreError,
    ) -> Result<CompactionStep, StoreError> {
        match step {
            CompactionStep::Choose => {
                let below = if is_urgent { URGENT_BELOW } else { DUE_BELOW };
                let mut chosen = self.emptiest_pack(below).map_err(&map_error)?;
                if chosen.is_none() && is_urgent {
                    self.packs()?.close_current()?;
                    chosen = self.emptiest_pack(below).map_err(&map_error)?;
                }
                Ok(chosen.map_or(CompactionStep::End, |pack| CompactionStep::Move { pack, from: 0 }))
            }
            CompactionStep::Move { pack, from } => self.move_records(pack, from, map_error),
            CompactionStep::Remove { pack } => {
                self.packs()?.remove(pack)?;
                let removed = self.connection.execute("DELETE FROM packs WHERE id = ?1", [pack]);
                removed.map_err(map_error)?;
                Ok(CompactionStep::Choose)
            }
            CompactionStep::End => Ok(CompactionStep::End),
        }
    }

    /// Returns the pack with the smallest stored part, if that is below `percent`.
    fn emptiest_pack(&self, percent: u64) -> rusqlite::Result<Option<u32>> {
        let Some(packs) = &self.packs else { return Ok(None) };
        let mut select = self.connection.prepare_cached("SELECT stored FROM packs WHERE id = ?1")?;
        let mut emptiest = None;
        for (pack, size) in packs.closed() {
            let mut rows = select.query([pack])?;
            let stored = rows.next()?.map_or(Ok(0), |row| unsigned(row, 0))?;
            let part = stored * 100 / size.max(1);
            if part < percent && emptiest.is_none_or(|(least, _)| part < least) {
                emptiest = Some((part, pack));
            }
        }
        Ok(emptiest.map(|(_, pack)| pack))
    }

    fn move_records(
        &mut self,
        pack: u32,
        from: u64,
        map_error: impl Fn(rusqlite::Error) -> StoreError,
    ) -> Result<CompactionStep, StoreError> {
        self.packs()?.compact(pack);
        let path = self.packs()?.path(pack);
        let failed = |source| StoreError::Io { doing: "read", path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let mut at = from;
        while at - from < STEP_BYTES {
            let Some(record) = pack::next_record(&file, pack, at).map_err(failed)? else {
                self.packs()?.sync()?;
                return Ok(CompactionStep::Remove { pack });
            };
            let place = record.place;
            at = place.at + u64::from(place.size);
            // A damaged record cannot be named; its objects are fetched again.
            let Ok((_, trailer)) = read_trailer(&file, &BlobExtent::packed(path.clone(), place)) else {
                continue;
            };
            if place_of(self.connection, trailer.id).map_err(&map_error)? != Some(place) {
                continue;
            }
            let mut bytes = vec![0; usize::try_from(place.record_bytes()).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, place.at - HEADER as u64).map_err(failed)?;
            let moved = self.append(&bytes)?;
            self.set_place(trailer.id, Some(moved)).map_err(&map_error)?;
        }
        Ok(CompactionStep::Move { pack, from: at })
    }
}
