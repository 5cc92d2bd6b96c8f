//! The wall clock as a value. It is the only reader of the system's time for freshness, expiry, use and schedules;
//! time-outs use the runtime's timers. Tests use a manual clock, which only they move.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::sleep;

/// Maximum sleep before the system clock is read again: it may be set, and a machine may be suspended.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Milliseconds since 1970-01-01T00:00:00Z, the unit of every stored time.
pub type UnixMillis = i64;

/// A source of the time. Cheap to clone; clones of a manual clock move together.
#[derive(Clone, Debug)]
pub struct Clock(ClockSource);

#[derive(Clone, Debug)]
enum ClockSource {
    /// The instant at which the clock was created.
    System(Instant),
    Manual(Arc<watch::Sender<ManualTime>>),
}

#[derive(Clone, Copy, Debug)]
struct ManualTime {
    now: UnixMillis,
    /// Milliseconds by which it was set without time passing.
    adjustment: i64,
}

impl Clock {
    /// Creates the system's wall clock.
    pub fn system() -> Self {
        Self(ClockSource::System(Instant::now()))
    }

    /// Creates a clock that stands at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: UnixMillis) -> Self {
        Self(ClockSource::Manual(Arc::new(watch::Sender::new(ManualTime { now, adjustment: 0 }))))
    }

    /// Returns the time. A system clock set before 1970 reads as 0.
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            ClockSource::System(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            ClockSource::Manual(manual) => manual.borrow().now,
        }
    }

    /// Returns the time, and the milliseconds since the clock was created by a monotonic clock, which stops while the
    /// machine sleeps. Where the two disagree, the wall clock was set.
    pub fn now_and_monotonic(&self) -> (UnixMillis, i64) {
        match &self.0 {
            ClockSource::System(since) => {
                (self.now(), i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
            }
            ClockSource::Manual(manual) => {
                let ManualTime { now, adjustment } = *manual.borrow();
                (now, now.saturating_sub(adjustment))
            }
        }
    }

    /// Waits until the clock shows `at` or later.
    pub async fn sleep_until(&self, at: UnixMillis) {
        match &self.0 {
            ClockSource::System(_) => {
                while let Ok(left @ 1..) = u64::try_from(at.saturating_sub(self.now())) {
                    sleep(Duration::from_millis(left).min(POLL_INTERVAL)).await;
                }
            }
            // `self` holds the sender, so the wait cannot fail.
            ClockSource::Manual(manual) => drop(manual.subscribe().wait_for(|manual| manual.now >= at).await),
        }
    }

    /// Waits until the clock shows a time before `at`, which means that it was set back.
    pub async fn wait_until_set_back(&self, at: UnixMillis) {
        match &self.0 {
            ClockSource::System(_) => {
                while self.now() >= at {
                    sleep(POLL_INTERVAL).await;
                }
            }
            ClockSource::Manual(manual) => drop(manual.subscribe().wait_for(|manual| manual.now < at).await),
        }
    }

    /// Sets a manual clock back. Does nothing to a system clock.
    pub fn set_back(&self, by: Duration) {
        self.modify(|manual, millis| manual.adjust(millis.saturating_neg()), by);
    }

    /// Sets a manual clock forward without time passing. Does nothing to a system clock.
    pub fn set_forward(&self, by: Duration) {
        self.modify(ManualTime::adjust, by);
    }

    /// Moves a manual clock forward. Does nothing to a system clock.
    pub fn advance(&self, by: Duration) {
        self.modify(|manual, millis| manual.now = manual.now.saturating_add(millis), by);
    }

    fn modify(&self, change: impl FnOnce(&mut ManualTime, i64), by: Duration) {
        if let ClockSource::Manual(manual) = &self.0 {
            manual.send_modify(|manual| change(manual, i64::try_from(by.as_millis()).unwrap_or(i64::MAX)));
        }
    }
}

impl ManualTime {
    fn adjust(&mut self, millis: i64) {
        self.now = self.now.saturating_add(millis);
        self.adjustment = self.adjustment.saturating_add(millis);
    }
}
