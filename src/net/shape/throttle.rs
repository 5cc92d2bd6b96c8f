//! A schedule in real time: who asks waits to be woken, and one task moves the schedule on. Owns the clock of rates (the
//! runtime's, which no change of the wall clock moves) and the lock, which is held for arithmetic and never while
//! somebody is woken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::bucket::Nanos;
use super::queue::Priority;
use super::schedule::{FlowId, Grant, LimitId, Schedule};

/// Time between two looks at who may go, at least: turns are given together, which halves what they cost, and a tenth of
/// a second still has twenty looks.
const TICK: Duration = Duration::from_millis(5);

/// The schedule of one direction, and those who wait for it.
#[derive(Debug)]
pub(super) struct Pacer {
    begun: Instant,
    state: Mutex<State>,
    /// There is something to grant earlier than the task knows.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct State {
    schedule: Schedule,
    asks: Slab<Ask>,
    /// When the task moves the schedule on; the end of time if it waits to be told.
    alarm: Option<Nanos>,
}

#[derive(Debug)]
enum Ask {
    Waiting(Option<Waker>),
    Granted(u64),
}

impl Pacer {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), state: Mutex::default(), sooner: Notify::new() })
    }

    /// Moves the schedule on, for ever.
    pub(super) async fn run(&self) {
        loop {
            let next = {
                let now = self.now();
                let mut state = self.state();
                let mut grants = Vec::new();
                state.schedule.advance(now, &mut grants);
                state.alarm = state.schedule.next();
                let (next, wakers) = (state.alarm, state.granted(grants));
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
                next
            };
            let sooner = self.sooner.notified();
            match next {
                None => sooner.await,
                Some(at) => {
                    let at = self.begun + Duration::from_nanos(at);
                    tokio::select! {
                        () = sleep_until(at.max(Instant::now() + TICK)) => {}
                        () = sooner => sleep(TICK).await,
                    }
                }
            }
        }
    }

    /// A limit of `rate` bytes a second, or none for now.
    pub(super) fn add_limit(&self, rate: Option<u64>, burst: Duration) -> LimitId {
        let now = self.now();
        self.state().schedule.add_limit(rate, burst, now)
    }

    /// Another rate for a limit, from now on.
    pub(super) fn set_rate(&self, limit: LimitId, rate: Option<u64>, burst: Duration) {
        self.change(|schedule, now, grants| schedule.set_rate(limit, rate, burst, now, grants));
    }

    /// A flow that passes these limits, the narrowest first, after a limit of its own.
    pub(super) fn join(self: &Arc<Self>, own: Option<LimitId>, path: &[LimitId]) -> Arc<Flow> {
        let path: Vec<_> = own.into_iter().chain(path.iter().copied()).collect();
        let id = self.state().schedule.join(&path);
        Arc::new(Flow { pacer: Arc::clone(self), id, own })
    }

    fn change(&self, change: impl FnOnce(&mut Schedule, Nanos, &mut Vec<Grant>)) {
        let now = self.now();
        let mut state = self.state();
        let mut grants = Vec::new();
        change(&mut state.schedule, now, &mut grants);
        self.settle(state, grants);
    }

    /// Tells those who were granted something, and the task if it would come too late.
    fn settle(&self, mut state: MutexGuard<'_, State>, grants: Vec<Grant>) {
        let wakers = state.granted(grants);
        let next = state.schedule.next();
        let sooner = next.is_some_and(|next| state.alarm.is_none_or(|alarm| next < alarm));
        if sooner {
            state.alarm = next;
        }
        drop(state);
        if sooner {
            self.sooner.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The runtime's time, since the pacer began.
    pub(super) fn now(&self) -> Nanos {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn granted(&mut self, grants: Vec<Grant>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for Grant { ask, bytes } in grants {
            if let Some(known) = self.asks.get_mut(ask)
                && let Ask::Waiting(Some(waker)) = std::mem::replace(known, Ask::Granted(bytes))
            {
                wakers.push(waker);
            }
        }
        wakers
    }
}

/// Who shares a limit with others: a client, whatever number of connections it has, or a transfer from an upstream.
#[derive(Debug)]
pub(super) struct Flow {
    pacer: Arc<Pacer>,
    id: FlowId,
    own: Option<LimitId>,
}

impl Flow {
    /// The limit that is this flow's alone.
    pub(super) fn own(&self) -> Option<LimitId> {
        self.own
    }

    /// How urgent it is from now on.
    pub(super) fn set_priority(&self, priority: Priority) {
        self.pacer.change(|schedule, _, _| schedule.set_priority(self.id, priority));
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.pacer.change(|schedule, now, _| {
            schedule.leave(self.id, now);
            self.own.into_iter().for_each(|own| schedule.remove_limit(own));
        });
    }
}

/// What one connection, or one transfer, may send.
#[derive(Debug)]
pub struct Throttle {
    flow: Arc<Flow>,
    /// Bytes granted and not sent; below 0, bytes sent before they were granted.
    credit: i64,
    ask: Option<usize>,
}

impl Throttle {
    pub(super) fn new(flow: Arc<Flow>) -> Self {
        Self { flow, credit: 0, ask: None }
    }

    /// Waits until something may be sent of the `left` bytes that there are; gives how much. The next turn is asked for
    /// while this one's bytes are sent, so that one connection has as many turns as many have.
    pub fn poll_grant(&mut self, cx: &Context<'_>, left: u64) -> Poll<u64> {
        while self.credit <= 0 {
            let missing = left.saturating_add(self.credit.unsigned_abs());
            match self.take(cx, missing) {
                Poll::Ready(granted) => self.credit = self.credit.saturating_add_unsigned(granted),
                Poll::Pending => return Poll::Pending,
            }
        }
        let credit = self.credit.unsigned_abs();
        if self.ask.is_none() && left > credit {
            self.ask = Some(self.ask(left - credit));
        }
        Poll::Ready(credit.min(left))
    }

    /// Notes what was sent, also if it was more than was granted: later turns pay for that.
    pub fn consume(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_sub_unsigned(bytes);
    }

    /// What the ask under way was granted; asks if none is.
    fn take(&mut self, cx: &Context<'_>, want: u64) -> Poll<u64> {
        let number = match self.ask {
            Some(number) => number,
            None => *self.ask.insert(self.ask(want)),
        };
        let mut state = self.flow.pacer.state();
        match state.asks.get_mut(number) {
            Some(Ask::Granted(bytes)) => {
                let bytes = *bytes;
                state.asks.remove(number);
                self.ask = None;
                Poll::Ready(bytes)
            }
            Some(Ask::Waiting(waker)) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            // There is no such ask: nothing to wait for.
            None => Poll::Ready(want),
        }
    }

    fn ask(&self, want: u64) -> usize {
        let pacer = &self.flow.pacer;
        let now = pacer.now();
        let mut state = pacer.state();
        let number = state.asks.insert(Ask::Waiting(None));
        let mut grants = Vec::new();
        state.schedule.ask(self.flow.id, number, want, now, &mut grants);
        pacer.settle(state, grants);
        number
    }
}

impl Drop for Throttle {
    /// What was granted and not sent is for others.
    fn drop(&mut self) {
        let Self { flow, credit, ask } = self;
        let now = flow.pacer.now();
        let mut state = flow.pacer.state();
        let mut unused = u64::try_from(*credit).unwrap_or(0);
        let mut grants = Vec::new();
        if let Some(number) = ask.take() {
            match state.asks.try_remove(number) {
                Some(Ask::Granted(bytes)) => unused += bytes,
                _ => state.schedule.cancel(flow.id, number, now, &mut grants),
            }
        }
        if unused > 0 {
            state.schedule.give_back(flow.id, unused);
        }
        flow.pacer.settle(state, grants);
    }
}
