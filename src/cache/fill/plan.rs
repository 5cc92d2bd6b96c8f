//! Fetch plan of a fill: pure. The next range is the missing range of the longest-waiting reader that no run (one
//! ranged download) brings soon. If no reader lacks bytes, the rest follows from its beginning. Ranges begin at block
//! boundaries and end at block boundaries or at the end of the content.

use std::ops::Range;

use gupd_store::{BLOCK, CHUNK};

/// Maximum number of runs of one fill: as many connections as the most eager client opens (`aria2c -x16`).
pub(super) const MAX_RUNS: usize = 16;

/// A reader at most this many bytes ahead of a run waits for the run: a new request would take as long.
pub(super) const NEAR: u64 = CHUNK;

/// Minimum length in bytes of a run that a reader may not want to the end. A run that is cut short wastes the bytes in
/// sockets. Each run is therefore as long as the stored bytes before it, so that a long read soon needs one request.
const MIN_RUN: u64 = 4 * CHUNK;

/// Bytes that arrive in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunSpan {
    /// First byte that is not in the store yet.
    pub(super) start: u64,
    /// Next byte to arrive.
    pub(super) position: u64,
    /// End of the run.
    pub(super) until: u64,
}

/// Input of the plan.
pub(super) struct FetchPlan<'a> {
    pub(super) length: u64,
    pub(super) runs: &'a [RunSpan],
    /// Ranges that readers want, each from the reader's position.
    pub(super) demands: &'a [Range<u64>],
    /// Returns the first missing bytes of a range, up to the next stored byte.
    pub(super) missing: &'a dyn Fn(Range<u64>) -> Option<Range<u64>>,
}

impl RunSpan {
    /// Returns true if the byte at `position` is available or among the next `near` bytes.
    pub(super) fn delivers_soon(&self, position: u64, near: u64) -> bool {
        (self.start..self.until).contains(&position) && position <= self.position.saturating_add(near)
    }
}

