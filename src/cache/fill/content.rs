//! Content of a running fill: the stored bytes, the arriving runs and the demands of readers. A run keeps its newest
//! bytes in memory until they can be read. `visibility` decides whether other content may replace this one.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::delivered::ContentIdentity;
use super::head::ContentHead;
use super::origin::ContentOrigin;
use super::plan::{FetchPlan, NEAR, RunSpan};
use super::visibility::ContentVisibility;
use gupd_http::UnstorableReason;
use gupd_store::{BlockSnapshot, CHUNK, MemoryCharge, PartialBlob};

/// Response on its way into the store.
#[derive(Debug)]
pub struct FillContent {
    /// Head, as it will be stored.
    pub head: ContentHead,
    /// Complete length, if the upstream declared it.
    pub length: Option<u64>,
    /// Blocks stored by an earlier fill, if this fill resumes it.
    pub leftover: Option<BlockSnapshot>,
    pub(super) origin: ContentOrigin,
    pub(super) partial: Arc<PartialBlob>,
    from_peer: bool,
    is_from_disk: bool,
    pub(super) visibility: ContentVisibility,
    /// Nothing proves the content: it is passed on and not kept.
    is_unproven: AtomicBool,
    /// The upstream serves ranges, so bytes may arrive in any order.
    accepts_ranges: AtomicBool,
    // Held to push, trim or clone one piece, or to scan runs and demands.
    state: Mutex<ContentState>,
    /// Wakes the fill's task: a reader wants bytes that no run brings, or a follower left.
    pub(super) attention: Arc<Notify>,
    /// Number of followers that want every byte at background priority.
    pub(super) background_followers: AtomicUsize,
    /// Wakes runs after the plan changed.
    plan_changed: Notify,
}

#[derive(Debug, Default)]
struct ContentState {
    runs: Vec<Run>,
    demands: Vec<ReaderDemand>,
    /// Number of the last run or demand.
    next: u64,
}

/// Bytes that arrive in order. Bytes from `span.start` on are in memory and count as chunk memory; earlier bytes are in
/// the store.
#[derive(Debug)]
struct Run {
    id: u64,
    span: RunSpan,
    is_paused: bool,
    pieces: VecDeque<(Bytes, MemoryCharge)>,
}

#[derive(Debug)]
struct ReaderDemand {
    id: u64,
    range: Range<u64>,
    client: Option<IpAddr>,
}

/// Demand of one reader, from its position on. Dropping the guard removes the demand.
#[derive(Debug)]
pub(super) struct DemandGuard {
    content: Arc<FillContent>,
    id: u64,
}

/// Location of the byte at a position.
#[derive(Debug)]
pub(super) enum ByteLocation {
    /// In memory: this piece, and possibly more after it.
    Memory(Bytes),
    /// In the store.
    Store,
    /// Not available yet.
    Missing,
}

