//! The state of a fill that its followers see. A phase carries all that is true in it, so that a follower can end only
//! on `Complete` or `Stored`, or with an error; when the fill's task vanishes, its channel closes and that is an error
//! too. The content is the content: what is in the store, the runs of bytes that are arriving, each with its newest bytes
//! in memory until they can be read from the store, and where readers are, which is the fill's demand.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::sync::Notify;

use super::origin::ContentOrigin;
use super::plan::{FetchPlan, NEAR, RunSpan};
use super::resumption::Replacement;
use super::{FillError, UnsharedReason};
use crate::CacheEntry;
use crate::digest::Expectation;
use gupd_config::clock::UnixMillis;
use gupd_config::policy::Classification;
use gupd_http::{Freshness, UnstorableReason, VaryFields};
use gupd_store::{BlockSnapshot, MemoryCharge, PartialBlob};

/// Where a fill stands.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// No response head yet.
    Asking,
    /// Bytes arrive.
    Receiving {
        /// Head and bytes.
        content: Arc<FillContent>,
        /// How many have arrived; of content without a length, from the first on.
        arrived: u64,
    },
    /// Every byte has arrived, and is what was announced, or will not be kept.
    Complete {
        /// Head and bytes.
        content: Arc<FillContent>,
        /// How many bytes that is.
        length: u64,
    },
    /// It is an object in the store.
    Stored {
        /// The object.
        entry: Arc<CacheEntry>,
    },
    /// The upstream says the stored response is still good.
    NotModified {
        /// The stored response, with the fields of the `304`.
        entry: Arc<CacheEntry>,
    },
    /// The response may not be shared, or cannot be kept.
    Unshared {
        /// Why.
        why: UnsharedReason,
    },
    /// There will be no more bytes.
    Failed {
        /// Why.
        error: FillError,
    },
}

/// A response on its way into the store.
#[derive(Debug)]
pub struct FillContent {
    /// Its head, as it will be stored.
    pub head: ContentHead,
    /// Its complete length, where the upstream said it.
    pub length: Option<u64>,
    /// What an earlier fill left of it, if this one goes on with that.
    pub leftover: Option<BlockSnapshot>,
    pub(super) origin: ContentOrigin,
    pub(super) partial: Arc<PartialBlob>,
    from_peer: bool,
    visibility: AtomicU8,
    /// The upstream serves parts: bytes may arrive in any order.
    accepts_ranges: AtomicBool,
    // Held to push, trim or clone one piece, or to look over runs and demands.
    state: Mutex<ContentState>,
    /// For the fill's task: a reader wants what is not on its way to it, or one went.
    pub(super) attention: Arc<Notify>,
    /// How many want everything, but not now.
    pub(super) background_followers: AtomicUsize,
    /// For runs that are held.
    plan_changed: Notify,
}

/// A shared response's head.
#[derive(Clone, Debug)]
pub struct ContentHead {
    /// The status.
    pub status: StatusCode,
    /// Whether it will be kept when it has arrived; if not, it is for those who wait alone.
    pub kept: Result<(), UnstorableReason>,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// What is known beforehand of the content.
    pub expected: Expectation,
    /// What selects it among variants.
    pub selecting: VaryFields,
    /// How long it is good.
    pub freshness: Freshness,
    /// Class and content type of the path it was asked for.
    pub classification: Classification,
    /// Who sent it.
    pub upstream: Arc<str>,
    /// When it was asked for.
    pub request_time: UnixMillis,
    /// When it came.
    pub response_time: UnixMillis,
}

#[derive(Debug, Default)]
struct ContentState {
    runs: Vec<Run>,
    demands: Vec<ReaderDemand>,
    /// Number of the next run or demand.
    next: u64,
}

/// Bytes arriving one after the other. Those from `span.start` on are in memory, and counted as chunk memory; those
/// before are in the store.
#[derive(Debug)]
struct Run {
    id: u64,
    span: RunSpan,
    held: bool,
    pieces: VecDeque<(Bytes, MemoryCharge)>,
}

#[derive(Debug)]
struct ReaderDemand {
    id: u64,
    range: Range<u64>,
}

/// Nobody has been shown a byte of it; somebody has; nobody will be, since other content takes its place.
const HIDDEN: u8 = 0;
const REVEALED: u8 = 1;
const REPLACED: u8 = 2;

/// What a reader wants, from where it is on, for as long as it is there.
#[derive(Debug)]
pub(super) struct DemandGuard {
    content: Arc<FillContent>,
    id: u64,
}

/// Where the bytes at a position are.
#[derive(Debug)]
pub(super) enum ByteLocation {
    /// In memory: these and maybe more after them.
    Memory(Bytes),
    /// In the store.
    Store,
    /// Not here yet.
    Missing,
}