impl FetchPlan<'_> {
    /// Returns the next range to request. The caller must cut a run that reaches into the range at the range's start.
    /// `admits` says whether a run may start for the demand at an index; it is asked only if one would.
    pub(super) fn next_range(
        &self,
        background: bool,
        mut admits: impl FnMut(usize) -> bool,
    ) -> Option<Range<u64>> {
        if self.runs.len() >= MAX_RUNS {
            return None;
        }
        let mut lacking = self.demands.iter().enumerate();
        let demanded = lacking.find_map(|(index, demand)| self.missing_for(demand).filter(|_| admits(index)));
        demanded.or_else(|| {
            if background && self.runs.is_empty() { (self.missing)(0..self.length) } else { None }
        })
    }

    /// Returns for each run whether to pause it: no reader needs its bytes, and a reader needs another run's.
    pub(super) fn paused_runs(&self) -> impl Iterator<Item = bool> {
        let is_demanded = |run: &RunSpan| {
            self.demands.iter().any(|demand| demand.start < run.until && run.position < demand.end)
        };
        let any = self.runs.iter().any(is_demanded);
        self.runs.iter().map(move |run| any && !is_demanded(run))
    }

    /// Returns the first range that a reader lacks and no run brings soon, extended to a chunk.
    fn missing_for(&self, demand: &Range<u64>) -> Option<Range<u64>> {
        let mut at = demand.start;
        let end = demand.end.min(self.length);
        let needed = loop {
            let needed = (self.missing)(at..end)?.start.max(at);
            match self.runs.iter().find(|run| (run.start..run.until).contains(&needed)) {
                Some(run) if needed < run.position => at = run.position,
                Some(run) if run.delivers_soon(needed, NEAR) => return None,
                _ => break needed,
            }
        };
        let most = end.next_multiple_of(CHUNK).min(self.length);
        let mut start = needed.saturating_sub(needed % CHUNK);
        for run in self.runs {
            // A run that brings these bytes later ends before them, but keeps the bytes about to arrive.
            let taken = if run.until <= needed { run.until } else { run.position.next_multiple_of(BLOCK) };
            if run.start <= needed {
                start = start.max(taken.min(needed.saturating_sub(needed % BLOCK)));
            }
        }
        while let Some(gap) = (self.missing)(start..needed.saturating_add(1))
            && gap.end <= needed
        {
            start = gap.end;
        }
        let start = (self.missing)(start..most)?.start.max(start);
        let stop = (self.missing)(start..most)?.end.min(start.saturating_add(self.run_length_at(start)));
        let before = self.runs.iter().map(|run| run.start).filter(|begin| *begin > needed).min();
        Some(start..before.map_or(stop, |before| stop.min(before)))
    }

    /// Returns the run length that matches the stored bytes before `start`, in doublings of [`MIN_RUN`].
    fn run_length_at(&self, start: u64) -> u64 {
        let mut length = MIN_RUN;
        while let Some(before) = start.checked_sub(length)
            && before > 0
            && (self.missing)(before..start).is_none()
        {
            length = length.saturating_mul(2);
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: u64 = 128;
    const LENGTH: u64 = BLOCKS * BLOCK - 100;

    fn plan_for<'a>(
        runs: &'a [RunSpan],
        demands: &'a [Range<u64>],
        missing: &'a dyn Fn(Range<u64>) -> Option<Range<u64>>,
    ) -> FetchPlan<'a> {
        FetchPlan { length: LENGTH, runs, demands, missing }
    }

    fn all_missing(range: Range<u64>) -> Option<Range<u64>> {
        (!range.is_empty()).then(|| range.start / BLOCK * BLOCK..range.end)
    }

    #[test]
    fn wanted_bytes_of_a_running_run_are_not_requested_again() {
        let run = RunSpan { start: 0, position: 5, until: LENGTH };
        let demands = [3..LENGTH, CHUNK..LENGTH];
        assert_eq!(plan_for(&[run], &demands, &all_missing).next_range(true, |_| true), None);
    }

    #[test]
    fn run_is_as_long_as_the_stored_bytes_before_it() {
        let from = |stored: u64| {
            let missing = |range: Range<u64>| {
                let start = range.start.max(stored * CHUNK);
                (start < range.end).then_some(start..range.end)
            };
            let demands = [stored * CHUNK..1 << 40, 5..6];
            let next = FetchPlan { length: 1 << 40, runs: &[], demands: &demands, missing: &missing }
                .next_range(true, |_| true);
            next.map(|range| (range.end - range.start) / CHUNK)
        };
        assert_eq!([from(1), from(4), from(5), from(9), from(100)], [4, 4, 8, 16, 128].map(Some));
    }

    #[test]
    fn tail_range_does_not_wait_for_earlier_bytes() {
        let run = RunSpan { start: 0, position: BLOCK, until: LENGTH };
        let last = LENGTH - 10..LENGTH;
        let next = plan_for(&[run], &[0..LENGTH, last], &all_missing).next_range(true, |_| true);
        assert_eq!(next, Some(LENGTH / CHUNK * CHUNK..LENGTH));
    }

    #[test]
    fn refused_demand_leaves_its_turn_to_the_next() {
        let run = RunSpan { start: 0, position: BLOCK, until: CHUNK };
        let demands = [0..CHUNK, 2 * CHUNK..3 * CHUNK, 4 * CHUNK..5 * CHUNK];
        let next = |refused: &[usize]| {
            plan_for(&[run], &demands, &all_missing).next_range(true, |index| !refused.contains(&index))
        };
        assert_eq!(next(&[0]), Some(2 * CHUNK..3 * CHUNK), "a demand that a run serves needs no other");
        assert_eq!(next(&[1]), Some(4 * CHUNK..5 * CHUNK));
        assert_eq!(next(&[1, 2]), None);
    }

    #[test]
    fn run_without_readers_is_paused_while_readers_wait() {
        let runs = [
            RunSpan { start: 0, position: 5, until: CHUNK },
            RunSpan { start: 4 * CHUNK, position: 4 * CHUNK, until: 5 * CHUNK },
        ];
        let held = |demand: Option<Range<u64>>| {
            plan_for(&runs, demand.as_slice(), &all_missing).paused_runs().collect::<Vec<_>>()
        };
        assert_eq!(held(Some(4 * CHUNK..5 * CHUNK)), [true, false]);
        assert_eq!(held(Some(3..5 * CHUNK)), [false, false]);
        assert_eq!(held(None), [false, false]);
    }

    proptest! {
        /// For all demands and stored blocks, the planned ranges bring every byte once.
        #[test]
        fn planned_ranges_fetch_every_byte_once(
            stored in proptest::collection::vec(any::<bool>(), BLOCKS as usize),
            demands in proptest::collection::vec((0..LENGTH, 1..LENGTH), 0..6),
            steps in proptest::collection::vec((0usize..MAX_RUNS, 1u64..40), 0..200),
        ) {
            let mut stored = stored;
            let mut fetched = vec![0u32; BLOCKS as usize];
            let demands: Vec<_> =
                demands.into_iter().map(|(from, len)| from..LENGTH.min(from + len)).collect();
            let mut runs: Vec<RunSpan> = Vec::new();
            let mut steps = steps.into_iter();
            loop {
                let missing = |range: Range<u64>| {
                    let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
                    let first = blocks.clone().find(|block| !stored[*block as usize])?;
                    let end = (first..blocks.end).find(|block| stored[*block as usize]);
                    (!range.is_empty())
                        .then(|| first * BLOCK..end.map_or(range.end, |end| (end * BLOCK).min(range.end)))
                };
                let planned = FetchPlan { length: LENGTH, runs: &runs, demands: &demands, missing: &missing };
                if let Some(range) = planned.next_range(true, |_| true) {
                    prop_assert!(range.start < range.end && range.end <= LENGTH);
                    prop_assert!(range.start.is_multiple_of(BLOCK));
                    prop_assert!(range.end.is_multiple_of(BLOCK) || range.end == LENGTH);
                    for run in &mut runs {
                        if run.position < range.start && range.start < run.until {
                            run.until = range.start;
                        }
                        prop_assert!(run.until <= range.start || range.end <= run.start, "{run:?} {range:?}");
                    }
                    runs.push(RunSpan { start: range.start, position: range.start, until: range.end });
                    continue;
                }
                if runs.is_empty() {
                    break;
                }
                let (index, blocks) = steps.next().unwrap_or((0, 1000));
                let index = index % runs.len();
                let run = &mut runs[index];
                let next = (run.position / BLOCK * BLOCK + blocks * BLOCK).min(run.until);
                for block in run.position / BLOCK..next.div_ceil(BLOCK) {
                    fetched[block as usize] += 1;
                    prop_assert!(!stored[block as usize]);
                    stored[block as usize] = true;
                }
                run.position = next;
                run.start = next;
                if next == run.until {
                    runs.remove(index);
                }
            }
            prop_assert!(stored.iter().all(|stored| *stored));
            prop_assert!(fetched.iter().all(|times| *times <= 1));
        }
    }
}
