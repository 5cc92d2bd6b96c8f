//! Slots for downloads. A download holds a slot from before its response is made until its last byte has left; above
//! the limits it is queued. A download that delivers next to nothing lends its slot to the queue: clients that read a
//! byte a second could hold all slots otherwise. Runs `slot_queue` on the runtime's clock under one lock, which is held
//! for arithmetic only, never while a task is woken. Without limits, the default, a request costs one load of a flag.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prometheus::IntGauge;
use slab::Slab;
use tokio::time::{Instant, sleep, timeout};

use super::bucket::Nanos;
use super::send_progress::SendProgress;
use super::slot_queue::{GroupIndex, SlotDecision, SlotQueue};
use gupd_config::{Config, client_network};
use gupd_http::refusal::SlotRefusalReason;

/// Bounds of `Retry-After`: a shorter time cannot be written in whole seconds, and after a longer one downloads have
/// little in common with those of the estimate.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));

/// Maximum of bytes of a download that are handed to its connection at once. With [`LEND_AFTER`] it makes 64 KiB/s the
/// rate below which a client lends its slot; a slow line keeps its download and loses nothing by that.
pub const SLOT_PIECE: usize = 128 << 10;

/// Time after which a download lends its slot while a piece of it waits for the client.
const LEND_AFTER: Duration = Duration::from_secs(2);

/// Interval at which a queued request looks for slots to borrow.
const LEND_INTERVAL: Duration = Duration::from_secs(1);

/// Limits on concurrent downloads, and the queue for them.
#[derive(Debug)]
pub struct SlotLimiter {
    begun: Instant,
    limited: AtomicBool,
    /// Number of lent slots.
    lent: Option<IntGauge>,
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
struct SlotState {
    queue: SlotQueue,
    waiters: Slab<SlotWaiter>,
    holders: Slab<SlotHolder>,
    /// Number of lent slots, and the time at which lendable ones were last looked for.
    lent: i64,
    lent_at: Nanos,
}

/// A download with a slot.
#[derive(Debug)]
struct SlotHolder {
    group: GroupIndex,
    progress: Arc<SendProgress>,
    is_lent: bool,
}

#[derive(Debug)]
enum SlotWaiter {
    Waiting(Option<Waker>),
    Granted,
}

/// A request that got no slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotRefusal {
    /// The reason.
    pub reason: SlotRefusalReason,
    /// Estimated time until a slot is free, in whole seconds from 1 s to 1 h.
    ///
    /// The estimate is the interval between two releases while all slots were used, times the requests ahead, at the
    /// slowest of the three counts (all, group, client). The interval is the mean, or the current one if that is
    /// longer. Before the first release it is `lan.queue_timeout`.
    pub retry_after: Duration,
}

/// The slot of one download, released when dropped.
#[derive(Debug)]
pub struct Slot {
    limiter: Arc<SlotLimiter>,
    group: GroupIndex,
    client: IpAddr,
    holder: usize,
    progress: Arc<SendProgress>,
}

impl SlotLimiter {
    /// Creates the limits of a configuration.
    pub fn new(config: &Config) -> Self {
        let limiter = Self {
            begun: Instant::now(),
            limited: AtomicBool::new(false),
            lent: None,
            state: Mutex::default(),
        };
        limiter.reconfigure(config);
        limiter
    }

    /// Counts lent slots in `gauge`.
    #[must_use]
    pub fn with_lent_gauge(self, gauge: IntGauge) -> Self {
        Self { lent: Some(gauge), ..self }
    }

    /// Applies other limits; queued requests that fit now proceed at once. A download that began without limits has
    /// no slot and is not counted later.
    pub fn reconfigure(&self, config: &Config) {
        let group_limit = |group: &gupd_config::GroupSettings| group.max_downloads.or(group.client_downloads);
        let lan = config.lan.max_downloads.or(config.lan.client_downloads);
        let limited = lan.is_some() || config.groups.iter().any(|group| group_limit(group).is_some());
        self.change(|state, now, granted| state.queue.configure(config, now, granted));
        self.limited.store(limited, Ordering::Relaxed);
    }

