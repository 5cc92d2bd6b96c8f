//! The wall clock, as a value. Owns the only place that reads the system's time for freshness, expiry and use;
//! time-outs are the runtime's business and do not come here. Tests hold a clock that only they move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z. What every stored time is in.
pub type UnixMillis = i64;

/// Tells the time. Cheap to clone; clones of a manual clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: UnixMillis) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(now))))
    }

    /// The time now. A system clock set before 1970 reads as 0.
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Source::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Sets a manual clock back; a system clock is not moved.
    pub fn set_back(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    /// Moves a manual clock forward; a system clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }
}
