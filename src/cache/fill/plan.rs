//! What a fill fetches next: pure. First what readers wait for and nothing brings, in the order they came; then, when
//! nobody lacks anything, the rest from its beginning. Ranges begin at blocks and end at blocks or the content's end.

use std::ops::Range;

use gupd_store::{BLOCK, CHUNK};

/// Runs of one fill at once: as many as the most eager client opens connections (`aria2c -x16`).
pub(super) const MAX_RUNS: usize = 16;

/// A reader this close behind a run's newest byte, in bytes, waits for the run: asking anew would take as long.
pub(super) const NEAR: u64 = CHUNK;

/// Bytes asked for at once of what a reader may not want to the end: a run that is cut short by another costs what is
/// in sockets by then, so the next one is as long as what came before it, and a long one soon is one request.
const MIN_RUN: u64 = 4 * CHUNK;

/// Bytes arriving in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunSpan {
    /// The first that is not in the store yet.
    pub(super) start: u64,
    /// The next to arrive.
    pub(super) position: u64,
    /// Where it ends.
    pub(super) until: u64,
}

/// All there is to know.
pub(super) struct FetchPlan<'a> {
    pub(super) length: u64,
    pub(super) runs: &'a [RunSpan],
    /// What readers want, each from where it is.
    pub(super) demands: &'a [Range<u64>],
    /// The first bytes of a range that are not in the store, up to the next that are.
    pub(super) missing: &'a dyn Fn(Range<u64>) -> Option<Range<u64>>,
}

impl RunSpan {
    /// Whether the byte at `position` is here, or among the next `near` to come.
    pub(super) fn delivers_soon(&self, position: u64, near: u64) -> bool {
        (self.start..self.until).contains(&position) && position <= self.position.saturating_add(near)
    }
}

