//! The timer of one client connection. It finds a connection that is idle, and a request head that takes too long. It
//! looks at intervals, so that a request costs no timer of its own; both findings come up to an interval late.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::activity::{ConnectionActivity, ConnectionPhase};

/// Interval of the timer; an idle connection is found at the second look. Short, because thousands of clients may
/// connect within a second; not shorter, because busy connections are woken too.
const INTERVAL: Duration = Duration::from_millis(500);

/// Minimum number of looks within `server.header_timeout`.
const LOOKS_PER_TIMEOUT: u32 = 8;

/// Finding about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhaseVerdict {
    /// No request arrived for an interval.
    Idle,
    /// A request head was incomplete for `server.header_timeout`.
    SlowHead,
}

/// Watches the phases of a connection.
pub(super) struct PhaseTimer {
    activity: Arc<ConnectionActivity>,
    header_timeout: Duration,
    interval: Interval,
    phase: ConnectionPhase,
    since: Instant,
}

impl PhaseTimer {
    /// Starts to watch `activity`.
    pub(super) fn new(activity: Arc<ConnectionActivity>, header_timeout: Duration) -> Self {
        // An interval of zero is a panic of tokio.
        let period = INTERVAL
            .min(header_timeout.checked_div(LOOKS_PER_TIMEOUT).unwrap_or_default())
            .max(Duration::from_millis(1));
        let since = Instant::now();
        let mut interval = interval_at(since.checked_add(period).unwrap_or(since), period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let phase = activity.phase();
        Self { activity, header_timeout, interval, phase, since }
    }

    /// Returns the next finding. Cancel-safe.
    pub(super) async fn wait_for_verdict(&mut self) -> PhaseVerdict {
        loop {
            let now = self.interval.tick().await;
            let phase = self.activity.phase();
            if phase != self.phase {
                (self.phase, self.since) = (phase, now);
                continue;
            }
            match phase {
                ConnectionPhase::Idle(_) => return PhaseVerdict::Idle,
                ConnectionPhase::Head(_)
                    if now.saturating_duration_since(self.since) >= self.header_timeout =>
                {
                    return PhaseVerdict::SlowHead;
                }
                ConnectionPhase::Head(_) | ConnectionPhase::Busy => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

    fn timer() -> (Arc<ConnectionActivity>, PhaseTimer) {
        let activity = Arc::<ConnectionActivity>::default();
        (activity.clone(), PhaseTimer::new(activity, HEADER_TIMEOUT))
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_is_found_after_an_interval() {
        let (activity, mut timer) = timer();
        drop(activity.begin_response());
        let start = Instant::now();
        assert_eq!(timer.wait_for_verdict().await, PhaseVerdict::Idle);
        assert!(start.elapsed() <= 2 * INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_head_is_found_at_the_timeout() {
        let (activity, mut timer) = timer();
        activity.record_read();
        let start = Instant::now();
        assert_eq!(timer.wait_for_verdict().await, PhaseVerdict::SlowHead);
        let late = start.elapsed() - HEADER_TIMEOUT;
        assert!(late <= 2 * INTERVAL, "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_the_whole_timeout() {
        let (activity, mut timer) = timer();
        let start = Instant::now();
        activity.record_read();
        let half = HEADER_TIMEOUT / 2;
        assert!(tokio::time::timeout(half, timer.wait_for_verdict()).await.is_err());
        // The first request is complete, and the next one begins between two looks.
        drop(activity.begin_response());
        activity.record_read();
        assert_eq!(timer.wait_for_verdict().await, PhaseVerdict::SlowHead);
        assert!(start.elapsed() >= half + HEADER_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn response_has_no_timeout() {
        let (activity, mut timer) = timer();
        activity.record_read();
        let _guard = activity.begin_response();
        assert!(tokio::time::timeout(10 * HEADER_TIMEOUT, timer.wait_for_verdict()).await.is_err());
    }
}