/// The state of a run that its owner acts on.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunLimit {
    /// Where it ends; the maximum if nobody knows.
    pub(super) until: u64,
    /// Readers wait for other bytes first.
    pub(super) held: bool,
}

impl FillContent {
    pub(super) fn new(
        head: ContentHead,
        length: Option<u64>,
        origin: ContentOrigin,
        partial: Arc<PartialBlob>,
        accepts_ranges: bool,
        attention: Arc<Notify>,
    ) -> Self {
        let from_peer = origin.current().is_peer();
        Self {
            head,
            length,
            origin,
            leftover: partial.snapshot(),
            partial,
            from_peer,
            visibility: AtomicU8::new(HIDDEN),
            accepts_ranges: AtomicBool::new(accepts_ranges && length.is_some()),
            state: Mutex::default(),
            attention,
            background_followers: AtomicUsize::new(0),
            plan_changed: Notify::new(),
        }
    }

    /// Whether another relay of the site began to send it, not a manager.
    pub(super) fn is_from_peer(&self) -> bool {
        self.from_peer
    }

    /// The upstream serves this content whole or not at all: the run that came first brings it to its end.
    pub(super) fn disable_ranges(&self) {
        self.accepts_ranges.store(false, Ordering::Relaxed);
        if let (Some(first), Some(length)) = (self.lock_state().runs.first_mut(), self.length) {
            first.span.until = length;
        }
    }

    /// Begins a run; one that was to bring these bytes later ends where it begins.
    pub(super) fn begin_run(&self, range: Range<u64>) -> u64 {
        let mut state = self.lock_state();
        for run in &mut state.runs {
            if run.span.position < range.start && range.start < run.span.until {
                run.span.until = range.start;
            }
        }
        state.next += 1;
        let id = state.next;
        let span = RunSpan { start: range.start, position: range.start, until: range.end };
        state.runs.push(Run { id, span, held: false, pieces: VecDeque::new() });
        id
    }

    /// Where a run is to go.
    pub(super) fn limit(&self, run: u64) -> RunLimit {
        let state = self.lock_state();
        let run = state.runs.iter().find(|known| known.id == run);
        run.map_or(RunLimit { until: 0, held: false }, |run| RunLimit {
            until: run.span.until,
            held: run.held,
        })
    }

    /// Waits until a run need not wait for others.
    pub(super) async fn wait_until_released(&self, run: u64) {
        loop {
            let mut planned = std::pin::pin!(self.plan_changed.notified());
            planned.as_mut().enable();
            if !self.limit(run).held {
                return;
            }
            planned.await;
        }
    }

    /// Waits until a run is at its end, which the plan may have moved to where it is.
    pub(super) async fn wait_until_stopped(&self, run: u64) {
        loop {
            let mut planned = std::pin::pin!(self.plan_changed.notified());
            planned.as_mut().enable();
            let goes_on = |known: &Run| known.id == run && known.span.position < known.span.until;
            if !self.lock_state().runs.iter().any(goes_on) {
                return;
            }
            planned.await;
        }
    }

    /// Ends every run where it is.
    pub(super) fn stop(&self) {
        for run in &mut self.lock_state().runs {
            run.span.until = run.span.position;
            run.held = false;
        }
        self.plan_changed.notify_waiters();
    }

    pub(super) fn push(&self, run: u64, piece: Bytes, charge: MemoryCharge) {
        if let Some(run) = self.lock_state().run(run) {
            run.span.position += piece.len() as u64;
            run.pieces.push_back((piece, charge));
        }
    }

    /// Lets go of a run's pieces that end at or before `written`: they can be read from the store.
    pub(super) fn trim(&self, run: u64, written: u64) {
        let mut state = self.lock_state();
        let Some(run) = state.run(run) else { return };
        while let Some((piece, _)) = run.pieces.front() {
            let end = run.span.start + piece.len() as u64;
            if end > written {
                break;
            }
            run.span.start = end;
            run.pieces.pop_front();
        }
    }

    /// Ends a run: all of it is in the store, or lost.
    pub(super) fn end_run(&self, run: u64) {
        self.lock_state().runs.retain(|known| known.id != run);
    }

    /// How many runs there are.
    pub(super) fn run_count(&self) -> usize {
        self.lock_state().runs.len()
    }

    /// What to fetch next, if anything; says of every run whether it has to wait for others. Of what no reader wants,
    /// something only if `background`.
    pub(super) fn plan(&self, background: bool) -> Option<Range<u64>> {
        let mut state = self.lock_state();
        let state = &mut *state;
        let spans: Vec<_> = state.runs.iter().map(|run| run.span).collect();
        let demands: Vec<_> = state.demands.iter().map(|demand| demand.range.clone()).collect();
        let missing = |range| self.partial.first_gap(range);
        let view = FetchPlan { length: self.length?, runs: &spans, demands: &demands, missing: &missing };
        for (run, held) in state.runs.iter_mut().zip(view.held_runs()) {
            run.held = held;
        }
        self.plan_changed.notify_waiters();
        if spans.is_empty() || self.accepts_ranges.load(Ordering::Relaxed) {
            view.next_range(background)
        } else {
            None
        }
    }