    /// Returns true if any limit exists.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// Returns a slot for a download of `client`, a member of `group`, if one is free.
    pub fn try_acquire(self: &Arc<Self>, client: IpAddr, group: &str) -> Option<Slot> {
        let client = client_network(client);
        let now = self.now();
        let mut state = self.state();
        let group = state.queue.group(group);
        let taken = state.queue.take(group, client, now);
        taken.then(|| self.hold(state, group, client))
    }

    /// Waits for a slot for a download of `client`, a member of `group`. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// If the queue is full, or the request was queued for `lan.queue_timeout` or until `leaving`.
    pub async fn acquire(
        self: &Arc<Self>,
        client: IpAddr,
        group: &str,
        leaving: impl Future<Output = ()>,
    ) -> Result<Slot, SlotRefusal> {
        let (mut waiting, queue_timeout) = self.enqueue(client_network(client), group)?;
        tokio::select! {
            biased;
            slot = timeout(queue_timeout, &mut waiting) => slot.or_else(|_| waiting.give_up()),
            () = leaving => waiting.give_up(),
            never = self.lend_regularly() => match never {},
        }
    }

    /// Lends the slots of downloads that deliver next to nothing, as long as a request is queued.
    async fn lend_regularly(&self) -> Infallible {
        loop {
            self.change(SlotState::lend_slots);
            sleep(LEND_INTERVAL).await;
        }
    }

    /// Creates the slot of a download that is counted already.
    fn hold(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, SlotState>,
        group: GroupIndex,
        client: IpAddr,
    ) -> Slot {
        let progress = Arc::<SendProgress>::default();
        let holder = SlotHolder { group, progress: progress.clone(), is_lent: false };
        let holder = state.holders.insert(holder);
        drop(state);
        Slot { limiter: Arc::clone(self), group, client, holder, progress }
    }

    fn enqueue(
        self: &Arc<Self>,
        client: IpAddr,
        group: &str,
    ) -> Result<(QueuedRequest, Duration), SlotRefusal> {
        let now = self.now();
        let mut state = self.state();
        let SlotState { queue, waiters, .. } = &mut *state;
        let group = queue.group(group);
        let waiter = waiters.insert(SlotWaiter::Waiting(None));
        let reason = match queue.enqueue(group, client, waiter, now) {
            SlotDecision::Granted => {
                waiters[waiter] = SlotWaiter::Granted;
                None
            }
            SlotDecision::Queued => None,
            SlotDecision::QueueFull => Some(SlotRefusalReason::QueueFull),
            SlotDecision::ClientQueueFull => Some(SlotRefusalReason::ClientQueueFull),
        };
        if let Some(reason) = reason {
            waiters.remove(waiter);
            return Err(SlotRefusal::new(reason, queue.estimate_wait(group, client, None, now)));
        }
        let queue_timeout = queue.queue_timeout();
        drop(state);
        Ok((QueuedRequest { limiter: Arc::clone(self), group, client, waiter: Some(waiter) }, queue_timeout))
    }