/// Limits of a run, set by the plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunLimit {
    /// End of the run; `u64::MAX` if unknown.
    pub(super) until: u64,
    /// The run pauses because readers wait for bytes of other runs.
    pub(super) is_paused: bool,
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
            is_from_disk: false,
            visibility: ContentVisibility::default(),
            is_unproven: AtomicBool::new(false),
            accepts_ranges: AtomicBool::new(accepts_ranges && length.is_some()),
            state: Mutex::default(),
            attention,
            background_followers: AtomicUsize::new(0),
            plan_changed: Notify::new(),
        }
    }

    /// Marks content of which the fill had all requested bytes before it asked an upstream.
    pub(super) fn served_from_disk(self) -> Self {
        Self { is_from_disk: true, ..self }
    }

    /// Returns true if the fill had all requested bytes before it asked an upstream.
    pub fn is_from_disk(&self) -> bool {
        self.is_from_disk
    }

    /// Returns true if a peer relay, not a manager, sent the head.
    pub(super) fn is_from_peer(&self) -> bool {
        self.from_peer
    }

    /// Returns an error if the content is not kept, as far as is known.
    pub fn kept(&self) -> Result<(), UnstorableReason> {
        match self.is_unproven.load(Ordering::Acquire) {
            true => Err(UnstorableReason::Unproven),
            false => self.head.kept,
        }
    }

    /// Records that nothing proves the content, before its end is shown.
    pub(super) fn mark_unproven(&self) {
        self.is_unproven.store(true, Ordering::Release);
    }

    /// Returns the part of the head that identifies the bytes.
    pub(super) fn identity(&self) -> ContentIdentity<'_> {
        ContentIdentity { status: self.head.status, headers: &self.head.headers, length: self.length }
    }

    /// Records that the upstream does not serve ranges. The first run then brings the complete content.
    pub(super) fn disable_ranges(&self) {
        self.accepts_ranges.store(false, Ordering::Relaxed);
        if let (Some(first), Some(length)) = (self.lock_state().runs.first_mut(), self.length) {
            first.span.until = length;
        }
    }

    /// Adds a run. A run that would have brought the same bytes later now ends where this one begins.
    pub(super) fn begin_run(&self, range: Range<u64>) -> u64 {
        let mut state = self.lock_state();
        for run in &mut state.runs {
            if run.span.position < range.start && range.start < run.span.until {
                run.span.until = range.start;
            }
        }
        state.next = state.next.saturating_add(1);
        let id = state.next;
        let span = RunSpan { start: range.start, position: range.start, until: range.end };
        state.runs.push(Run { id, span, is_paused: false, pieces: VecDeque::new() });
        id
    }

    /// Returns the limits of a run.
    pub(super) fn limit(&self, run: u64) -> RunLimit {
        let state = self.lock_state();
        let run = state.runs.iter().find(|known| known.id == run);
        run.map_or(RunLimit { until: 0, is_paused: false }, |run| RunLimit {
            until: run.span.until,
            is_paused: run.is_paused,
        })
    }

    /// Waits until the run is not held.
    pub(super) async fn wait_until_released(&self, run: u64) {
        loop {
            let mut planned = std::pin::pin!(self.plan_changed.notified());
            planned.as_mut().enable();
            if !self.limit(run).is_paused {
                return;
            }
            planned.await;
        }
    }

    /// Waits until the run has reached its end. The plan may move the end to the run's position.
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

    /// Ends every run at its position.
    pub(super) fn stop(&self) {
        for run in &mut self.lock_state().runs {
            run.span.until = run.span.position;
            run.is_paused = false;
        }
        self.plan_changed.notify_waiters();
    }

    /// Ends every run at the end of the chunk that it is in.
    pub(super) fn stop_at_chunks(&self) {
        for run in &mut self.lock_state().runs {
            run.span.until = run.span.until.min(run.span.position.next_multiple_of(CHUNK));
        }
        self.plan_changed.notify_waiters();
    }

    pub(super) fn push(&self, run: u64, piece: Bytes, charge: MemoryCharge) {
        if let Some(run) = self.lock_state().run(run) {
            run.span.position = run.span.position.saturating_add(piece.len() as u64);
            run.pieces.push_back((piece, charge));
        }
    }

    /// Drops the pieces of a run that end at or before `written`: they can be read from the store.
    pub(super) fn trim(&self, run: u64, written: u64) {
        let mut state = self.lock_state();
        let Some(run) = state.run(run) else { return };
        while let Some((piece, _)) = run.pieces.front() {
            let end = run.span.start.saturating_add(piece.len() as u64);
            if end > written {
                break;
            }
            run.span.start = end;
            run.pieces.pop_front();
        }
    }

    /// Removes a run of bytes that are stored or lost.
    pub(super) fn end_run(&self, run: u64) {
        self.lock_state().runs.retain(|known| known.id != run);
    }

    pub(super) fn run_count(&self) -> usize {
        self.lock_state().runs.len()
    }

    /// Returns the range to fetch next and updates which runs are paused. `admits` says whether a run may start for
    /// this client. Ranges that no reader wants are returned only if `background` is set.
    pub(super) fn plan(
        &self,
        background: bool,
        mut admits: impl FnMut(Option<IpAddr>) -> bool,
    ) -> Option<Range<u64>> {
        let mut state = self.lock_state();
        let state = &mut *state;
        let spans: Vec<_> = state.runs.iter().map(|run| run.span).collect();
        let demands: Vec<_> = state.demands.iter().map(|demand| demand.range.clone()).collect();
        let missing = |range| self.partial.first_gap(range);
        let plan = FetchPlan { length: self.length?, runs: &spans, demands: &demands, missing: &missing };
        for (run, is_paused) in state.runs.iter_mut().zip(plan.paused_runs()) {
            run.is_paused = is_paused;
        }
        self.plan_changed.notify_waiters();
        let can_fetch = spans.is_empty() || self.accepts_ranges.load(Ordering::Relaxed);
        let admits = |index: usize| state.demands.get(index).is_some_and(|demand| admits(demand.client));
        can_fetch.then(|| plan.next_range(background, admits)).flatten()
    }

    /// Waits until a reader wants bytes that no run brings, or a follower left.
    pub(super) async fn wait_for_attention(&self) {
        self.attention.notified().await;
    }

    /// Returns the number of clients' requests that read the content or will.
    pub(super) fn reader_count(&self) -> usize {
        self.lock_state().demands.len()
    }

    /// Returns the clients that read the content, each once.
    pub(super) fn reading_clients(&self) -> Vec<IpAddr> {
        let mut clients: Vec<_> =
            self.lock_state().demands.iter().filter_map(|demand| demand.client).collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    }

    /// Adds the demand of a reader, on behalf of `client`.
    pub(super) fn add_demand(self: &Arc<Self>, range: Range<u64>, client: Option<IpAddr>) -> DemandGuard {
        let mut state = self.lock_state();
        state.next = state.next.saturating_add(1);
        let id = state.next;
        state.demands.push(ReaderDemand { id, range, client });
        drop(state);
        self.attention.notify_one();
        DemandGuard { content: self.clone(), id }
    }

    /// Returns true if a reader may have seen bytes.
    pub fn is_revealed(&self) -> bool {
        self.visibility.is_revealed()
    }

    /// Returns the end of the bytes that a reader of the complete content may see before verification.
    pub(super) fn visible_end(&self) -> u64 {
        let arrived = || self.lock_state().runs.first().map_or(0, |run| run.span.position);
        self.head.expected.visible_bytes(self.length.unwrap_or_else(arrived))
    }

    /// Locates the byte at `position`.
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

    /// Returns the first unavailable position in `range`.
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

    /// Returns true if every byte has arrived and the length was declared.
    pub(super) fn has_arrived(&self) -> bool {
        self.length.is_some_and(|length| self.first_missing(0..length).is_none())
    }

    /// Returns the number of available bytes in `range`.
    pub fn available_bytes(&self, range: Range<u64>) -> u64 {
        let stored = self.partial.bytes_within(range.clone());
        let state = self.lock_state();
        let arriving = state
            .runs
            .iter()
            .map(|run| run.span.position.min(range.end).saturating_sub(run.span.start.max(range.start)));
        arriving.fold(stored, u64::saturating_add)
    }

    fn lock_state(&self) -> MutexGuard<'_, ContentState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContentState {
    fn run(&mut self, id: u64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }
}

impl Run {
    /// Returns the rest of the piece at `position`.
    fn piece_at(&self, position: u64) -> Option<Bytes> {
        let mut start = self.span.start;
        for (piece, _) in &self.pieces {
            let end = start.saturating_add(piece.len() as u64);
            if position < end {
                let offset = usize::try_from(position.checked_sub(start)?).ok()?;
                return Some(piece.slice(offset..));
            }
            start = end;
        }
        None
    }
}

impl DemandGuard {
    /// Moves the demand to `position`, where the reader waits.
    pub(super) fn set_position(&self, position: u64) {
        let mut state = self.content.lock_state();
        if let Some(demand) = state.demands.iter_mut().find(|demand| demand.id == self.id) {
            demand.range.start = position;
        }
        let comes = state.runs.iter().any(|run| !run.is_paused && run.span.delivers_soon(position, NEAR));
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
