//! Map of the present blocks of a body and their checksums. Pure: knows no file. Ranges begin at blocks. Only a
//! body's last block may be short; callers that know the length handle that.

use std::ops::Range;

use super::BLOCK;

/// Number of blocks in one word of the map.
const WORD: usize = u64::BITS as usize;

/// The present blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct BlockMap {
    checksums: Vec<u128>,
    present: Vec<u64>,
    count: usize,
}

impl BlockMap {
    /// Adds blocks from `first` on.
    pub(super) fn insert(&mut self, first: usize, checksums: &[u128]) {
        let end = first + checksums.len();
        if self.checksums.len() < end {
            self.checksums.resize(end, 0);
            self.present.resize(end.div_ceil(WORD), 0);
        }
        for (index, checksum) in (first..).zip(checksums) {
            if let (Some(slot), Some(word)) =
                (self.checksums.get_mut(index), self.present.get_mut(index / WORD))
            {
                *slot = *checksum;
                let bit = 1 << (index % WORD);
                self.count += usize::from(*word & bit == 0);
                *word |= bit;
            }
        }
    }

    /// Removes a damaged block.
    pub(super) fn remove(&mut self, index: usize) {
        if let Some(word) = self.present.get_mut(index / WORD) {
            let bit = 1 << (index % WORD);
            self.count -= usize::from(*word & bit != 0);
            *word &= !bit;
        }
    }

    /// Returns the number of present blocks.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Returns the checksums of all blocks of `range`, or `None` if one is missing.
    pub(super) fn checksums(&self, range: Range<usize>) -> Option<&[u128]> {
        (self.find_next(range.start, range.end, false) == range.end)
            .then(|| self.checksums.get(range))
            .flatten()
    }

    /// Returns the number of present bytes of a range.
    pub(super) fn bytes_within(&self, range: Range<u64>) -> u64 {
        let (mut at, end) = (block_of(range.start), blocks_of(range.end));
        let mut bytes = 0;
        while at < end {
            let first = self.find_next(at, end, true);
            at = self.find_next(first, end, false);
            let run = (first as u64).saturating_mul(BLOCK)..(at as u64).saturating_mul(BLOCK);
            bytes += run.end.min(range.end).saturating_sub(run.start.max(range.start));
        }
        bytes
    }

    /// Returns the first block in `from..end` that is present (or missing, if `present` is false); `end` if there
    /// is none.
    pub(super) fn find_next(&self, from: usize, end: usize, present: bool) -> usize {
        let mut at = from;
        while at < end {
            // Past the last word every block is missing.
            let Some(word) = self.present.get(at / WORD).copied() else {
                return if present { end } else { at };
            };
            let candidates = if present { word } else { !word } >> (at % WORD);
            if candidates != 0 {
                return (at + candidates.trailing_zeros() as usize).min(end);
            }
            at = (at / WORD + 1) * WORD;
        }
        end
    }
}

/// Returns the block of a position. Bodies have far fewer blocks than `usize` can count.
pub(super) fn block_of(position: u64) -> usize {
    usize::try_from(position / BLOCK).unwrap_or(usize::MAX)
}

/// Returns the number of blocks of a body of `len` bytes, including the short last one.
pub(super) fn blocks_of(len: u64) -> usize {
    usize::try_from(len.div_ceil(BLOCK)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn map_holds_inserted_blocks_that_were_not_removed(
            changes in proptest::collection::vec((0usize..200, 0usize..80, any::<bool>()), 0..20),
            from in 0usize..300,
        ) {
            let mut map = BlockMap::default();
            let mut model = vec![None; 300];
            for (at, (first, len, remove)) in changes.into_iter().enumerate() {
                if remove {
                    map.remove(first);
                    model[first] = None;
                } else {
                    map.insert(first, &vec![at as u128; len]);
                    model[first..first + len].fill(Some(at as u128));
                }
            }
            prop_assert_eq!(map.count(), model.iter().flatten().count());
            let next = |there| (from..300).find(|at| model[*at].is_some() == there).unwrap_or(300);
            prop_assert_eq!(map.find_next(from, 300, true), next(true));
            prop_assert_eq!(map.find_next(from, 300, false), next(false));
            let bytes = from as u64 * 1000..from as u64 * 70_000;
            let there = (0u64..).zip(&model).filter(|(_, checksum)| checksum.is_some());
            let overlap = |(block, _)| {
                let end = bytes.end.min((block + 1) * BLOCK);
                end.saturating_sub(bytes.start.max(block * BLOCK))
            };
            prop_assert_eq!(map.bytes_within(bytes.clone()), there.map(overlap).sum::<u64>());
            let end = (from + 5).min(300);
            let expected: Option<Vec<u128>> = model[from..end].iter().copied().collect();
            prop_assert_eq!(map.checksums(from..end).map(<[u128]>::to_vec), expected);
        }
    }
}