    fn change(&self, change: impl FnOnce(&mut SlotState, Nanos, &mut Vec<usize>)) {
        let now = self.now();
        let mut state = self.state();
        let mut granted = Vec::new();
        change(&mut state, now, &mut granted);
        self.lent.iter().for_each(|gauge| gauge.set(state.lent));
        let wakers: Vec<_> = granted.into_iter().filter_map(|waiter| state.grant(waiter)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotState {
    /// Lends the slots of downloads that deliver next to nothing, and counts those again that go on.
    fn lend_slots(&mut self, now: Nanos, granted: &mut Vec<usize>) {
        const INTERVAL: Nanos = LEND_INTERVAL.as_nanos() as Nanos;
        // One of the queued requests looks for all.
        if now.saturating_sub(self.lent_at) < INTERVAL / 2 {
            return;
        }
        self.lent_at = now;
        for (_, holder) in &mut self.holders {
            let is_slow = holder.progress.waiting_time(now) >= LEND_AFTER.as_nanos() as Nanos;
            if is_slow && !holder.is_lent {
                self.lent = self.lent.saturating_add(1);
                self.queue.lend(holder.group, now, granted);
            } else if !is_slow && holder.is_lent {
                self.lent = self.lent.saturating_sub(1);
                self.queue.reclaim(holder.group, now);
            }
            holder.is_lent = is_slow;
        }
    }

    fn release(&mut self, slot: &Slot, now: Nanos, granted: &mut Vec<usize>) {
        if self.holders.remove(slot.holder).is_lent {
            self.lent = self.lent.saturating_sub(1);
            self.queue.reclaim(slot.group, now);
        }
        self.queue.release(slot.group, slot.client, now, granted);
    }

    fn grant(&mut self, waiter: usize) -> Option<Waker> {
        match std::mem::replace(self.waiters.get_mut(waiter)?, SlotWaiter::Granted) {
            SlotWaiter::Waiting(waker) => waker,
            SlotWaiter::Granted => None,
        }
    }
}

impl SlotRefusal {
    fn new(reason: SlotRefusalReason, wait: Nanos) -> Self {
        let seconds = Duration::from_secs(wait.div_ceil(1_000_000_000));
        Self { reason, retry_after: seconds.clamp(RETRY_AFTER.0, RETRY_AFTER.1) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limiter.change(|state, now, granted| state.release(self, now, granted));
    }
}

impl Slot {
    /// Records that a piece of the download was handed to its connection. A piece that waits for its client for two
    /// seconds lends the slot to queued requests.
    pub fn begin_piece(&self) {
        self.progress.begin_piece(self.limiter.now());
    }

    /// Records that the piece has left.
    pub fn end_piece(&self) {
        self.progress.end_piece();
    }
}

/// A queued request.
#[derive(Debug)]
struct QueuedRequest {
    limiter: Arc<SlotLimiter>,
    group: GroupIndex,
    client: IpAddr,
    /// `None` once it has left the queue.
    waiter: Option<usize>,
}

impl QueuedRequest {
    /// Leaves the queue. A slot granted just now is used.
    fn give_up(mut self) -> Result<Slot, SlotRefusal> {
        let now = self.limiter.now();
        let wait = {
            let state = self.limiter.state();
            match self.waiter.and_then(|waiter| state.waiters.get(waiter)) {
                Some(SlotWaiter::Granted) => None,
                _ => Some(state.queue.estimate_wait(self.group, self.client, self.waiter, now)),
            }
        };
        match wait {
            Some(wait) => Err(SlotRefusal::new(SlotRefusalReason::QueueTimeout, wait)),
            None => Ok(self.slot()),
        }
    }

    /// Takes the granted slot.
    fn slot(&mut self) -> Slot {
        let mut state = self.limiter.state();
        if let Some(waiter) = self.waiter.take() {
            state.waiters.try_remove(waiter);
        }
        self.limiter.hold(state, self.group, self.client)
    }
}

impl Future for QueuedRequest {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        {
            let mut state = self.limiter.state();
            if let Some(SlotWaiter::Waiting(waker)) =
                self.waiter.and_then(|waiter| state.waiters.get_mut(waiter))
            {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(self.slot())
    }
}

impl Drop for QueuedRequest {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        let (group, client) = (self.group, self.client);
        let granted = {
            let mut state = self.limiter.state();
            let granted = matches!(state.waiters.try_remove(waiter), Some(SlotWaiter::Granted));
            if !granted {
                state.queue.cancel(group, client, waiter);
            }
            granted
        };
        if granted {
            // Granted too late: release the slot to the next request.
            drop(self.limiter.hold(self.limiter.state(), group, client));
        }
    }
}

#[cfg(test)]
mod tests;
