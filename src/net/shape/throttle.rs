//! A byte schedule in real time: requests wait for a wake-up, and one task moves the schedule on. The module owns the
//! clock of rates (the runtime's, which no change of the wall clock moves) and the lock, which is held for arithmetic
//! only, never while a task is woken.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::bucket::Nanos;
use super::queue::Priority;
use super::schedule::{ByteSchedule, FlowId, Grant, LimitId};

/// Minimum interval between two grants. Granting together halves the cost, and 100 ms still have twenty rounds.
const TICK: Duration = Duration::from_millis(5);

/// The schedule of one direction and its waiting requests.
#[derive(Debug)]
pub(super) struct Pacer {
    created: Instant,
    state: Mutex<PacerState>,
    /// Notified when a grant is due earlier than the task expects.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct PacerState {
    schedule: ByteSchedule,
    waiters: Slab<GrantWaiter>,
    /// Time of the task's next step; `None` while it waits for a notification.
    alarm: Option<Nanos>,
}

#[derive(Debug)]
enum GrantWaiter {
    Waiting(Option<Waker>),
    Granted(u64),
}

impl Pacer {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { created: Instant::now(), state: Mutex::default(), earlier: Notify::new() })
    }

    /// Moves the schedule on. Never returns.
    pub(super) async fn run(&self) {
        loop {
            let next = {
                let now = self.now();
                let mut state = self.state();
                let mut grants = Vec::new();
                state.schedule.advance(now, &mut grants);
                state.alarm = state.schedule.next();
                let (next, wakers) = (state.alarm, state.record_grants(grants));
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
                next
            };
            let earlier = self.earlier.notified();
            match next {
                None => earlier.await,
                Some(at) => {
                    let due = Duration::from_nanos(at).saturating_sub(self.created.elapsed());
                    tokio::select! {
                        () = sleep(due.max(TICK)) => {}
                        () = earlier => sleep(TICK).await,
                    }
                }
            }
        }
    }

    /// Adds a limit of `rate` bytes per second, or without a rate for now.
    pub(super) fn add_limit(&self, rate: Option<u64>, burst: Duration) -> LimitId {
        let now = self.now();
        self.state().schedule.add_limit(rate, burst, now)
    }

    /// Changes the rate of a limit.
    pub(super) fn set_rate(&self, limit: LimitId, rate: Option<u64>, burst: Duration) {
        self.update(|schedule, now, grants| schedule.set_rate(limit, rate, burst, now, grants));
    }

    /// Adds a flow that passes these limits, the narrowest first, after a limit of its own.
    pub(super) fn join(self: &Arc<Self>, own: Option<LimitId>, path: &[LimitId]) -> Arc<FlowHandle> {
        let path: Vec<_> = own.into_iter().chain(path.iter().copied()).collect();
        let id = self.state().schedule.add_flow(&path);
        Arc::new(FlowHandle { pacer: Arc::clone(self), id, own })
    }

    /// Returns the number of an owner's flows at a limit.
    pub(super) fn flows_of(&self, owner: IpAddr, limit: LimitId) -> u64 {
        self.state().schedule.flows_of(owner, limit)
    }

    fn update(&self, update: impl FnOnce(&mut ByteSchedule, Nanos, &mut Vec<Grant>)) {
        let now = self.now();
        let mut state = self.state();
        let mut grants = Vec::new();
        update(&mut state.schedule, now, &mut grants);
        self.notify(state, grants);
    }

    /// Wakes the granted requests, and the task if it would run too late.
    fn notify(&self, mut state: MutexGuard<'_, PacerState>, grants: Vec<Grant>) {
        let wakers = state.record_grants(grants);
        let next = state.schedule.next();
        let earlier = next.is_some_and(|next| state.alarm.is_none_or(|alarm| next < alarm));
        if earlier {
            state.alarm = next;
        }
        drop(state);
        if earlier {
            self.earlier.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns the runtime's time since the pacer was created.
    pub(super) fn now(&self) -> Nanos {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, PacerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PacerState {
    fn record_grants(&mut self, grants: Vec<Grant>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for Grant { request, bytes } in grants {
            if let Some(known) = self.waiters.get_mut(request)
                && let GrantWaiter::Waiting(Some(waker)) =
                    std::mem::replace(known, GrantWaiter::Granted(bytes))
            {
                wakers.push(waker);
            }
        }
        wakers
    }
}

/// A flow that shares limits with others: a client with all its connections, or a transfer from an upstream.
#[derive(Debug)]
pub(super) struct FlowHandle {
    pacer: Arc<Pacer>,
    id: FlowId,
    own: Option<LimitId>,
}

impl FlowHandle {
    /// Returns the limit of this flow alone.
    pub(super) fn own(&self) -> Option<LimitId> {
        self.own
    }

    /// Changes the priority.
    pub(super) fn set_priority(&self, priority: Priority) {
        self.pacer.update(|schedule, _, _| schedule.set_priority(self.id, priority));
    }

    /// Changes the owner. All flows of an owner have one share of each limit.
    pub(super) fn set_owner(&self, owner: Option<IpAddr>) {
        self.pacer.update(|schedule, _, _| schedule.set_owner(self.id, owner));
    }
}

impl Drop for FlowHandle {
    fn drop(&mut self) {
        self.pacer.update(|schedule, now, _| {
            schedule.remove_flow(self.id, now);
            self.own.into_iter().for_each(|own| schedule.remove_limit(own));
        });
    }
}

/// Permission to send bytes, for one connection or one transfer.
#[derive(Debug)]
pub struct Throttle {
    flow: Arc<FlowHandle>,
    /// Bytes granted and not sent; below 0, bytes sent in advance.
    credit: i64,
    request: Option<usize>,
}

impl Throttle {
    pub(super) fn new(flow: Arc<FlowHandle>) -> Self {
        Self { flow, credit: 0, request: None }
    }

    /// Waits until some of `left` bytes may be sent and returns how many. The next grant is requested while this
    /// one's bytes are sent, so that one connection gets as much as many.
    pub fn poll_grant(&mut self, cx: &Context<'_>, left: u64) -> Poll<u64> {
        while self.credit <= 0 {
            let missing = left.saturating_add(self.credit.unsigned_abs());
            match self.take(cx, missing) {
                Poll::Ready(granted) => self.credit = self.credit.saturating_add_unsigned(granted),
                Poll::Pending => return Poll::Pending,
            }
        }
        let credit = self.credit.unsigned_abs();
        if self.request.is_none() && left > credit {
            self.request = Some(self.open_request(left.saturating_sub(credit)));
        }
        Poll::Ready(credit.min(left))
    }

    /// Records sent bytes. Bytes beyond the grant count against later ones.
    pub fn consume(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub_unsigned(bytes);
    }

    /// Returns the bytes granted to the open request; opens one if there is none.
    fn take(&mut self, cx: &Context<'_>, want: u64) -> Poll<u64> {
        let number = match self.request {
            Some(number) => number,
            None => *self.request.insert(self.open_request(want)),
        };
        let mut state = self.flow.pacer.state();
        match state.waiters.get_mut(number) {
            Some(GrantWaiter::Granted(bytes)) => {
                let bytes = *bytes;
                state.waiters.remove(number);
                self.request = None;
                Poll::Ready(bytes)
            }
            Some(GrantWaiter::Waiting(waker)) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            // Unknown request: do not wait.
            None => Poll::Ready(want),
        }
    }

    fn open_request(&self, want: u64) -> usize {
        let pacer = &self.flow.pacer;
        let now = pacer.now();
        let mut state = pacer.state();
        let number = state.waiters.insert(GrantWaiter::Waiting(None));
        let mut grants = Vec::new();
        state.schedule.enqueue(self.flow.id, number, want, now, &mut grants);
        pacer.notify(state, grants);
        number
    }
}

impl Drop for Throttle {
    /// Returns unused bytes to others.
    fn drop(&mut self) {
        let Self { flow, credit, request } = self;
        let now = flow.pacer.now();
        let mut state = flow.pacer.state();
        let mut unused = u64::try_from(*credit).unwrap_or(0);
        let mut grants = Vec::new();
        if let Some(number) = request.take() {
            match state.waiters.try_remove(number) {
                Some(GrantWaiter::Granted(bytes)) => unused = unused.saturating_add(bytes),
                _ => state.schedule.cancel(flow.id, number, now, &mut grants),
            }
        }
        if unused > 0 {
            state.schedule.put_back(flow.id, unused);
        }
        flow.pacer.notify(state, grants);
    }
}
