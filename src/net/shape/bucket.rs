//! One rate as a token bucket. Owns the arithmetic, in whole bytes times nanoseconds, so that no rate from 1 KiB/s to
//! 10 Gbit/s loses a byte to rounding however often it is asked; knows no clock, callers say the time.

use std::time::Duration;

/// Nanoseconds since whatever moment the caller counts from.
pub(super) type Nanos = u64;

/// Bytes that may always be taken at once, whatever the rate: a packet's worth. Less would cost more in turns than it
/// gains in evenness.
pub(super) const LEAST: u64 = 1 << 10;

const SECOND: u128 = 1_000_000_000;

/// A rate and what has been saved up at it.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes a second, at least 1.
    rate: u64,
    /// Bytes that idle time saves up, at most.
    capacity: u64,
    /// What is there, in bytes times nanoseconds of a second.
    level: u128,
    at: Nanos,
}

impl Bucket {
    /// Full, as after idle time.
    pub(super) fn new(rate: u64, burst: Duration, now: Nanos) -> Self {
        let mut bucket = Self { rate: 1, capacity: 0, level: 0, at: now };
        bucket.set(rate, burst, now);
        bucket.level = u128::from(bucket.capacity) * SECOND;
        bucket
    }

    /// Another rate from now on; what was saved up stays as far as the new one may save it.
    pub(super) fn set(&mut self, rate: u64, burst: Duration, now: Nanos) {
        self.refill(now);
        self.rate = rate.max(1);
        let saved = u128::from(self.rate).saturating_mul(burst.as_nanos()) / SECOND;
        self.capacity = u64::try_from(saved).unwrap_or(u64::MAX).max(LEAST);
        self.level = self.level.min(u128::from(self.capacity) * SECOND);
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Bytes that can be taken at once, at most.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Takes `bytes`, all or none.
    pub(super) fn take(&mut self, bytes: u64, now: Nanos) -> bool {
        self.refill(now);
        let rest = self.level.checked_sub(u128::from(bytes) * SECOND);
        rest.is_some_and(|rest| {
            self.level = rest;
            true
        })
    }

    /// Gives back what was taken and not used.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.level = (self.level + u128::from(bytes) * SECOND).min(u128::from(self.capacity) * SECOND);
    }

    /// When `bytes`, which are no more than the capacity, will be there.
    pub(super) fn ready_at(&self, bytes: u64) -> Nanos {
        let missing = (u128::from(bytes) * SECOND).saturating_sub(self.level);
        let wait = missing.div_ceil(u128::from(self.rate));
        self.at.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn refill(&mut self, now: Nanos) {
        let passed = now.saturating_sub(self.at);
        let more = u128::from(passed) * u128::from(self.rate);
        self.level = self.level.saturating_add(more).min(u128::from(self.capacity) * SECOND);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Duration = Duration::from_millis(100);

    #[test]
    fn what_is_taken_is_the_rate_to_the_byte_however_often_it_is_asked() {
        for rate in [1 << 10, 8 << 10, 999_999, 1_250_000_000] {
            let (mut bucket, mut now, mut taken) = (Bucket::new(rate, BURST, 0), 0, 0);
            assert!(bucket.take(bucket.capacity(), 0));
            while now < 10_000_000_000 {
                now = bucket.ready_at(LEAST);
                assert!(bucket.take(LEAST, now));
                taken += LEAST;
            }
            let due = u128::from(now) * u128::from(rate) / SECOND;
            assert!(u128::from(taken).abs_diff(due) <= 10_000, "{taken} of {due} at {rate}");
        }
    }

    #[test]
    fn idle_time_saves_up_the_burst_and_no_more() {
        let mut bucket = Bucket::new(1_000_000, BURST, 0);
        let hour = 3_600 * 1_000_000_000;
        assert!(bucket.take(100_000, hour) && !bucket.take(1, hour));
        assert!(!bucket.take(1_001, hour + 1_000_000));
        assert!(bucket.take(1_000, hour + 1_000_000));
    }

    #[test]
    fn a_lower_rate_keeps_no_more_than_it_may_save_itself() {
        let mut bucket = Bucket::new(1_000_000, BURST, 0);
        bucket.set(100_000, BURST, 0);
        assert!(!bucket.take(10_001, 0) && bucket.take(10_000, 0));
        assert_eq!(bucket.ready_at(1_000), 10_000_000);
    }

    #[test]
    fn time_that_goes_back_earns_nothing_and_takes_nothing() {
        let mut bucket = Bucket::new(1_000_000, BURST, 1_000_000_000);
        assert!(bucket.take(100_000, 1_000_000_000));
        assert!(!bucket.take(1, 0) && !bucket.take(1, 999_999_999));
        assert!(bucket.take(1_000, 1_001_000_000));
    }
}
