//! Mean rates of the last minute, from counters that are read every few seconds. The counters of clients grow when a
//! response ends, so a shorter time would show bursts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(5);

/// Number of readings, which cover a minute.
const READINGS: usize = 13;

/// The readings of the last minute.
#[derive(Debug, Default)]
pub struct RateMeter(Mutex<VecDeque<(Instant, [u64; 2])>>);

impl RateMeter {
    /// Time between two calls of [`record`](Self::record).
    pub(crate) const INTERVAL: Duration = INTERVAL;

    /// Adds a reading of both counters.
    pub(crate) fn record(&self, now: Instant, counters: [u64; 2]) {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.len() >= READINGS {
            readings.pop_front();
        }
        readings.push_back((now, counters));
    }

    /// Returns the mean growth a second from the oldest reading to these.
    pub(crate) fn rates(&self, now: Instant, counters: [u64; 2]) -> [u64; 2] {
        let readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, before)) = readings.front() else { return [0; 2] };
        let millis = u64::try_from(now.saturating_duration_since(*since).as_millis()).unwrap_or(u64::MAX);
        if millis < 1_000 {
            return [0; 2];
        }
        let rate =
            |index: usize| counters[index].saturating_sub(before[index]).saturating_mul(1_000) / millis;
        [rate(0), rate(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_means_of_the_last_minute() {
        let (meter, start) = (RateMeter::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meter.rates(at(0), [5, 5]), [0, 0]);
        for reading in 0..40 {
            meter.record(at(reading * 5), [reading * 500, 0]);
        }
        assert_eq!(meter.rates(at(200), [20_000, 650]), [100, 10]);
        assert_eq!(meter.rates(at(200), [0, 0]), [0, 0], "a counter that began again");
    }
}
