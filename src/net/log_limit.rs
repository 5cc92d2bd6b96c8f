//! Limit of log lines about an event that repeats, such as the refusal of a client. A flood of events must not become a
//! flood of lines; metrics count every event. The lines carry the number of events that had none.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Limit of the lines about one event.
#[derive(Debug)]
pub struct LogLimit {
    /// Maximum number of lines within an interval.
    lines: u32,
    interval: Duration,
    // Locked for a comparison, never across a wait.
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    /// Begin of the interval.
    since: Option<Instant>,
    /// Lines within it.
    lines: u32,
    /// Events without a line since the last one.
    suppressed: u64,
}

impl LogLimit {
    /// Permits at most `lines` lines within each `interval`.
    pub const fn new(lines: u32, interval: Duration) -> Self {
        let state = LogState { since: None, lines: 0, suppressed: 0 };
        Self { lines, interval, state: Mutex::new(state) }
    }

    /// Counts an event at `now`. Returns the number of events without a line since the last one, if this one gets a
    /// line.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= self.interval) {
            (state.since, state.lines) = (Some(now), 0);
        }
        if state.lines >= self.lines {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.lines = state.lines.saturating_add(1);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn flood_gets_few_lines_and_its_count() {
        let interval = Duration::from_secs(10);
        let limit = LogLimit::new(2, interval);
        let begin = Instant::now();
        let lines: Vec<_> = (0..100).filter_map(|_| limit.admit(begin)).collect();
        assert_eq!(lines, [0, 0]);
        assert_eq!(limit.admit(begin + interval / 2), None);
        assert_eq!(limit.admit(begin + interval), Some(99));
        assert_eq!(limit.admit(begin + interval), Some(0));
        assert_eq!(limit.admit(begin + interval), None);
        assert_eq!(limit.admit(begin), None, "a clock that goes back begins no interval");
    }
}
