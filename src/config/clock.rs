//! The wall clock, as a value. Owns the only place that reads the system's time for freshness, expiry, use and
//! schedules; time-outs are the runtime's business and do not come here. Tests hold a clock that only they move.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::sleep;

/// The longest sleep before the system's clock is looked at again: it may be set, and a machine may be suspended.
const LOOK: Duration = Duration::from_secs(30);

/// Milliseconds since 1970-01-01T00:00:00Z. What every stored time is in.
pub type UnixMillis = i64;

/// Tells the time. Cheap to clone; clones of a manual clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// Since when it has been one.
    System(Instant),
    Manual(Arc<watch::Sender<Manual>>),
}

#[derive(Clone, Copy, Debug)]
struct Manual {
    now: UnixMillis,
    /// By how much it was set, and did not go.
    set: i64,
}

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// A clock that stands at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: UnixMillis) -> Self {
        Self(Source::Manual(Arc::new(watch::Sender::new(Manual { now, set: 0 }))))
    }

    /// The time now. A system clock set before 1970 reads as 0.
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            Source::System(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Source::Manual(manual) => manual.borrow().now,
        }
    }

    /// The time now, and how many milliseconds have passed since the clock was made, by one that nobody sets and that
    /// stands while the machine sleeps: where the two disagree, the first was set.
    pub fn now_and_monotonic(&self) -> (UnixMillis, i64) {
        match &self.0 {
            Source::System(since) => {
                (self.now(), i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
            }
            Source::Manual(manual) => {
                let Manual { now, set } = *manual.borrow();
                (now, now - set)
            }
        }
    }

    /// Waits until it shows `at` or later.
    pub async fn sleep_until(&self, at: UnixMillis) {
        match &self.0 {
            Source::System(_) => {
                while let Ok(left @ 1..) = u64::try_from(at.saturating_sub(self.now())) {
                    sleep(Duration::from_millis(left).min(LOOK)).await;
                }
            }
            // The sender is here, so there is one.
            Source::Manual(manual) => drop(manual.subscribe().wait_for(|manual| manual.now >= at).await),
        }
    }

    /// Waits until it shows what is before `at`: it was set back.
    pub async fn wait_until_set_back(&self, at: UnixMillis) {
        match &self.0 {
            Source::System(_) => {
                while self.now() >= at {
                    sleep(LOOK).await;
                }
            }
            Source::Manual(manual) => drop(manual.subscribe().wait_for(|manual| manual.now < at).await),
        }
    }

    /// Sets a manual clock back; a system clock is not moved.
    pub fn set_back(&self, by: Duration) {
        self.modify(
            |manual, millis| (manual.now, manual.set) = (manual.now - millis, manual.set - millis),
            by,
        );
    }

    /// Sets a manual clock forward without that time having passed; a system clock is not moved.
    pub fn set_forward(&self, by: Duration) {
        self.modify(
            |manual, millis| (manual.now, manual.set) = (manual.now + millis, manual.set + millis),
            by,
        );
    }

    /// Moves a manual clock forward; a system clock is not moved.
    pub fn advance(&self, by: Duration) {
        self.modify(|manual, millis| manual.now += millis, by);
    }

    fn modify(&self, change: impl FnOnce(&mut Manual, i64), by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            manual.send_modify(|manual| change(manual, i64::try_from(by.as_millis()).unwrap_or(i64::MAX)));
        }
    }
}