    /// Waits until a reader wants something that is not on its way, or a follower went.
    pub(super) async fn wait_for_attention(&self) {
        self.attention.notified().await;
    }

    /// Whether a client reads it, or will.
    pub(super) fn has_readers(&self) -> bool {
        !self.lock_state().demands.is_empty()
    }

    /// Notes what a reader is there for.
    pub(super) fn add_demand(self: &Arc<Self>, range: Range<u64>) -> DemandGuard {
        let mut state = self.lock_state();
        state.next += 1;
        let id = state.next;
        state.demands.push(ReaderDemand { id, range });
        drop(state);
        self.attention.notify_one();
        DemandGuard { content: self.clone(), id }
    }

    /// Has the content shown to a reader, if it may be; whoever has a byte of it has a claim to the rest.
    pub(super) fn reveal(&self) -> bool {
        // Of two that decide at once, one is first: a reader, or who replaces the content.
        let first =
            || self.visibility.compare_exchange(HIDDEN, REVEALED, Ordering::AcqRel, Ordering::Acquire);
        match self.visibility.load(Ordering::Acquire) {
            HIDDEN => first().unwrap_or_else(|was| was) != REPLACED,
            decided => decided != REPLACED,
        }
    }

    /// How many of the first bytes may be shown to a reader of everything: its end only when it has been judged.
    pub(super) fn visible_end(&self) -> u64 {
        let arrived = || self.lock_state().runs.first().map_or(0, |run| run.span.position);
        self.head.expected.visible_bytes(self.length.unwrap_or_else(arrived))
    }

    /// Where the bytes at `position` are.
    pub(super) fn locate(&self, position: u64) -> ByteLocation {
        let state = self.lock_state();
        for run in &state.runs {
            if (run.span.start..run.span.position).contains(&position) {
                return run.piece_at(position).map_or(ByteLocation::Missing, ByteLocation::Memory);
            }
        }
        drop(state);
        if self.partial.readable_end(position) > position {
            ByteLocation::Store
        } else {
            ByteLocation::Missing
        }
    }

    /// The first byte of `range` that is not here.
    pub(super) fn first_missing(&self, range: Range<u64>) -> Option<u64> {
        let mut at = range.start;
        while at < range.end {
            let state = self.lock_state();
            let here = |run: &&Run| (run.span.start..run.span.position).contains(&at);
            let arrived = state.runs.iter().find(here).map(|run| run.span.position);
            drop(state);
            at = match arrived {
                Some(position) => position,
                None => match self.partial.readable_end(at) {
                    readable if readable > at => readable,
                    _ => return Some(at),
                },
            };
        }
        None
    }

    /// How many bytes of `range` are here.
    pub fn available_bytes(&self, range: Range<u64>) -> u64 {
        let stored = self.partial.bytes_within(range.clone());
        let state = self.lock_state();
        let arriving = state
            .runs
            .iter()
            .map(|run| run.span.position.min(range.end).saturating_sub(run.span.start.max(range.start)));
        stored + arriving.sum::<u64>()
    }

    fn lock_state(&self) -> MutexGuard<'_, ContentState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replacement for FillContent {
    fn is_possible(&self) -> bool {
        self.visibility.load(Ordering::Acquire) == HIDDEN
    }

    fn commit(&self) -> bool {
        self.visibility.compare_exchange(HIDDEN, REPLACED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl ContentState {
    fn run(&mut self, id: u64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }
}

impl Run {
    /// The rest of the piece at `position`.
    fn piece_at(&self, position: u64) -> Option<Bytes> {
        let mut start = self.span.start;
        for (piece, _) in &self.pieces {
            let end = start + piece.len() as u64;
            if position < end {
                return usize::try_from(position - start).ok().map(|offset| piece.slice(offset..));
            }
            start = end;
        }
        None
    }
}

impl DemandGuard {
    /// The reader stands at `position` and waits.
    pub(super) fn set_position(&self, position: u64) {
        let mut state = self.content.lock_state();
        if let Some(demand) = state.demands.iter_mut().find(|demand| demand.id == self.id) {
            demand.range.start = position;
        }
        let comes = state.runs.iter().any(|run| !run.held && run.span.delivers_soon(position, NEAR));
        drop(state);
        if !comes {
            self.content.attention.notify_one();
        }
    }
}

impl Drop for DemandGuard {
    fn drop(&mut self) {
        self.content.lock_state().demands.retain(|demand| demand.id != self.id);
        self.content.attention.notify_one();
    }
}
