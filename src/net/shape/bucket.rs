//! One rate as a token bucket. It computes in whole bytes times nanoseconds, so that no rate from 1 KiB/s to 10
//! Gbit/s loses a byte to rounding. It has no clock: callers pass the time.

use std::time::Duration;

/// Nanoseconds since an origin that the caller chooses.
pub(crate) type Nanos = u64;

/// Minimum capacity in bytes: one packet. Smaller quanta would cost more than they gain in evenness.
pub(super) const MIN_CAPACITY: u64 = 1 << 10;

const SECOND: u128 = 1_000_000_000;

/// A rate and its saved tokens.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes per second, at least 1.
    rate: u64,
    /// Maximum of bytes that idle time saves.
    capacity: u64,
    /// Saved bytes times nanoseconds per second.
    level: u128,
    at: Nanos,
}

impl Bucket {
    /// Creates a full bucket.
    pub(super) fn new(rate: u64, burst: Duration, now: Nanos) -> Self {
        let mut bucket = Self { rate: 1, capacity: 0, level: 0, at: now };
        bucket.set_rate(rate, burst, now);
        bucket.level = u128::from(bucket.capacity) * SECOND;
        bucket
    }

    /// Changes the rate. Saved bytes stay up to the new capacity.
    pub(super) fn set_rate(&mut self, rate: u64, burst: Duration, now: Nanos) {
        self.refill(now);
        self.rate = rate.max(1);
        let saved = u128::from(self.rate).saturating_mul(burst.as_nanos()) / SECOND;
        self.capacity = u64::try_from(saved).unwrap_or(u64::MAX).max(MIN_CAPACITY);
        self.level = self.level.min(u128::from(self.capacity) * SECOND);
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Maximum of bytes taken at once.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Returns the saved bytes.
    pub(super) fn available(&mut self, now: Nanos) -> u64 {
        self.refill(now);
        u64::try_from(self.level / SECOND).unwrap_or(u64::MAX)
    }

    /// Takes all of `bytes` or none; returns true if it took them.
    pub(super) fn take(&mut self, bytes: u64, now: Nanos) -> bool {
        self.refill(now);
        let rest = self.level.checked_sub(u128::from(bytes) * SECOND);
        rest.is_some_and(|rest| {
            self.level = rest;
            true
        })
    }

    /// Returns unused bytes to the bucket.
    pub(super) fn put_back(&mut self, bytes: u64) {
        let level = self.level.saturating_add(u128::from(bytes) * SECOND);
        self.level = level.min(u128::from(self.capacity) * SECOND);
    }

    /// Returns the time at which `bytes`, at most the capacity, are available.
    pub(super) fn ready_at(&self, bytes: u64) -> Nanos {
        let missing = (u128::from(bytes) * SECOND).saturating_sub(self.level);
        let wait = missing.div_ceil(u128::from(self.rate));
        self.at.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn refill(&mut self, now: Nanos) {
        let passed = now.saturating_sub(self.at);
        let more = u128::from(passed).saturating_mul(u128::from(self.rate));
        self.level = self.level.saturating_add(more).min(u128::from(self.capacity) * SECOND);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Duration = Duration::from_millis(100);

    #[test]
    fn bytes_taken_match_the_rate_to_the_byte() {
        for rate in [1 << 10, 8 << 10, 999_999, 1_250_000_000] {
            let (mut bucket, mut now, mut taken) = (Bucket::new(rate, BURST, 0), 0, 0);
            assert!(bucket.take(bucket.capacity(), 0));
            while now < 10_000_000_000 {
                now = bucket.ready_at(MIN_CAPACITY);
                assert!(bucket.take(MIN_CAPACITY, now));
                taken += MIN_CAPACITY;
            }
            let due = u128::from(now) * u128::from(rate) / SECOND;
            assert!(u128::from(taken).abs_diff(due) <= 10_000, "{taken} of {due} at {rate}");
        }
    }

    #[test]
    fn idle_time_saves_the_burst_at_most() {
        let mut bucket = Bucket::new(1_000_000, BURST, 0);
        let hour = 3_600 * 1_000_000_000;
        assert!(bucket.take(100_000, hour) && !bucket.take(1, hour));
        assert!(!bucket.take(1_001, hour + 1_000_000));
        assert!(bucket.take(1_000, hour + 1_000_000));
    }

    #[test]
    fn lower_rate_reduces_saved_bytes() {
        let mut bucket = Bucket::new(1_000_000, BURST, 0);
        bucket.set_rate(100_000, BURST, 0);
        assert!(!bucket.take(10_001, 0) && bucket.take(10_000, 0));
        assert_eq!(bucket.ready_at(1_000), 10_000_000);
    }

    #[test]
    fn time_set_back_neither_adds_nor_removes_bytes() {
        let mut bucket = Bucket::new(1_000_000, BURST, 1_000_000_000);
        assert!(bucket.take(100_000, 1_000_000_000));
        assert!(!bucket.take(1, 0) && !bucket.take(1, 999_999_999));
        assert!(bucket.take(1_000, 1_001_000_000));
    }
}
