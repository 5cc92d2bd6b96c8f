//! Places for downloads: a download has one from before its response is made until its last byte has left, and past the
//! counts it waits for one. Runs `admission` on the runtime's clock, with one lock that is held for arithmetic and never
//! while somebody is woken. Without any count, which is the default, it costs a request one look at a flag.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, timeout};

use super::admission::{Admission, Asked, GroupId};
use super::bucket::Nanos;
use gupd_config::Config;
use gupd_http::refusal::SlotDenial;

/// The bounds of what a client is told to wait: a shorter time cannot be written in whole seconds, and after a longer
/// one downloads have little in common with those that it was estimated from.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));

/// Downloads at once, and those who wait to begin one.
#[derive(Debug)]
pub struct SlotLimiter {
    begun: Instant,
    limited: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    admission: Admission,
    asks: Slab<Ask>,
}

#[derive(Debug)]
enum Ask {
    Waiting(Option<Waker>),
    Granted,
}

/// A request that is not to wait, or no longer.
#[derive(Clone, Copy, Debug)]
pub struct SlotRejection {
    /// Why.
    pub reason: SlotDenial,
    /// When it would have had a place, if places go on coming free as they did; whole seconds, 1 s to 1 h. The mean of
    /// the gaps between two that came free while all were taken, or the present gap if that is longer, times the
    /// requests that have their turn before it; at the count, of all, of its group or its own, where that takes longest.
    /// While no place has come free yet, a gap is taken to be `lan.queue_timeout`.
    pub retry_after: Duration,
}

/// One download's place; free for others when it is dropped.
#[derive(Debug)]
pub struct Slot {
    places: Arc<SlotLimiter>,
    group: GroupId,
    client: IpAddr,
}

impl SlotLimiter {
    /// The counts of a configuration.
    pub fn new(config: &Config) -> Self {
        let places = Self { begun: Instant::now(), limited: AtomicBool::new(false), state: Mutex::default() };
        places.reconfigure(config);
        places
    }

    /// Other counts from now on; those who wait and have a place now go at once. A download that began while nothing
    /// was counted has no place, and is not counted later.
    pub fn reconfigure(&self, config: &Config) {
        let of_groups = |group: &gupd_config::GroupSettings| group.max_downloads.or(group.client_downloads);
        let lan = config.lan.max_downloads.or(config.lan.client_downloads);
        let limited = lan.is_some() || config.groups.iter().any(|group| of_groups(group).is_some());
        self.change(|admission, now, granted| admission.configure(config, now, granted));
        self.limited.store(limited, Ordering::Relaxed);
    }

    /// Whether anything is counted.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// A place for a download of `client`, of this group, if one is free.
    pub fn try_acquire(self: &Arc<Self>, client: IpAddr, group: &str) -> Option<Slot> {
        let client = client.to_canonical();
        let now = self.now();
        let mut state = self.state();
        let group = state.admission.group(group);
        let taken = state.admission.take(group, client, now);
        drop(state);
        taken.then(|| Slot { places: Arc::clone(self), group, client })
    }

    /// A place for a download of `client`, of this group, in its turn. Who drops the future waits no more.
    ///
    /// # Errors
    /// When as many wait as may, or it has waited for as long as it may.
    pub async fn acquire(self: &Arc<Self>, client: IpAddr, group: &str) -> Result<Slot, SlotRejection> {
        let (mut waiting, patience) = self.wait(client.to_canonical(), group)?;
        match timeout(patience, &mut waiting).await {
            Ok(place) => Ok(place),
            Err(_) => waiting.give_up(),
        }
    }

    fn wait(self: &Arc<Self>, client: IpAddr, group: &str) -> Result<(Waiting, Duration), SlotRejection> {
        let now = self.now();
        let mut state = self.state();
        let State { admission, asks } = &mut *state;
        let group = admission.group(group);
        let ask = asks.insert(Ask::Waiting(None));
        let why = match admission.ask(group, client, ask, now) {
            Asked::Granted => {
                asks[ask] = Ask::Granted;
                None
            }
            Asked::Waits => None,
            Asked::QueueFull => Some(SlotDenial::QueueFull),
            Asked::ClientQueueFull => Some(SlotDenial::ClientQueueFull),
        };
        if let Some(why) = why {
            asks.remove(ask);
            return Err(SlotRejection::new(why, admission.wait_of(group, client, None, now)));
        }
        let patience = admission.queue_timeout();
        drop(state);
        Ok((Waiting { places: Arc::clone(self), group, client, ask: Some(ask) }, patience))
    }

    fn change(&self, change: impl FnOnce(&mut Admission, Nanos, &mut Vec<usize>)) {
        let now = self.now();
        let mut state = self.state();
        let mut granted = Vec::new();
        change(&mut state.admission, now, &mut granted);
        let wakers: Vec<_> = granted.into_iter().filter_map(|ask| state.grant(ask)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn grant(&mut self, ask: usize) -> Option<Waker> {
        match std::mem::replace(self.asks.get_mut(ask)?, Ask::Granted) {
            Ask::Waiting(waker) => waker,
            Ask::Granted => None,
        }
    }
}

impl SlotRejection {
    fn new(why: SlotDenial, wait: Nanos) -> Self {
        let seconds = Duration::from_secs(wait.div_ceil(1_000_000_000));
        Self { reason: why, retry_after: seconds.clamp(RETRY_AFTER.0, RETRY_AFTER.1) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.places
            .change(|admission, now, granted| admission.release(self.group, self.client, now, granted));
    }
}

/// A request that waits.
#[derive(Debug)]
struct Waiting {
    places: Arc<SlotLimiter>,
    group: GroupId,
    client: IpAddr,
    /// None when it has ended.
    ask: Option<usize>,
}

impl Waiting {
    /// Waits no more. A place that came just now is used.
    fn give_up(mut self) -> Result<Slot, SlotRejection> {
        let now = self.places.now();
        let wait = {
            let state = self.places.state();
            match self.ask.and_then(|ask| state.asks.get(ask)) {
                Some(Ask::Granted) => None,
                _ => Some(state.admission.wait_of(self.group, self.client, self.ask, now)),
            }
        };
        match wait {
            Some(wait) => Err(SlotRejection::new(SlotDenial::QueueTimeout, wait)),
            None => Ok(self.place()),
        }
    }

    /// What it has waited for.
    fn place(&mut self) -> Slot {
        if let Some(ask) = self.ask.take() {
            self.places.state().asks.try_remove(ask);
        }
        Slot { places: Arc::clone(&self.places), group: self.group, client: self.client }
    }
}

impl Future for Waiting {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        {
            let mut state = self.places.state();
            if let Some(Ask::Waiting(waker)) = self.ask.and_then(|ask| state.asks.get_mut(ask)) {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(self.place())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(ask) = self.ask.take() else { return };
        let (group, client) = (self.group, self.client);
        let granted = {
            let mut state = self.places.state();
            let granted = matches!(state.asks.try_remove(ask), Some(Ask::Granted));
            if !granted {
                state.admission.leave(group, client, ask);
            }
            granted
        };
        if granted {
            // It came too late: somebody else's.
            drop(Slot { places: Arc::clone(&self.places), group, client });
        }
    }
}

#[cfg(test)]
mod tests;