impl FetchPlan<'_> {
    /// What to ask the upstream for now. A run that would have brought it later is to end where it begins.
    pub(super) fn next_range(&self, background: bool) -> Option<Range<u64>> {
        if self.runs.len() >= MAX_RUNS {
            return None;
        }
        let demanded = self.demands.iter().find_map(|demand| self.missing_for(demand));
        demanded.or_else(|| {
            if background && self.runs.is_empty() { (self.missing)(0..self.length) } else { None }
        })
    }

    /// Of each run, whether it has to wait: no reader wants what it brings, and one wants what another brings.
    pub(super) fn held_runs(&self) -> impl Iterator<Item = bool> {
        let wanted = |run: &RunSpan| {
            self.demands.iter().any(|demand| demand.start < run.until && run.position < demand.end)
        };
        let any = self.runs.iter().any(wanted);
        self.runs.iter().map(move |run| any && !wanted(run))
    }

    /// The first bytes that a reader lacks and nothing brings soon, with those around them that make a chunk.
    fn missing_for(&self, demand: &Range<u64>) -> Option<Range<u64>> {
        let mut at = demand.start;
        let end = demand.end.min(self.length);
        let lacking = loop {
            let lacking = (self.missing)(at..end)?.start.max(at);
            match self.runs.iter().find(|run| (run.start..run.until).contains(&lacking)) {
                Some(run) if lacking < run.position => at = run.position,
                Some(run) if run.delivers_soon(lacking, NEAR) => return None,
                _ => break lacking,
            }
        };
        let most = end.next_multiple_of(CHUNK).min(self.length);
        let mut start = lacking / CHUNK * CHUNK;
        for run in self.runs {
            // A run that brings it later ends before it, but not before what it is about to bring.
            let taken = if run.until <= lacking { run.until } else { run.position.next_multiple_of(BLOCK) };
            if run.start <= lacking {
                start = start.max(taken.min(lacking / BLOCK * BLOCK));
            }
        }
        while let Some(gap) = (self.missing)(start..lacking + 1)
            && gap.end <= lacking
        {
            start = gap.end;
        }
        let start = (self.missing)(start..most)?.start.max(start);
        let stop = (self.missing)(start..most)?.end.min(start.saturating_add(self.run_length_at(start)));
        let before = self.runs.iter().map(|run| run.start).filter(|begin| *begin > lacking).min();
        Some(start..before.map_or(stop, |before| stop.min(before)))
    }

    /// How much is there right before `start`, in doublings of [`MIN_RUN`].
    fn run_length_at(&self, start: u64) -> u64 {
        let mut length = MIN_RUN;
        while length < start && (self.missing)(start - length..start).is_none() {
            length *= 2;
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

    fn view<'a>(
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
    fn a_run_that_brings_what_is_wanted_is_enough() {
        let run = RunSpan { start: 0, position: 5, until: LENGTH };
        let demands = [3..LENGTH, CHUNK..LENGTH];
        assert_eq!(view(&[run], &demands, &all_missing).next_range(true), None);
    }

    #[test]
    fn a_run_is_as_long_as_what_is_there_before_it() {
        let from = |there: u64| {
            let missing = |range: Range<u64>| {
                let start = range.start.max(there * CHUNK);
                (start < range.end).then_some(start..range.end)
            };
            let demands = [there * CHUNK..1 << 40, 5..6];
            let next = FetchPlan { length: 1 << 40, runs: &[], demands: &demands, missing: &missing }
                .next_range(true);
            next.map(|range| (range.end - range.start) / CHUNK)
        };
        assert_eq!([from(1), from(4), from(5), from(9), from(100)], [4, 4, 8, 16, 128].map(Some));
    }

    #[test]
    fn the_last_bytes_do_not_wait_for_those_before() {
        let run = RunSpan { start: 0, position: BLOCK, until: LENGTH };
        let last = LENGTH - 10..LENGTH;
        let next = view(&[run], &[0..LENGTH, last], &all_missing).next_range(true);
        assert_eq!(next, Some(LENGTH / CHUNK * CHUNK..LENGTH));
    }

    #[test]
    fn what_nobody_wants_waits_for_what_somebody_wants() {
        let runs = [
            RunSpan { start: 0, position: 5, until: CHUNK },
            RunSpan { start: 4 * CHUNK, position: 4 * CHUNK, until: 5 * CHUNK },
        ];
        let held = |demand: Option<Range<u64>>| {
            view(&runs, demand.as_slice(), &all_missing).held_runs().collect::<Vec<_>>()
        };
        assert_eq!(held(Some(4 * CHUNK..5 * CHUNK)), [true, false]);
        assert_eq!(held(Some(3..5 * CHUNK)), [false, false]);
        assert_eq!(held(None), [false, false]);
    }

    proptest! {
        /// Whatever readers want, and whatever is there, fetching what is planned brings every byte once.
        #[test]
        fn every_byte_is_fetched_once(
            there in proptest::collection::vec(any::<bool>(), BLOCKS as usize),
            demands in proptest::collection::vec((0..LENGTH, 1..LENGTH), 0..6),
            steps in proptest::collection::vec((0usize..MAX_RUNS, 1u64..40), 0..200),
        ) {
            let mut there = there;
            let mut fetched = vec![0u32; BLOCKS as usize];
            let demands: Vec<_> =
                demands.into_iter().map(|(from, len)| from..LENGTH.min(from + len)).collect();
            let mut runs: Vec<RunSpan> = Vec::new();
            let mut steps = steps.into_iter();
            loop {
                let missing = |range: Range<u64>| {
                    let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
                    let first = blocks.clone().find(|block| !there[*block as usize])?;
                    let end = (first..blocks.end).find(|block| there[*block as usize]);
                    (!range.is_empty())
                        .then(|| first * BLOCK..end.map_or(range.end, |end| (end * BLOCK).min(range.end)))
                };
                let planned = FetchPlan { length: LENGTH, runs: &runs, demands: &demands, missing: &missing };
                if let Some(range) = planned.next_range(true) {
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
                let (which, blocks) = steps.next().unwrap_or((0, 1000));
                let which = which % runs.len();
                let run = &mut runs[which];
                let next = (run.position / BLOCK * BLOCK + blocks * BLOCK).min(run.until);
                for block in run.position / BLOCK..next.div_ceil(BLOCK) {
                    fetched[block as usize] += 1;
                    prop_assert!(!there[block as usize]);
                    there[block as usize] = true;
                }
                run.position = next;
                run.start = next;
                if next == run.until {
                    runs.remove(which);
                }
            }
            prop_assert!(there.iter().all(|there| *there));
            prop_assert!(fetched.iter().all(|times| *times <= 1));
        }
    }
}
